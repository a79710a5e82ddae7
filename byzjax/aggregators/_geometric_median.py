"""Rules that iterate in worker space: the geometric median, its automatic weighting, centred clipping."""

from __future__ import annotations

import functools
import typing
from typing import Literal

import jax
import jax.numpy as jnp

from byzjax.aggregators._builders import mean_of, weights_rule
from byzjax.base import Aggregator, Weights
from byzjax.checks import check_choice, check_integer, check_number
from byzjax.promises import promises
from byzjax.stacked import Geometry, Lengths
from byzjax.stacked.control_flow import fori_loop, while_loop
from byzjax.stacked.order_statistics import ranks
from byzjax.types import Numeric
from byzjax.values import value

Init = Literal["zero", "mean", "median"]
ClipScaling = Literal["none", "linear", "sqrt"]
Start = Literal["previous", "median", "mean", "zero"]

# Of AutoGM's λ, in units of the median row's size: it divides, and 0 or a number that rounds to 0 in that unit must
# not. Far below the rounding of distances (1e-7), so that such a λ keeps the nearest row alone, as it should.
_LEAST_STRENGTH = 1e-18


@promises(translation=False, scale=False, fragile=("init=mean",))
@value
def geometric_median(
    num_iters: int = 8, smoothing: Numeric = 0.1, init: Init = "zero", tolerance: Numeric | None = None
) -> Aggregator:
    """The geometric median by the smoothed Weiszfeld iteration (RFA).

    ``z ← Σ_i w_i x_i / Σ_i w_i`` with ``w_i = 1 / max(‖x_i − z‖, ν)``, ``num_iters`` times. As ν → 0 the limit is
    ``argmin_z Σ_i ‖x_i − z‖``, for which Definition 1 holds with ``κ = 2 (1 + f/(n − 2f))`` (Proposition 1 of the
    Byz-NSGDM paper). For ν > 0 it is the minimiser of a smoothed sum, which satisfies Definition 1 for no κ: where all
    honest rows are equal, liars still move it, by at most ``n ν/(2 (n − 2f))`` once it has converged.

    ν is an absolute length: once all rows lie within ν of z, the result is their plain mean. Choose it far below the
    spread of honest updates. The iteration runs in worker space and reads the data twice in all. An iterate is measured
    about the row of largest weight, so that no row can hold it by rounding; in stacks of more than 2¹⁷/n² coordinates
    distances from it to other rows are known to 3e-4 of those to that row, so take ν above.

    Args:
      num_iters: Weiszfeld steps, static. 8 in the Byz-NSGDM code, 3 in ByzFL, FLPoison and Pillutla et al.; the
        iteration converges linearly, so take 50 or more where the exact minimiser matters.
      smoothing: ν > 0, may be traced. 0.1 in the Byz-NSGDM code and ByzFL, 1e-6 in Pillutla et al. and FLPoison, 1e-12
        in ByzPy.
      init: start at the origin (``"zero"``: the Byz-NSGDM code, ByzFL, FLPoison), at the coordinate-wise median of the
        rows as they were received (``"median"``: ByzPy's default), or at the mean of all rows (``"mean"``: Pillutla
        et al.). Hostile rows can move the mean as far as they like, and each step makes up for only a constant factor
        of it: with rows of 1e20 eight steps end at 1e6.
      tolerance: stop earlier, once z moves by no more than this length (ByzPy: 1e-6, with 256 steps at most); may be
        traced. None runs all steps.

    Shapes: ``f32[n, d] -> f32[d]``. With few steps from zero, neither translations nor a change of units commute
    with the rule.

    Raises:
      ValueError: num_iters < 1, smoothing ≤ 0, tolerance < 0, or an unknown ``init``.

    Pillutla, Kakade, Harchaoui. Robust aggregation for federated learning. IEEE Trans. Signal Processing 70, 2022
    (RFA).

    >>> import byzjax
    >>> x = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    >>> byzjax.aggregate(geometric_median(num_iters=3), x).round(3).tolist()
    [3.7880001068115234, 4.788000106811523, 5.788000106811523]
    """
    name = "geometric_median"
    num_iters = check_integer(num_iters, "num_iters", name, least=1)
    check_number(smoothing, "smoothing", name, least=0, open_below=True)
    if tolerance is not None:
        check_number(tolerance, "tolerance", name, least=0)
    check_choice(init, typing.get_args(Init), "init", name)

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        uniform = geometry.finite.astype(geometry.gram.dtype)
        start = _start(geometry, init)
        limit = None if tolerance is None else jnp.asarray(tolerance, start.dtype) / geometry.unit
        point, _ = _weiszfeld(geometry, uniform, start, geometry.distances_from(start), num_iters, smoothing, limit)
        return point[: geometry.num_workers]

    return weights_rule(Weights(weights))


rfa = geometric_median


@promises(scale=False)
@value
def auto_gm(
    regularization: Numeric | None = None,
    *,
    num_iters: int = 100,
    weiszfeld_iters: int = 100,
    smoothing: Numeric = 1e-6,
    tolerance: Numeric = 1e-6,
) -> Aggregator:
    """AutoGM: the geometric median with weights that turn away from far rows by themselves.

    ``min_{z, α ∈ Δ} Σ_i α_i ‖x_i − z‖ + (λ/2) ‖α‖²`` by turns: z is the α-weighted geometric median (smoothed
    Weiszfeld), and ``α_i = max(η − ‖x_i − z‖, 0)/λ`` with η such that they sum to 1. Small λ keeps few rows, large
    λ keeps all.

    Args:
      regularization: λ > 0, an absolute length, may be traced. The paper leaves it open, Blades takes n whatever the
        size of the updates. By default n times the median distance of the rows from their geometric median, which has
        no unit.
      num_iters: turns at most, static; as in Blades.
      weiszfeld_iters: Weiszfeld steps a turn at most, static; as in Blades.
      smoothing: ν of the Weiszfeld steps, an absolute length > 0; may be traced.
      tolerance: a turn, or a step in it, that moves z by less than this share of the median row's distance from the
        coordinate-wise median is the last; may be traced.

    Shapes: ``f32[n, d] -> f32[d]``. Starts at the coordinate-wise median.

    Raises:
      ValueError: a number of steps below 1, λ ≤ 0, smoothing ≤ 0, tolerance < 0.

    Li, Xu, Liu, Shang, Ling. Byzantine-robust aggregation in federated learning empowered industrial IoT. IEEE Trans.
    Industrial Informatics, 2022.

    >>> import byzjax
    >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [90.0, 90.0]])
    >>> byzjax.aggregate(auto_gm(), x).round(2).tolist()
    [0.5, 0.5]
    """
    name = "auto_gm"
    num_iters = check_integer(num_iters, "num_iters", name, least=1)
    weiszfeld_iters = check_integer(weiszfeld_iters, "weiszfeld_iters", name, least=1)
    check_number(smoothing, "smoothing", name, least=0, open_below=True)
    check_number(tolerance, "tolerance", name, least=0)
    if regularization is not None:
        check_number(regularization, "regularization", name, least=0, open_below=True)

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n, dtype = geometry.num_workers, geometry.gram.dtype

        def middle(away: jax.Array) -> jax.Array:
            return jnp.where(ranks(away) == n // 2, away, 0.0).sum()

        start = _start(geometry, "median")
        away = geometry.distances_from(start)
        limit = jnp.asarray(tolerance, dtype) * middle(away)
        solve = functools.partial(_weiszfeld, geometry, num_iters=weiszfeld_iters, smoothing=smoothing, tolerance=limit)
        uniform = geometry.finite.astype(dtype)
        # A row on which the iteration starts would hold it: no row is nearer than the median one at first.
        iterate, away = solve(uniform, start, jnp.maximum(away, middle(away)))
        strength = n * middle(away) if regularization is None else jnp.asarray(regularization, dtype) / geometry.unit
        strength = jnp.maximum(strength, _LEAST_STRENGTH)

        def turn(state):
            turns, iterate, away, _ = state
            target, away = solve(_leaning_weights(away, strength, geometry.finite), iterate, away)
            return turns + 1, target, away, geometry.distance_between(target, iterate) > limit

        state = (jnp.zeros((), jnp.int32), iterate, away, jnp.ones((), bool))
        iterate = while_loop(lambda state: state[3] & (state[0] < num_iters), turn, state)[1]
        return iterate[:n]

    return weights_rule(Weights(weights))


@promises(translation=False, scale=False, averaging=False, robust=False)
@value
def centered_clipping(
    tau: Numeric = 10.0,
    *,
    num_iters: int = 1,
    scaling: ClipScaling = "none",
    beta: Numeric = 0.0,
    start: Start = "previous",
) -> Aggregator:
    """Centred clipping: steps from the last aggregate, in which no worker moves it by more than τ/n.

    ``v ← v + (1/n) Σ_i (x_i − v) min(1, τ/‖x_i − v‖)``, ``num_iters`` times, from the aggregate of the round before
    (the rule's state, zero at first). However far f hostile rows go, they move a step by at most ``τ f/n``; so τ has to
    match the spread of honest rows, and a run needs some rounds to find them.

    Args:
      tau: τ > 0, may be traced. An absolute length. ByzFL's and FLPoison's default is 100.
      num_iters: steps a round, static; 1 in Karimireddy et al., ByzFL (``L``) and FLPoison, 10 in ByzPy (``M``).
      scaling: ``"linear"`` clips at τ/(1 − β), ``"sqrt"`` at τ/√(1 − β): heavy-ball momenta grow by that factor where
        gradients agree, or where they are noise.
      beta: β of the workers' momentum, for ``scaling``; may be traced.
      start: ``"previous"`` is the original (ByzFL, FLPoison); ByzPy keeps no state and starts at the ``"mean"`` (which
        hostile rows choose), ``"median"`` (coordinate-wise, of the rows as they were received) or ``"zero"``.

    Shapes: ``f32[n, d] -> f32[d]``. A row with NaN or inf does not pull. State: the last aggregate.

    Raises:
      ValueError: τ ≤ 0, num_iters < 1, β outside [0, 1), or an unknown option.

    Karimireddy, He, Jaggi. Learning from history for Byzantine robust optimization. ICML 2021.

    >>> import byzjax
    >>> x = jnp.array([[1.0], [2.0], [3.0], [1e9]])
    >>> byzjax.aggregate(centered_clipping(tau=4.0, start="median"), x).tolist()
    [3.0]
    """
    name = "centered_clipping"
    check_number(tau, "tau", name, least=0, open_below=True)
    num_iters = check_integer(num_iters, "num_iters", name, least=1)
    check_number(beta, "beta", name, least=0, below=1)
    check_choice(scaling, typing.get_args(ClipScaling), "scaling", name)
    check_choice(start, typing.get_args(Start), "start", name)
    anchor = start if start in ("previous", "median") else None

    about = start if start == "previous" else "origin" if start == "zero" else None

    def weights(geometry: Geometry | Lengths, key: jax.Array | None) -> jax.Array:
        del key
        n, dtype = geometry.num_workers, geometry.unit.dtype
        growth = 1.0 - jnp.asarray(beta, dtype)
        radius = jnp.asarray(tau, dtype) / {"none": 1.0, "linear": growth, "sqrt": jnp.sqrt(growth)}[scaling]
        radius = jnp.clip(radius / geometry.unit, jnp.finfo(dtype).tiny, jnp.finfo(dtype).max)

        def pulls(away: jax.Array) -> jax.Array:
            """``min(1, τ/‖x_i − v‖)/n``, f32[n]."""
            return jnp.where(geometry.finite, radius / jnp.maximum(away, radius), 0.0) / n

        if isinstance(geometry, Lengths):
            pull = pulls(jnp.sqrt(geometry.squares))
            return jnp.append(pull, 1.0 - pull.sum()) if anchor is not None else pull

        def step(_, point: jax.Array) -> jax.Array:
            pull = pulls(geometry.distances_from(point))
            return (1.0 - pull.sum()) * point + jnp.pad(pull, (0, geometry.num_points - n))

        iterate = fori_loop(0, num_iters, step, _start(geometry, start))
        return iterate[:n] if anchor is None else jnp.append(iterate[:n], iterate[geometry.index_of(start)])

    return weights_rule(Weights(weights, anchor, about if num_iters == 1 else None))


def _start(geometry: Geometry, start: str) -> jax.Array:
    """Where an iteration begins, as a combination of the points: f32[n + p]."""
    if start == "mean":
        share = mean_of(geometry.finite, geometry.gram.dtype)
        return jnp.pad(share, (0, geometry.num_points - geometry.num_workers))
    place = geometry.index_of("origin" if start == "zero" else start)
    return jnp.zeros((geometry.num_points,), geometry.gram.dtype).at[place].set(1.0)


def _weiszfeld(
    geometry: Geometry,
    alpha: jax.Array,
    start: jax.Array,
    away: jax.Array,
    num_iters: int,
    smoothing: Numeric,
    tolerance: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Weiszfeld steps for rows with weights ``alpha``.

    Args:
      geometry: of the rows.
      alpha: f32[n].
      start: f32[n + p], the point that the first step leaves.
      away: f32[n], the distances that it takes.
      num_iters, smoothing, tolerance: as in `geometric_median`, the tolerance in units.

    Returns:
      The last point f32[n + p], and the distances from it f32[n].
    """
    dtype, fixed = geometry.gram.dtype, geometry.num_points - geometry.num_workers
    # The sum of all 1/ν must not overflow.
    least = 16.0 * geometry.num_workers / float(jnp.finfo(dtype).max)
    least, most = max(least, float(jnp.finfo(dtype).tiny)), 0.0625 / float(jnp.finfo(dtype).tiny)
    nu = jnp.clip(jnp.asarray(smoothing, dtype) / geometry.unit, least, most)

    def step(away: jax.Array) -> jax.Array:
        pull = jnp.where(geometry.finite, alpha / jnp.maximum(away, nu), 0.0)
        return jnp.pad(pull / pull.sum(), (0, fixed))

    if tolerance is None:
        point = fori_loop(1, num_iters, lambda _, point: step(geometry.distances_from(point)), step(away))
        return point, geometry.distances_from(point)

    def move(state):
        done, point, away, _ = state
        target = step(away)
        moved = geometry.distance_between(target, point)
        return done + 1, target, geometry.distances_from(target), moved > tolerance

    state = (jnp.zeros((), jnp.int32), start, away, jnp.ones((), bool))
    _, point, away, _ = while_loop(lambda state: state[3] & (state[0] < num_iters), move, state)
    return point, away


def _leaning_weights(away: jax.Array, strength: jax.Array, finite: jax.Array) -> jax.Array:
    """``argmin_{α ∈ Δ} Σ α_i d_i + (λ/2) ‖α‖²``: ``max(η − d_i, 0)/λ``, zero for lost rows."""
    away = away - jnp.where(finite, away, jnp.inf).min()  # the weights stay, and a small λ is not lost beside distances
    order = ranks(away)
    upto = jnp.where((order[None, :] <= order[:, None]) & finite[None, :], away[None, :], 0.0).sum(-1)
    levels = (upto + strength) / (order + 1).astype(away.dtype)
    supported = finite & (levels > away)
    level = jnp.where(supported & (order == supported.sum(dtype=jnp.int32) - 1), levels, 0.0).sum()
    return jnp.where(supported, jnp.maximum(level - away, 0.0), 0.0) / strength
