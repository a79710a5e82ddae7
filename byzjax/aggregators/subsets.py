"""Rules that choose the best subset of n − f workers: MDA, SMEA, and the neighbours of a trusted one, MoNNA.

MDA and SMEA look at all ``C(n, f)`` subsets, so their f is static.
"""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.aggregators.kernels import mean_of_lowest, weights_rule
from byzjax.base import Aggregator, Numeric, Weights, check_f, check_majority, concrete, nan_unless_minority, promises
from byzjax.stacked import Geometry, Lengths

MAX_SUBSETS = 1_000_000
_CHUNK = 1_024  # subsets looked at together


@promises(static_f=True)
def mda(f: int) -> Aggregator:
    """Minimum-diameter averaging: the mean of the n − f rows of smallest diameter.

    ``mda(x) = (1/(n − f)) Σ_{i ∈ S} x_i`` with S the subset of n − f rows that minimises
    ``max_{i, j ∈ S} ‖x_i − x_j‖``; ties go to the first subset in lexicographic order. Exact, over ``C(n, f)`` subsets
    (1 140 for n = 20, f = 3). The same in ByzFL and ByzPy.

    Args:
      f: number of Byzantine workers to tolerate, static.

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: f < 0, 2f ≥ n, a traced f, or more than a million subsets.

    El Mhamdi, Guerraoui, Guirguis, Hoang, Rouault. Genuinely distributed Byzantine machine learning. PODC 2020.

    >>> import byzjax
    >>> byzjax.aggregate(mda(f=1), jnp.array([[0.0], [2.0], [99.0]])).tolist()
    [1.0]
    """

    def diameter(geometry: Geometry, member: jax.Array) -> jax.Array:
        inside = member[:, None] & member[None, :]
        return jnp.where(inside, geometry.distances, 0.0).max()

    return _best_subset(f, diameter, "mda")


@promises(static_f=True)
def smea(f: int) -> Aggregator:
    """Smallest maximum eigenvalue averaging: the mean of the n − f rows of least spread in any direction.

    ``smea(x) = (1/(n − f)) Σ_{i ∈ S} x_i`` with S the subset of n − f rows whose empirical covariance has the smallest
    largest eigenvalue; ties go to the first subset in lexicographic order. The eigenvalue is exact and deterministic,
    from an ``n × n`` matrix; ByzFL and ByzPy estimate it by power iterations from a random vector in R^d.

    Args:
      f: number of Byzantine workers to tolerate, static.

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: f < 0, 2f ≥ n, a traced f, or more than a million subsets.

    Allouah, Guerraoui, Gupta, Pinot, Stephan. On the privacy-robustness-utility trilemma in distributed learning. ICML
    2023.

    >>> import byzjax
    >>> byzjax.aggregate(smea(f=1), jnp.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [6.0, 6.0]])).tolist()
    [0.5, 0.0]
    """

    def spread(geometry: Geometry, member: jax.Array) -> jax.Array:
        gram = geometry.rows
        weights = member.astype(gram.dtype)
        centring = jnp.diag(weights) - weights[:, None] * weights[None, :] / weights.sum()
        precision = jax.lax.Precision.HIGHEST
        within = jnp.matmul(jnp.matmul(centring, gram, precision=precision), centring, precision=precision)
        return jnp.linalg.eigvalsh(within)[-1]

    return _best_subset(f, spread, "smea")


@promises(permutation=False, robust=False)
def monna(f: Numeric, *, reference: Numeric = 0) -> Aggregator:
    """MoNNA: the mean of the n − f rows nearest to a trusted worker's, itself included.

    ``monna(x) = (1/(n − f)) Σ_{j ∈ N} x_j`` with N the n − f rows nearest to ``x_reference``; ties go to the lowest
    index. Robust as long as the reference is honest, as in a peer-to-peer network where it is one's own row. ByzFL
    calls it ``idx``, ByzPy ``reference_index``.

    Args:
      f: number of Byzantine workers to tolerate; may be traced.
      reference: the trusted worker, may be traced.

    Shapes: ``f32[n, d] -> f32[d]``. NaN if the reference's row has NaN or inf.

    Raises:
      ValueError: f < 0, 2f ≥ n, or a reference outside 0 … n − 1.

    Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan. Robust collaborative learning with linear gradient overhead.
    ICML 2023.

    >>> import byzjax
    >>> byzjax.aggregate(monna(f=1), jnp.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])).tolist()
    [5.0, 0.0]
    """
    check_f(f, "monna")

    def weights(geometry: Geometry | Lengths, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        check_majority(f, n, "monna")
        index = concrete(reference)
        if index is not None and not 0 <= index < n:
            raise ValueError(f"monna: reference = {reference} must be the index of a worker, 0 to {n - 1}.")
        itself_first = jnp.where(jnp.arange(n) == reference, -1.0, geometry.squared_norms(reference))
        return mean_of_lowest(itself_first, n - f) * nan_unless_minority(f, n)

    return weights_rule(Weights(weights, about=reference))


def _best_subset(f: int, badness, name: str) -> Aggregator:
    check_f(f, name)
    if concrete(f) is None:
        raise ValueError(f"{name}: f is traced, but the subsets must be enumerated; pass a Python integer.")

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        check_majority(f, n, name)
        members = jnp.asarray(subset_masks(n, int(f), name))

        def score(member: jax.Array) -> jax.Array:
            lost = (member & ~geometry.finite).any()
            return jnp.where(lost, jnp.inf, badness(geometry, member))

        scores = jax.lax.map(score, members, batch_size=min(_CHUNK, len(members)))
        dtype = geometry.gram.dtype
        return members[jnp.argmin(scores)].astype(dtype) / jnp.asarray(n - f, dtype)

    return weights_rule(Weights(weights))


def subset_masks(num_workers: int, f: int, name: str = "subset_masks") -> np.ndarray:
    """All subsets of n − f workers as masks bool[C(n, f), n], in lexicographic order.

    Raises:
      ValueError: more than a million of them.

    >>> subset_masks(3, 1).astype(int).tolist()
    [[1, 1, 0], [1, 0, 1], [0, 1, 1]]
    """
    count = math.comb(num_workers, f)
    if count > MAX_SUBSETS:
        raise ValueError(
            f"{name}: n = {num_workers} and f = {f} make {count} subsets, more than {MAX_SUBSETS}; "
            "use fewer workers, a smaller f, or a rule without subsets such as chain(nnm(f), median())."
        )
    kept = np.fromiter(itertools.chain.from_iterable(itertools.combinations(range(num_workers), num_workers - f)), int)
    masks = np.zeros((count, num_workers), bool)
    np.put_along_axis(masks, kept.reshape(count, num_workers - f), True, axis=1)
    return masks
