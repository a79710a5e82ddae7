"""Words and numbers of a report: Markdown tables, means with deviations, names of cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from byzjax.experiments.experiment import MEAN, NONE
from byzjax.plotting.summaries import plus_minus


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, and an empty line.

    >>> print(grid(["rule", "mean"], [["RFA", "1.0"]]))
    | rule | mean |
    |---|---|
    | RFA | 1.0 |
    <BLANKLINE>
    """
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    lines.insert(1, "|" + "---|" * len(heads))
    return "\n".join([*lines, ""])


def number(value: float, digits: int | None = None) -> str:
    """A number to so many decimals, or to three figures; a dash for none.

    >>> number(1.25, 1), number(1234567.0), number(float("nan")), number(0.98765)
    ('1.2', '1.23e+06', '–', '0.988')
    """
    if not np.isfinite(value):
        return "–"
    return f"{value:.3g}" if digits is None else f"{value:.{digits}f}"


def spread(values: Any, digits: int | None = None) -> str:
    """Mean ± population standard deviation of the finite values, and how many others there are.

    >>> spread([1.0, 3.0], 1), spread([1.0, float("nan")], 1), spread([float("nan")]), spread([1e-6, 3e-6])
    ('2.0 ± 1.0', '1.0 (1 of 2 diverged)', 'diverged', '(2.00 ± 1.00)e-6')
    """
    values = np.asarray(values, float).ravel()
    kept = values[np.isfinite(values)]
    if not kept.size:
        return "diverged" if values.size else "–"
    text = plus_minus(float(kept.mean()), float(kept.std()) if kept.size > 1 else np.nan, digits)
    lost = values.size - kept.size
    return text + (f" ({lost} of {values.size} diverged)" if lost else "")


def case_names(attack: str, rule: str) -> tuple[str, str]:
    """What readers call a case.

    >>> case_names("none", "mean"), case_names("BF", "RFA")
    (('no attack', 'plain mean'), ('BF', 'RFA'))
    """
    return "no attack" if attack == NONE else attack, "plain mean" if rule == MEAN else rule


def count(number_of: int, what: str) -> str:
    """
    >>> count(1, "run"), count(2, "run")
    ('1 run', '2 runs')
    """
    return f"{number_of} {what}{'' if number_of == 1 else 's'}"
