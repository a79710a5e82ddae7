"""Rules that choose the best subset of n − f workers: MDA and SMEA.

They look at all ``C(n, f)`` subsets, so their f is static.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.aggregators.kernels import weights_rule
from byzjax.base import Aggregator, Weights, check_f, check_majority, concrete, promises
from byzjax.spectrum import eigvalsh
from byzjax.stacked import Geometry, matmul

MAX_SUBSETS = 1_000_000
_CHUNK = 1_024  # subsets looked at together
_TURN = {"cpu": 4}  # subsets whose eigenvalues are computed together; one after the other on a CPU
_POWER_STEPS = 12


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
    from an ``n × n`` matrix, as in ByzPy; ByzFL takes one power step from a random vector in R^d.

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
        return eigvalsh(matmul(matmul(centring, gram), centring))[-1]

    return _best_subset(f, spread, "smea", _least_spread)


def _best_subset(
    f: int,
    badness: Callable[[Geometry, jax.Array], jax.Array],
    name: str,
    least: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Aggregator:
    """The mean of the subset of least ``badness(geometry, member)``; ``least`` bounds it from below, at less cost."""
    check_f(f, name)
    if concrete(f) is None:
        raise ValueError(f"{name}: f is traced, but the subsets must be enumerated; pass a Python integer.")

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        check_majority(f, n, name)
        members = jnp.asarray(subset_masks(n, int(f), name))

        def score(member: jax.Array) -> jax.Array:
            return jnp.where((member & ~geometry.finite).any(), jnp.inf, badness(geometry, member))

        bounded = least
        if bounded is None:
            best = jnp.argmin(jax.lax.map(score, members, batch_size=min(_CHUNK, len(members))))
        else:

            def bound(member: jax.Array) -> jax.Array:
                return jnp.where((member & ~geometry.finite).any(), jnp.inf, bounded(geometry.rows, member))

            bounds = jax.lax.map(bound, members, batch_size=min(_CHUNK, len(members)))
            best = _search(members, bounds, jax.vmap(score))
        dtype = geometry.gram.dtype
        return members[best].astype(dtype) / jnp.asarray(n - f, dtype)

    return weights_rule(Weights(weights, affine=True))


def _search(members: jax.Array, bounds: jax.Array, scores: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The first index of the least score, where only those are scored whose lower bound does not exceed the least."""
    turn = min(_TURN.get(jax.default_backend(), 32), len(members))

    def look(state):
        bounds, score, best = state
        _, some = jax.lax.top_k(-bounds, turn)
        found = scores(members[some])
        lowest = found.min()
        first = jnp.where(found == lowest, some, len(members)).min()
        better = (lowest < score) | ((lowest == score) & (first < best))
        return bounds.at[some].set(jnp.inf), jnp.where(better, lowest, score), jnp.where(better, first, best)

    def promising(state):
        bounds, score, _ = state
        return jnp.isfinite(bounds.min()) & (bounds.min() <= score * (1 + 1e-4))  # bounds have been rounded, too

    start = (bounds, jnp.asarray(jnp.inf, bounds.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(promising, look, start)[2]


def _least_spread(gram: jax.Array, member: jax.Array) -> jax.Array:
    """A lower bound of the largest eigenvalue of a subset's scatter: the Rayleigh quotient after power steps."""
    inside = member.astype(gram.dtype)
    count = inside.sum()

    def centred(v: jax.Array) -> jax.Array:
        v = v * inside
        return v - inside * v.sum() / count

    def times_gram(v: jax.Array) -> jax.Array:
        return matmul(gram, v[:, None])[:, 0]

    def step(_, v: jax.Array) -> jax.Array:
        v = centred(times_gram(v))
        return v / jnp.maximum(jnp.abs(v).max(), jnp.finfo(v.dtype).tiny)

    from_mean = jnp.diagonal(gram) - 2.0 * times_gram(inside) / count
    farthest = jnp.argmax(jnp.where(member, from_mean, -jnp.inf))
    v = jax.lax.fori_loop(0, _POWER_STEPS, step, centred((jnp.arange(len(inside)) == farthest).astype(gram.dtype)))
    return jnp.maximum((v * times_gram(v)).sum() / jnp.maximum((v * v).sum(), jnp.finfo(v.dtype).tiny), 0.0)


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
