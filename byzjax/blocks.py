"""How a stack is read: as matrices ``[n, d]``, row by row over workers, block by block over coordinates.

Sums over the worker axis are written row by row: a reduction over the leading axis is an order of magnitude slower on
CPU, and a product with a matrix cannot skip a row of NaN. Loops over blocks of coordinates keep the working set in
cache, and keep XLA from computing a cheap-looking producer again in each of its consumers; an
``optimization_barrier`` does not, on CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byzjax.base import Stacked

SMALL_LEAF = 1 << 16  # leaves with fewer coordinates are joined into one matrix
UNROLL = 64  # rows that are summed one by one

HIGHEST = jax.lax.Precision.HIGHEST  # the default float32 product on accelerators is TF32


def flatten(updates: Stacked) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Stacked]]:
    """A stack as matrices ``[n, d_k]`` in at least float32, small leaves joined; and the way back.

    The way back takes matrices ``[m, d_k]`` or vectors ``[d_k]`` and restores each leaf's shape and dtype.
    """
    leaves, structure = jax.tree.flatten(updates)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    n = leaves[0].shape[0]
    dtype = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32
    flat = [leaf.reshape(n, leaf.size // n).astype(dtype) for leaf in leaves]
    large = [k for k, x in enumerate(flat) if x.shape[1] > SMALL_LEAF]
    small = [k for k, x in enumerate(flat) if x.shape[1] <= SMALL_LEAF]
    matrices = [flat[k] for k in large]
    if small:
        matrices.append(jnp.concatenate([flat[k] for k in small], axis=1) if len(small) > 1 else flat[small[0]])

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


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in full precision on every backend."""
    return jnp.matmul(a, b, precision=HIGHEST)


def add(rows: list[jax.Array]) -> jax.Array:
    """The sum of equal arrays, pairwise, so that rounding grows with log n."""
    while len(rows) > 1:
        pairs = [a + b for a, b in zip(rows[::2], rows[1::2], strict=False)]
        rows = pairs + ([rows[-1]] if len(rows) % 2 else [])
    return rows[0]


def weighted_sum(weights: jax.Array, x: jax.Array) -> jax.Array:
    """``Σ_i w_i x_i`` where a weight of 0 removes its row, be it NaN."""
    n = x.shape[0]
    weights = weights.astype(x.dtype)
    if n > UNROLL:
        return matmul(weights, jnp.where((weights != 0)[:, None], x, 0.0))
    return add([jnp.where(weights[i] != 0, weights[i] * x[i], 0.0) for i in range(n)])


def map_blocks(
    reduce: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    *,
    fold: Callable[[Any, jax.Array, jax.Array, jax.Array], Any] | None = None,
    carry: Any = (),
) -> tuple[jax.Array, Any]:
    """Apply ``reduce: [n, b] -> [b]`` to blocks of coordinates; fold each block and its result into a carry.

    Args:
      reduce: coordinatewise.
      x: ``[n, d]``.
      fold: ``(carry, block [n, b], result [b], fresh bool[b]) -> carry``. The last block may overlap the one before;
        its coordinates that were seen already are not ``fresh``.
      carry: its initial value.

    Returns:
      The results ``[d]``, and the carry.
    """
    n, d = x.shape
    width = max(1, min(_width(x), -(-d // 2)))  # two blocks at least: XLA unrolls a loop of one, and fuses again

    def body(i, state):
        out, folded = state
        start = jnp.minimum(i * width, d - width)
        block = jax.lax.dynamic_slice_in_dim(x, start, width, axis=1)
        if n <= UNROLL:  # a reduction that reads its rows where they lie needs no copy of the block
            rows = jnp.stack([jax.lax.dynamic_slice(x, (k, start), (1, width))[0] for k in range(n)])
        else:
            rows = block
        out = jax.lax.dynamic_update_slice_in_dim(out, reduce(rows), start, axis=0)
        if fold is not None:
            # Read back what was written, or the reduction is fused into every row that the fold touches.
            result = jax.lax.dynamic_slice_in_dim(out, start, width)
            folded = fold(folded, block, result, start + jnp.arange(width) >= i * width)
        return out, folded

    return jax.lax.fori_loop(0, -(-d // width), body, (jnp.zeros((d,), x.dtype), carry))


def sum_blocks(function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, c: jax.Array) -> jax.Array:
    """``Σ_blocks function(x[:, block], c[block])`` for a function of fixed output shape.

    Args:
      function: ``([n, b], [b]) -> […]``.
      x: ``[n, d]``.
      c: ``[d]``.
    """
    d = x.shape[1]
    width = _width(x)
    whole = d // width if width else 0
    rest = function(x[:, whole * width :], c[whole * width :])  # of width 0 where the blocks fit

    def body(i, total):
        block = jax.lax.dynamic_slice_in_dim(x, i * width, width, axis=1)
        return total + function(block, jax.lax.dynamic_slice_in_dim(c, i * width, width))

    return jax.lax.fori_loop(0, whole, body, rest)


def _width(x: jax.Array) -> int:
    """Coordinates per block: what fits a CPU core's cache; on an accelerator, where each step is a launch, more."""
    n, d = x.shape
    numbers, most_blocks = (20_480, 1_024) if jax.default_backend() == "cpu" else (1 << 26, 1_024)
    return min(d, max(numbers // n, 256, -(-d // most_blocks)))
