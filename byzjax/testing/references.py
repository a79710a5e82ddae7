"""Float64 NumPy references, written from the papers' formulas, one loop at a time and without cleverness.

Each takes a matrix ``[n, d]`` and the options of its factory. Ties go to the lowest index.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np


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


def krum_order(x: np.ndarray, f: int, power: int, neighbors: str) -> np.ndarray:
    """Workers by Krum score, best first."""
    n = len(x)
    count = n - f - (2 if neighbors == "n-f-2" else 1)
    scores = []
    for i in range(n):
        others = sorted(np.linalg.norm(x[i] - x[j]) ** power for j in range(n) if j != i)
        scores.append(sum(others[:count]))
    return np.argsort(scores, kind="stable")


def krum(x: np.ndarray, f: int, power: int = 2, neighbors: str = "n-f-2") -> np.ndarray:
    """The row of the best score."""
    return x[krum_order(x, f, power, neighbors)[0]]


def multi_krum(x: np.ndarray, f: int, m: int | None = None, power: int = 2, neighbors: str = "n-f-2") -> np.ndarray:
    """The mean of the m rows of best score."""
    chosen = krum_order(x, f, power, neighbors)[: len(x) - f if m is None else m]
    return x[chosen].mean(0)


def geometric_median(x: np.ndarray, num_iters: int = 8, smoothing: float = 0.1, init: str = "zero") -> np.ndarray:
    """Smoothed Weiszfeld steps."""
    z = np.zeros(x.shape[1]) if init == "zero" else x.mean(0)
    for _ in range(num_iters):
        weights = [1 / max(float(np.linalg.norm(row - z)), smoothing) for row in x]
        z = np.average(x, axis=0, weights=weights)
    return z


def nnm(x: np.ndarray, f: int) -> np.ndarray:
    """Every row replaced by the mean of its n − f nearest."""
    n = len(x)
    mixed = []
    for i in range(n):
        squared = np.array([np.sum((x[i] - x[j]) ** 2) for j in range(n)])
        squared[i] = -1.0
        nearest = np.argsort(squared, kind="stable")[: n - f]
        mixed.append(x[nearest].mean(0))
    return np.stack(mixed)


def meamed(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of the n − f values nearest to the median, of two at the same distance the smaller."""
    ordered = np.sort(x, axis=0)
    distances = np.abs(ordered - np.median(x, axis=0))
    nearest = np.argsort(distances, axis=0, kind="stable")[: len(x) - f]
    return np.take_along_axis(ordered, nearest, axis=0).mean(0)


def sign_majority(x: np.ndarray) -> np.ndarray:
    """The sign of the sum of signs."""
    return np.sign(np.sign(x).sum(0))


def mda(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of the subset of n − f rows of smallest diameter."""

    def diameter(subset: tuple[int, ...]) -> float:
        return max(float(np.linalg.norm(x[i] - x[j])) for i in subset for j in subset)

    return x[list(min(itertools.combinations(range(len(x)), len(x) - f), key=diameter))].mean(0)


def smea(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of the subset of n − f rows whose covariance has the smallest largest eigenvalue."""

    def spread(subset: tuple[int, ...]) -> float:
        rows = x[list(subset)]
        return float(np.linalg.eigvalsh((rows - rows.mean(0)).T @ (rows - rows.mean(0)))[-1])

    return x[list(min(itertools.combinations(range(len(x)), len(x) - f), key=spread))].mean(0)


def monna(x: np.ndarray, f: int, reference: int = 0) -> np.ndarray:
    """The mean of the n − f rows nearest to the reference."""
    distances = np.linalg.norm(x - x[reference], axis=1)
    distances[reference] = -1.0
    return x[np.argsort(distances, kind="stable")[: len(x) - f]].mean(0)


def caf(x: np.ndarray, f: int) -> np.ndarray:
    """Weights shrink along the top eigenvector of the d × d covariance; the mean of the least spread wins."""
    c, best, best_value = np.ones(len(x)), x.mean(0), np.inf
    while c.sum() > len(x) - 2 * f:
        mu = (c[:, None] * x).sum(0) / c.sum()
        values, vectors = np.linalg.eigh((c[:, None] * (x - mu)).T @ (x - mu) / c.sum())
        if values[-1] < best_value:
            best, best_value = mu, values[-1]
        tau = ((x - mu) @ vectors[:, -1]) ** 2
        c = c * np.maximum(1 - tau / tau[c > 0].max(), 0)
    return best


def cge(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of the n − f shortest rows."""
    return x[np.argsort(np.linalg.norm(x, axis=1), kind="stable")[: len(x) - f]].mean(0)


def clipping(x: np.ndarray, max_norm: float = 2.0) -> np.ndarray:
    """Every row shortened to at most C."""
    return x * np.minimum(1, max_norm / np.linalg.norm(x, axis=1, keepdims=True))


def arc(x: np.ndarray, f: int) -> np.ndarray:
    """The k longest rows shortened to the next length."""
    n = len(x)
    clipped = int(2 * f / n * (n - f))
    return clipping(x, np.sort(np.linalg.norm(x, axis=1))[n - 1 - clipped])


# Bucketing has no deterministic reference: its buckets depend on the key. Its own test reads them off.
REFERENCES: dict[str, Callable[..., np.ndarray]] = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "geometric_median": geometric_median,
    "rfa": geometric_median,
    "mda": mda,
    "smea": smea,
    "monna": monna,
    "caf": caf,
    "cge": cge,
    "meamed": meamed,
    "sign_majority": sign_majority,
    "nnm": nnm,
    "clipping": clipping,
    "arc": arc,
}
