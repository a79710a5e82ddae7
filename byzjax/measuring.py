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
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.blocks import (
    add,
    every,
    flatten,
    fold_blocks,
    greatest,
    in_turn,
    joined,
    matmul,
    memory_numbers,
    number_of_parts,
    only_if,
    partial_products,
    place,
    total,
    wide_dtype,
)
from byzjax.cancelling import measure_again
from byzjax.checks import num_workers_of
from byzjax.geometry import FAR, FARTHEST, Frame, Geometry, Lengths, Places, known_points, mask_gram, small_geometry
from byzjax.loops import while_loop
from byzjax.sorting import order_statistic, ranks
from byzjax.types import Numeric, Params, Stacked

_NEAR = 2.0**90  # a squared size in units below which no row is drawn back
_ORDINARY = (2.0**-80, 2.0**80)  # squared sizes that are summed in plain units
_EXACT = 1 << 17  # n·n·d up to which all differences are formed
_ROOM = 56  # powers of two by which a unit may be longer than the median row where lengths are all that is asked for
_COMPARED = 1 << 13  # coordinates of two points that are compared at a time
_WHOLE = 1 << 23  # numbers of a stack up to which lengths are summed without blocks: few enough for plain sums


class _Points(NamedTuple):
    """One matrix of the stack with the points that are measured along with its rows."""

    x: jax.Array  # [n, d]
    centre: jax.Array  # [d]
    fixed: jax.Array  # [p, d], as they are

    def block(self, start: jax.Array, rows: jax.Array) -> jax.Array:
        """``rows``, a block of ``x``, and the same coordinates of the fixed points: ``[n + p, b]``."""
        fixed = jax.lax.dynamic_slice_in_dim(self.fixed, start, rows.shape[1], axis=1)
        return jnp.concatenate([rows, fixed.astype(rows.dtype)])


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
    if matrices[0].shape[0] ** 2 * sum(x.shape[1] for x in matrices) * number_of_parts() <= _EXACT:
        return _measure_small(matrices, references, origin, dtype)
    return in_turn(functools.partial(_measure_large, origin=origin, dtype=dtype))(matrices, references)


def _measure_large(
    matrices: list[jax.Array], references: list[jax.Array | None], *, origin: bool, dtype: jnp.dtype
) -> tuple[Geometry, Frame]:
    """In one reading, block by block, and again what that did not settle."""
    seen = [_centre_and_products(x, r, origin, dtype) for x, r in zip(matrices, references, strict=True)]
    plain = total(add([gram for _, gram in seen]))
    parts = [
        _Points(x, c, _fixed_points(r, origin, c.shape, dtype))
        for x, (c, _), r in zip(matrices, seen, references, strict=True)
    ]
    n = matrices[0].shape[0]
    squares = jnp.diagonal(plain)
    middle, largest = _order_statistic(squares[:n], n // 2), squares.max()
    ordinary = (
        (middle >= _ORDINARY[0]) & (largest <= jnp.minimum(_ORDINARY[1], middle * _NEAR)) & jnp.isfinite(plain).all()
    )

    def measure_scaled(state):
        sizes = greatest(jnp.stack([_largest_coordinates(part, dtype) for part in parts]).max(0))
        tallest = _tallest(parts)
        unit = _median_size(sizes, tallest if origin else None)
        gram = total(add([_scaled_products(part, sizes, tallest, unit) for part in parts]))
        return gram, sizes, tallest

    sizes, tallest = jnp.sqrt(squares[:n]), jnp.sqrt(squares[n:].max(initial=0.0))
    unit = _median_size(sizes, tallest if origin else None)
    gram, sizes, tallest = only_if(~ordinary, measure_scaled, (plain / unit / unit, sizes, tallest))
    unit = _median_size(sizes, tallest if origin else None)
    factor = _factor(sizes, unit)
    frame = Frame([part.centre for part in parts], factor * unit, sizes)
    finite = frame.finite
    gram = mask_gram(0.5 * (gram + gram.T), finite)  # a product may round its halves differently; ties must be ties
    known = known_points(finite, len(gram) - n)
    factors = jnp.concatenate([factor, jnp.broadcast_to(_factor(tallest, unit), (len(gram) - n,))])

    def products_from(pivot: jax.Array) -> jax.Array:
        return total(add([_products_from(part, pivot, factors, known) for part in parts]))

    def equal(i: jax.Array, j: jax.Array) -> jax.Array:
        return every(jnp.stack([_equal_points(part, i, j) for part in parts]).all())

    separations = measure_again(gram, known, n, products_from, equal)
    return _with_centre(Geometry(gram, separations, finite, unit)), frame


def _with_centre(geometry: Geometry) -> Geometry:
    """With the centre as the last of the fixed points."""
    squares = jnp.diagonal(geometry.gram)
    to_centre = jnp.where(known_points(geometry.finite, len(squares) - geometry.num_workers), squares, jnp.inf)
    separations = jnp.pad(geometry.separations, (0, 1)).at[-1, :-1].set(to_centre).at[:-1, -1].set(to_centre)
    return geometry._replace(gram=jnp.pad(geometry.gram, (0, 1)), separations=separations)


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

    if sum(x.size for x in matrices) <= _EXACT:
        return _measure_lengths(matrices, points, dtype)
    return in_turn(functools.partial(_measure_lengths, dtype=dtype))(matrices, points)


def _measure_lengths(
    matrices: list[jax.Array], points: list[jax.Array | None], dtype: jnp.dtype
) -> tuple[Lengths, Frame]:
    n = matrices[0].shape[0]
    pairs = list(zip(matrices, points, strict=True))

    def fold(measure_block: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
        """``measure_block(carry, offsets)`` over all blocks: ``f32[n]``."""
        carry = jnp.zeros((n,), dtype)
        for x, p in pairs:
            if x.size <= _WHOLE:
                block = x.astype(dtype)
                carry = measure_block(carry, block if p is None else block - p[None])
                continue

            def step(carry: jax.Array, start: jax.Array, block: jax.Array, fresh: jax.Array, p=p) -> jax.Array:
                if p is not None:
                    block = block - jax.lax.dynamic_slice_in_dim(p, start, block.shape[1])[None]
                return measure_block(carry, jnp.where(fresh[None], block, 0.0))

            carry = fold_blocks(step, carry, x, dtype, memory_numbers())
        return carry

    plain = total(fold(lambda done, y: done + jnp.square(y).sum(1)))
    middle = _order_statistic(plain, n // 2)
    ordinary = (middle >= _ORDINARY[0]) & (plain <= jnp.minimum(_ORDINARY[1], middle * _NEAR)).all()

    def measure_scaled(state):
        sizes = greatest(fold(lambda largest, y: jnp.maximum(largest, _absolute(y).max(1, initial=0.0))))
        factor = _factor(sizes, _median_size(sizes, room=_ROOM))[:, None]
        squares = fold(lambda done, y: done + jnp.square(jnp.where(factor > 0, y * factor, 0.0)).sum(1))
        return total(squares), sizes

    sizes = jnp.sqrt(plain)
    unit = _median_size(sizes, room=_ROOM)
    squares, sizes = only_if(~ordinary, measure_scaled, (plain / unit / unit, sizes))
    unit = _median_size(sizes, room=_ROOM)
    frame = Frame(points, _factor(sizes, unit) * unit, sizes)
    return Lengths(jnp.where(frame.finite, squares, jnp.inf), frame.finite, unit), frame


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
    sizes = _absolute(offsets).max(1, initial=0.0)
    tallest = jnp.abs(fixed - centre[None]).max(initial=0.0)
    unit = _median_size(sizes, tallest if origin else None)
    reach = _factor(sizes, unit, FARTHEST) * unit

    def drawn_back(points: jax.Array, reach: jax.Array) -> jax.Array:
        return jnp.where(reach == 1.0, points, centre[None] + reach * (points - centre[None]))

    rows = jnp.where(jnp.isfinite(sizes)[:, None], drawn_back(x, reach[:, None]), 0.0)
    points = jnp.concatenate([rows, drawn_back(fixed, _factor(tallest, unit, FARTHEST) * unit), centre[None]])
    down = jnp.minimum(1.0, 1.0 / unit)
    places = Places(points * down, jnp.maximum(1.0, 1.0 / unit))
    return small_geometry(places, jnp.isfinite(sizes), unit), Frame(local, reach, sizes)


def _fixed_points(reference: jax.Array | None, origin: bool, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """The origin, if it is asked for, and the reference, if there is one: ``[p, d]``."""
    points = ([jnp.zeros(shape, dtype)] if origin else []) + ([] if reference is None else [reference])
    return jnp.stack(points) if points else jnp.zeros((0, *shape), dtype)


def _tallest(parts: list[_Points]) -> jax.Array:
    return greatest(jnp.stack([jnp.abs(part.fixed - part.centre[None]).max(initial=0.0) for part in parts]).max())


def _absolute(y: jax.Array) -> jax.Array:
    """``|y|``, +inf where it is not finite: a vectorised maximum may drop a NaN."""
    return jnp.where(jnp.isfinite(y), jnp.abs(y), jnp.inf)


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
        return jnp.maximum(sizes, _absolute(block - c[None]).max(1))

    return fold_blocks(step, jnp.zeros((part.x.shape[0],), dtype), part.x, dtype, memory_numbers())


def _scaled_products(part: _Points, sizes: jax.Array, tallest: jax.Array, unit: jax.Array) -> jax.Array:
    """Inner products of rows and fixed points, every one brought to units before anything is squared."""
    factor = jnp.concatenate([_factor(sizes, unit), jnp.broadcast_to(_factor(tallest, unit), (len(part.fixed),))])
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


def _factor(sizes: jax.Array, unit: jax.Array, far: float = FAR) -> jax.Array:
    """What scales a centred row to units, at most ``far`` of them; 0 for lost rows. Never a product that underflows."""
    return jnp.where(jnp.isfinite(sizes), jnp.minimum(1.0 / unit, far / jnp.maximum(sizes, unit)), 0.0)


def _median_size(sizes: jax.Array, tallest: jax.Array | None = None, room: int = 0) -> jax.Array:
    """A power of two near the median row's size.

    Where most rows are the centre itself, the smallest of the other sizes: whoever owns that row, rows drawn back to it
    keep their order, while a unit too large would make honest rows coincide. Rules that measure fixed points know
    absolute lengths, too: their unit is then at most the tallest point's size, 1 if that is 0, and never so small that
    such a point would be drawn back.

    Args:
      sizes: f32[n], +inf for lost rows.
      tallest: the size of the largest fixed point.
      room: raise the unit by so many powers of two at most where that keeps rows from being drawn back.
    """
    n = sizes.shape[0]
    positive = (sizes > 0) & jnp.isfinite(sizes)
    middle = _order_statistic(sizes, n // 2)
    other = jnp.where(positive, sizes, jnp.inf).min()
    if tallest is not None:
        other = jnp.minimum(other, jnp.where(tallest > 0, tallest, 1.0))
    size = jnp.where((middle > 0) & jnp.isfinite(middle), middle, jnp.where(jnp.isfinite(other), other, 1.0))
    if tallest is not None:
        size = jnp.maximum(size, tallest * 2.0**-40)
    if room:
        size = jnp.maximum(size, jnp.minimum(jnp.where(positive, sizes, 0.0).max() / FAR, size * 2.0**room))
    least = int(jnp.finfo(sizes.dtype).minexp)  # the inverse of the unit must not be subnormal: that flushes to 0
    _, exponent = jnp.frexp(size)
    return jnp.ldexp(jnp.ones((), sizes.dtype), jnp.clip(exponent - 1, least + 2, -least))


def _order_statistic(values: jax.Array, k: Numeric) -> jax.Array:
    """The k-th smallest of n numbers; NaN, as from a lost row, counts as +inf."""
    values = jnp.where(jnp.isnan(values), jnp.inf, values)
    return jnp.where(ranks(values) == k, values, 0.0).sum()
