"""Which other answers are right, too: where float64 scores of different choices differ by no more than rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from byzjax.testing import references as ref

MARGIN = 1e-5  # relative difference of two scores, as lengths, that may be rounding

# Rules whose answer changes little where the rows do: nothing is chosen.
CONTINUOUS = {
    *("mean", "median", "trimmed_mean", "sign_majority", "geometric_median", "auto_gm", "centered_clipping"),
    *("fltrust", "norm_clipping", "clipping", "arc", "finite_guard"),
}

# Of the rows f64[n, d] and the options: a score for every row, as a length, and how many of the lowest are averaged.
_SCORES: dict[str, Callable[..., tuple[np.ndarray, int]]] = {
    "krum": lambda x, f, power=2, neighbors="n-f-2": (_krum(x, f, power, neighbors), 1),
    "multi_krum": lambda x, f, m=None, power=2, neighbors="n-f-2": (
        _krum(x, f, power, neighbors),
        len(x) - f if m is None else m,
    ),
    "cge": lambda x, f: (np.linalg.norm(x, axis=1), len(x) - f),
    "monna": lambda x, f, reference=0: (_from(x, reference), len(x) - f),
    "dnc": lambda x, f, num_iters=1: (np.sqrt(ref.dnc_scores(x)), len(x) - f),
}

# Of a subset of the rows: how bad it is, as a length.
_BADNESS: dict[str, Callable[[np.ndarray], float]] = {
    "mda": ref.diameter,
    "smea": lambda rows: float(np.sqrt(ref.spread(rows))),
}


def chosen_among_equals(
    name: str, x: np.ndarray, options: dict[str, Any], answer: np.ndarray, trust: np.ndarray | None
) -> bool | None:
    """Whether the answer is the mean of a choice of rows that float64 calls as good as the best; None if unknown.

    An even number of rows on a line has geometric medians wherever half of them lie on either side.

    Args:
      name: of the rule.
      x: f64[n, d].
      options: of its factory.
      answer: what it gave.
      trust: its weights f32[n], or its mixing matrix f32[n, n].
    """
    if name == "bulyan":
        selections = _selections(x, **options)
        return any(_in_windows(answer, x[sorted(rows)], 2 * options["f"], "midpoint") for rows in selections)
    if name == "geometric_median":
        return _on_a_plateau(answer, x) or None
    if name == "meamed":
        return _in_windows(answer, x, options["f"], options.get("even", "midpoint"))
    if trust is None or name not in {*_SCORES, *_BADNESS, "nnm"}:
        return None
    chosen = trust > 0
    if name == "nnm":
        return all(
            _lowest(_from(x, i), mine, len(x) - options["f"]) and _near(answer[i], x[mine])
            for i, mine in enumerate(chosen)
        )
    if not chosen.any() or not _near(answer, x[chosen]):
        return False
    if name in _SCORES:
        scores, count = _SCORES[name](x, **options)
        return _lowest(scores, chosen, count)
    badness, size = _BADNESS[name], len(x) - options["f"]
    best = min(badness(x[list(subset)]) for subset in itertools.combinations(range(len(x)), size))
    return bool(chosen.sum() == size and badness(x[chosen]) <= best * (1 + MARGIN))


def _lowest(scores: np.ndarray, chosen: np.ndarray, count: int) -> bool:
    """Whether the chosen ones are the ``count`` lowest, but for rounding."""
    if chosen.sum() != count:
        return False
    return bool(chosen.all() or scores[chosen].max() <= scores[~chosen].min() * (1 + MARGIN))


def _krum(x: np.ndarray, f: int, power: int, neighbors: str) -> np.ndarray:
    return np.array(ref.krum_scores(x, f, power, neighbors)) ** (1 / power)


def _from(x: np.ndarray, reference: int) -> np.ndarray:
    """The distances from a row, which itself comes first."""
    away = np.linalg.norm(x - x[reference], axis=1)
    away[reference] = -1.0
    return away


def _selections(x: np.ndarray, f: int, power: int = 2, neighbors: str = "n-f-2") -> set[frozenset[int]]:
    """Every set of n − 2f rows that Bulyan may select, where tied rows go in either order.

    Two rows that are each other's only neighbour always tie: the more central of them goes first.
    """
    n, less = len(x), 2 if neighbors == "n-f-2" else 1
    away = np.linalg.norm(x[:, None] - x[None], axis=-1)
    np.fill_diagonal(away, np.inf)
    reached = {frozenset(range(n))}
    for left in range(n, 2 * f, -1):
        count = max(left - f - less, 1)
        following = set()
        for among in reached:
            rows = sorted(among)
            between = away[np.ix_(rows, rows)]
            scores = (np.sort(between, axis=1)[:, :count] ** power).sum(1) ** (1 / power)
            total = np.where(np.isfinite(between), between**2, 0.0).sum(1) ** 0.5
            limit = scores.min() * (1 + MARGIN)
            for k in np.flatnonzero(scores <= limit):
                partners = total[between[k] <= limit] if count == 1 else total[k : k + 1]
                if total[k] <= partners.min() * (1 + MARGIN):
                    following.add(among - {rows[k]})
        reached = following
    return {frozenset(range(n)) - left for left in reached}


def _in_windows(answer: np.ndarray, x: np.ndarray, f: int, even: str) -> bool:
    """Whether every coordinate is the mean of n − f values as near to the median as the nearest."""
    rounding = MARGIN * np.median(np.linalg.norm(x, axis=1))
    for value, column, middle in zip(answer, np.sort(x, axis=0).T, ref.median(x, even), strict=True):
        windows = [column[k : k + len(x) - f] for k in range(f + 1)]
        reach = [np.abs(window - middle).max() for window in windows]
        limit = min(reach) * (1 + MARGIN)
        if not any(r <= limit and abs(w.mean() - value) <= rounding for w, r in zip(windows, reach, strict=True)):
            return False
    return True


def _on_a_plateau(answer: np.ndarray, x: np.ndarray) -> bool:
    """Whether the rows are on a line, and no row has a smaller sum of distances than the answer."""
    sizes = np.append(np.linalg.svd(x - x.mean(0), compute_uv=False), 0.0)

    def total(z: np.ndarray) -> float:
        return float(np.linalg.norm(x - z, axis=1).sum())

    return bool(sizes[1] <= 1e-6 * sizes[0] and total(answer) <= min(map(total, x)) * (1 + 1e-7))


def _near(answer: np.ndarray, rows: np.ndarray) -> bool:
    """Equal to the mean of these rows, but for rounding."""
    return bool(np.linalg.norm(answer - rows.mean(0)) <= MARGIN * np.linalg.norm(rows, axis=1).max())


def nearby(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every row moved by what is rounding to its distance from the others."""
    away = np.linalg.norm(x - np.median(x, axis=0), axis=1, keepdims=True)
    return x + MARGIN * away * rng.normal(size=x.shape) / np.sqrt(x.shape[1])


def scaled(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every number changed by what is rounding to it."""
    return x * (1 + MARGIN * rng.normal(size=x.shape))


def rounded(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every number rounded to float32 another way; equal rows stay equal."""
    distinct, place = np.unique(x, axis=0, return_inverse=True)
    return (distinct * (1 + 2.0**-23 * rng.uniform(-1, 1, size=distinct.shape)))[place.reshape(-1)]


def coarser(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every number rounded to one to three bits less than float32 has: nearly equal rows become equal."""
    bits = int(rng.integers(21, 24))
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2.0**bits), exponent - bits)


def jittered(options: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Lengths and shares changed by what is rounding to them."""
    return {
        key: value * (1 + MARGIN * rng.normal()) if isinstance(value, float) else value
        for key, value in options.items()
    }
