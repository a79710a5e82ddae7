"""Float64 NumPy references of the rules that look at the rows' lengths, see `references`."""

from __future__ import annotations

import numpy as np


def clipping(x: np.ndarray, max_norm: float = 2.0) -> np.ndarray:
    """Every row shortened to at most C."""
    return x * np.minimum(1, max_norm / np.linalg.norm(x, axis=1, keepdims=True))


def adaptive_clipping(x: np.ndarray) -> np.ndarray:
    """The first round: clipping to the initial norm."""
    return clipping(x, 0.1)


def norm_clipping(x: np.ndarray, max_norm: float = 3.0) -> np.ndarray:
    """The mean of shortened rows."""
    return clipping(x, max_norm).mean(0)


def arc(x: np.ndarray, f: int) -> np.ndarray:
    """The k longest rows shortened to the next length."""
    n = len(x)
    clipped = int(2 * f / n * (n - f))
    return clipping(x, np.sort(np.linalg.norm(x, axis=1))[n - 1 - clipped])


def cge(x: np.ndarray, f: int) -> np.ndarray:
    """The mean of the n − f shortest rows."""
    return x[np.argsort(np.linalg.norm(x, axis=1), kind="stable")[: len(x) - f]].mean(0)
