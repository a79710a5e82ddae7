"""Clusters of workers: agglomerative, single linkage, DBSCAN, HDBSCAN, 2-means."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from byzjax.stacked.control_flow import fori_loop, while_loop
from byzjax.stacked.cosines import exponents, shifted
from byzjax.types import Numeric

_ROUNDED = 1e-5  # relative differences that may be rounding
_LLOYD_TURNS = 100


def larger_cluster(distances: jax.Array, present: jax.Array, linkage: str) -> jax.Array:
    """The larger of two clusters, merged from single workers by the smallest distance: bool[n].

    Args:
      distances: f32[n, n].
      present: bool[n], who is to be clustered.
      linkage: "average", "single" or "complete".

    >>> d = jnp.array([[0.0, 1.0, 9.0], [1.0, 0.0, 8.0], [9.0, 8.0, 0.0]])
    >>> larger_cluster(d, jnp.ones(3, bool), "average").tolist()
    [True, True, False]
    """
    n = distances.shape[0]
    index = jnp.arange(n)

    def merge(state):
        between, label, sizes, left = state
        alive = (sizes > 0)[:, None] & (sizes > 0)[None, :] & (index[:, None] < index[None, :])
        i, j = jnp.unravel_index(jnp.argmin(jnp.where(alive, between, jnp.inf)), (n, n))
        if linkage == "average":
            joined = (sizes[i] * between[i] + sizes[j] * between[j]) / (sizes[i] + sizes[j])
        else:
            joined = (jnp.minimum if linkage == "single" else jnp.maximum)(between[i], between[j])
        between = jnp.where((index == i)[:, None], joined[None], between)
        between = jnp.where((index == i)[None, :], joined[:, None], between)
        sizes = jnp.where(index == i, sizes[i] + sizes[j], jnp.where(index == j, 0.0, sizes))
        return between, jnp.where(label == j, i.astype(label.dtype), label), sizes, left - 1

    start = (distances, index, present.astype(distances.dtype), present.sum(dtype=jnp.int32))
    _, label, sizes, _ = while_loop(lambda state: state[3] > 2, merge, start)
    return (label == jnp.argmax(sizes)) & present


def majority_cluster(distances: jax.Array, present: jax.Array) -> jax.Array:
    """The first cluster with more than half of all, merged by the least distance of a pair: bool[n].

    Args:
      distances: f32[n, n], symmetric.
      present: bool[n], who is to be clustered. Nobody is a member if they are no majority.

    >>> x = jnp.array([[0.0, 9.0, 1.0, 7.0, 2.5]])
    >>> d = jnp.abs(x - x.T)
    >>> majority_cluster(d, jnp.ones(5, bool)).tolist()
    [True, False, True, False, True]
    """
    joined = jnp.sort(ultrametric(distances, present), axis=1)[:, distances.shape[0] // 2]
    return present & jnp.isfinite(joined) & (joined == joined.min())


def ultrametric(distances: jax.Array, present: jax.Array) -> jax.Array:
    """The distance at which single linkage brings two workers together, f32[n, n]; +inf from and to who is not present.

    That is the longest step on the path between them in the minimum spanning tree, which Prim's algorithm grows.

    >>> x = jnp.array([[0.0, 9.0, 1.0, 2.5]])
    >>> ultrametric(jnp.abs(x - x.T), jnp.ones(4, bool)).tolist()[0]
    [0.0, 6.5, 1.0, 1.5]
    """
    n = distances.shape[0]
    far = jnp.finfo(distances.dtype).max
    pairs = present[:, None] & present[None, :]
    between = jnp.where(pairs, jnp.minimum(distances, far), far)
    index = jnp.arange(n)

    def visit(_, state):
        near, parent, visited, joined = state
        point = jnp.argmin(jnp.where(visited, jnp.inf, near))
        path = jnp.where(visited, jnp.maximum(joined[parent[point]], near[point]), 0.0)
        joined = jnp.where((index == point)[:, None], path[None, :], joined)
        joined = jnp.where((index == point)[None, :], path[:, None], joined)
        closer = between[point] < near
        return (
            jnp.where(closer, between[point], near),
            jnp.where(closer, point.astype(parent.dtype), parent),
            visited | (index == point),
            joined,
        )

    start = (jnp.full((n,), far), jnp.zeros((n,), index.dtype), jnp.zeros((n,), bool), jnp.zeros((n, n), far.dtype))
    return jnp.where(pairs, fori_loop(0, n, visit, start)[3], jnp.inf)


def hdbscan(
    distances: jax.Array,
    present: jax.Array,
    *,
    min_cluster_size: Numeric = 5,
    min_samples: Numeric = 3,
    single: bool = False,
) -> jax.Array:
    """HDBSCAN: the clusters that last longest as the density that makes one rises, i32[n]; −1 for noise.

    With ``r_ij = max(c_i, c_j, d_ij)``, where c is the distance to the k-th nearest other worker, and U the single
    linkage of r: just below a level at which two parts of at least m meet, each of them is a cluster. A worker leaves
    it, at density λ = 1/level, where it is split in that way or where the worker's part gets smaller than m. Chosen
    are, from below, the clusters with ``Σ_i (λ_leave − λ_born)`` no less than that of what is chosen inside of them.

    What meets at one level meets at once: unlike in the reference implementation, the order of the workers decides
    nothing.

    Args:
      distances: f32[n, n], symmetric.
      present: bool[n], who is to be clustered; the others are noise.
      min_cluster_size: m ≥ 2, may be traced.
      min_samples: k ≥ 1, may be traced.
      single: whether all workers may be one cluster; its members are then those that leave it last.

    Returns:
      For each worker the index of the first member of its cluster.

    Campello, Moulavi, Sander. Density-based clustering based on hierarchical density estimates. PAKDD 2013.

    >>> x = jnp.array([[0.0, 1.0, 2.0, 20.0, 21.0, 22.0, 90.0]])
    >>> hdbscan(jnp.abs(x - x.T), jnp.ones(7, bool), min_cluster_size=3, min_samples=1).tolist()
    [0, 0, 0, 3, 3, 3, -1]
    """
    n, dtype = distances.shape[0], distances.dtype
    count = present.sum(dtype=jnp.int32)
    fewest, nearest = (
        jnp.ceil(jnp.clip(jnp.asarray(size, dtype), 0, n + 1)).astype(jnp.int32)
        for size in (min_cluster_size, min_samples)
    )
    # Densities in units of about the largest distance's: levels below a billionth of it are one.
    pairs = present[:, None] & present[None, :]
    distances = jnp.minimum(distances, jnp.finfo(dtype).max)
    largest = jnp.where(pairs, distances, 0.0).max()
    between = jnp.where(pairs, shifted(distances, jnp.full((n,), -exponents(largest))), jnp.inf)
    core = jnp.take(jnp.sort(between, axis=1), jnp.clip(nearest, 0, jnp.maximum(count - 1, 0)), axis=1)
    meets = ultrametric(jnp.maximum(between, jnp.maximum(core[:, None], core[None, :])), present)

    def density(level: jax.Array) -> jax.Array:
        return 1.0 / jnp.maximum(level, 1e-9)

    ordered = jnp.sort(meets, axis=1)
    inside = jax.vmap(lambda row, levels: jnp.searchsorted(row, levels))(ordered, meets)  # who met before that level
    splits = (inside >= fewest) & (fewest <= inside.T) & jnp.isfinite(meets)
    last = jnp.where(fewest <= count, jnp.take(ordered, jnp.clip(fewest - 1, 0, n - 1), axis=1), jnp.inf)

    def judge(state):
        level, leave, share, label = state
        level = jnp.where(splits & (meets > level), meets, jnp.inf).min()
        born = (splits & (meets == level)).any(1)
        members = (meets < level).astype(dtype)
        size = jnp.maximum(members.sum(1), 1.0)
        lasting = (members * (density(leave) - density(level))[None]).sum(1)
        better = (members * share[None]).sum(1)
        label = jnp.where(born & (lasting >= better), jnp.argmax(members, axis=1).astype(label.dtype), label)
        share = jnp.where(born, jnp.maximum(lasting, better) / size, share)
        return level, jnp.where(born, level, leave), share, label

    nobody = jnp.full((n,), -1, jnp.int32)
    start = (jnp.asarray(-1.0, dtype), last, jnp.zeros((n,), dtype), nobody)
    _, leave, share, label = while_loop(lambda s: (splits & (meets > s[0])).any(), judge, start)
    if single:
        lasting = jnp.where(present, density(leave), 0.0)
        members = present & (density(last) >= lasting.max())
        whole = jnp.where(members, jnp.argmax(members).astype(label.dtype), nobody)
        label = jnp.where(lasting.sum() >= jnp.where(present, share, 0.0).sum(), whole, label)
    return jnp.where(present, label, nobody)


def densest_cluster(near: jax.Array, min_samples: Numeric) -> jax.Array:
    """The largest cluster of DBSCAN: bool[n]; nobody if there is none.

    Args:
      near: bool[n, n], symmetric; who is within reach of whom, and of itself if it is to be clustered.
      min_samples: how many rows make a core.

    >>> x = jnp.array([[0.0, 1.0, 2.0, 7.0, 7.5, 3.0]])
    >>> densest_cluster(jnp.abs(x - x.T) <= 1.0, 3).tolist()
    [True, True, True, False, False, True]
    """
    n = near.shape[0]
    index = jnp.arange(n)
    core = near.sum(1) >= min_samples
    reached = near & core[None, :]

    def first_reached(label: jax.Array) -> jax.Array:
        return jnp.where(reached, label[None, :], n).min(1)

    def spread(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return jnp.where(core, first_reached(state[0]), n), state[0]

    # Labels are the first core of a cluster: cores take the least in reach until nothing changes.
    label, _ = while_loop(lambda s: (s[0] != s[1]).any(), spread, (jnp.where(core, index, n), index - 1))
    label = first_reached(label)
    sizes = (label[None, :] == index[:, None]).sum(1)
    return (label == jnp.argmax(sizes)) & (sizes.max() > 0)


def larger_of_two_means(points: jax.Array, present: jax.Array) -> jax.Array:
    """The larger of two clusters of least squared distance from their means: bool[n].

    Lloyd's algorithm from every point and the one farthest from it; of the n results the best. What differs by no more
    than rounding counts as equal, and the first wins: shares of coordinates are often equally far apart.

    Args:
      points: f32[n, k].
      present: bool[n], who is to be clustered.

    >>> larger_of_two_means(jnp.array([[0.0], [9.0], [1.0], [8.0], [0.5]]), jnp.ones(5, bool)).tolist()
    [True, False, True, False, True]
    """
    there = present.astype(points.dtype)

    def apart(centre: jax.Array) -> jax.Array:
        return jnp.square(points - centre[None]).sum(1)

    def mean(members: jax.Array) -> jax.Array:
        share = members * there
        return (share[:, None] * points).sum(0) / jnp.maximum(share.sum(), 1.0)

    def run(first: jax.Array) -> tuple[jax.Array, jax.Array]:
        away = apart(points[first])
        away = jnp.where(present, away, -1.0)
        second = jnp.argmax(away >= (1.0 - _ROUNDED) * away.max())

        def move(state):
            _, old, turns = state
            one, two = apart(mean(1.0 - old)), apart(mean(old))
            new = (two < (1.0 - _ROUNDED) * one).astype(points.dtype)
            return old, new, turns + 1

        start = (apart(points[second]) < (1.0 - _ROUNDED) * away).astype(points.dtype)
        changes = (1.0 - start, start, jnp.zeros((), jnp.int32))
        _, label, _ = while_loop(lambda s: (s[0] != s[1]).any() & (s[2] < _LLOYD_TURNS), move, changes)
        spread = jnp.where(label > 0, apart(mean(label)), apart(mean(1.0 - label)))
        return label > 0, jnp.where(present[first], (spread * there).sum(), jnp.inf)

    labels, spreads = jax.vmap(run)(jnp.arange(len(points)))
    second = labels[jnp.argmax(spreads <= spreads.min() * (1.0 + _ROUNDED))] & present
    sizes = second.sum(), (present & ~second).sum()
    first_in_second = second[jnp.argmax(present)]
    return jnp.where((sizes[0] > sizes[1]) | ((sizes[0] == sizes[1]) & first_in_second), second, present & ~second)
