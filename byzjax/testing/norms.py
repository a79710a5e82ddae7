"""Float64 NumPy references of the rules that look at the rows' lengths, see `references`."""

from __future__ import annotations

import numpy as np


def clipping(x: np.ndarray, max_norm: float = 2.0) -> np.ndarray:
    """Every row shortened to at most C; a row of zeros stays."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x * np.minimum(1, max_norm / np.where(norms > 0, norms, 1.0) + (norms == 0))


def adaptive_clipping(x: np.ndarray, initial_norm: float = 0.1) -> np.ndarray:
    """The first round: clipping to the initial norm."""
    return clipping(x, initial_norm)


def norm_clipping(x: np.ndarray, max_norm: float = 3.0) -> np.ndarray:
    """The mean of shortened rows."""
    return clipping(x, max_norm).mean(0)


def arc(x: np.ndarray, f: int) -> np.ndarray:
    """The k longest rows shortened to the next length."""
    n = len(x)
    clipped = 2 * f * (n - f) // n
    return clipping(x, np.sort(np.linalg.norm(x, axis=1))[n - 1 - clipped])


def cge(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of the n − f shortest rows."""
    return x[np.argsort(np.linalg.norm(x, axis=1), kind="stable")[: len(x) - f]].mean(0)


def directions(x: np.ndarray) -> np.ndarray:
    """Every row at length one; a row of zeros has no direction."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1.0)


def cosine_distances(x: np.ndarray) -> np.ndarray:
    """One minus the cosine of every two rows, 1 to rows of zeros; 0 where float32 does not hold the difference."""
    unit = directions(x)
    squared = ((unit[:, None] - unit[None, :]) ** 2).sum(-1)
    there = np.any(unit != 0, axis=1)
    apart = np.where(squared / 2 > (4 * 2.0**-23) ** 2, squared / 2, 0.0)
    return np.where(there[:, None] & there[None, :], apart, 1.0)
