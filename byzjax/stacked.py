"""What is done to ``n × d`` stacks. With `blocks` and `geometry`, the only place that sees d.

Rules live in worker space: they see the `Geometry` of the rows (``n × n`` numbers) and answer with weights or with a
mixing matrix, which this module applies. Coordinatewise rules get the stack as matrices ``[n, d]``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from byzjax.base import Numeric, Params, Stacked, check_mask, num_workers_of
from byzjax.blocks import UNROLL, add, flatten, map_blocks, matmul, weighted_sum
from byzjax.geometry import Frame, Geometry, distances, measure, touches_lost


def combine(weights: jax.Array, updates: Stacked, frame: Frame) -> Params:
    """``Σ_i w_i x_i``, with far rows drawn back. Weight on a lost row is NaN, its absence exactly nothing.

    Args:
      weights: f32[n]; the missing part ``1 − Σ w_i`` lies on the origin.
    """
    matrices, unflatten = flatten(updates)
    kept = weights * frame.reach
    spared = jnp.sum(weights * (1.0 - frame.reach), where=frame.finite)
    lost = jnp.where(jnp.any((weights != 0) & ~frame.finite), jnp.nan, 0.0).astype(kept.dtype)
    spared = spared + lost
    return unflatten(
        [
            weighted_sum(kept, x) + jnp.where(spared != 0, spared * c, 0.0)
            for x, c in zip(matrices, frame.centre, strict=True)
        ]
    )


def mix(matrix: jax.Array, updates: Stacked, frame: Frame) -> Stacked:
    """``matrix @ x``, with far rows drawn back: leaves ``[m, *p]``. A row that puts weight on a lost row is NaN.

    Args:
      matrix: f32[m, n].
    """
    matrices, unflatten = flatten(updates)
    lost = touches_lost(matrix, frame.finite)
    kept = matrix * frame.reach[None, :]
    spared = jnp.where(frame.finite[None, :], matrix * (1.0 - frame.reach)[None, :], 0.0).sum(1)
    spared = jnp.where(lost, jnp.nan, spared)

    def mixed(x: jax.Array, c: jax.Array) -> jax.Array:
        rest = jnp.where(spared[:, None] != 0, spared[:, None] * c[None], 0.0)
        return matmul(kept, jnp.where(frame.finite[:, None], x, 0.0)) + rest

    return unflatten([mixed(x, c) for x, c in zip(matrices, frame.centre, strict=True)])


def coordinatewise(reduce: Callable[[jax.Array], jax.Array], updates: Stacked) -> Params:
    """Apply ``reduce: [n, d] -> [d]`` to every coordinate of a stack; 16-bit floats are reduced in float32."""
    matrices, unflatten = flatten(updates)
    return unflatten([reduce(x) for x in matrices])


def row_mean(x: jax.Array) -> jax.Array:
    """``(1/n) Σ_i x_i``: ``[n, d] -> [d]``, NaN and all."""
    n = x.shape[0]
    if n > UNROLL:
        return matmul(jnp.full((n,), 1.0 / n, x.dtype), x)
    return add(list(x)) / n


def masked_mean(updates: Stacked, mask: jax.Array) -> Params:
    """The mean of the rows where ``mask`` (bool[n]) is true; the others are not read, be they NaN."""
    mask = check_mask(mask, num_workers_of(updates))
    count = jnp.maximum(mask.sum(), 1)

    def mean(block):
        return weighted_sum(mask.astype(block.dtype), block) / count.astype(block.dtype)

    return coordinatewise(lambda x: map_blocks(mean, x)[0], updates)


def masked_std(updates: Stacked, mask: jax.Array, ddof: Numeric = 0) -> Params:
    """The coordinate-wise standard deviation of the rows where ``mask`` is true, ``ddof`` as in NumPy."""
    mask = check_mask(mask, num_workers_of(updates))

    def std(x):
        dtype = x.dtype
        count = mask.sum().astype(dtype)
        mean = weighted_sum(mask.astype(dtype), x) / jnp.maximum(count, 1)
        total = add([jnp.where(m, jnp.square(row - mean), 0.0) for m, row in zip(mask, x, strict=True)])
        return jnp.sqrt(total / jnp.maximum(count - ddof, 1))

    return coordinatewise(std, updates)


def mean_and_deviations(updates: Stacked, mask: jax.Array) -> tuple[Params, jax.Array]:
    """`masked_mean`, and every row's distance ``‖x_i − mean‖`` from it, f32[n], in one reading.

    Not guarded against overflow: a measurement, not a decision.
    """
    matrices, unflatten = flatten(updates)
    count = jnp.maximum(mask.sum(), 1)

    def mean(block: jax.Array) -> jax.Array:
        return weighted_sum(mask.astype(block.dtype), block) / count.astype(block.dtype)

    def squares(total: jax.Array, block: jax.Array, mean: jax.Array, fresh: jax.Array) -> jax.Array:
        return total + jnp.square(jnp.where(fresh[None, :], block - mean[None], 0.0)).sum(1)

    n = mask.shape[0]
    parts = [map_blocks(mean, x, fold=squares, carry=jnp.zeros((n,), x.dtype)) for x in matrices]
    return unflatten([mean for mean, _ in parts]), jnp.sqrt(add([total for _, total in parts]))


def replace_rows(updates: Stacked, mask: jax.Array, rows: Stacked | Params) -> Stacked:
    """``updates`` with the masked rows taken from ``rows``: leaves ``[n, *p]``, or one row ``[*p]`` for all."""
    mask = check_mask(mask, num_workers_of(updates))

    def replace(x, y):
        y = y if y.ndim == x.ndim else y[None]
        return jnp.where(mask.reshape((-1,) + (1,) * (x.ndim - 1)), y, x).astype(x.dtype)

    return jax.tree.map(replace, updates, rows)


__all__ = [
    "Frame",
    "Geometry",
    "combine",
    "coordinatewise",
    "distances",
    "masked_mean",
    "masked_std",
    "mean_and_deviations",
    "measure",
    "mix",
    "replace_rows",
    "row_mean",
]
