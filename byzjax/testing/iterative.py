"""Float64 NumPy references of the rules that iterate, see `references`."""

from __future__ import annotations

import numpy as np


def lower_median(x: np.ndarray) -> np.ndarray:
    """The middle value of each coordinate, of an even number the lower one."""
    return np.sort(x, axis=0)[(len(x) - 1) // 2]


def start_of(x: np.ndarray, init: str) -> np.ndarray:
    """Where an iteration starts; the median of an even number is the lower one."""
    starts = {"zero": np.zeros(x.shape[1]), "mean": x.mean(0), "median": lower_median(x)}
    return starts["zero" if init == "previous" else init]


def weiszfeld(
    x: np.ndarray,
    z: np.ndarray,
    alpha: np.ndarray | float,
    num_iters: int,
    smoothing: float,
    tolerance: float = -1.0,
    least: float = 0.0,
) -> np.ndarray:
    """Steps for rows with weights alpha, up to one that moves z by no more than the tolerance.

    In the first step no row is nearer than ``least``.
    """
    for k in range(num_iters):
        lengths = np.maximum(np.linalg.norm(x - z, axis=1), max(smoothing, 0.0 if k else least))
        old, z = z, np.average(x, axis=0, weights=alpha / lengths)
        if np.linalg.norm(z - old) <= tolerance:
            break
    return z


def geometric_median(
    x: np.ndarray,
    num_iters: int = 8,
    smoothing: float = 0.1,
    init: str = "zero",
    tolerance: float | None = None,
) -> np.ndarray:
    """Smoothed Weiszfeld steps."""
    return weiszfeld(x, start_of(x, init), 1.0, num_iters, smoothing, -1.0 if tolerance is None else tolerance)


def auto_gm(
    x: np.ndarray,
    regularization: float | None = None,
    num_iters: int = 100,
    weiszfeld_iters: int = 100,
    smoothing: float = 1e-6,
    tolerance: float = 1e-6,
) -> np.ndarray:
    """Weighted geometric medians and weights on the simplex by turns, λ from the first one, until z hardly moves."""
    n = len(x)

    def distances(z: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x - z, axis=1)

    start = lower_median(x)
    middle = np.sort(distances(start))[n // 2]
    limit = tolerance * middle
    z = weiszfeld(x, start, 1.0, weiszfeld_iters, smoothing, limit, middle)
    strength = max(n * np.sort(distances(z))[n // 2], 1e-300) if regularization is None else regularization
    for _ in range(num_iters):
        away = distances(z)
        away = away - away.min()  # which changes no weight, and a small strength is not lost beside it
        levels = [(np.sort(away)[:p].sum() + strength) / p for p in range(1, n + 1)]
        level = [eta for eta, d in zip(levels, np.sort(away), strict=True) if eta > d][-1]
        alpha = np.maximum(level - away, 0) / strength
        old, z = z, weiszfeld(x, z, alpha, weiszfeld_iters, smoothing, limit)
        if np.linalg.norm(z - old) <= limit:
            break
    return z


def centered_clipping(
    x: np.ndarray,
    tau: float = 10.0,
    num_iters: int = 1,
    scaling: str = "none",
    beta: float = 0.0,
    start: str = "previous",
) -> np.ndarray:
    """Steps of the mean clipped difference."""
    v = start_of(x, start)
    radius = tau / {"none": 1, "linear": 1 - beta, "sqrt": np.sqrt(1 - beta)}[scaling]
    for _ in range(num_iters):
        v = v + np.mean([(row - v) * min(1, radius / max(float(np.linalg.norm(row - v)), 1e-300)) for row in x], axis=0)
    return v
