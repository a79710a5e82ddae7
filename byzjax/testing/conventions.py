"""Under which options other libraries have a rule: what `fuzz` holds against float64, besides the defaults."""

from __future__ import annotations

from typing import Any, NamedTuple

from byzjax.testing.references import REFERENCES


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

    def named(self, rule: str) -> str:
        """The rule with these options, short, and who uses it.

        >>> Convention("Blades", {"power": 4}).named("krum")
        'krum(power=4): Blades'
        """
        shown = ", ".join(f"{key}={'…' if callable(value) else value}" for key, value in self.options.items())
        return f"{rule}({shown}): {self.who}"


def _default(who: str = "", **options: Any) -> Convention:
    """The defaults, and values of what has none."""
    return Convention(f"default, {who}".strip(", "), options)


# Read from the peers' sources, see docs/rules.md. What draws is not here: bucketing, noise, DnC on some coordinates,
# DeepSight's predictions.
CONVENTIONS: dict[str, list[Convention]] = {
    "mean": [_default("ByzFL, Blades, FLPoison, Flower, NSGDM")],
    "median": [_default("ByzFL, Blades, FLPoison, Flower, NSGDM"), Convention("ByzPy", {"even": "lower"})],
    "trimmed_mean": [
        _default("ByzFL, ByzPy, Blades, NSGDM"),
        Convention("Flower", {"f": lambda n, d, f: n // 5}),
        Convention("FLPoison", {"f": lambda n, d, f: n // 10}),
    ],
    "meamed": [_default("ByzFL"), Convention("ByzPy", {"even": "lower"})],
    "sign_majority": [_default()],
    "krum": [
        _default("Flower"),
        Convention("ByzFL, ByzPy", {"neighbors": "n-f-1"}),
        Convention("FLPoison, NSGDM quartic", {"power": 1, "neighbors": "n-f-1"}),
        Convention("Blades, NSGDM", {"power": 4}),
    ],
    "multi_krum": [
        _default(),
        Convention("ByzFL", {"neighbors": "n-f-1"}),
        Convention("ByzPy", {"m": lambda n, d, f: max(n - f - 1, 1), "neighbors": "n-f-1"}),
        Convention("Flower", {"m": lambda n, d, f: n // 2}),
        Convention("FLPoison", {"m": lambda n, d, f: max(n // 5, 1), "power": 1, "neighbors": "n-f-1"}),
        Convention("Blades", {"m": lambda n, d, f: n - f, "power": 4}),
        Convention("AggregaThor", {"m": lambda n, d, f: max(n - f - 2, 1)}),
    ],
    "bulyan": [_default("Flower"), Convention("FLPoison's scores", {"power": 1, "neighbors": "n-f-1"})],
    "geometric_median": [
        _default("NSGDM"),
        Convention("ByzFL", {"num_iters": 3}),
        Convention("FLPoison", {"num_iters": 3, "smoothing": 1e-6}),
        Convention("ByzPy", {"num_iters": 256, "smoothing": 1e-12, "init": "median", "tolerance": 1e-6}),
        Convention("Blades", {"num_iters": 100, "smoothing": 1e-6, "init": "mean"}),
        Convention("nearly converged", {"num_iters": 64, "smoothing": 1e-6}),
    ],
    "auto_gm": [_default(), Convention("Blades 0.1.0", {"regularization": lambda n, d, f: float(n)})],
    "centered_clipping": [
        _default("Karimireddy et al."),
        Convention("ByzFL, FLPoison", {"tau": 100.0}),
        Convention("Blades", {"tau": 5.0, "num_iters": 5}),
        Convention("NSGDM", {"num_iters": 3, "scaling": "linear", "beta": 0.9}),
        Convention("NSGDM", {"num_iters": 3, "scaling": "sqrt", "beta": 0.9}),
        Convention("ByzPy", {"tau": 1.0, "num_iters": 10, "start": "mean"}),
        Convention("ByzPy", {"tau": 1.0, "num_iters": 10, "start": "median"}),
        Convention("ByzPy", {"tau": 1.0, "num_iters": 10, "start": "zero"}),
    ],
    "mda": [_default("ByzFL, ByzPy")],
    "smea": [_default("ByzPy")],
    "monna": [_default("ByzFL, ByzPy"), Convention("ByzFL, ByzPy", {"reference": lambda n, d, f: n - 1})],
    "fltrust": [_default("Blades 0.1.0"), Convention("Blades 0.1.0", {"reference": lambda n, d, f: n - 1})],
    "caf": [_default()],
    "dnc": [_default("Blades 0.1.0"), Convention("Blades", {"num_iters": 5})],
    "cge": [_default("ByzPy")],
    "norm_clipping": [_default("FLPoison"), Convention("Flower", {"max_norm": 1.0})],
    "clipped_clustering": [
        _default("Blades"),
        Convention("Blades", {"linkage": "single"}),
        Convention("Blades 0.1.0, Sattler et al.", {"max_norm": None, "linkage": "complete"}),
    ],
    "signguard": [_default()],
    "flame": [_default()],
    "simple_clustering": [_default("FLPoison", eps=0.05), Convention("a length like the rows'", {"eps": 1.0})],
    "deepsight": [_default()],
    "lasa": [_default("FLPoison"), Convention("the authors' code", {"rows": "sparse"})],
    "auror": [_default("FLPoison"), Convention("settled after a round", {"num_rounds": 1})],
    "byzantine_sgd": [
        _default(deviation=1.0, diameter=10.0, num_rounds=100),
        Convention("narrow", {"deviation": 0.1, "diameter": 0.01, "num_rounds": 1}),
    ],
    "safeguard": [
        _default(),
        Convention("NSGDM", {"thresholds": (2.0, 3.0), "windows": (2, 6)}),
        Convention("short windows", {"windows": (1, 2), "multiplier": 1.5, "reset": True}),
    ],
    "foolsgold": [_default(), Convention("Fung et al.", {"reduce": "sum"})],
    "fldetector": [_default()],
    "flanders": [_default("Flower's penalties")],
    "nnm": [_default("ByzFL, ByzPy, NSGDM")],
    "clipping": [_default("ByzFL, ByzPy")],
    "arc": [_default("ByzFL, ByzPy")],
    "adaptive_clipping": [_default("Flower's DPFedAvgAdaptive"), Convention("near 1", {"initial_norm": 1.0})],
    "finite_guard": [_default(), Convention("NSGDM quartic", {"replace": "zero"})],
}
# Whatever else has a reference is tried at its defaults; an alias has no options of its own.
CONVENTIONS |= {
    name: [_default()]
    for name, reference in REFERENCES.items()
    if name not in CONVENTIONS and name == reference.__name__
}
