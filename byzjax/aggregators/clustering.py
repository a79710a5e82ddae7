"""Rules that split the workers in two groups, by direction or by signs, and trust the larger one."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators.directions import cosines
from byzjax.aggregators.norms import shortening
from byzjax.base import Aggregator, Numeric, Stacked, Trust, check_number, concrete, num_workers_of, promises
from byzjax.sorting import ranks

Linkage = Literal["average", "single", "complete"]

_ROUNDED = 1e-5  # relative differences that may be rounding
_LLOYD_TURNS = 100


@promises(translation=False, scale=False, robust=False)
def clipped_clustering(max_norm: Numeric | None = 1e5, *, linkage: Linkage = "average") -> Aggregator:
    """Clipped clustering: shorten rows to the median norm, then average the larger of two clusters of directions.

    ``y_i = x_i min(1, τ/‖x_i‖)`` with τ the median of the norms, at most C; agglomerative clustering of the cosine
    distances ``1 − ⟨x_i, x_j⟩/(‖x_i‖ ‖x_j‖)`` down to two clusters; the mean of the y of the larger one, of two of the
    same size that with the first worker. A row of zeros has cosine distance 1 to all.

    Blades takes the median over the norms of all rounds so far, a state without end; this rule over those of this
    round, the same in the first one.

    Args:
      max_norm: C > 0, may be traced; 1e5 in Blades (``max_tau``). None clips nothing: with ``linkage="complete"`` the
        rule of Sattler, Müller, Wiegand, Samek (ICASSP 2020), Blades 0.1.0's ``Clustering``.
      linkage: how far apart two clusters are: the ``"average"`` of their pairs (Blades), the least (``"single"``) or
        the largest (``"complete"``).

    Shapes: ``f32[n, d] -> f32[d]``. A row with NaN or inf is in no cluster.

    Raises:
      ValueError: C ≤ 0, or an unknown linkage.

    Li, Ngai, Voigt. An experimental study of Byzantine-robust aggregation schemes in federated learning. IEEE Trans.
    Big Data, 2023.

    >>> import byzjax
    >>> byzjax.aggregate(clipped_clustering(), jnp.array([[2.0, 0.0], [4.0, 0.0], [-9.0, 0.0]])).tolist()
    [3.0, 0.0]
    """
    if max_norm is not None:
        check_number(max_norm, "max_norm", "clipped_clustering", least=0, open_below=True)
    if linkage not in ("average", "single", "complete"):
        raise ValueError(f"clipped_clustering: linkage = {linkage!r} must be 'average', 'single' or 'complete'.")

    def weigh(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        num_workers_of(updates)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        norms, finite = jnp.sqrt(lengths.squares), lengths.finite
        members = larger_cluster(1.0 - cosines(updates), finite, linkage)
        kept = members.astype(norms.dtype)
        if max_norm is not None:
            bound = jnp.minimum(_median_of(norms, finite), jnp.asarray(max_norm, norms.dtype) / lengths.unit)
            kept = kept * shortening(lengths, bound)
        weights = kept / members.sum().astype(norms.dtype)
        return stacked.combine(weights, updates, frame), state, Trust(weights)

    return Aggregator.weighing(optax.init_empty_state, weigh)


@promises(translation=False, robust=False)
def signguard(*, lower: Numeric = 0.1, upper: Numeric = 3.0) -> Aggregator:
    """SignGuard: among rows of ordinary length, those whose signs are like most others'; shortened, then averaged.

    ``S = {i : L ≤ ‖x_i‖/M ≤ R} ∩ C`` with M the median of the norms and C the larger of two clusters of the points
    ``(p_i, z_i, q_i)``, the shares of positive, zero and negative coordinates of ``x_i``; of two of the same size that
    with the first worker. Then ``signguard(x) = (1/|S|) Σ_{i ∈ S} x_i min(1, M/‖x_i‖)``. If S is empty, the cluster is
    left out of account.

    The clusters are those of 2-means, the best of n runs of Lloyd's algorithm: from each point and the one farthest
    from it. The paper uses mean shift, and shares of a random tenth of the coordinates: here all are counted, which
    costs less than choosing.

    Args:
      lower: L, 0 ≤ L ≤ 1, may be traced; 0.1 in the paper.
      upper: R ≥ 1, may be traced; 3 in the paper.

    Shapes: ``f32[n, d] -> f32[d]``. A row with NaN or inf is in no cluster.

    Raises:
      ValueError: L or R out of range.

    Xu, Huang, Song, Lan. Byzantine-robust federated learning through collaborative malicious gradient filtering. ICDCS
    2022.

    >>> import byzjax
    >>> x = jnp.array([[1.0, 2.0, 2.0], [2.0, 2.0, 1.0], [2.0, 1.0, 2.0], [-2.0, -2.0, -1.0], [90.0, 90.0, 90.0]])
    >>> byzjax.aggregate(signguard(), x).round(2).tolist()
    [1.6699999570846558, 1.6699999570846558, 1.6699999570846558]
    """
    check_number(lower, "lower", "signguard", least=0)
    check_number(upper, "upper", "signguard", least=1)
    if (known := concrete(lower)) is not None and known > 1:
        raise ValueError(f"signguard: lower = {lower} must be at most 1: the median row is of ordinary length.")

    def weigh(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        n = num_workers_of(updates)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        norms, finite = jnp.sqrt(lengths.squared_norms()), lengths.finite
        middle = _median_of(norms, finite)
        d = max(sum(leaf.size for leaf in jax.tree.leaves(updates)) // n, 1)
        up, down = (count.astype(norms.dtype) / d for count in stacked.sign_counts(updates))
        alike = larger_of_two_means(jnp.stack([up, 1.0 - up - down, down], axis=1), finite)
        ordinary = finite & (norms >= lower * middle) & (norms <= upper * middle)
        good = jnp.where((ordinary & alike).any(), ordinary & alike, jnp.where(ordinary.any(), ordinary, finite))
        weights = jnp.where(good, shortening(lengths, middle), 0.0) / good.sum().astype(norms.dtype)
        return stacked.combine(weights, updates, frame), state, Trust(weights)

    return Aggregator.weighing(optax.init_empty_state, weigh)


def _median_of(norms: jax.Array, finite: jax.Array) -> jax.Array:
    """The median of the norms of the finite rows; +inf is the norm of all others."""
    count = finite.sum(dtype=jnp.int32)
    order = ranks(norms)
    low = jnp.where(order == (count - 1) // 2, norms, 0.0).sum()
    high = jnp.where(order == count // 2, norms, 0.0).sum()
    return 0.5 * (low + high)


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
    _, label, sizes, _ = jax.lax.while_loop(lambda state: state[3] > 2, merge, start)
    return (label == jnp.argmax(sizes)) & present


def larger_of_two_means(points: jax.Array, present: jax.Array) -> jax.Array:
    """The larger of two clusters of least squared distance from their means: bool[n].

    Lloyd's algorithm from every point and the one farthest from it; of the n results the best. What differs by no more
    than rounding counts as equal, and the first wins.

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
        second = jnp.argmax(jnp.where(present, away, -1.0))

        def move(state):
            _, old, turns = state
            one, two = apart(mean(1.0 - old)), apart(mean(old))
            new = (two < (1.0 - _ROUNDED) * one).astype(points.dtype)
            return old, new, turns + 1

        start = (apart(points[second]) < (1.0 - _ROUNDED) * away).astype(points.dtype)
        changes = (1.0 - start, start, jnp.zeros((), jnp.int32))
        _, label, _ = jax.lax.while_loop(lambda s: (s[0] != s[1]).any() & (s[2] < _LLOYD_TURNS), move, changes)
        spread = jnp.where(label > 0, apart(mean(label)), apart(mean(1.0 - label)))
        return label > 0, jnp.where(present[first], (spread * there).sum(), jnp.inf)

    labels, spreads = jax.vmap(run)(jnp.arange(len(points)))
    second = labels[jnp.argmax(spreads <= spreads.min() * (1.0 + _ROUNDED))] & present
    sizes = second.sum(), (present & ~second).sum()
    first_in_second = second[jnp.argmax(present)]
    return jnp.where((sizes[0] > sizes[1]) | ((sizes[0] == sizes[1]) & first_in_second), second, present & ~second)
