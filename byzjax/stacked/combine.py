"""What is done to ``n × d`` stacks. With `blocks` and `geometry`, the only place that sees d.

Rules live in worker space: they see the `Geometry` of the rows (``n × n`` numbers) and answer with weights or with a
mixing matrix, which this module applies. Coordinatewise rules get the stack as matrices ``[n, d]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.checks import check_mask, nan_unless, num_workers_of
from byzjax.stacked import order_statistics
from byzjax.stacked.blocks import cache_numbers, flatten, fold_blocks, memory_numbers, place, wide_dtype
from byzjax.stacked.control_flow import in_turn, only_if
from byzjax.stacked.coordinate_sharding import ANCHOR, FRAME, PARAMS, STACK, Kind, over_coordinates
from byzjax.stacked.geometry import Frame, touches_lost
from byzjax.stacked.order_statistics import finite_or_nan
from byzjax.stacked.sums import add, as_product, matmul, picked, weighted_sum
from byzjax.types import Numeric, Params, Stacked


class Anchor(NamedTuple):
    """A point besides the rows that a combination puts weight on."""

    weight: jax.Array  # f32[]
    point: Params  # leaves [*p]


@over_coordinates(updates=STACK, frame=FRAME, anchor=ANCHOR, returns=PARAMS)
def combine(
    weights: jax.Array, updates: Stacked, frame: Frame, anchor: Anchor | None = None, picks: bool = False
) -> Params:
    """``Σ_i w_i x_i``, with far rows drawn back. Weight on a lost row is NaN, its absence exactly nothing.

    Args:
      weights: f32[n]; what they lack to 1 lies on the origin.
      updates: leaves ``[n, *p]``.
      frame: where the rows were placed.
      anchor: adds its weight times its point.
      picks: at most one weight is not 0: read that row alone.
    """
    matrices, unflatten = flatten(updates)
    # A far row is drawn back to the centre: x̃_i = c + r_i (x_i − c), so
    # Σ w_i x̃_i = Σ (w_i r_i) x_i + (Σ w_i (1 − r_i)) c.
    row_weights = weights * frame.reach
    centre_weight = jnp.sum(weights * (1.0 - frame.reach), where=frame.finite)
    nan_if_lost = (nan_unless(~jnp.any((weights != 0) & ~frame.finite)) - 1.0).astype(row_weights.dtype)  # NaN or 0
    centre_weight = centre_weight + nan_if_lost
    sum_rows = picked if picks else weighted_sum
    sums = [
        sum_rows(row_weights, x) + (nan_if_lost if c is None else jnp.where(centre_weight != 0, centre_weight * c, 0.0))
        for x, c in zip(matrices, frame.centre, strict=True)
    ]
    if anchor is not None:
        points, _ = flatten(jax.tree.map(lambda leaf: leaf[None], anchor.point))
        sums = [y + anchor.weight * p[0].astype(row_weights.dtype) for y, p in zip(sums, points, strict=True)]
    return unflatten(sums)


@over_coordinates(updates=STACK, frame=FRAME, returns=PARAMS)
def centre_of(updates: Stacked, frame: Frame) -> Params:
    """The coordinate-wise lower median that a frame is centred on: leaves ``[*p]``."""
    return flatten(updates)[1]([finite_or_nan(c) for c in frame.centre if c is not None])


@over_coordinates(updates=STACK, frame=FRAME, returns=lambda said: STACK if said.get("reduce") is None else PARAMS)
def mix(
    matrix: jax.Array,
    updates: Stacked,
    frame: Frame,
    reduce: Callable[[jax.Array], jax.Array] | None = None,
) -> Stacked | Params:
    """``matrix @ x``, with far rows drawn back: leaves ``[m, *p]``. A row that puts weight on a lost row is NaN.

    Args:
      matrix: f32[m, n].
      updates: leaves ``[n, *p]``.
      frame: where the rows were placed.
      reduce: ``[m, d] -> [d]``, applied to every block of mixed rows, which then are never all there: leaves ``[*p]``.
    """
    matrices, unflatten = flatten(updates)
    lost = touches_lost(matrix, frame.finite)
    # As in `combine`: W x̃ = (W r) x + (W (1 − r)) c, row by row of W.
    row_weights = matrix * frame.reach[None, :]
    centre_weights = jnp.where(frame.finite[None, :], matrix * (1.0 - frame.reach)[None, :], 0.0).sum(1)
    centre_weights = centre_weights * nan_unless(~lost).astype(centre_weights.dtype)

    def in_blocks(
        row_weights: jax.Array, centre_weights: jax.Array, finite: jax.Array, x: jax.Array, c: jax.Array
    ) -> jax.Array:
        def step(out: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array) -> jax.Array:
            del fresh
            centre = jax.lax.dynamic_slice_in_dim(c, start, block.shape[1])
            rest = jnp.where(centre_weights[:, None] != 0, centre_weights[:, None] * centre[None], 0.0)
            rows = matmul(row_weights, jnp.where(finite[:, None], block, 0.0)) + rest
            return place(out, start, rows if reduce is None else reduce(rows))

        shape = x.shape[1:] if reduce is not None else (row_weights.shape[0], x.shape[1])
        many = len(row_weights) > order_statistics.MAX_NETWORK
        numbers = cache_numbers() if reduce is not None and many else memory_numbers()
        return fold_blocks(step, jnp.zeros(shape, row_weights.dtype), x, row_weights.dtype, numbers)

    def at_once(
        row_weights: jax.Array, centre_weights: jax.Array, finite: jax.Array, x: jax.Array, c: jax.Array
    ) -> jax.Array:
        spoilt = ~finite.all() | (centre_weights != 0).any()
        return only_if(spoilt, lambda _: in_blocks(row_weights, centre_weights, finite, x, c), matmul(row_weights, x))

    def mixed(x: jax.Array, c: jax.Array | None) -> jax.Array:
        assert c is not None, "mixing needs a geometry, not lengths"
        quick = reduce is None and as_product(x, row_weights.dtype)
        return (in_turn(at_once, in_blocks) if quick else in_blocks)(row_weights, centre_weights, frame.finite, x, c)

    return unflatten([mixed(x, c) for x, c in zip(matrices, frame.centre, strict=True)])


def per_row(values: jax.Array, x: jax.Array) -> jax.Array:
    """One value per row, ``[n]``, shaped to meet a leaf ``[n, *p]``: ``[n, 1, …]``.

    >>> per_row(jnp.array([1.0, 2.0]), jnp.zeros((2, 3, 4))).shape
    (2, 1, 1)
    """
    return values.reshape((-1,) + (1,) * (x.ndim - 1))


@over_coordinates(updates=STACK, returns=PARAMS)
def pick_row(updates: Stacked, index: Numeric) -> Params:
    """The row of one worker, as it is: leaves ``[*p]``; ``index`` may be traced, and gives NaN beyond the last.

    >>> pick_row(jnp.array([[1.0], [3.0]]), 1).tolist()
    [3.0]
    """
    return jax.tree.map(lambda x: jnp.take(x, index, axis=0), updates)


@over_coordinates(updates=STACK, frame=FRAME, returns=STACK)
def scale_rows(factors: jax.Array, updates: Stacked, frame: Frame) -> Stacked:
    """``c_i x_i``, with far rows drawn back to the origin: leaves ``[n, *p]``. A lost row is NaN."""
    # As in `combine`, about the origin: x̃_i = r_i x_i.
    scales = jnp.where(frame.finite, factors * frame.reach, 1.0) * nan_unless(frame.finite).astype(frame.reach.dtype)

    def scale(x: jax.Array) -> jax.Array:
        return (x.astype(scales.dtype) * per_row(scales, x)).astype(x.dtype)

    return jax.tree.map(scale, updates)


@over_coordinates(updates=STACK, returns=STACK)
def mean_of_groups(order: jax.Array, size: int, updates: Stacked) -> Stacked:
    """Means of consecutive workers in a given order: leaves ``[⌈n/size⌉, *p]``; the last group holds what is left."""
    n = order.shape[0]
    count = -(-n // size)
    places = jnp.pad(order, (0, count * size - n)).reshape(count, size)
    member = (jnp.arange(count * size) < n).reshape(count, size)  # not filled up

    def mean(x: jax.Array) -> jax.Array:
        dtype = wide_dtype([x])
        rows = [jnp.where(per_row(member[:, k], x), x[places[:, k]].astype(dtype), 0.0) for k in range(size)]
        return (add(rows) / per_row(member.sum(1).astype(dtype), x)).astype(x.dtype)

    return jax.tree.map(mean, updates)


def _stack_or_params(arguments: dict[str, Any]) -> Kind:
    """What the rows of `replace_rows` are: one for each row of the updates, or one for all."""
    first, other = (jnp.ndim(jax.tree.leaves(arguments[name])[0]) for name in ("updates", "rows"))
    return STACK if first == other else PARAMS


@over_coordinates(updates=STACK, rows=_stack_or_params, returns=STACK)
def replace_rows(updates: Stacked, mask: jax.Array, rows: Stacked | Params) -> Stacked:
    """``updates`` with the masked rows taken from ``rows``: leaves ``[n, *p]``, or one row ``[*p]`` for all."""
    mask = check_mask(mask, num_workers_of(updates))

    def replace(x, y):
        y = y if y.ndim == x.ndim else y[None]
        return jnp.where(per_row(mask, x), y, x).astype(x.dtype)

    return jax.tree.map(replace, updates, rows)
