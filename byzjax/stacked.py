"""What is done to ``n × d`` stacks. With `blocks` and `geometry`, the only place that sees d.

Rules live in worker space: they see the `Geometry` of the rows (``n × n`` numbers) and answer with weights or with a
mixing matrix, which this module applies. Coordinatewise rules get the stack as matrices ``[n, d]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax import measuring
from byzjax.blocks import (
    UNROLL,
    add,
    as_product,
    cache_numbers,
    flatten,
    fold_blocks,
    greatest,
    in_turn,
    map_blocks,
    matmul,
    memory_numbers,
    only_if,
    part_number,
    partial_products,
    picked,
    place,
    product,
    total,
    weighted_sum,
    wide_dtype,
)
from byzjax.checks import check_mask, nan_unless, num_workers_of
from byzjax.geometry import Frame, Geometry, Lengths, touches_lost
from byzjax.loops import fori_loop
from byzjax.sorting import MAX_NETWORK, finite_or_nan, lowest
from byzjax.spread import spreads
from byzjax.types import Numeric, Params, Stacked

measure = spreads(("plain", "frame"))(measuring.measure)
measure_lengths = spreads(("plain", "frame"))(measuring.measure_lengths)
distances = spreads("plain")(measuring.distances)

_LARGE = 1 << 23  # numbers of a stack from which on it is reduced block by block


class Anchor(NamedTuple):
    """A point besides the rows that a combination puts weight on."""

    weight: jax.Array  # f32[]
    point: Params  # leaves [*p]


@spreads("params")
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
    kept = weights * frame.reach
    spared = jnp.sum(weights * (1.0 - frame.reach), where=frame.finite)
    lost = (nan_unless(~jnp.any((weights != 0) & ~frame.finite)) - 1.0).astype(kept.dtype)  # NaN or 0
    spared = spared + lost
    some = picked if picks else weighted_sum
    sums = [
        some(kept, x) + (lost if c is None else jnp.where(spared != 0, spared * c, 0.0))
        for x, c in zip(matrices, frame.centre, strict=True)
    ]
    if anchor is not None:
        points, _ = flatten(jax.tree.map(lambda leaf: leaf[None], anchor.point))
        sums = [y + anchor.weight * p[0].astype(kept.dtype) for y, p in zip(sums, points, strict=True)]
    return unflatten(sums)


@spreads("params")
def centre_of(updates: Stacked, frame: Frame) -> Params:
    """The coordinate-wise lower median that a frame is centred on: leaves ``[*p]``."""
    return flatten(updates)[1]([finite_or_nan(c) for c in frame.centre if c is not None])


@spreads(lambda arguments: "stack" if arguments.get("reduce") is None else "params")
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
    kept = matrix * frame.reach[None, :]
    spared = jnp.where(frame.finite[None, :], matrix * (1.0 - frame.reach)[None, :], 0.0).sum(1)
    spared = spared * nan_unless(~lost).astype(spared.dtype)

    def in_blocks(kept: jax.Array, spared: jax.Array, finite: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
        def step(out: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array) -> jax.Array:
            del fresh
            centre = jax.lax.dynamic_slice_in_dim(c, start, block.shape[1])
            rest = jnp.where(spared[:, None] != 0, spared[:, None] * centre[None], 0.0)
            rows = matmul(kept, jnp.where(finite[:, None], block, 0.0)) + rest
            return place(out, start, rows if reduce is None else reduce(rows))

        shape = x.shape[1:] if reduce is not None else (kept.shape[0], x.shape[1])
        numbers = cache_numbers() if reduce is not None and len(kept) > MAX_NETWORK else memory_numbers()
        return fold_blocks(step, jnp.zeros(shape, kept.dtype), x, kept.dtype, numbers)

    def at_once(kept: jax.Array, spared: jax.Array, finite: jax.Array, x: jax.Array, c: jax.Array) -> jax.Array:
        spoilt = ~finite.all() | (spared != 0).any()
        return only_if(spoilt, lambda _: in_blocks(kept, spared, finite, x, c), matmul(kept, x))

    def mixed(x: jax.Array, c: jax.Array | None) -> jax.Array:
        assert c is not None, "mixing needs a geometry, not lengths"
        quick = reduce is None and as_product(x, kept.dtype)
        return (in_turn(at_once, in_blocks) if quick else in_blocks)(kept, spared, frame.finite, x, c)

    return unflatten([mixed(x, c) for x, c in zip(matrices, frame.centre, strict=True)])


@spreads("stack")
def scale_rows(factors: jax.Array, updates: Stacked, frame: Frame) -> Stacked:
    """``c_i x_i``, with far rows drawn back to the origin: leaves ``[n, *p]``. A lost row is NaN."""
    kept = jnp.where(frame.finite, factors * frame.reach, 1.0) * nan_unless(frame.finite).astype(frame.reach.dtype)

    def scale(x: jax.Array) -> jax.Array:
        return (x.astype(kept.dtype) * kept.reshape((-1,) + (1,) * (x.ndim - 1))).astype(x.dtype)

    return jax.tree.map(scale, updates)


@spreads(lambda arguments: "stack" if arguments.get("rows") else "params")
def coordinatewise(reduce: Callable[[jax.Array], jax.Array], updates: Stacked, rows: bool = False) -> Params | Stacked:
    """Apply ``reduce: [n, d] -> [d]``, or with ``rows`` ``[n, d] -> [m, d]``, to every coordinate of a stack.

    16-bit floats are reduced in float32.
    """
    del rows
    matrices, unflatten = flatten(updates)
    dtype = wide_dtype(matrices)

    def whole(x: jax.Array) -> jax.Array:
        if x.shape[0] > MAX_NETWORK:  # many passes over the same numbers: keep them in cache
            return map_blocks(reduce, x, dtype)
        if x.size > _LARGE:  # its temporaries may be as large as the stack
            return map_blocks(reduce, x, dtype, memory_numbers())
        return reduce(x.astype(dtype))

    return unflatten([whole(x) for x in matrices])


@spreads("plain")
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


@spreads("plain")
def largest_coordinates(updates: Stacked) -> jax.Array:
    """``max_k |x_ik|`` of every row, f32[n]; +inf for a row with NaN or inf."""
    matrices, _ = flatten(updates)
    dtype = wide_dtype(matrices)
    sizes = [jnp.where(jnp.isfinite(x), jnp.abs(x), jnp.inf).max(1, initial=0.0).astype(dtype) for x in matrices]
    return greatest(jnp.stack(sizes).max(0))


@spreads("plain")
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
    found, _ = fori_loop(0, 8 * dtype.itemsize - 1, halve, everything)
    return jax.lax.bitcast_convert_type(found, dtype)


@spreads(("plain", "plain"))
def sign_counts(updates: Stacked) -> tuple[jax.Array, jax.Array]:
    """How many coordinates of every row are positive, and how many negative: i32[n] each."""
    matrices, _ = flatten(updates)
    up, down = (
        add([holds(x).sum(1, dtype=jnp.int32) for x in matrices]) for holds in (lambda x: x > 0, lambda x: x < 0)
    )
    return total(up), total(down)


def sample_coordinates(updates: Stacked, count: int, key: jax.Array) -> jax.Array:
    """``count`` random coordinates of every row, the same for all: ``[n, min(count, d)]``.

    Without replacement up to four million coordinates; beyond, where choosing would cost more than the rule, with.
    """
    d = sum(x.shape[1] for x in flatten(updates)[0])
    if count >= d:
        return columns(updates, None)
    if d > 1 << 22:
        return columns(updates, jax.random.randint(key, (count,), 0, d))
    # The lowest of d random numbers, without sorting them.
    return columns(updates, jnp.flatnonzero(lowest(jax.random.uniform(key, (d,)), count), size=count))


def columns(updates: Stacked, chosen: jax.Array | None) -> jax.Array:
    """The chosen coordinates of every row, counted over all leaves in turn: ``[n, len(chosen)]``; None chooses all."""
    matrices, _ = flatten(updates)
    dtype = wide_dtype(matrices)
    if chosen is None:
        return jnp.concatenate([x.astype(dtype) for x in matrices], axis=1)
    return _columns(updates, chosen, [x.shape[1] for x in matrices], dtype)


@spreads("columns")
def _columns(updates: Stacked, chosen: jax.Array, widths: list[int], dtype: jnp.dtype) -> jax.Array:
    """The chosen coordinates, in the order of `flatten`; zeros for those that are not here."""
    parts, before = [], 0
    for x, width in zip(flatten(updates)[0], widths, strict=True):
        at = chosen - before - part_number() * x.shape[1]
        here = (at >= 0) & (at < x.shape[1]) & (chosen < before + width)
        columns = x[:, jnp.clip(at, 0, max(x.shape[1] - 1, 0))].astype(dtype)
        parts.append(jnp.where(here[None], columns, 0.0))
        before += width
    return add(parts)


def row_mean(x: jax.Array) -> jax.Array:
    """``(1/n) Σ_i x_i``: ``[n, d] -> [d]``, NaN and all."""
    n = x.shape[0]
    if n > UNROLL or as_product(x, x.dtype):
        return product(jnp.full((n,), 1.0 / n, x.dtype), x)
    return add(list(x)) / n


@spreads("stack")
def mean_of_groups(order: jax.Array, size: int, updates: Stacked) -> Stacked:
    """Means of consecutive workers in a given order: leaves ``[⌈n/size⌉, *p]``; the last group holds what is left."""
    n = order.shape[0]
    count = -(-n // size)
    places = jnp.pad(order, (0, count * size - n)).reshape(count, size)
    there = (jnp.arange(count * size) < n).reshape(count, size)

    def mean(x: jax.Array) -> jax.Array:
        dtype = wide_dtype([x])
        shape = (count,) + (1,) * (x.ndim - 1)
        rows = [jnp.where(there[:, k].reshape(shape), x[places[:, k]].astype(dtype), 0.0) for k in range(size)]
        return (add(rows) / there.sum(1).astype(dtype).reshape(shape)).astype(x.dtype)

    return jax.tree.map(mean, updates)


@spreads("params")
def masked_mean(updates: Stacked, mask: jax.Array) -> Params:
    """The mean of the rows where ``mask`` (bool[n]) is true; the others are not read, be they NaN."""
    mask = check_mask(mask, num_workers_of(updates))
    count = jnp.maximum(mask.sum(), 1)

    matrices, unflatten = flatten(updates)
    dtype = wide_dtype(matrices)
    return unflatten([weighted_sum(mask.astype(dtype), x) / count.astype(dtype) for x in matrices])


@spreads("params")
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


@spreads(("params", "plain"))
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


@spreads("stack")
def replace_rows(updates: Stacked, mask: jax.Array, rows: Stacked | Params) -> Stacked:
    """``updates`` with the masked rows taken from ``rows``: leaves ``[n, *p]``, or one row ``[*p]`` for all."""
    mask = check_mask(mask, num_workers_of(updates))

    def replace(x, y):
        y = y if y.ndim == x.ndim else y[None]
        return jnp.where(mask.reshape((-1,) + (1,) * (x.ndim - 1)), y, x).astype(x.dtype)

    return jax.tree.map(replace, updates, rows)


__all__ = [
    "Anchor",
    "Frame",
    "Geometry",
    "Lengths",
    "centre_of",
    "columns",
    "combine",
    "coordinatewise",
    "distances",
    "inner",
    "largest_coordinates",
    "magnitude_of_rank",
    "masked_mean",
    "masked_std",
    "matmul",
    "mean_and_deviations",
    "mean_of_groups",
    "measure",
    "measure_lengths",
    "mix",
    "only_if",
    "replace_rows",
    "row_mean",
    "sample_coordinates",
    "scale_rows",
    "sign_counts",
    "wide_dtype",
]
