"""Rules that predict what a worker will send from what it sent before."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.aggregators._auror import split_in_two
from byzjax.aggregators._builders import mean_of
from byzjax.base import Aggregator, Trust
from byzjax.checks import check_integer, num_workers_of
from byzjax.promises import promises
from byzjax.stacked.coordinate_axis import every, total
from byzjax.stacked.cosines import exponents, shifted
from byzjax.stacked.eigen import eigh
from byzjax.types import Params, Stacked
from byzjax.values import value

_UNIFORM_SAMPLES = 20
_SINGULAR = 1e-6  # relative to the largest eigenvalue
_NOTHING = -1000  # as an exponent of two


class FLDetectorState(NamedTuple):
    """What `fldetector` remembers."""

    updates: Stacked  # leaves [n, *p], g_i of the last round
    point: Params  # x of the last round
    aggregate: Params  # of the last round
    steps: Params  # leaves [N, *p], differences of x, the latest last
    changes: Params  # leaves [N, *p], differences of the aggregate
    scores: jax.Array  # f32[N, n]
    rounds: jax.Array  # i32[]


@promises(robust=False)
@value
def fldetector(num_workers: int, *, window: int = 10, start: int = 50) -> Aggregator:
    """FLDetector: the mean of the workers whose updates follow from their last ones, as the Hessian predicts.

    ``d_i = ‖g_i^{t−1} + H (x_t − x_{t−1}) − g_i^t‖`` with H the L-BFGS approximation of the Hessian from the last N
    differences of parameters and of aggregates; ``s_i = d_i/Σ_j d_j``, averaged over the last N rounds. If the gap
    statistic says that these scores are more than one group, they are split in two by 2-means, and the workers of the
    group with the larger scores are left out of this round.

    The gap statistic compares with 20 uniform samples, the same in all rounds: with k̂ the least k for which
    ``Gap(k) ≥ Gap(k + 1) − s_{k+1}``, ``k̂ > 1`` only depends on one and two groups. In one dimension 2-means is exact.

    Args:
      num_workers: n, static.
      window: N ≥ 1, static; 10 in the paper.
      start: nobody is left out in so many first rounds, nor before there are N scores; 50 in the paper.

    Shapes: ``f32[n, d] -> f32[d]``. State: n × d + (2 N + 2) d numbers. ``update`` needs ``params``. A row with NaN or
    inf is left out and counts as badly predicted.

    Raises:
      ValueError: an argument out of range, updates with another n, or no params.

    Zhang, Cao, Jia, Gong. FLDetector: defending federated learning against model poisoning attacks via detecting
    malicious clients. KDD 2022. There training starts afresh, without them, when malicious workers were found.

    >>> import byzjax
    >>> byzjax.aggregate(fldetector(3), jnp.array([[1.0], [2.0], [6.0]])).tolist()
    [3.0]
    """
    name = "fldetector"
    num_workers = check_integer(num_workers, "num_workers", name, least=1)
    window = check_integer(window, "window", name, least=1)
    start = check_integer(start, "start", name, least=0)

    def init(params: Params) -> FLDetectorState:
        dtype = stacked.wide_dtype(jax.tree.leaves(params))

        def zeros(*count: int) -> Params:
            return jax.tree.map(lambda p: jnp.zeros((*count, *p.shape), dtype), params)

        scores = jnp.zeros((window, num_workers), dtype)
        none = jnp.zeros((), jnp.int32)
        return FLDetectorState(zeros(num_workers), zeros(), zeros(), zeros(window), zeros(window), scores, none)

    def update_with_trust(
        updates: Stacked, state: FLDetectorState, params=None, *, key: jax.Array | None = None, **extra
    ):
        del key, extra
        n = num_workers_of(updates)
        if n != num_workers:
            raise ValueError(f"{name}: num_workers = {num_workers}, but the updates have {n} rows; make them agree.")
        if params is None:
            raise ValueError(f"{name}: needs the parameters of the round; pass params to update.")
        dtype = state.scores.dtype
        point = jax.tree.map(lambda p: p.astype(dtype), params)
        step = jax.tree.map(lambda p, q: jnp.where(state.rounds > 0, p - q, 0.0), point, state.point)
        bend = hessian_times(state.steps, state.changes, step)
        # A quarter of it, so that no finite row's error overflows.
        off = jax.tree.map(
            lambda g, old, b: 0.25 * old + 0.25 * b[None] - 0.25 * g.astype(dtype), updates, state.updates, bend
        )
        distances, _ = stacked.measure_lengths(off, "origin")
        lengths, frame = stacked.measure_lengths(updates, "origin")
        scores = jnp.concatenate([state.scores[1:], _shares(jnp.sqrt(distances.squares), lengths.finite)[None]])
        trusted = well_predicted(scores.mean(0), lengths.finite)
        judged = (state.rounds >= start) & (state.rounds >= window)  # the first round has nothing to predict from
        good = jnp.where(judged, trusted, lengths.finite)
        weights = mean_of(good, dtype)
        result = stacked.combine(weights, updates, frame)
        aggregate = jax.tree.map(lambda r: r.astype(dtype), result)
        change = jax.tree.map(lambda a, b: jnp.where(state.rounds > 0, a - b, 0.0), aggregate, state.aggregate)
        sent = jax.tree.map(lambda g: g.astype(dtype), updates)
        known = FLDetectorState(
            updates=stacked.replace_rows(sent, ~lengths.finite, state.updates),
            point=point,
            aggregate=aggregate,
            steps=_latest(state.steps, step),
            changes=_latest(state.changes, change),
            scores=scores,
            rounds=state.rounds + 1,
        )
        return result, known, Trust(weights)

    return Aggregator(init, update_with_trust=update_with_trust)


def _latest(window: Params, value: Params) -> Params:
    return jax.tree.map(lambda w, v: jnp.concatenate([w[1:], v[None]]), window, value)


def _shares(errors: jax.Array, present: jax.Array) -> jax.Array:
    """Every worker's share of the errors; who is lost gets the largest of the others'."""
    known = present & jnp.isfinite(errors)
    errors = jnp.where(known, errors, jnp.where(known, errors, 0.0).max())
    largest = errors.max()
    errors = errors / jnp.where(largest > 0, largest, 1.0)
    return errors / jnp.maximum(errors.sum(), 1.0)


def hessian_times(steps: Params, changes: Params, direction: Params) -> Params:
    """The Hessian that L-BFGS makes of ``y_k ≈ H s_k`` in its compact form, times a direction.

    ``H = σ I − [σS, Y] [[σ SᵀS, L], [Lᵀ, −D]]⁻¹ [σS, Y]ᵀ`` with ``σ = ⟨y, s⟩/⟨s, s⟩`` of the latest pair, and L and D
    the lower part and the diagonal of SᵀY (Byrd, Nocedal, Schnabel 1994). Pairs with a step of zero do not count, nor
    directions in which the inner matrix is singular. Zero if the result leaves the range of numbers.

    Args:
      steps, changes: leaves ``[N, *p]``, s_k and y_k, the latest last.
      direction: leaves ``[*p]``.

    >>> s, y = jnp.eye(2), jnp.diag(jnp.array([2.0, 5.0]))
    >>> hessian_times(s, y, jnp.array([1.0, 1.0])).round(3).tolist()
    [2.0, 5.0]
    """
    # H is the same for a pair of any length, and proportional to the changes: all products are near 1.
    count = jax.tree.leaves(steps)[0].shape[0]
    direction = jax.tree.map(lambda v: v[None], direction)
    short, curved, far = (exponents(stacked.largest_coordinates(tree)) for tree in (steps, changes, direction))
    present, bends = (stacked.largest_coordinates(tree) > 0 for tree in (steps, changes))
    unit_of_changes = jnp.where(present & bends, curved - short, _NOTHING).max()
    steps = shifted(steps, -short)
    changes = shifted(shifted(changes, -curved), jnp.where(present, curved - short - unit_of_changes, _NOTHING))
    direction = shifted(direction, -far)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), steps, changes)
    gram = _products(both, both)
    along = _products(both, direction)[:, 0]
    ss, sy = gram[:count, :count], gram[:count, count:]
    last = count - 1 - jnp.argmax(present[::-1])
    sigma = sy[last, last] / jnp.where(present[last], ss[last, last], 1.0)
    unit = jnp.concatenate([jnp.full((count,), sigma), jnp.ones((count,), sigma.dtype)])
    lower = jnp.tril(sy, -1)
    inner = jnp.block([[sigma * ss, lower], [lower.T, -jnp.diag(jnp.diag(sy))]])
    size = jnp.sqrt(jnp.abs(jnp.diag(inner)))
    scale = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)
    values, vectors = eigh(jnp.nan_to_num(inner * scale[:, None] * scale[None, :]))
    regular = jnp.abs(values) > _SINGULAR * jnp.abs(values).max()
    inverse = jnp.where(regular, 1.0 / jnp.where(regular, values, 1.0), 0.0)
    solved = scale * stacked.matmul(vectors * inverse[None], vectors.T @ (scale * unit * along)[:, None])[:, 0]
    weights = unit * solved
    times = jax.tree.map(lambda v, b: sigma * v - jnp.tensordot(weights, b, 1)[None], direction, both)
    times = jax.tree.map(lambda leaf: leaf[0], shifted(times, unit_of_changes + far))
    sound = every(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(times)]).all())
    return jax.tree.map(lambda leaf: jnp.where(sound, leaf, 0.0), times)


def _products(a: Params, b: Params) -> jax.Array:
    """``⟨a_k, b_l⟩`` over all leaves."""

    def of_leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        return stacked.matmul(x.reshape(len(x), -1), y.reshape(len(y), -1).T)

    return total(sum(jax.tree.leaves(jax.tree.map(of_leaf, a, b)), jnp.zeros((), jax.tree.leaves(a)[0].dtype)))


def well_predicted(scores: jax.Array, present: jax.Array) -> jax.Array:
    """The group with the lower scores, if the gap statistic sees more than one group, else all: bool[n].

    >>> well_predicted(jnp.array([0.1, 0.11, 0.4, 0.12, 0.1, 0.41]), jnp.ones(6, bool)).tolist()
    [True, True, False, True, True, False]
    """
    least = jnp.where(present, scores, jnp.inf).min()
    width = jnp.where(present, scores, -jnp.inf).max() - least
    unit = (scores - least) / jnp.where(width > 0, width, 1.0)
    uniform = jax.random.uniform(jax.random.key(0), (len(scores), _UNIFORM_SAMPLES), scores.dtype)
    samples = jnp.concatenate([unit[:, None], uniform], axis=1)
    edges = split_in_two(jnp.where(present[:, None], samples, jnp.nan))[0]
    low = samples <= edges[None]
    one, two = (
        jnp.log(jnp.maximum(_spread(samples, groups, present), 1e-12)) for groups in ([low | ~low], [low, ~low])
    )
    gap_one, gap_two = one[1:].mean() - one[0], two[1:].mean() - two[0]
    deviation = two[1:].std() * (1.0 + 1.0 / _UNIFORM_SAMPLES) ** 0.5
    several = (gap_one < gap_two - deviation) & (width > 0) & (present.sum() > 2)  # two are always two groups
    return present & (low[:, 0] | ~several)


def _spread(samples: jax.Array, groups: list[jax.Array], present: jax.Array) -> jax.Array:
    """The squared distances of the values from the means of their groups, summed, of every column."""
    total = jnp.zeros(samples.shape[1:], samples.dtype)
    for group in groups:
        members = (group & present[:, None]).astype(samples.dtype)
        mean = (members * samples).sum(0) / jnp.maximum(members.sum(0), 1.0)
        total = total + (members * jnp.square(samples - mean[None])).sum(0)
    return total
