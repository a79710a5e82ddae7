"""Float64 NumPy references, written from the papers' formulas, one loop at a time and without cleverness.

Each takes a matrix ``[n, d]`` and the options of its factory. Ties go to the lowest index.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from byzjax.testing import histories
from byzjax.testing.clusters import clipped_clustering, deepsight, flame, signguard, simple_clustering
from byzjax.testing.iterative import auto_gm, centered_clipping, geometric_median
from byzjax.testing.norms import adaptive_clipping, arc, cge, clipping, directions, norm_clipping


def mean(x: np.ndarray) -> np.ndarray:
    """The average of the rows."""
    return x.mean(0)


def median(x: np.ndarray, even: str = "midpoint") -> np.ndarray:
    """The middle value of each coordinate."""
    ordered = np.sort(x, axis=0)
    n = len(x)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    return low if even == "lower" else (low + high) / 2


def trimmed_mean(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of each coordinate without its f smallest and f largest values."""
    return np.sort(x, axis=0)[f : len(x) - f].mean(0)


def krum_scores(x: np.ndarray, f: int, power: int, neighbors: str) -> list[float]:
    """The sum of the powers of the distances from the nearest others, of every row."""
    n = len(x)
    count = n - f - (2 if neighbors == "n-f-2" else 1)
    scores = []
    for i in range(n):
        others = np.delete(np.linalg.norm(x - x[i], axis=1), i)
        scores.append(float(np.sum(np.sort(others)[:count] ** power)))
    return scores


def krum_order(x: np.ndarray, f: int, power: int, neighbors: str) -> np.ndarray:
    """Workers by Krum score, best first."""
    return np.argsort(krum_scores(x, f, power, neighbors), kind="stable")


def krum(x: np.ndarray, f: int, power: int = 2, neighbors: str = "n-f-2") -> np.ndarray:
    """The row of the best score."""
    return x[krum_order(x, f, power, neighbors)[0]]


def multi_krum(x: np.ndarray, f: int, m: int | None = None, power: int = 2, neighbors: str = "n-f-2") -> np.ndarray:
    """The mean of the m rows of best score."""
    chosen = krum_order(x, f, power, neighbors)[: len(x) - f if m is None else m]
    return x[chosen].mean(0)


def bulyan(x: np.ndarray, f: int, power: int = 2, neighbors: str = "n-f-2") -> np.ndarray:
    """N − 2f rows by Krum without replacement, then the mean around the median of n − 4f values."""
    left, chosen = list(range(len(x))), []
    while len(chosen) < len(x) - 2 * f:
        count = max(len(left) - f - (2 if neighbors == "n-f-2" else 1), 1)
        scores = []
        for i in left:
            away = np.linalg.norm(x[left] - x[i], axis=1)
            others = np.sort(np.delete(away, left.index(i)))
            scores.append((np.sum(others[:count] ** power), np.sum(away**2)))
        chosen.append(left.pop(scores.index(min(scores))))
    return meamed(x[chosen], 2 * f)


def nnm(x: np.ndarray, f: int) -> np.ndarray:
    """Every row replaced by the mean of its n − f nearest."""
    n = len(x)
    mixed = []
    for i in range(n):
        squared = ((x - x[i]) ** 2).sum(1)
        squared[i] = -1.0
        nearest = np.argsort(squared, kind="stable")[: n - f]
        mixed.append(x[nearest].mean(0))
    return np.stack(mixed)


def meamed(x: np.ndarray, f: int, even: str = "midpoint") -> np.ndarray:
    """The mean of the n − f values nearest to the median, of two at the same distance the smaller."""
    ordered = np.sort(x, axis=0)
    distances = np.abs(ordered - median(x, even))
    nearest = np.argsort(distances, axis=0, kind="stable")[: len(x) - f]
    return np.take_along_axis(ordered, nearest, axis=0).mean(0)


def sign_majority(x: np.ndarray) -> np.ndarray:
    """The sign of the sum of signs."""
    return np.sign(np.sign(x).sum(0))


def diameter(x: np.ndarray) -> float:
    """The largest distance of two rows."""
    return max(float(np.linalg.norm(row - x, axis=1).max()) for row in x)


def mda(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of the subset of n − f rows of smallest diameter."""
    subsets = itertools.combinations(range(len(x)), len(x) - f)
    return x[list(min(subsets, key=lambda subset: diameter(x[list(subset)])))].mean(0)


def spread(x: np.ndarray) -> float:
    """The largest eigenvalue of the rows' scatter."""
    return float(np.linalg.svd(x - x.mean(0), compute_uv=False)[0] ** 2)


def smea(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of the subset of n − f rows whose covariance has the smallest largest eigenvalue."""
    subsets = itertools.combinations(range(len(x)), len(x) - f)
    return x[list(min(subsets, key=lambda subset: spread(x[list(subset)])))].mean(0)


def monna(x: np.ndarray, f: int, reference: int = 0) -> np.ndarray:
    """The mean of the n − f rows nearest to the reference."""
    distances = np.linalg.norm(x - x[reference], axis=1)
    distances[reference] = -1.0
    return x[np.argsort(distances, kind="stable")[: len(x) - f]].mean(0)


def caf(x: np.ndarray, f: int) -> np.ndarray:
    """Weights shrink along the top eigenvector of the covariance; the mean of the least spread wins."""
    c, best, best_value = np.ones(len(x)), x.mean(0), np.inf
    while c.sum() > len(x) - 2 * f:
        mu = (c[:, None] * x).sum(0) / c.sum()
        _, values, vectors = np.linalg.svd(np.sqrt(c)[:, None] * (x - mu), full_matrices=False)
        value = values[0] ** 2 / c.sum()
        if value < best_value:
            best, best_value = mu, value
        tau = ((x - mu) @ vectors[0]) ** 2
        largest = tau[c > 0].max()
        equal = tau >= (1 - 1e-5) ** 2 * largest  # but for rounding
        c = np.where(equal, 0.0, c * np.maximum(1 - tau / (largest or 1.0), 0))
    return best


def dnc_scores(x: np.ndarray) -> np.ndarray:
    """How far every row sticks out along the top singular vector, squared."""
    centred = x - x.mean(0)
    return (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2


def dnc(x: np.ndarray, f: int, num_iters: int = 1) -> np.ndarray:
    """The mean of the n − f rows that stick out least; of all coordinates, so that every turn is the same."""
    del num_iters
    return x[np.argsort(dnc_scores(x), kind="stable")[: len(x) - f]].mean(0)


def lasa(
    x: np.ndarray, sparsity: float = 0.3, norm_bound: float = 2.0, sign_bound: float = 1.0, rows: str = "dense"
) -> np.ndarray:
    """One layer: the mean, at the median length, of the rows whose sparse norm and sign balance are ordinary."""
    clipped = clipping(x, float(np.median(np.linalg.norm(x, axis=1))))
    sparse = clipped.copy() if rows == "sparse" else x.copy()
    for row in sparse:
        row[np.abs(row) < np.sort(np.abs(row))[int(sparsity * x.shape[1])]] = 0.0
    norms = np.linalg.norm(sparse, axis=1)
    signs = np.sign(sparse).sum(1) / np.maximum(np.abs(np.sign(sparse)).sum(1), 1)
    good = np.ones(len(x), bool)
    for values, bound in ((norms, norm_bound), (signs, sign_bound)):
        away = np.abs(values - np.median(values))
        good &= (away < bound * values.std() * (1 - 1e-5)) | (away <= 16 * 2.0**-23 * np.abs(values).max())
    return (sparse if rows == "sparse" else clipped)[good if good.any() else slice(None)].mean(0)


def auror(x: np.ndarray, gap: float = 0.002, share: float = 0.5) -> np.ndarray:
    """The first round."""
    return histories.auror(x[None], np.zeros((1, x.shape[1])), gap, share)[0]


def fltrust(x: np.ndarray, reference: int = 0) -> np.ndarray:
    """The others at the reference's length, weighted by the positive part of the cosine with it."""
    unit, length = directions(x), np.linalg.norm(x[reference])
    summed, total = np.zeros(x.shape[1]), 0.0
    for i, row in enumerate(unit):
        if i != reference:
            trust = max(row @ unit[reference], 0.0)
            summed += trust * length * row
            total += trust
    return summed / total if total > 0 else summed


def byzantine_sgd(x: np.ndarray, num_workers: int, deviation: float, diameter: float, num_rounds: int) -> np.ndarray:
    """The first round."""
    at = np.zeros((1, x.shape[1]))
    return histories.byzantine_sgd(x[None], at, num_workers, deviation, diameter, num_rounds)[0]


def foolsgold(x: np.ndarray, num_workers: int, reduce: str = "mean") -> np.ndarray:
    """The first round."""
    return histories.foolsgold(x[None], np.zeros((1, x.shape[1])), num_workers, reduce)[0]


def fldetector(x: np.ndarray, num_workers: int) -> np.ndarray:
    """The first round: there is nothing to predict from."""
    del num_workers
    return x.mean(0)


def flanders(x: np.ndarray, num_workers: int, f: int) -> np.ndarray:
    """The first round: there is nothing to predict from."""
    del num_workers, f
    return x.mean(0)


def safeguard(x: np.ndarray, num_workers: int) -> np.ndarray:
    """The first round: nobody has been judged yet."""
    del num_workers
    return x.mean(0)


def finite_guard(x: np.ndarray, replace: str = "mean") -> np.ndarray:
    """Rows with NaN or inf replaced."""
    finite = np.isfinite(x).all(axis=1, keepdims=True)
    instead = np.where(finite, x, 0.0).sum(0) / finite.sum() if replace == "mean" else np.zeros(x.shape[1])
    return np.where(finite, x, instead)


# Bucketing and DP clipping have no deterministic reference: they depend on the key. Their own tests read it off.
REFERENCES: dict[str, Callable[..., np.ndarray]] = {
    rule.__name__: rule
    for rule in (
        mean,
        median,
        trimmed_mean,
        meamed,
        sign_majority,
        krum,
        multi_krum,
        bulyan,
        geometric_median,
        auto_gm,
        centered_clipping,
        mda,
        smea,
        monna,
        fltrust,
        foolsgold,
        fldetector,
        flanders,
        signguard,
        flame,
        deepsight,
        simple_clustering,
        lasa,
        auror,
        caf,
        dnc,
        cge,
        norm_clipping,
        clipped_clustering,
        byzantine_sgd,
        safeguard,
        nnm,
        clipping,
        adaptive_clipping,
        arc,
        finite_guard,
    )
} | {"rfa": geometric_median}
