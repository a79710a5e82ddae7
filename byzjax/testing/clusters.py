"""Float64 NumPy references of the rules that group the workers, see `references`."""

from __future__ import annotations

import itertools

import numpy as np

from byzjax.testing.norms import clipping


def clipped_clustering(x: np.ndarray, linkage: str = "average") -> np.ndarray:
    """Rows shortened to the median norm, averaged over the larger of two clusters by cosine distance."""
    norms = np.linalg.norm(x, axis=1)
    distance = 1 - (x @ x.T) / norms[:, None] / norms[None, :]
    clusters = [[i] for i in range(len(x))]
    apart = {"average": np.mean, "single": np.min, "complete": np.max}[linkage]
    while len(clusters) > 2:
        pairs = itertools.combinations(range(len(clusters)), 2)
        i, j = min(pairs, key=lambda pair: apart(distance[np.ix_(clusters[pair[0]], clusters[pair[1]])]))
        clusters[i] += clusters.pop(j)
    return clipping(x, float(np.median(norms)))[max(clusters, key=len)].mean(0)


def two_means(points: np.ndarray) -> np.ndarray:
    """The larger of two clusters: Lloyd's algorithm from every point and the one farthest from it, the best of all."""
    best, found = np.inf, np.zeros(len(points), bool)
    for first in points:
        second = points[np.argmax(((points - first) ** 2).sum(1))]
        old, label = None, ((points - second) ** 2).sum(1) < (1 - 1e-5) * ((points - first) ** 2).sum(1)
        for _ in range(100):
            if old is not None and (old == label).all():
                break
            means = [points[side].mean(0) if side.any() else np.zeros(points.shape[1]) for side in (~label, label)]
            one, two = (((points - mean) ** 2).sum(1) for mean in means)
            old, label = label, two < (1 - 1e-5) * one
        spread = sum(((points[side] - points[side].mean(0)) ** 2).sum() for side in (~label, label) if side.any())
        if spread < best / (1 + 1e-5):
            best, found = spread, label
    sizes = found.sum(), (~found).sum()
    return found if sizes[0] > sizes[1] or (sizes[0] == sizes[1] and found[0]) else ~found


def signguard(x: np.ndarray) -> np.ndarray:
    """Rows of ordinary length in the larger cluster of sign statistics, shortened to the median norm, averaged."""
    norms = np.linalg.norm(x, axis=1)
    middle = np.median(norms)
    shares = np.stack([(x > 0).mean(1), (x == 0).mean(1), (x < 0).mean(1)], axis=1)
    ordinary = (norms >= 0.1 * middle) & (norms <= 3.0 * middle)
    good = ordinary & two_means(shares)
    return clipping(x, float(middle))[good if good.any() else ordinary].mean(0)


def flame(x: np.ndarray) -> np.ndarray:
    """The first majority that single linkage of cosine distances brings together, shortened to the median norm."""
    norms = np.linalg.norm(x, axis=1)
    distance = 1.0 - (x @ x.T) / np.outer(norms, norms)
    group = list(range(len(x)))
    for i, j in sorted(itertools.combinations(range(len(x)), 2), key=lambda pair: distance[pair]):
        group = [group[i] if g == group[j] else g for g in group]
        members = [k for k in range(len(x)) if group[k] == group[i]]
        if 2 * len(members) > len(x):
            return clipping(x, float(np.median(norms)))[members].mean(0)
    raise ValueError("flame: no rows.")


def simple_clustering(x: np.ndarray, eps: float, min_samples: int = 3) -> np.ndarray:
    """The mean of the largest cluster of DBSCAN, grown from one core at a time."""
    near = np.linalg.norm(x[:, None] - x[None, :], axis=2) <= eps
    label = np.full(len(x), -1)
    for first in range(len(x)):
        grown = [first] if near[first].sum() >= min_samples and label[first] < 0 else []
        for i in grown:
            label[i] = first
            if near[i].sum() >= min_samples:
                grown += [j for j in range(len(x)) if near[i, j] and label[j] < 0 and j not in grown]
    sizes = [(label == first).sum() for first in range(len(x))]
    return x[label == np.argmax(sizes)].mean(0) if max(sizes) else x.mean(0)
