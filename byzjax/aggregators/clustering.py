"""Rules that split the workers in two groups by direction, and trust the larger one."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from byzjax.aggregators.kernels import weights_rule
from byzjax.aggregators.norms import shortening
from byzjax.base import Aggregator, Numeric, Weights, check_number, promises
from byzjax.sorting import ranks
from byzjax.stacked import Geometry

Linkage = Literal["average", "single", "complete"]


@promises(translation=False, scale=False, robust=False)
def clipped_clustering(max_norm: Numeric = 1e5, *, linkage: Linkage = "average") -> Aggregator:
    """Clipped clustering: shorten rows to the median norm, then average the larger of two clusters of directions.

    ``y_i = x_i min(1, τ/‖x_i‖)`` with τ the median of the norms, at most C; agglomerative clustering of the cosine
    distances ``1 − ⟨x_i, x_j⟩/(‖x_i‖ ‖x_j‖)`` down to two clusters; the mean of the y of the larger one, of two of the
    same size that with the first worker. A row of zeros has cosine distance 1 to all.

    Blades takes the median over the norms of all rounds so far, a state without end; this rule over those of this
    round, the same in the first one.

    Args:
      max_norm: C > 0, may be traced; 1e5 in Blades (``max_tau``).
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
    check_number(max_norm, "max_norm", "clipped_clustering", least=0, open_below=True)
    if linkage not in ("average", "single", "complete"):
        raise ValueError(f"clipped_clustering: linkage = {linkage!r} must be 'average', 'single' or 'complete'.")

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        finite = geometry.finite
        norms = jnp.sqrt(geometry.squared_norms())
        count = finite.sum(dtype=jnp.int32)
        order = ranks(norms)
        low = jnp.where(order == (count - 1) // 2, norms, 0.0).sum()
        high = jnp.where(order == count // 2, norms, 0.0).sum()
        bound = jnp.minimum(0.5 * (low + high), jnp.asarray(max_norm, norms.dtype) / geometry.unit)
        members = larger_cluster(_cosine_distances(geometry, norms), finite, linkage)
        kept = jnp.where(members, shortening(geometry, bound), 0.0)
        return kept / members.sum().astype(kept.dtype)

    return weights_rule(Weights(weights))


def _cosine_distances(geometry: Geometry, norms: jax.Array) -> jax.Array:
    n = geometry.num_workers
    towards = geometry.gram[n, :n]
    inner = geometry.rows - towards[:, None] - towards[None, :] + geometry.gram[n, n]
    positive = (norms > 0) & geometry.finite
    lengths = jnp.where(positive, norms, 1.0)
    cosine = inner / lengths[:, None] / lengths[None, :]
    return 1.0 - jnp.where(positive[:, None] & positive[None, :], jnp.clip(cosine, -1.0, 1.0), 0.0)


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
