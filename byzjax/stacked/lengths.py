"""How far every row of a stack is from one point, in one reading."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byzjax.stacked.blocks import flatten, fold_blocks, memory_numbers, wide_dtype
from byzjax.stacked.control_flow import in_turn, only_if
from byzjax.stacked.coordinate_axis import greatest, total
from byzjax.stacked.coordinate_sharding import FRAME, PARAMS, PLAIN, STACK, over_coordinates
from byzjax.stacked.geometry import Frame, Lengths
from byzjax.stacked.units import absolute, median_size, number_of_rank, scale_is_safe, to_units
from byzjax.types import Params, Stacked

MeasureBlock = Callable[[jax.Array, jax.Array], jax.Array]  # (carry, offsets [n, block]) -> carry

_SMALL = 1 << 17  # numbers of a stack up to which a batch of stacks is measured side by side
_ROOM = 56  # powers of two by which a unit may be longer than the median row where lengths are all that is asked for
_WHOLE = 1 << 23  # numbers of a stack up to which lengths are summed without blocks: few enough for plain sums


@over_coordinates(updates=STACK, reference=PARAMS, returns=(PLAIN, FRAME))
def measure_lengths(updates: Stacked, about: Any, reference: Params | None = None) -> tuple[Lengths, Frame]:
    """How far every row is from one point, and the frame in which weights are applied, in one reading.

    Args:
      updates: leaves ``[n, *p]``.
      about: "origin", "previous" or the index of a row, which may be traced.
      reference: the point that "previous" means, leaves ``[*p]``.
    """
    matrices, _ = flatten(updates)
    dtype = wide_dtype(matrices)
    points: list[jax.Array | None] = [None] * len(matrices)
    if not isinstance(about, str):
        points = [x[about].astype(dtype) for x in matrices]
    elif about == "previous":
        rows, _ = flatten(jax.tree.map(lambda leaf: leaf[None], reference))
        points = [row[0].astype(dtype) for row in rows]

    if sum(x.size for x in matrices) <= _SMALL:
        return _measure_lengths(matrices, points, dtype)
    return in_turn(functools.partial(_measure_lengths, dtype=dtype))(matrices, points)


def _measure_lengths(
    matrices: list[jax.Array], points: list[jax.Array | None], dtype: jnp.dtype
) -> tuple[Lengths, Frame]:
    n = matrices[0].shape[0]

    def fold(measure_block: MeasureBlock) -> jax.Array:
        """``measure_block(carry, offsets)`` over all blocks: ``f32[n]``."""
        carry = jnp.zeros((n,), dtype)
        for x, point in zip(matrices, points, strict=True):
            carry = _fold_offsets(measure_block, carry, x, point)
        return carry

    plain = total(fold(lambda done, y: done + jnp.square(y).sum(1)))
    safe = scale_is_safe(number_of_rank(plain, n // 2), plain.max())

    def measure_scaled(state):
        sizes = greatest(fold(lambda largest, y: jnp.maximum(largest, absolute(y).max(1, initial=0.0))))
        factor = to_units(sizes, median_size(sizes, room=_ROOM))[:, None]
        squares = fold(lambda done, y: done + jnp.square(jnp.where(factor > 0, y * factor, 0.0)).sum(1))
        return total(squares), sizes

    sizes = jnp.sqrt(plain)
    unit = median_size(sizes, room=_ROOM)
    squares, sizes = only_if(~safe, measure_scaled, (plain / unit / unit, sizes))
    unit = median_size(sizes, room=_ROOM)
    frame = Frame(points, to_units(sizes, unit) * unit, sizes)
    return Lengths(jnp.where(frame.finite, squares, jnp.inf), frame.finite, unit), frame


def _fold_offsets(measure_block: MeasureBlock, carry: jax.Array, x: jax.Array, point: jax.Array | None) -> jax.Array:
    """``measure_block`` over all blocks of ``x − point``; no point is the origin."""
    dtype = carry.dtype
    if x.size <= _WHOLE:
        block = x.astype(dtype)
        return measure_block(carry, block if point is None else block - point[None])

    def step(carry: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array) -> jax.Array:
        if point is not None:
            block = block - jax.lax.dynamic_slice_in_dim(point, start, block.shape[1])[None]
        return measure_block(carry, jnp.where(fresh[None], block, 0.0))

    return fold_blocks(step, carry, x, dtype, memory_numbers())
