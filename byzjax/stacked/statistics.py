"""Statistics of stacks: over workers in every coordinate, and over coordinates of every worker."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from byzjax.checks import check_mask, num_workers_of
from byzjax.stacked import order_statistics, sums
from byzjax.stacked.blocks import cache_numbers, flatten, fold_blocks, map_blocks, memory_numbers, place, wide_dtype
from byzjax.stacked.control_flow import fori_loop
from byzjax.stacked.coordinate_axis import greatest, held, part_number, total
from byzjax.stacked.coordinate_sharding import COLUMNS, PARAMS, PLAIN, STACK, over_coordinates
from byzjax.stacked.order_statistics import lowest
from byzjax.stacked.sums import add, as_product, partial_products, product, weighted_sum
from byzjax.types import Numeric, Params, Stacked

_LARGE = 1 << 23  # numbers of a stack from which on it is reduced block by block


@over_coordinates(updates=STACK, returns=lambda said: STACK if said.get("rows") else PARAMS)
def coordinatewise(reduce: Callable[[jax.Array], jax.Array], updates: Stacked, rows: bool = False) -> Params | Stacked:
    """Apply ``reduce: [n, d] -> [d]``, or with ``rows`` ``[n, d] -> [m, d]``, to every coordinate of a stack.

    16-bit floats are reduced in float32.
    """
    del rows
    matrices, unflatten = flatten(updates)
    dtype = wide_dtype(matrices)

    def whole(x: jax.Array) -> jax.Array:
        if x.shape[0] > order_statistics.MAX_NETWORK:  # many passes over the same numbers: keep them in cache
            return map_blocks(reduce, x, dtype)
        if x.size > _LARGE:  # its temporaries may be as large as the stack
            return map_blocks(reduce, x, dtype, memory_numbers())
        return reduce(x.astype(dtype))

    return unflatten([whole(x) for x in matrices])


@over_coordinates(updates=STACK, point=PARAMS, returns=PLAIN)
def inner(updates: Stacked, point: Params) -> jax.Array:
    """``⟨x_i, p⟩`` of every row with a point ``p`` (leaves ``[*p]``), f32[n]; NaN for a row that is not finite."""
    matrices, _ = flatten(updates)
    points, _ = flatten(jax.tree.map(lambda leaf: leaf[None], point))
    dtype = wide_dtype(matrices)

    def products(x: jax.Array, p: jax.Array) -> jax.Array:
        def step(done: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array) -> jax.Array:
            at = jax.lax.dynamic_slice_in_dim(p[0].astype(dtype), start, block.shape[1])
            return done + partial_products(block, jnp.where(fresh, at, 0.0)[None])[:, 0]

        return fold_blocks(step, jnp.zeros(x.shape[:1], dtype), x, dtype, memory_numbers())

    return total(add([products(x, p) for x, p in zip(matrices, points, strict=True)]))


@over_coordinates(updates=STACK, returns=PLAIN)
def largest_coordinates(updates: Stacked) -> jax.Array:
    """``max_k |x_ik|`` of every row, f32[n]; +inf for a row with NaN or inf."""
    matrices, _ = flatten(updates)
    dtype = wide_dtype(matrices)
    sizes = [jnp.where(jnp.isfinite(x), jnp.abs(x), jnp.inf).max(1, initial=0.0).astype(dtype) for x in matrices]
    return greatest(jnp.stack(sizes).max(0))


@over_coordinates(updates=STACK, returns=PLAIN)
def magnitude_of_rank(updates: Stacked, count: Numeric) -> jax.Array:
    """The ``count``-th largest ``|x_ik|`` of every row, f32[n], by bisection; ``count`` may be traced."""
    matrices, _ = flatten(updates)
    dtype = wide_dtype(matrices)
    kind = jnp.int64 if dtype == jnp.float64 else jnp.int32
    # Positive floats have the order of their bits.
    sizes = [jax.lax.bitcast_convert_type(jnp.abs(x.astype(dtype)), kind) for x in matrices]
    infinity = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, dtype), kind)

    def halve(_, interval):
        least, most = interval
        middle = most - (most - least) // 2
        enough = total(add([(x >= middle[:, None]).sum(1, dtype=jnp.int32) for x in sizes])) >= count
        return jnp.where(enough, middle, least), jnp.where(enough, most, middle - 1)

    everything = jnp.zeros(matrices[0].shape[:1], kind), jnp.full(matrices[0].shape[:1], infinity)
    bits, _ = fori_loop(0, 8 * dtype.itemsize - 1, halve, everything)
    return jax.lax.bitcast_convert_type(bits, dtype)


@over_coordinates(updates=STACK, returns=(PLAIN, PLAIN))
def sign_counts(updates: Stacked) -> tuple[jax.Array, jax.Array]:
    """How many coordinates of every row are positive, and how many negative: i32[n] each."""
    matrices, _ = flatten(updates)
    positive = add([(x > 0).sum(1, dtype=jnp.int32) for x in matrices])
    negative = add([(x < 0).sum(1, dtype=jnp.int32) for x in matrices])
    return total(positive), total(negative)


def sample_coordinates(updates: Stacked, count: int, key: jax.Array) -> jax.Array:
    """``count`` random coordinates of every row, the same for all: ``[n, min(count, d)]``.

    Without replacement up to four million coordinates; beyond, where choosing would cost more than the rule, with.
    """
    d = num_coordinates(updates)
    if count >= d:
        return _side_by_side(updates)
    if d > 1 << 22:
        return _chosen(updates, jax.random.randint(key, (count,), 0, d))
    # The lowest of d random numbers, without sorting them.
    return _chosen(updates, jnp.flatnonzero(lowest(jax.random.uniform(key, (d,)), count), size=count))


def num_coordinates(updates: Stacked) -> int:
    """How many coordinates a row has, d.

    >>> num_coordinates({"w": jnp.zeros((5, 2, 3)), "b": jnp.zeros((5, 2))})
    8
    """
    part = held()
    if part is not None:
        return part.count
    return sum(math.prod(jnp.shape(leaf)[1:]) for leaf in jax.tree.leaves(updates))


def columns(updates: Stacked, chosen: jax.Array | None) -> jax.Array:
    """The chosen coordinates of every row, counted over all leaves in turn: ``[n, len(chosen)]``; None chooses all."""
    part = held()
    if part is not None:  # every device has those of its own, and zeros
        return total(_chosen(updates, jnp.arange(part.count) if chosen is None else chosen))
    return _side_by_side(updates) if chosen is None else _chosen(updates, chosen)


def _side_by_side(updates: Stacked) -> jax.Array:
    matrices, _ = flatten(updates)
    dtype = wide_dtype(matrices)
    return jnp.concatenate([x.astype(dtype) for x in matrices], axis=1)


def _chosen(updates: Stacked, chosen: jax.Array) -> jax.Array:
    matrices, _ = flatten(updates)
    return _columns(updates, chosen, [x.shape[1] for x in matrices], wide_dtype(matrices))


@over_coordinates(updates=STACK, returns=COLUMNS)
def _columns(updates: Stacked, chosen: jax.Array, widths: list[int], dtype: jnp.dtype) -> jax.Array:
    """The chosen coordinates, in the order of `flatten`; zeros for those that are not here."""
    matrices, _ = flatten(updates)
    if (part := held()) is not None:
        first, stop = part.first, part.stop
    else:
        stop = tuple(itertools.accumulate(widths))
        first = tuple(
            end - width + part_number() * x.shape[1] for x, end, width in zip(matrices, stop, widths, strict=True)
        )
    columns = []
    for x, start, end in zip(matrices, first, stop, strict=True):
        at = chosen - start
        here = (at >= 0) & (at < x.shape[1]) & (chosen < end)
        found = x[:, jnp.clip(at, 0, max(x.shape[1] - 1, 0))].astype(dtype)
        columns.append(jnp.where(here[None], found, 0.0))
    return add(columns)


def row_mean(x: jax.Array) -> jax.Array:
    """``(1/n) Σ_i x_i``: ``[n, d] -> [d]``, NaN and all."""
    n = x.shape[0]
    if n > sums.UNROLL or as_product(x, x.dtype):
        return product(jnp.full((n,), 1.0 / n, x.dtype), x)
    return add(list(x)) / n


@over_coordinates(updates=STACK, returns=PARAMS)
def masked_mean(updates: Stacked, mask: jax.Array) -> Params:
    """The mean of the rows where ``mask`` (bool[n]) is true; the others are not read, be they NaN."""
    mask = check_mask(mask, num_workers_of(updates))
    count = jnp.maximum(mask.sum(), 1)

    matrices, unflatten = flatten(updates)
    dtype = wide_dtype(matrices)
    return unflatten([weighted_sum(mask.astype(dtype), x) / count.astype(dtype) for x in matrices])


@over_coordinates(updates=STACK, returns=PARAMS)
def masked_std(updates: Stacked, mask: jax.Array, ddof: Numeric = 0) -> Params:
    """The coordinate-wise standard deviation of the rows where ``mask`` is true, ``ddof`` as in NumPy."""
    mask = check_mask(mask, num_workers_of(updates))

    def std(x):
        dtype = x.dtype
        count = mask.sum().astype(dtype)
        mean = weighted_sum(mask.astype(dtype), x) / jnp.maximum(count, 1)
        squares = add([jnp.where(m, jnp.square(row - mean), 0.0) for m, row in zip(mask, x, strict=True)])
        return jnp.sqrt(squares / jnp.maximum(count - ddof, 1))

    return coordinatewise(std, updates)


@over_coordinates(updates=STACK, returns=(PARAMS, PLAIN))
def mean_and_deviations(updates: Stacked, mask: jax.Array) -> tuple[Params, jax.Array]:
    """`masked_mean`, and every row's distance ``‖x_i − mean‖`` from it, f32[n], in one reading.

    Not guarded against overflow: a measurement, not a decision.
    """
    matrices, unflatten = flatten(updates)
    dtype = wide_dtype(matrices)
    count = jnp.maximum(mask.sum(), 1).astype(dtype)

    def step(carry, start: jax.Array, block: jax.Array, fresh: jax.Array):
        mean, squares = carry
        mean = place(mean, start, weighted_sum(mask.astype(dtype), block) / count)
        # Read back what was written, or the mean is computed again in every row.
        at = jax.lax.dynamic_slice_in_dim(mean, start, block.shape[1])
        return mean, squares + jnp.square(jnp.where(fresh[None, :], block - at[None], 0.0)).sum(1)

    def start(x: jax.Array):
        return jnp.zeros(x.shape[1:], dtype), jnp.zeros(mask.shape, dtype)

    parts = [fold_blocks(step, start(x), x, dtype, cache_numbers()) for x in matrices]
    return unflatten([mean for mean, _ in parts]), jnp.sqrt(total(add([squares for _, squares in parts])))
