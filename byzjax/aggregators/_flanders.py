"""A rule that fits a matrix autoregression to what workers have sent."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.base import Aggregator, Trust
from byzjax.checks import check_f, check_integer, check_number, nan_unless, num_workers_of
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.rng import check_key
from byzjax.stacked.control_flow import fori_loop
from byzjax.stacked.cosines import exponents, shifted
from byzjax.stacked.eigen import solve
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import value

_ROUNDED = 8.0  # roundings of a system's trace: what keeps it positive definite


class FlandersState(NamedTuple):
    """What `flanders` remembers."""

    coordinates: jax.Array  # i32[s], drawn in the first round; empty if all count
    history: jax.Array  # f32[N, n, s], what was sent, the latest last
    rounds: jax.Array  # i32[]


@promises(translation=False, robust=False, workers_needed=(1, 1))
@value
def flanders(
    num_workers: int,
    f: Numeric,
    *,
    window: int = 10,
    start: int = 2,
    sub_dim: int = 500,
    row_penalty: Numeric = 1.0,
    column_penalty: Numeric = 1.0,
    num_iters: int = 10,
) -> Aggregator:
    """FLANDERS: the mean of the n − f workers whose rows a matrix autoregression predicts best.

    On r coordinates, with X_t f32[n, r] what was sent in round t, ``X̂_t = A X_{t−1} B``, where A f32[n, n] and
    B f32[r, r] minimise ``Σ_s ‖X_s − A X_{s−1} B‖² + α ‖A‖² + β ‖B‖²`` over the last N rounds, found by least squares
    for A and for B in turn, from ``B = I``. The score of worker i is ``‖x_i − x̂_i‖``. Who is dropped enters the window
    with the mean of the others.

    B is never formed: it only meets rows of the window, so their N n × N n products are enough.

    Args:
      num_workers: n, static.
      f: number of workers to drop in every round, 0 ≤ f < n; may be traced. More than half of all is allowed.
      window: N ≥ 2, static. 29 past rounds in Flower, all of them before the first attack.
      start: nobody is dropped in so many first rounds, static; at least 2, for there is nothing to fit before.
      sub_dim: r, static; all coordinates if there are no more. Drawn in the first round, with
        replacement, and kept. 500 in Flower.
      row_penalty: α > 0, may be traced, for rows in units of the largest coordinate of the window.
      column_penalty: β > 0, in the same units, may be traced.
      num_iters: how often A and B are fitted, static; 100 in Flower, from random matrices.

    Shapes: ``f32[n, d] -> f32[d]``. State: N n r numbers. Needs a key if r < d. A row with NaN or inf is dropped, one
    of the f. Ties go to the lowest index.

    Raises:
      ValueError: an argument out of range, f ≥ n, updates with another n, or no key.

    Gabrielli, Belli, Matrullo, Miori, Tolomei. Protecting federated learning from extreme model poisoning attacks via
    multidimensional time series anomaly detection. 2023. There X_t holds the workers' models; here their updates.

    >>> import byzjax
    >>> byzjax.aggregate(flanders(3, f=1), jnp.array([[1.0], [2.0], [6.0]]), key=jax.random.key(0)).tolist()
    [3.0]
    """
    name = "flanders"
    num_workers = check_integer(num_workers, "num_workers", name, least=1)
    f = check_f(f, name)
    dropped = concrete(f, lambda known: flanders(num_workers, f=known))
    if dropped is not None and dropped >= num_workers:
        raise ValueError(f"{name}: f = {f} of n = {num_workers} workers leaves nobody; use f ≤ {num_workers - 1}.")
    window = check_integer(window, "window", name, least=2)
    start = check_integer(start, "start", name, least=2)
    sub_dim = check_integer(sub_dim, "sub_dim", name, least=1)
    check_number(row_penalty, "row_penalty", name, least=0, open_below=True)
    check_number(column_penalty, "column_penalty", name, least=0, open_below=True)
    num_iters = check_integer(num_iters, "num_iters", name, least=1)

    def init(params: Params) -> FlandersState:
        leaves = jax.tree.leaves(params)
        d = stacked.num_coordinates([leaf[None] for leaf in leaves])
        coordinates = jnp.zeros((sub_dim if sub_dim < d else 0,), jnp.int32)
        history = jnp.zeros((window, num_workers, min(sub_dim, d)), stacked.wide_dtype(leaves))
        return FlandersState(coordinates, history, jnp.zeros((), jnp.int32))

    def draw(updates: Stacked, state: FlandersState, key: jax.Array | None) -> jax.Array | None:
        """Which coordinates count; None for all."""
        d = stacked.num_coordinates(updates)
        if state.history.shape != (window, num_workers, min(sub_dim, d)):
            raise ValueError(
                f"{name}: the state has a window {list(state.history.shape)}, but these updates need "
                f"{[window, num_workers, min(sub_dim, d)]}; make it by init of this rule, with the run's parameters."
            )
        if sub_dim >= d:
            return None
        key = check_key(key, name)
        return jnp.where(state.rounds == 0, jax.random.randint(key, (sub_dim,), 0, d, jnp.int32), state.coordinates)

    def update_with_trust(
        updates: Stacked, state: FlandersState, params=None, *, key: jax.Array | None = None, **extra
    ):
        del params, extra
        n = num_workers_of(updates)
        if n != num_workers:
            raise ValueError(f"{name}: num_workers = {num_workers}, but the updates have {n} rows; make them agree.")
        chosen = draw(updates, state, key)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        finite, dtype = lengths.finite, state.history.dtype
        sent = jnp.where(finite[:, None], stacked.columns(updates, chosen), 0.0)
        alpha, beta = jnp.asarray(row_penalty, dtype), jnp.asarray(column_penalty, dtype)
        predicted = predict_rows(state.history, alpha, beta, num_iters)
        # A quarter of it, so that no finite row's error overflows.
        best = _ranks(0.25 * sent - 0.25 * predicted, finite) < n - f
        good = finite & (best | (state.rounds < start))
        share = good.astype(dtype) / jnp.maximum(good.sum(), 1).astype(dtype)
        largest = jnp.finfo(dtype).max
        known = jnp.where(good[:, None], sent, jnp.clip(stacked.matmul(share[None], sent), -largest, largest))
        valid = (finite.sum() >= n - f) & (f >= 0) & (f < n) & good.any() & (alpha > 0) & (beta > 0)
        weights = share * nan_unless(valid)
        state = FlandersState(
            coordinates=state.coordinates if chosen is None else chosen,
            history=jnp.concatenate([state.history[1:], known[None]]),
            rounds=state.rounds + 1,
        )
        return stacked.combine(weights, updates, frame), state, Trust(weights)

    return Aggregator(init, update_with_trust=update_with_trust)


def _ranks(errors: jax.Array, finite: jax.Array) -> jax.Array:
    """The place of every row by its length, i32[n], lost rows last; each in its own unit, so that none hides others."""
    own = exponents(stacked.largest_coordinates(errors))
    mantissa, more = jnp.frexp(jnp.sqrt(jnp.square(shifted(errors, -own)).sum(1)))
    exponent = jnp.where(mantissa > 0, own + more, jnp.iinfo(own.dtype).min)
    order = jnp.lexsort((mantissa, exponent, ~finite))
    return jnp.argsort(order)


def predict_rows(history: jax.Array, alpha: jax.Array, beta: jax.Array, num_iters: int) -> jax.Array:
    """``A X_N B``, the next matrix of a series by matrix autoregression, f32[n, d]; see `flanders`.

    With H f32[N n, d] all rows of the series, ``X_t B = C_t W H`` for a W f32[N n, N n], and least squares for B with
    A given is ``W = [0, H Zᵀ (Z Zᵀ + β I)⁻¹]``, where Z holds ``A X_1, …, A X_{N−1}``.

    Args:
      history: f32[N, n, d], X_1 to X_N.
      alpha, beta: the penalties, for a series in units of its largest coordinate.
      num_iters: how often A and B are found.

    >>> turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> history = jnp.stack([jnp.eye(2), turn, turn @ turn, turn @ turn @ turn])
    >>> predict_rows(history, jnp.array(1e-3), jnp.array(1e-3), 20).round(1).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    count, n, _ = history.shape
    dtype = history.dtype
    largest = jnp.abs(history).max()
    exponent = exponents(jnp.where(largest >= jnp.finfo(dtype).tiny, largest, 0.0))
    # In two steps: the reciprocal of the largest numbers is none.
    series = shifted(history, jnp.full((count,), -exponent))
    unit = jnp.maximum(jnp.abs(series).max(), 1.0)
    series = series / unit
    rows = series.reshape(count * n, -1)
    gram = stacked.matmul(rows, rows.T)
    products = gram.reshape(count, n, count, n)
    before = (count - 1) * n

    def fit_rows(mixed: jax.Array) -> jax.Array:
        """A, with B as in W."""
        moved = stacked.matmul(mixed, gram)
        own = stacked.matmul(moved, mixed.T).reshape(count, n, count, n)
        left = jnp.stack([own[t, :, t, :] for t in range(count - 1)]).sum(0)
        right = jnp.stack([moved.reshape(count, n, count, n)[t, :, t + 1, :] for t in range(count - 1)]).sum(0)
        return solve(_penalised(left, alpha), right).T

    def fit_columns(a: jax.Array) -> jax.Array:
        """W, with A given."""
        left = jnp.einsum("sjti,ki->sjtk", products[:, :, :-1], a, precision="highest")
        both = jnp.einsum("li,sitk->sltk", a, left[:-1], precision="highest").reshape(before, before)
        found = solve(_penalised(both, beta), left.reshape(count * n, before).T).T
        return jnp.concatenate([jnp.zeros((count * n, n), dtype), found], axis=1)

    def turn(_, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a = fit_rows(state[1])
        return a, fit_columns(a)

    a, mixed = fori_loop(0, num_iters, turn, (jnp.eye(n, dtype=dtype), jnp.eye(count * n, dtype=dtype)))
    predicted = stacked.matmul(stacked.matmul(a, mixed[-n:]), rows)
    predicted = jnp.where(jnp.isfinite(predicted).all(), predicted, series[-1])  # no least squares: nothing changes
    # The unit last, or what is far from it is lost.
    far = jnp.finfo(dtype).max
    return jnp.clip(shifted(predicted * unit, jnp.full((n,), exponent)), -far, far)


def _penalised(matrix: jax.Array, penalty: jax.Array) -> jax.Array:
    rounded = _ROUNDED * jnp.finfo(matrix.dtype).eps * jnp.trace(matrix)
    return 0.5 * (matrix + matrix.T) + (penalty + rounded) * jnp.eye(len(matrix), dtype=matrix.dtype)
