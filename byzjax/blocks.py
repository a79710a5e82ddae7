"""How a stack is read: as matrices ``[n, d]``, row by row over workers, block by block over coordinates.

Sums over the worker axis are written row by row: a reduction over the leading axis is an order of magnitude slower on
CPU, and a product with a matrix cannot skip a row of NaN. Loops over blocks of coordinates bound the memory, keep the
working set in cache, and keep XLA from computing a cheap-looking producer again in each of its consumers; an
``optimization_barrier`` does not, on CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from byzjax.loops import fori_loop, while_loop
from byzjax.types import Stacked

Function = TypeVar("Function", bound=Callable[..., Any])

SMALL_LEAF = 1 << 16  # leaves with fewer coordinates are joined into one matrix
UNROLL = 64  # rows that are summed one by one
LANE = 128  # coordinates per partial product on a CPU: see `partial_products`

_WIDE = 1 << 14  # coordinates from which on a product over few workers is worth its call

HIGHEST = jax.lax.Precision.HIGHEST  # the default float32 product on accelerators is TF32


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


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in full precision on every backend."""
    return jnp.matmul(a, b, precision=HIGHEST)


def add(rows: list[jax.Array]) -> jax.Array:
    """The sum of equal arrays, pairwise, so that rounding grows with log n."""
    while len(rows) > 1:
        pairs = [a + b for a, b in zip(rows[::2], rows[1::2], strict=False)]
        rows = pairs + ([rows[-1]] if len(rows) % 2 else [])
    return rows[0]


def as_product(x: jax.Array, dtype: jnp.dtype) -> bool:
    """Whether sums over the worker axis of ``x`` (``[n, d]``) are faster as a matrix product, on a CPU by a third.

    A product needs the stack in memory as it is, and cannot skip a row of NaN.
    """
    floating = jnp.issubdtype(dtype, jnp.floating)
    return jax.default_backend() == "cpu" and floating and x.dtype == dtype and x.shape[1] >= _WIDE


@jax.custom_jvp
def product(weights: jax.Array, x: jax.Array) -> jax.Array:
    """``Σ_i w_i x_i`` as a matrix product where it is one stack, row by row where ``vmap`` makes it many.

    A batch of products of a vector with a matrix runs at a quarter of the speed of one on a CPU.
    """
    return _product(weights, x)


@product.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    (weights, x), (d_weights, d_x) = primals, tangents  # vmap rules of one's own cannot be transposed
    return product(weights, x), matmul(d_weights, x) + matmul(weights, d_x)


@jax.custom_batching.custom_vmap
def _product(weights: jax.Array, x: jax.Array) -> jax.Array:
    return matmul(weights, x)


@_product.def_vmap
def _(size: int, batched: list[bool], weights: jax.Array, x: jax.Array) -> tuple[jax.Array, bool]:
    del size
    by_rows = x.shape[-2] <= UNROLL
    one = (lambda w, x: add([w[i] * x[i] for i in range(len(w))])) if by_rows else matmul
    return jax.vmap(one, tuple(0 if b else None for b in batched))(weights, x), True


def in_turn(function: Function, plain: Callable[..., Any] | None = None) -> Function:
    """A function of large stacks that ``vmap`` on a CPU calls for one after the other.

    Each alone fills the cores; and XLA copies a whole batch into every loop, were it one of no turns. Not on a part of
    the coordinates: batching calls the function again, when nobody knows any more that it sees a part.

    Args:
      function: of arrays, without any from outside.
      plain: gives the same, and is differentiated in its place; by default the function itself.
    """
    return function if jax.default_backend() != "cpu" or of_a_part() else one_by_one(function, plain)


def one_by_one(function: Function, plain: Callable[..., Any] | None = None) -> Function:
    """A function that ``vmap`` calls for one after the other, here and on every backend; see `in_turn`.

    Its derivative is that of ``plain``, of which a batch is a batch: rules of ``vmap`` cannot be differentiated where
    tangents alone are batched.
    """
    batched = jax.custom_batching.sequential_vmap(function)

    @jax.custom_jvp
    def called(*arguments: Any) -> Any:
        return batched(*arguments)

    @called.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        return jax.jvp(function if plain is None else plain, primals, tangents)

    return called  # type: ignore[return-value]


def only_if(holds: jax.Array, function: Callable[[Any], Any], state: Any) -> Any:
    """``function(state)`` where it ``holds``, else ``state``; any tree of arrays.

    A loop of at most one turn: a conditional would run both ways under ``vmap``.
    """
    once = while_loop(lambda s: s[0], lambda s: (jnp.zeros((), bool), function(s[1])), (holds, state))
    return once[1]


def weighted_sum(weights: jax.Array, x: jax.Array) -> jax.Array:
    """``Σ_i w_i x_i``, in the dtype of the weights, where a weight of 0 removes its row, be it NaN."""
    n = x.shape[0]

    def skipping(weights: jax.Array, x: jax.Array) -> jax.Array:
        if n <= UNROLL:
            return add([jnp.where(weights[i] != 0, weights[i] * x[i].astype(weights.dtype), 0.0) for i in range(n)])
        kept = (weights != 0)[:, None]
        return map_blocks(lambda block: matmul(weights, jnp.where(kept, block, 0.0)), x, weights.dtype)

    if not as_product(x, weights.dtype):
        return skipping(weights, x)

    def multiplied(weights: jax.Array, x: jax.Array) -> jax.Array:
        sums = product(weights, x)
        return only_if(~jnp.isfinite(sums).all(), lambda _: skipping(weights, x), sums)

    return in_turn(multiplied, skipping)(weights, x)


def picked(weights: jax.Array, x: jax.Array) -> jax.Array:
    """`weighted_sum` where at most one weight is not 0."""
    i = jnp.argmax(weights != 0)
    return jnp.where(weights[i] != 0, weights[i] * x[i].astype(weights.dtype), 0.0)


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


def partial_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b.T`` of two blocks ``[·, w]`` as a sum of products over lanes of coordinates.

    One product of few rows with many columns runs on one core of a CPU, a batch of small ones on all of them; and
    the sum of partial sums rounds less.
    """
    rows, width = a.shape
    lane = max(LANE, rows) if jax.default_backend() == "cpu" else 1 << 14
    lanes = width // lane
    if lanes <= 1:
        return matmul(a, b.T)
    cut = lanes * lane

    def batch(x: jax.Array) -> jax.Array:
        return x[:, :cut].reshape(x.shape[0], lanes, lane).transpose(1, 0, 2)

    whole = jnp.einsum("lik,ljk->lij", batch(a), batch(b), precision=HIGHEST).sum(0)
    return whole if cut == width else whole + matmul(a[:, cut:], b[:, cut:].T)


_PART: ContextVar[str | None] = ContextVar("part", default=None)  # the axis of devices that share the coordinates


@contextlib.contextmanager
def one_of_several(axis: str) -> Iterator[None]:
    """What is traced inside sees a part of the coordinates, those of one device along a mesh axis."""
    token = _PART.set(axis)
    try:
        yield
    finally:
        _PART.reset(token)


def of_a_part() -> bool:
    """Whether what is traced sees a part of the coordinates only."""
    return _PART.get() is not None


def part_number() -> Any:
    """Which part that is; 0 where it is all of them."""
    axis = _PART.get()
    return 0 if axis is None else jax.lax.axis_index(axis)


def number_of_parts() -> int:
    """How many parts there are; 1 where what is traced sees all coordinates."""
    axis = _PART.get()
    return 1 if axis is None else jax.lax.axis_size(axis)


def joined(parts: list[jax.Array]) -> jax.Array:
    """Matrices or vectors as one along the last axis, with the parts of all devices: worth it where they are small."""
    whole = jnp.concatenate(parts, axis=-1)
    axis = _PART.get()
    return whole if axis is None else jax.lax.all_gather(whole, axis, axis=whole.ndim - 1, tiled=True)


def total(sums: Any) -> Any:
    """Sums over coordinates, when each device has taken its own; any tree of arrays."""
    axis = _PART.get()
    return sums if axis is None else jax.lax.psum(sums, axis)


def greatest(maxima: Any) -> Any:
    """Maxima over coordinates, when each device has taken its own; any tree of arrays without NaN."""
    axis = _PART.get()
    return maxima if axis is None else jax.lax.pmax(maxima, axis)


def every(holds: jax.Array) -> jax.Array:
    """Whether something holds for all coordinates, when each device has looked at its own."""
    axis = _PART.get()
    return holds if axis is None else jax.lax.pmin(holds.astype(jnp.int32), axis) > 0
