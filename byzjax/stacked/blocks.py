"""How a stack is read: as matrices ``[n, d]``, row by row over workers, block by block over coordinates.

Sums over the worker axis are written row by row: a reduction over the leading axis is an order of magnitude slower on
CPU, and a product with a matrix cannot skip a row of NaN. Loops over blocks of coordinates bound the memory, keep the
working set in cache, and keep XLA from computing a cheap-looking producer again in each of its consumers; an
``optimization_barrier`` does not, on CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byzjax.stacked.control_flow import fori_loop
from byzjax.stacked.coordinate_axis import of_a_part
from byzjax.types import Stacked

SMALL_LEAF = 1 << 16  # leaves with fewer coordinates are joined into one matrix
LANE = 128  # coordinates per partial product on a CPU: see `partial_products`


def flatten(updates: Stacked) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Stacked]]:
    """A stack as matrices ``[n, d_k]``, small leaves joined; and the way back.

    A large leaf keeps its dtype, so that nothing of its size is copied: widen it block by block. Joined leaves are
    float32, or float64 if any leaf is. The way back takes matrices ``[m, d_k]`` or vectors ``[d_k]`` and restores
    each leaf's shape and dtype.
    """
    leaves, structure = jax.tree.flatten(updates)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    n = leaves[0].shape[0]
    flat = [leaf.reshape(n, leaf.size // n) for leaf in leaves]
    least = 0 if of_a_part() else SMALL_LEAF + 1  # parts come joined
    large = [k for k, x in enumerate(flat) if x.shape[1] >= least]
    small = [k for k, x in enumerate(flat) if x.shape[1] < least]
    matrices = [flat[k] for k in large]
    if len(small) == 1:
        matrices.append(flat[small[0]])
    elif small:
        dtype = wide_dtype(leaves)
        matrices.append(jnp.concatenate([flat[k].astype(dtype) for k in small], axis=1))

    def unflatten(results: list[jax.Array]) -> Stacked:
        parts = dict(zip(large, results, strict=False))
        start = 0
        for k in small:
            width = flat[k].shape[1]
            parts[k] = jax.lax.slice_in_dim(results[-1], start, start + width, axis=-1)
            start += width
        restored = [
            parts[k].reshape(*parts[k].shape[:-1], *leaf.shape[1:]).astype(leaf.dtype) for k, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, restored)

    return matrices, unflatten


def wide_dtype(arrays: list[jax.Array]) -> jnp.dtype:
    """What a stack is reduced in: float64 where a part of it is float64, else float32."""
    return jnp.dtype(jnp.float64 if any(x.dtype == jnp.float64 for x in arrays) else jnp.float32)


def fold_blocks(step: Callable[..., Any], carry: Any, x: jax.Array, dtype: jnp.dtype, numbers: int) -> Any:
    """``carry ← step(carry, start, block, fresh)`` for blocks of coordinates of ``x``.

    Args:
      step: gets the block's first coordinate i32[], the block ``[n, b]``, and which of its coordinates are ``fresh``,
        bool[b]: the last block may overlap the one before.
      carry: its initial value.
      x: ``[n, d]``.
      dtype: of the blocks.
      numbers: about how many numbers of the stack a block holds.
    """
    n, d = x.shape
    if d == 0:
        return carry
    width = _width(n, d, numbers)

    def body(i: jax.Array, carry: Any) -> Any:
        start = jnp.minimum(i * width, d - width)
        block = jax.lax.dynamic_slice_in_dim(x, start, width, axis=1).astype(dtype)
        return step(carry, start, block, start + jnp.arange(width) >= i * width)

    return fori_loop(0, -(-d // width), body, carry)


def place(out: jax.Array, start: jax.Array, block: jax.Array) -> jax.Array:
    """``out`` with ``block`` at coordinate ``start`` of the last axis; in place inside a loop."""
    return jax.lax.dynamic_update_slice_in_dim(out, block, start, axis=out.ndim - 1)


def map_blocks(
    reduce: Callable[[jax.Array], jax.Array], x: jax.Array, dtype: jnp.dtype, numbers: int | None = None
) -> jax.Array:
    """Apply ``reduce: [n, b] -> […, b]`` to blocks of coordinates of ``x`` (``[n, d]``): ``[…, d]``."""
    shape = jax.eval_shape(reduce, jax.ShapeDtypeStruct(x.shape, dtype))

    def step(out: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array) -> jax.Array:
        del fresh
        return place(out, start, reduce(block))

    out = jnp.zeros(shape.shape, shape.dtype)
    return fold_blocks(step, out, x, dtype, cache_numbers() if numbers is None else numbers)


def cache_numbers() -> int:
    """Numbers per block that stay in the cache of a CPU core while they are read again and again."""
    return 1 << 17 if jax.default_backend() == "cpu" else 1 << 26


def memory_numbers() -> int:
    """Numbers per block whose temporary copy is small beside the stack, and work enough for every core."""
    return 1 << 21 if jax.default_backend() == "cpu" else 1 << 26


def _width(n: int, d: int, numbers: int) -> int:
    """Coordinates per block: blocks of equal width, whole lanes where they hold one."""
    # Two blocks at least: XLA unrolls a loop of one, and fuses again.
    count = max(2, -(-n * d // numbers))
    width = -(-d // count)
    return min(d, -(-width // LANE) * LANE if width > LANE else width)
