"""Inner products and distances of the rows of a stack that a minority cannot spoil.

**Numerically Byzantine-proof.** The textbook ``‖a‖² + ‖b‖² − 2⟨a, b⟩`` in float32 loses honest distances to
cancellation, and centring on anything that attackers can move lets one huge row destroy them. Here

1. rows are centred on the coordinate-wise median, which a minority cannot move out of the honest range;
2. everything is measured in units of the median row's size, so nothing under- or overflows at any scale;
3. a row beyond 2⁴⁶ units is drawn back to 2⁴⁶ units on its own ray (its direction, all that a far row can tell, is
   kept); a row with NaN or inf is *lost*: distance +inf to all, weight exactly 0;
4. points so close together that their distance cancels are measured again about one of them, cluster by cluster: rows
   to each other, and rows to the origin or to the last aggregate;
5. a small stack is kept, and whatever is asked of its points is taken from their differences: there rows are drawn
   back, for lengths, from 2¹¹⁰ units on alone. The origin and the last aggregate never are.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax.checks import num_workers_of
from byzjax.stacked.blocks import flatten, fold_blocks, memory_numbers, place, wide_dtype
from byzjax.stacked.close_pairs import measure_again
from byzjax.stacked.control_flow import in_turn, only_if, while_loop
from byzjax.stacked.coordinate_axis import every, greatest, held, joined, number_of_parts, total
from byzjax.stacked.coordinate_sharding import FRAME, PARAMS, PLAIN, STACK, over_coordinates
from byzjax.stacked.geometry import (
    FAR,
    FARTHEST,
    Frame,
    Geometry,
    Places,
    known_points,
    mask_gram,
    small_geometry,
)
from byzjax.stacked.order_statistics import order_statistic
from byzjax.stacked.sums import add, matmul, partial_products
from byzjax.stacked.units import absolute, median_size, number_of_rank, scale_is_safe, to_units
from byzjax.types import Params, Stacked

_EXACT = 1 << 17  # n·n·d up to which all differences are formed
_COMPARED = 1 << 13  # coordinates of two points that are compared at a time


class _Points(NamedTuple):
    """One matrix of the stack with the points that are measured along with its rows."""

    x: jax.Array  # [n, d]
    centre: jax.Array  # [d]
    fixed: jax.Array  # [p, d], as they are

    def block(self, start: jax.Array, rows: jax.Array) -> jax.Array:
        """``rows``, a block of ``x``, and the same coordinates of the fixed points: ``[n + p, b]``."""
        fixed = jax.lax.dynamic_slice_in_dim(self.fixed, start, rows.shape[1], axis=1)
        return jnp.concatenate([rows, fixed.astype(rows.dtype)])


@over_coordinates(updates=STACK, reference=PARAMS, returns=(PLAIN, FRAME))
def measure(updates: Stacked, reference: Params | None = None, origin: bool = True) -> tuple[Geometry, Frame]:
    """The geometry of a stack, and the frame in which weights on it are applied.

    Reads the stack once where its scale is ordinary and no two rows nearly coincide.

    Args:
      updates: leaves ``[n, *p]``.
      reference: leaves ``[*p]``, a point to be measured along with the origin; finite.
      origin: measure the origin along with the rows. Without it weights and mixtures must sum to 1.
    """
    assert origin or reference is None
    matrices, _ = flatten(updates)
    dtype = wide_dtype(matrices)
    references: list[jax.Array | None] = [None] * len(matrices)
    if reference is not None:
        rows, _ = flatten(jax.tree.map(lambda leaf: leaf[None], reference))
        references = [row[0].astype(dtype) for row in rows]
    if is_kept_whole(matrices[0].shape[0], sum(x.shape[1] for x in matrices) * number_of_parts()):
        return _measure_small(matrices, references, origin, dtype)
    return in_turn(functools.partial(_measure_large, origin=origin, dtype=dtype))(matrices, references)


def is_kept_whole(num_workers: int, dim: int) -> bool:
    """Whether a stack is so small that its points are kept, and every distance is that of a difference.

    Not where whole rules see parts: no device is to have all rows.
    """
    return held() is None and num_workers**2 * dim <= _EXACT


def _measure_large(
    matrices: list[jax.Array], references: list[jax.Array | None], *, origin: bool, dtype: jnp.dtype
) -> tuple[Geometry, Frame]:
    """In one reading, block by block, and again what that did not settle."""
    parts, plain = _first_pass(matrices, references, origin, dtype)
    n = matrices[0].shape[0]
    squares = jnp.diagonal(plain)
    safe = scale_is_safe(number_of_rank(squares[:n], n // 2), squares.max()) & jnp.isfinite(plain).all()
    sizes, tallest = jnp.sqrt(squares[:n]), jnp.sqrt(squares[n:].max(initial=0.0))
    unit = median_size(sizes, tallest if origin else None)
    first = _Products(plain / unit / unit, sizes, tallest)
    gram, sizes, tallest = only_if(~safe, lambda _: _rescaled_pass(parts, origin, dtype), first)
    unit = median_size(sizes, tallest if origin else None)
    frame = Frame([part.centre for part in parts], to_units(sizes, unit) * unit, sizes)
    gram = mask_gram(
        0.5 * (gram + gram.T), frame.finite
    )  # a product may round its halves differently; ties must be ties
    separations = _remeasure_close_pairs(parts, gram, frame, tallest, unit)
    return _with_centre(Geometry(gram, separations, frame.finite, unit)), frame


class _Products(NamedTuple):
    gram: jax.Array  # f32[n + p, n + p], in units
    sizes: jax.Array  # f32[n], of the centred rows
    tallest: jax.Array  # f32[], the size of the largest fixed point


def _first_pass(
    matrices: list[jax.Array], references: list[jax.Array | None], origin: bool, dtype: jnp.dtype
) -> tuple[list[_Points], jax.Array]:
    """The centre, and inner products about it in plain units, which may under- or overflow."""
    read = [_centre_and_products(x, r, origin, dtype) for x, r in zip(matrices, references, strict=True)]
    parts = [
        _Points(x, centre, _fixed_points(r, origin, centre.shape, dtype))
        for x, (centre, _), r in zip(matrices, read, references, strict=True)
    ]
    return parts, total(add([gram for _, gram in read]))


def _rescaled_pass(parts: list[_Points], origin: bool, dtype: jnp.dtype) -> _Products:
    """Inner products of rows that are brought to units before anything is squared."""
    sizes = greatest(jnp.stack([_largest_coordinates(part, dtype) for part in parts]).max(0))
    tallest = _tallest(parts)
    unit = median_size(sizes, tallest if origin else None)
    return _Products(total(add([_scaled_products(part, sizes, tallest, unit) for part in parts])), sizes, tallest)


def _remeasure_close_pairs(
    parts: list[_Points], gram: jax.Array, frame: Frame, tallest: jax.Array, unit: jax.Array
) -> jax.Array:
    """Squared distances of all points, in units, those that cancel measured again about one of the points."""
    n = len(frame.sizes)
    known = known_points(frame.finite, len(gram) - n)
    fixed = jnp.broadcast_to(to_units(tallest, unit), (len(gram) - n,))
    factors = jnp.concatenate([to_units(frame.sizes, unit), fixed])

    def products_from(pivot: jax.Array) -> jax.Array:
        return total(add([_products_from(part, pivot, factors, known) for part in parts]))

    def equal(i: jax.Array, j: jax.Array) -> jax.Array:
        return every(jnp.stack([_equal_points(part, i, j) for part in parts]).all())

    return measure_again(gram, known, n, products_from, equal)


def _with_centre(geometry: Geometry) -> Geometry:
    """With the centre as the last of the fixed points."""
    squares = jnp.diagonal(geometry.gram)
    to_centre = jnp.where(known_points(geometry.finite, len(squares) - geometry.num_workers), squares, jnp.inf)
    separations = jnp.pad(geometry.separations, (0, 1)).at[-1, :-1].set(to_centre).at[:-1, -1].set(to_centre)
    return geometry._replace(gram=jnp.pad(geometry.gram, (0, 1)), separations=separations)


@over_coordinates(updates=STACK, returns=PLAIN)
def distances(updates: Stacked) -> jax.Array:
    """Squared Euclidean distances between workers, f32[n, n].

    ``D_ij = ‖x_i − x_j‖²``, to a relative error of 1e-4 for honest pairs whatever a minority of rows holds; +inf to
    and from a row with NaN or inf. A row beyond 2⁴⁶ times the median row's size keeps its distance to the others to
    three digits, not to other such rows. Squares beyond the range of float32 become inf.

    >>> distances(jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])).tolist()
    [[0.0, 25.0, 1.0], [25.0, 0.0, 18.0], [1.0, 18.0, 0.0]]
    """
    num_workers_of(updates)
    geometry, frame = measure(updates)
    # Seen from the honest rows, a far row's distance is that from the centre.
    far = jnp.where(frame.finite, jnp.maximum(geometry.unit, frame.sizes / FAR), geometry.unit)
    stretch = jnp.maximum(far[:, None], far[None, :])
    return geometry.distances * stretch * stretch  # in this order: the square of the stretch may be out of range


def _measure_small(
    matrices: list[jax.Array], references: list[jax.Array | None], origin: bool, dtype: jnp.dtype
) -> tuple[Geometry, Frame]:
    """All at once, always in robust units; on several devices, all of it on each."""
    local = [order_statistic(x.astype(dtype), (x.shape[0] - 1) // 2) for x in matrices]
    x, centre = joined([x.astype(dtype) for x in matrices]), joined(local)
    reference = None if references[0] is None else joined([r for r in references if r is not None])
    fixed = _fixed_points(reference, origin, centre.shape, dtype)
    offsets = x - centre[None]
    sizes = absolute(offsets).max(1, initial=0.0)
    tallest = jnp.abs(fixed - centre[None]).max(initial=0.0)
    unit = median_size(sizes, tallest if origin else None)
    reach = to_units(sizes, unit, FARTHEST) * unit

    def drawn_back(points: jax.Array, reach: jax.Array) -> jax.Array:
        return jnp.where(reach == 1.0, points, centre[None] + reach * (points - centre[None]))

    rows = jnp.where(jnp.isfinite(sizes)[:, None], drawn_back(x, reach[:, None]), 0.0)
    points = jnp.concatenate([rows, drawn_back(fixed, to_units(tallest, unit, FARTHEST) * unit), centre[None]])
    down = jnp.minimum(1.0, 1.0 / unit)
    places = Places(points * down, jnp.maximum(1.0, 1.0 / unit))
    return small_geometry(places, jnp.isfinite(sizes), unit), Frame(local, reach, sizes)


def _fixed_points(reference: jax.Array | None, origin: bool, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """The origin, if it is asked for, and the reference, if there is one: ``[p, d]``."""
    points = ([jnp.zeros(shape, dtype)] if origin else []) + ([] if reference is None else [reference])
    return jnp.stack(points) if points else jnp.zeros((0, *shape), dtype)


def _tallest(parts: list[_Points]) -> jax.Array:
    return greatest(jnp.stack([jnp.abs(part.fixed - part.centre[None]).max(initial=0.0) for part in parts]).max())


def _centre_and_products(
    x: jax.Array, reference: jax.Array | None, origin: bool, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """In one reading: the coordinate-wise lower median f32[d], and the inner products about it of the rows and the
    fixed points f32[n + p, n + p], in plain units.
    """
    n, d = x.shape
    p = int(origin) + (reference is not None)

    def step(carry, start: jax.Array, block: jax.Array, fresh: jax.Array):
        centre, inner, cross, among = carry
        centre = place(centre, start, order_statistic(block, (n - 1) // 2))
        # Read back what was written, or the median is computed again in every row that is centred on it.
        c = jax.lax.dynamic_slice_in_dim(centre, start, block.shape[1])
        r = None if reference is None else jax.lax.dynamic_slice_in_dim(reference, start, block.shape[1])
        rows = jnp.where(fresh[None], block - c[None], 0.0)
        fixed = jnp.where(fresh[None], _fixed_points(r, origin, c.shape, dtype) - c[None], 0.0)
        return (
            centre,
            inner + partial_products(rows, rows),
            cross + partial_products(rows, fixed),
            among + matmul(fixed, fixed.T),
        )

    start = tuple(jnp.zeros(shape, dtype) for shape in ((d,), (n, n), (n, p), (p, p)))
    centre, inner, cross, among = fold_blocks(step, start, x, dtype, memory_numbers())
    return centre, jnp.block([[inner, cross], [cross.T, among]])


def _largest_coordinates(part: _Points, dtype: jnp.dtype) -> jax.Array:
    """The largest coordinate of each centred row, f32[n]; +inf for lost rows."""

    def step(sizes: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array) -> jax.Array:
        del fresh
        c = jax.lax.dynamic_slice_in_dim(part.centre, start, block.shape[1])
        return jnp.maximum(sizes, absolute(block - c[None]).max(1))

    return fold_blocks(step, jnp.zeros((part.x.shape[0],), dtype), part.x, dtype, memory_numbers())


def _scaled_products(part: _Points, sizes: jax.Array, tallest: jax.Array, unit: jax.Array) -> jax.Array:
    """Inner products of rows and fixed points, every one brought to units before anything is squared."""
    factor = jnp.concatenate([to_units(sizes, unit), jnp.broadcast_to(to_units(tallest, unit), (len(part.fixed),))])
    known = known_points(jnp.isfinite(sizes), len(part.fixed))

    def step(gram: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array) -> jax.Array:
        c = jax.lax.dynamic_slice_in_dim(part.centre, start, block.shape[1])
        points = (part.block(start, block) - c[None]) * factor[:, None]
        points = jnp.where(fresh[None] & known[:, None], points, 0.0)
        return gram + partial_products(points, points)

    count = len(factor)
    return fold_blocks(step, jnp.zeros((count, count), sizes.dtype), part.x, sizes.dtype, memory_numbers())


def _products_from(part: _Points, pivot: jax.Array, factor: jax.Array, known: jax.Array) -> jax.Array:
    """Inner products of ``p_i − p_pivot(i)`` in units, f32[n + p, n + p]."""
    count = len(pivot)
    moved = (pivot != jnp.arange(count)) & known
    stretch = (factor - factor[pivot])[:, None]  # not 0 between points that were drawn back by different factors

    def step(gram: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array) -> jax.Array:
        c = jax.lax.dynamic_slice_in_dim(part.centre, start, block.shape[1])
        points = part.block(start, block)
        at = points[pivot]
        steps = (points - at) * factor[:, None] + jnp.where(stretch != 0, (at - c[None]) * stretch, 0.0)
        steps = jnp.where(fresh[None] & moved[:, None], steps, 0.0)
        return gram + partial_products(steps, steps)

    return fold_blocks(step, jnp.zeros((count, count), factor.dtype), part.x, factor.dtype, memory_numbers())


def _equal_points(part: _Points, i: jax.Array, j: jax.Array) -> jax.Array:
    """Whether two points are the same, read up to the first block that differs."""
    n, d = part.x.shape
    width = min(d, _COMPARED)

    def read(k: jax.Array, at: jax.Array) -> jax.Array:
        row = jax.lax.dynamic_slice(part.x, (jnp.minimum(k, n - 1).astype(at.dtype), at), (1, width))
        if len(part.fixed) == 0:
            return row
        fixed = jax.lax.dynamic_slice(part.fixed, (jnp.maximum(k - n, 0).astype(at.dtype), at), (1, width))
        return jnp.where(k < n, row.astype(fixed.dtype), fixed)

    def step(state):
        start, _ = state
        at = jnp.minimum(start, d - width)
        return start + width, (read(i, at) == read(j, at)).all()

    start = (jnp.zeros((), jnp.int32), jnp.ones((), bool))
    return while_loop(lambda state: state[1] & (state[0] < d), step, start)[1]
