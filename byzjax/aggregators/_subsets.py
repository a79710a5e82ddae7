"""Rules that choose the best subset of n − f workers: MDA and SMEA.

They look at all ``C(n, f)`` subsets, so their f is static.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.aggregators._builders import weights_rule
from byzjax.base import Aggregator, Weights
from byzjax.checks import check_f, check_minority
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.stacked import Geometry, matmul, only_if
from byzjax.stacked.control_flow import while_loop
from byzjax.stacked.eigen import eigvalsh, largest_ritz_value
from byzjax.values import value

MAX_SUBSETS = 1_000_000
_CHUNK = 1_024  # subsets looked at together
_TURN = {"cpu": 4}  # subsets whose eigenvalues are computed together; one after the other on a CPU
_LANCZOS_STEPS = 10

Bound = Callable[[jax.Array, jax.Array], jax.Array]  # of the Gram matrix f32[n, n] and subsets bool[n, c]: f32[c]


@promises(static_f=True)
@value
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
@value
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

    return _best_subset(f, spread, "smea", (_farthest, _ritz))


def _best_subset(
    f: int,
    badness: Callable[[Geometry, jax.Array], jax.Array],
    name: str,
    bounds: tuple[Bound, ...] = (),
) -> Aggregator:
    """The mean of the subset of least ``badness(geometry, member)``.

    ``bounds`` lie below it at less cost; each is looked at only where those before it leave many subsets.
    """
    f = check_f(f, name)
    if concrete(f) is None:
        raise ValueError(f"{name}: f is traced, but the subsets must be enumerated; pass a Python integer.")

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        check_minority(f, n, name)
        masks = subset_masks(n, int(f), name)
        members = jnp.asarray(masks)

        def score(member: jax.Array) -> jax.Array:
            return jnp.where((member & ~geometry.finite).any(), jnp.inf, badness(geometry, member))

        if bounds:
            chunks = jnp.asarray(_chunks(masks))
            lost = (members & ~geometry.finite[None]).any(1)

            def below(bound: Bound) -> jax.Array:
                values = jax.lax.map(functools.partial(bound, geometry.rows), chunks)
                return jnp.where(lost, jnp.inf, values.reshape(-1)[: len(members)])

            best = _search(members, [functools.partial(below, bound) for bound in bounds], jax.vmap(score))
        else:
            best = jnp.argmin(jax.lax.map(score, members, batch_size=min(_CHUNK, len(members))))
        dtype = geometry.gram.dtype
        return members[best].astype(dtype) / jnp.asarray(n - f, dtype)

    return weights_rule(Weights(weights, affine=True))


def _search(
    members: jax.Array, bounds: list[Callable[[], jax.Array]], scores: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """The first index of the least score, where only those are scored whose lower bounds do not exceed the least."""
    turn = min(_TURN.get(jax.default_backend(), 32), len(members))

    def look(state):
        least, score, best = state
        _, some = jax.lax.top_k(-least, turn)
        turn_scores = scores(members[some])
        lowest = turn_scores.min()
        first = jnp.where(turn_scores == lowest, some, len(members)).min()
        better = (lowest < score) | ((lowest == score) & (first < best))
        return least.at[some].set(jnp.inf), jnp.where(better, lowest, score), jnp.where(better, first, best)

    def promising(state) -> jax.Array:
        least, score, _ = state
        return (least <= score * (1 + 1e-4)) & jnp.isfinite(least)  # bounds have been rounded, too

    def tighten(state, bound: Callable[[], jax.Array]):
        least, *rest = state
        return jnp.fmax(least, bound()), *rest

    first, *tighter = bounds
    least = first()
    state = look((least, jnp.asarray(jnp.inf, least.dtype), jnp.zeros((), jnp.int32)))
    for bound in tighter:
        state = only_if(promising(state).sum() > turn, functools.partial(tighten, bound=bound), state)
    return while_loop(lambda state: promising(state).any(), look, state)[2]


def _chunks(masks: np.ndarray) -> np.ndarray:
    """All subsets bool[C, n] and some again, bool[k, n, c]: those that are bounded together."""
    count = -(-len(masks) // _CHUNK)
    width = -(-len(masks) // count)
    return np.resize(masks, (count, width, masks.shape[1])).swapaxes(1, 2)


def _farthest(gram: jax.Array, members: jax.Array) -> jax.Array:
    """The largest squared distance of a row from its subset's mean, f32[c]: no direction holds less than that."""
    return _from_mean(gram, members).max(0)


def _ritz(gram: jax.Array, members: jax.Array) -> jax.Array:
    """The largest Ritz value of every subset's scatter after Lanczos steps from its farthest row, f32[c]."""
    inside = members.astype(gram.dtype)
    squares = _from_mean(gram, members)
    # What was measured in other units than the subset's may have squares out of range.
    resolved = jnp.finfo(gram.dtype).eps * (inside * jnp.diagonal(gram)[:, None]).max(0)
    scale = jnp.maximum(squares.max(0), jnp.maximum(resolved, jnp.finfo(gram.dtype).tiny))

    def centred(v: jax.Array) -> jax.Array:
        v = v * inside
        return v - inside * (v.sum(0) / inside.sum(0))[None]

    def scatter(v: jax.Array) -> jax.Array:
        return centred(matmul(gram, centred(v))) / scale[None]  # centred twice, or rounding takes over

    start = jnp.arange(len(gram))[:, None] == jnp.argmax(squares, axis=0)[None]
    return scale * largest_ritz_value(scatter, centred(start.astype(gram.dtype)), min(_LANCZOS_STEPS, len(gram)))


def _from_mean(gram: jax.Array, members: jax.Array) -> jax.Array:
    """The squared distance of every row from the mean of the subset, f32[n, c], 0 for those outside."""
    inside = members.astype(gram.dtype)
    share = inside / inside.sum(0)[None]
    to_mean = matmul(gram, share)
    squares = jnp.diagonal(gram)[:, None] - 2.0 * to_mean + (share * to_mean).sum(0)[None]
    return jnp.where(members, jnp.maximum(squares, 0.0), 0.0)


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
    members = np.fromiter(
        itertools.chain.from_iterable(itertools.combinations(range(num_workers), num_workers - f)), int
    )
    masks = np.zeros((count, num_workers), bool)
    np.put_along_axis(masks, members.reshape(count, num_workers - f), True, axis=1)
    return masks
