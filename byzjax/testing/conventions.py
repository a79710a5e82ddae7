"""Under which options other libraries have a rule: what `fuzz` holds against float64, besides the defaults."""

from __future__ import annotations

from typing import Any, NamedTuple


class Convention(NamedTuple):
    """One set of options of a rule.

    Attributes:
      who: uses it.
      options: of the factory, without f and the number of workers; what depends on n, d and f is a function of them.
    """

    who: str
    options: dict[str, Any]

    def at(self, n: int, d: int, f: int) -> dict[str, Any]:
        """The options for n rows of d numbers, f of them hostile.

        >>> Convention("Blades", {"m": lambda n, d, f: n - f}).at(10, 3, 2)
        {'m': 8}
        """
        return {key: value(n, d, f) if callable(value) else value for key, value in self.options.items()}

    @property
    def label(self) -> str:
        """The options as text, short."""
        return ", ".join(f"{key}={'…' if callable(value) else value}" for key, value in self.options.items())


# Read from the peers' sources, see docs/rules.md. The defaults are always among them.
CONVENTIONS: dict[str, list[Convention]] = {
    "geometric_median": [
        Convention("default, NSGDM", {}),
        Convention("ByzFL", {"num_iters": 3}),
        Convention("FLPoison", {"num_iters": 3, "smoothing": 1e-6}),
        Convention("ByzPy", {"num_iters": 256, "smoothing": 1e-12, "init": "median", "tolerance": 1e-6}),
        Convention("Blades", {"num_iters": 100, "smoothing": 1e-6, "init": "mean"}),
        Convention("nearly converged", {"num_iters": 64, "smoothing": 1e-6}),
    ],
    "auto_gm": [
        Convention("default", {}),
        Convention("Blades 0.1.0", {"regularization": lambda n, d, f: float(n)}),
    ],
}
