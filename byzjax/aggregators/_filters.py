"""Stateful filters: rules that remember what every worker has sent, and never forgive.

They judge sums over rounds, in which honest noise averages out and a steady lie does not. Their state has a worker
axis, so the factory has to know n. After a pre-aggregation, n is the number of rows that it leaves.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.base import Aggregator, Trust
from byzjax.checks import check_integer, check_number, nan_unless, num_workers_of
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.rng import check_key
from byzjax.stacked.noise import add_noise
from byzjax.stacked.order_statistics import order_statistic
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import value


class ByzantineSGDState(NamedTuple):
    """What `byzantine_sgd` remembers."""

    along: jax.Array  # f32[n], A_i = Σ_t ⟨g_i, x_t − x_1⟩
    total: Stacked  # leaves [n, *p], B_i = Σ_t g_i
    good: jax.Array  # bool[n]
    start: Params  # leaves [*p], x_1
    rounds: jax.Array  # i32[]


@promises(scale=False, robust=False)
@value
def byzantine_sgd(
    num_workers: int, *, deviation: Numeric, diameter: Numeric, num_rounds: Numeric, failure: Numeric = 0.1
) -> Aggregator:
    """ByzantineSGD: the mean of the workers whose gradients, and sums of gradients, stay near a majority's.

    With ``A_i = Σ_t ⟨g_i, x_t − x_1⟩`` and ``B_i = Σ_t g_i``, a worker is dropped for good once

    ``|A_i − A_med| > 𝔗_A``, or ``‖B_i − B_med‖ > 2𝔗_B``, or ``‖g_i − g_med‖ > 4V``,

    where A_med is the median, B_med is a B_i with more than half of all B_j within 𝔗_B, and g_med a g_i with more than
    half within 2V. Of several such rows, and where there is none, it is the row with the nearest majority.
    ``𝔗_A = 4 D V √(T ln(16 n T/δ))`` and ``𝔗_B = 4 V √(T ln(16 n T/δ))``.

    Args:
      num_workers: n, static.
      deviation: V > 0, which bounds ``‖g_i − ∇f‖`` of honest workers; may be traced. If V is too small hardly
        anybody is left.
      diameter: D > 0 of the domain; may be traced.
      num_rounds: T ≥ 1; may be traced.
      failure: δ in (0, 1), the probability that an honest worker is dropped; may be traced.

    Shapes: ``f32[n, d] -> f32[d]``. State: n × d numbers. ``update`` needs ``params``, the x_t.

    Raises:
      ValueError: an argument out of range, updates with another n, or no params.

    Alistarh, Allen-Zhu, Li. Byzantine stochastic gradient descent. NeurIPS 2018. Also in early Blades.

    >>> import byzjax
    >>> rule = byzantine_sgd(4, deviation=1.0, diameter=10.0, num_rounds=100)
    >>> byzjax.aggregate(rule, jnp.array([[1.0], [2.0], [3.0], [99.0]])).tolist()
    [2.0]
    """
    name = "byzantine_sgd"
    num_workers = check_integer(num_workers, "num_workers", name, least=1)
    check_number(deviation, "deviation", name, least=0, open_below=True)
    check_number(diameter, "diameter", name, least=0, open_below=True)
    check_number(num_rounds, "num_rounds", name, least=1)
    check_number(failure, "failure", name, least=0, open_below=True, below=1)

    def init(params: Params) -> ByzantineSGDState:
        return ByzantineSGDState(
            along=jnp.zeros((num_workers,), stacked.wide_dtype(jax.tree.leaves(params))),
            total=_per_worker_zeros(params, num_workers),
            good=jnp.ones((num_workers,), bool),
            start=jax.tree.map(jnp.zeros_like, params),
            rounds=jnp.zeros((), jnp.int32),
        )

    def update_with_trust(updates: Stacked, state: ByzantineSGDState, params=None, **extra):
        del extra
        _check_workers(updates, num_workers, name)
        if params is None:
            raise ValueError(f"{name}: needs the parameters of the round; pass params to update.")
        start = jax.tree.map(lambda x, s: jnp.where(state.rounds == 0, x, s), params, state.start)
        dtype = state.along.dtype
        v, rounds = jnp.asarray(deviation, dtype), jnp.asarray(num_rounds, dtype)
        total_reach = 4.0 * v * jnp.sqrt(rounds * jnp.log(16.0 * num_workers * rounds / failure))
        along = state.along + stacked.inner(updates, jax.tree.map(jnp.subtract, params, start))
        total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), state.total, updates)
        now, frame = _lengths(updates)
        sums, _ = _lengths(total)
        middle = order_statistic(along, (num_workers - 1) // 2)
        good = state.good & (jnp.abs(along - middle) <= diameter * total_reach)
        good = good & (sums[_majority_centre(sums)] <= 2.0 * total_reach)
        good = good & (now[_majority_centre(now)] <= 4.0 * v) & frame.finite
        weights = _mean_of_trusted(good, frame)
        aggregate = stacked.combine(weights, updates, frame)
        return aggregate, ByzantineSGDState(along, total, good, start, state.rounds + 1), Trust(weights)

    return Aggregator(init, update_with_trust=update_with_trust)


class SafeguardState(NamedTuple):
    """What `safeguard` remembers: two sums over windows of different length."""

    long: Stacked  # leaves [n, *p], A_i
    short: Stacked  # leaves [n, *p], B_i
    good: jax.Array  # bool[n]
    rounds: jax.Array  # i32[]


@promises(robust=False)
@value
def safeguard(
    num_workers: int,
    *,
    windows: tuple[int, int] = (100, 600),
    thresholds: tuple[Numeric, Numeric] | Literal["auto"] = "auto",
    multiplier: Numeric = 1.5,
    min_threshold: Numeric = 0.0,
    noise_std: Numeric = 0.0,
    reset: bool = False,
) -> Aggregator:
    """SafeguardSGD: two windows watch the sum of what each worker sends; who drifts from the majority is dropped.

    ``A_i = Σ g_i/|good|`` since the last multiple of T₁ rounds, B_i the same with T₀. A worker is dropped once
    ``‖A_i − A_med‖ > 2𝔗₁`` or ``‖B_i − B_med‖ > 2𝔗₀``, where A_med is a good A_i with more than half of all workers
    within 𝔗₁; of several such rows, and where there is none, the row with the nearest majority. The result is the mean
    of the good rows, before this round's judgement as in the paper, but never of a row with NaN or inf.

    Args:
      num_workers: n, static.
      windows: ``(T₀, T₁)``, static, 1 ≤ T₀ ≤ T₁.
      thresholds: ``(𝔗₀, 𝔗₁)``, may be traced; or ``"auto"``: with s the distance at which A_med has its majority, the
        reach 2𝔗 is ``multiplier · max(s, min_threshold)``. It drops honest workers whose data differ, too.
      multiplier: of ``"auto"``.
      min_threshold: of ``"auto"``, so that workers in near agreement do not drop each other; an absolute length.
      noise_std: of the Gaussian perturbation of the aggregate that lets the method leave saddle points.
      reset: forgive everybody whenever the long window starts again.

    Shapes: ``f32[n, d] -> f32[d]``. State: 2 n × d numbers. Needs a key if ``noise_std`` is not 0.

    Raises:
      ValueError: an argument out of range, updates with another n, or noise without a key.

    Allen-Zhu, Ebrahimianghazani, Li, Alistarh. Byzantine-resilient non-convex stochastic gradient descent. ICLR 2021.

    >>> import byzjax
    >>> x = jnp.array([[1.0], [2.0], [3.0], [99.0]])
    >>> rule = safeguard(4)
    >>> state = rule.init(jnp.zeros(1))
    >>> _, state = rule.update(x, state)
    >>> rule.update(x, state)[0].tolist()
    [2.0]
    """
    name = "safeguard"
    num_workers = check_integer(num_workers, "num_workers", name, least=1)
    if not (isinstance(windows, tuple | list) and len(windows) == 2):
        raise ValueError(f"{name}: windows = {windows!r} must be a pair (T₀, T₁).")
    shorter, longer = (check_integer(w, "windows", name, least=1) for w in windows)
    if shorter > longer:
        raise ValueError(f"{name}: windows = {windows} must have T₀ ≤ T₁.")
    fixed: Any = None
    if thresholds != "auto":
        if not (isinstance(thresholds, tuple | list) and len(thresholds) == 2):
            raise ValueError(f"{name}: thresholds = {thresholds!r} must be a pair (𝔗₀, 𝔗₁) or 'auto'.")
        for threshold in thresholds:
            check_number(threshold, "thresholds", name, least=0, open_below=True)
        fixed = thresholds
    check_number(multiplier, "multiplier", name, least=1)
    check_number(min_threshold, "min_threshold", name, least=0)
    check_number(noise_std, "noise_std", name, least=0)

    def init(params: Params) -> SafeguardState:
        zeros = _per_worker_zeros(params, num_workers)
        return SafeguardState(zeros, zeros, jnp.ones((num_workers,), bool), jnp.zeros((), jnp.int32))

    def near(total: Stacked, good: jax.Array, threshold: Numeric | None) -> jax.Array:
        away, _ = _lengths(total)
        centre = _majority_centre(away, good)
        if threshold is not None:
            return away[centre] <= 2.0 * jnp.asarray(threshold, away.dtype)
        return away[centre] <= multiplier * jnp.maximum(_majority_reach(away)[centre], min_threshold)

    def update_with_trust(
        updates: Stacked, state: SafeguardState, params=None, *, key: jax.Array | None = None, **extra
    ):
        del params, extra
        _check_workers(updates, num_workers, name)
        _, frame = stacked.measure(updates, origin=False)
        again = state.rounds % longer == 0
        before = (state.good | again) if reset else state.good

        def add(total: jax.Array, g: jax.Array, window: int) -> jax.Array:
            fresh = jnp.where(state.rounds % window == 0, jnp.zeros_like(total), total)
            return fresh + g.astype(fresh.dtype) / jnp.maximum(before.sum(), 1).astype(fresh.dtype)

        long = jax.tree.map(lambda t, g: add(t, g, longer), state.long, updates)
        short = jax.tree.map(lambda t, g: add(t, g, shorter), state.short, updates)
        low, high = fixed if fixed is not None else (None, None)
        good = before & near(long, before, high) & near(short, before, low)
        trusted = before & frame.finite
        weights = _mean_of_trusted(trusted, frame)
        aggregate = stacked.combine(weights, updates, frame)
        state = SafeguardState(long, short, good, state.rounds + 1)
        if concrete(noise_std) == 0:
            return aggregate, state, Trust(weights)
        return add_noise(aggregate, noise_std, check_key(key, name)), state, Trust()

    return Aggregator(init, update_with_trust=update_with_trust)


def _mean_of_trusted(good: jax.Array, frame: stacked.Frame) -> jax.Array:
    """The weights of their mean, f32[n]: 0 where nobody is left, for the server to stand still; NaN if all are lost."""
    count = jnp.maximum(good.sum(), 1).astype(frame.sizes.dtype)
    return good.astype(frame.sizes.dtype) / count * nan_unless(frame.finite.any())


def _per_worker_zeros(params: Params, num_workers: int) -> Stacked:
    return jax.tree.map(lambda p: jnp.zeros((num_workers, *p.shape), stacked.wide_dtype([p])), params)


def _check_workers(updates: Stacked, num_workers: int, name: str) -> None:
    n = num_workers_of(updates)
    if n != num_workers:
        raise ValueError(f"{name}: num_workers = {num_workers}, but the updates have {n} rows; make them agree.")


def _lengths(updates: Stacked) -> tuple[jax.Array, stacked.Frame]:
    """Distances between rows (not squared) in their own unit of length, and the frame."""
    geometry, frame = stacked.measure(updates, origin=False)
    return jnp.sqrt(geometry.distances) * geometry.unit, frame


def _majority_reach(away: jax.Array) -> jax.Array:
    """The distance from every row that takes in more than half of all rows, itself included: f32[n]."""
    return order_statistic(away.T, away.shape[0] // 2)


def _majority_centre(away: jax.Array, among: jax.Array | None = None) -> jax.Array:
    """The row with the nearest majority: i32[]."""
    reach = _majority_reach(away)
    return jnp.argmin(reach if among is None else jnp.where(among, reach, jnp.inf))
