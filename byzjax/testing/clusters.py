"""Float64 NumPy references of the rules that group the workers, see `references`."""

from __future__ import annotations

import bisect
import functools
import itertools

import numpy as np

from byzjax.testing.norms import clipping, cosine_distances, directions


def clipped_clustering(x: np.ndarray, max_norm: float | None = 1e5, linkage: str = "average") -> np.ndarray:
    """Rows shortened to the median norm, averaged over the larger of two clusters by cosine distance."""
    distance = cosine_distances(x)
    clusters = [[i] for i in range(len(x))]
    apart = {"average": np.mean, "single": np.min, "complete": np.max}[linkage]
    while len(clusters) > 2:
        pairs = itertools.combinations(range(len(clusters)), 2)
        i, j = min(pairs, key=lambda pair: apart(distance[np.ix_(clusters[pair[0]], clusters[pair[1]])]))
        clusters[i] += clusters.pop(j)
    if max_norm is not None:
        x = clipping(x, min(float(np.median(np.linalg.norm(x, axis=1))), max_norm))
    return x[max(clusters, key=len)].mean(0)


def two_means(points: np.ndarray) -> np.ndarray:
    """The larger of two clusters: Lloyd's algorithm from every point and the one farthest from it, the best of all."""
    best, found = np.inf, np.zeros(len(points), bool)
    for first in points:
        away = ((points - first) ** 2).sum(1)
        second = points[np.argmax(away >= (1 - 1e-5) * away.max())]
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


def signguard(x: np.ndarray, lower: float = 0.1, upper: float = 3.0) -> np.ndarray:
    """Rows of ordinary length in the larger cluster of sign statistics, shortened to the median norm, averaged."""
    norms = np.linalg.norm(x, axis=1)
    middle = np.median(norms)
    shares = np.stack([(x > 0).mean(1), (x == 0).mean(1), (x < 0).mean(1)], axis=1)
    ordinary = (norms >= lower * middle) & (norms <= upper * middle)
    good = ordinary & two_means(shares)
    return clipping(x, float(middle))[good if good.any() else ordinary].mean(0)


def flame(x: np.ndarray) -> np.ndarray:
    """The first majority that single linkage of cosine distances brings together, shortened to the median norm.

    Pairs at one distance, but for rounding, meet at once.
    """
    distance = cosine_distances(x)
    group = list(range(len(x)))
    for level in sorted(set(distance.ravel())):
        for i, j in zip(*np.nonzero(distance <= level * (1 + 1e-12) + 1e-15), strict=True):
            group = [group[i] if g == group[j] else g for g in group]
        largest = max(group, key=group.count)
        members = [k for k in range(len(x)) if group[k] == largest]
        if 2 * len(members) > len(x):
            return clipping(x, float(np.median(np.linalg.norm(x, axis=1))))[members].mean(0)
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


def hdbscan(
    distance: np.ndarray, min_cluster_size: int = 5, min_samples: int = 3, single: bool = False
) -> list[list[int]]:
    """The chosen clusters, from the top of the hierarchy down; what meets at one distance meets at once."""
    n = len(distance)
    core = np.sort(distance, axis=1)[:, min(min_samples, n - 1)]
    reach = np.maximum(distance, np.maximum(core[:, None], core[None, :]))

    steps = np.unique([0.0, *reach.ravel()]).tolist()

    def parts(nodes: list[int], level: float) -> list[list[int]]:
        """What hangs together by steps below a level."""
        left, found = set(nodes), []
        while left:
            part, fresh = [], [min(left)]
            while fresh:
                node = fresh.pop()
                if node in left:
                    left.remove(node)
                    part.append(node)
                    fresh += [other for other in left if reach[node, other] < level]
            found.append(sorted(part))
        return found

    def together(nodes: list[int], level: float) -> bool:
        return len(parts(nodes, np.nextafter(level, np.inf))) == 1

    def density(level: float) -> float:
        return 1.0 / max(level, 1e-9 * distance.max(), 1e-300)

    def best(nodes: list[int], born: float, whole: bool) -> tuple[float, list[list[int]]]:
        """The score of a cluster's best clusters, and these."""
        lasting, current, left, below = 0.0, nodes, {}, []
        while current:
            # The least level at which they hang together; above it they do, too.
            level = steps[bisect.bisect_left(steps, True, key=functools.partial(together, current))]
            large = [part for part in parts(current, level) if len(part) >= min_cluster_size]
            stay = large[0] if len(large) == 1 else []
            gone = [node for node in current if node not in stay]
            left |= dict.fromkeys(gone, density(level))
            lasting += len(gone) * (density(level) - born)
            below = [best(part, density(level), False) for part in large] if len(large) > 1 else []
            current = stay
        score = sum(part[0] for part in below)
        if lasting >= score and (single or not whole):
            # Of all workers only those who leave last, inside clusters or out of them.
            last = max(left.values())
            kept = [node for node in nodes if left[node] >= last] if whole else nodes
            return lasting, [kept]
        return max(score, 0.0 if whole else lasting), [cluster for part in below for cluster in part[1]]

    return best(list(range(n)), 0.0, True)[1]


def deepsight(x: np.ndarray, min_cluster_size: int = 5, min_samples: int = 3) -> np.ndarray:
    """A layer that is a bias alone: clusters of energies and directions, but for those with narrow updates."""

    def apart(distance: np.ndarray) -> np.ndarray:
        label = np.full(len(x), -1)
        for k, cluster in enumerate(hdbscan(distance, min_cluster_size, min_samples)):
            label[cluster] = k
        return (label[:, None] != label[None, :]).astype(float)

    norms = np.linalg.norm(x, axis=1)
    shares = directions(x) ** 2
    euclidean = np.linalg.norm(shares[:, None] - shares[None, :], axis=-1)
    euclidean[euclidean <= 4 * 2.0**-23] = 0.0  # no more than rounding to float32
    merged = (apart(euclidean) + apart(cosine_distances(x))) / 2
    broad = (shares > max(0.01, 1 / x.shape[1]) * shares.max(1, keepdims=True)).sum(1)
    suspicious = (broad <= np.median(broad) / 2) & (np.median(broad) > 0)
    good = [
        node
        for cluster in hdbscan(merged, min_cluster_size, min_samples, single=True)
        if suspicious[cluster].sum() < len(cluster) / 3
        for node in cluster
    ]
    return clipping(x, float(np.median(norms)))[good].mean(0) if good else np.zeros(x.shape[1])
