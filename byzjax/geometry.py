"""What worker space knows of a stack: inner products and distances that a minority cannot spoil.

**Numerically Byzantine-proof.** The textbook ``‖a‖² + ‖b‖² − 2⟨a, b⟩`` in float32 loses honest distances to
cancellation, and centring on anything that attackers can move lets one huge row destroy them. Here

1. rows are centred on the coordinate-wise median, which a minority cannot move out of the honest range;
2. everything is measured in units of the median row's size, so nothing under- or overflows at any scale;
3. a row beyond 2⁴⁶ units is drawn back to 2⁴⁶ units on its own ray (its direction, all that a far row can tell, is
   kept); a row with NaN or inf is *lost*: distance +inf to all, weight exactly 0;
4. pairs so close that the Gram matrix cancels are measured again by their difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax.base import Numeric, Stacked, num_workers_of
from byzjax.blocks import add, flatten, map_blocks, matmul, sum_blocks
from byzjax.sorting import ranks, sort_workers

_FAR = 2.0**46  # the largest distance from the centre, in units of the median row
_ORDINARY = (2.0**-40, 2.0**40)  # sizes whose squares are summed in plain units
_EXACT = 1 << 17  # n·n·d up to which all differences are formed
_CANCELS = 2.0**-6  # a squared distance below this share of the squared norms is measured again


class Geometry(NamedTuple):
    """What worker space knows of n rows: inner products about a robust centre, in robust units.

    Attributes:
      gram: f32[n + 1, n + 1], inner products of the rows about the centre; the last row is the origin.
      distances: f32[n, n], squared distances, 0 on the diagonal, +inf to lost rows.
      finite: bool[n], false for lost rows. Their entries of ``gram`` are 0.
      unit: f32[], the length of one unit. Divide absolute thresholds by it.
    """

    gram: jax.Array
    distances: jax.Array
    finite: jax.Array
    unit: jax.Array

    @property
    def num_workers(self) -> int:
        return self.finite.shape[0]

    def mix(self, matrix: jax.Array) -> Geometry:
        """The geometry of ``matrix @ rows``; ``matrix`` is f32[m, n].

        A mixed row is lost if it puts any weight on a lost row.
        """
        affine = _with_origin(matrix)
        gram = matmul(matmul(affine, self.gram), affine.T)
        finite = ~touches_lost(matrix, self.finite)
        gram = _mask_gram(gram, finite)
        return self._replace(gram=gram, distances=_gram_distances(gram, finite), finite=finite)


class Frame(NamedTuple):
    """How rows were placed before they were measured; needed to apply weights.

    Attributes:
      centre: the coordinate-wise median of each matrix, f32[d] each.
      reach: f32[n], the factor by which a far row was drawn towards the centre; 1 for all others.
      sizes: f32[n], the largest coordinate of each centred row; +inf for lost rows.
    """

    centre: list[jax.Array]
    reach: jax.Array
    sizes: jax.Array

    @property
    def finite(self) -> jax.Array:
        return jnp.isfinite(self.sizes)


def measure(updates: Stacked) -> tuple[Geometry, Frame]:
    """The geometry of a stack, and the frame in which weights on it are applied.

    Reads the stack once where its scale is ordinary and no two rows nearly coincide.

    Args:
      updates: leaves ``[n, *p]``.
    """
    matrices, _ = flatten(updates)
    n = matrices[0].shape[0]
    seen = [_centre_and_products(x) for x in matrices]
    centre = [c for c, _, _ in seen]
    sizes = jnp.stack([size for _, _, size in seen]).max(0)
    tallest = jnp.stack([jnp.abs(c).max() for c in centre]).max()
    unit = _median_size(sizes, tallest)
    factor = _factor(sizes, unit)
    frame = Frame(centre, factor * unit, sizes)
    finite = frame.finite
    towards_origin = -_factor(tallest, unit)

    def rows(x: jax.Array, c: jax.Array) -> jax.Array:
        return jnp.where(jnp.isfinite(sizes)[:, None], (x - c[None]) * factor[:, None], 0.0)

    def products(x: jax.Array, c: jax.Array) -> jax.Array:
        points = jnp.concatenate([rows(x, c), (c * towards_origin)[None]])
        return matmul(points, points.T)

    pairs = list(zip(matrices, centre, strict=True))
    largest = jnp.maximum(tallest, jnp.where(finite, sizes, 0.0).max())
    drawn_back = largest > _FAR * unit
    extreme = (unit < _ORDINARY[0]) | (largest > _ORDINARY[1]) | drawn_back
    # At most one turn, none where the scale is ordinary; a conditional would run both ways under vmap.
    gram, _ = jax.lax.while_loop(
        lambda state: state[1],
        lambda state: (add([sum_blocks(products, x, c) for x, c in pairs]), jnp.zeros((), bool)),
        (_mask_gram(add([gram for _, gram, _ in seen]) / unit / unit, finite), extreme),
    )

    if n * n * sum(x.shape[1] for x in matrices) <= _EXACT:
        placed_rows = [rows(x, c) for x, c in pairs]
        distances = _lose(add([jnp.square(y[:, None] - y[None, :]).sum(-1) for y in placed_rows]), finite)
    else:

        def between(i: jax.Array, j: jax.Array) -> jax.Array:
            def squares(two: jax.Array, c: jax.Array) -> jax.Array:
                placed = (two - c[None]) * factor[jnp.stack([i, j])][:, None]
                return jnp.square(placed[0] - placed[1]).sum()

            return add([sum_blocks(squares, jnp.stack([x[i], x[j]]), c) for x, c in pairs])

        distances = _measure_again(_gram_distances(gram, finite), gram, between)
    return Geometry(gram, distances, finite, unit), frame


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
    far = jnp.where(frame.finite, jnp.maximum(geometry.unit, frame.sizes / _FAR), geometry.unit)
    stretch = jnp.maximum(far[:, None], far[None, :])
    return geometry.distances * stretch * stretch  # in this order: the square of the stretch may be out of range


def _centre_and_products(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """In one reading: the coordinate-wise lower median f32[d], the inner products about it of the rows and the origin
    f32[n + 1, n + 1] in plain units, and each centred row's largest coordinate f32[n], +inf if the row is lost.
    """
    n = x.shape[0]

    def lower_median(block: jax.Array) -> jax.Array:
        return sort_workers(block)[(n - 1) // 2]

    def fold(carry, block: jax.Array, centre: jax.Array, fresh: jax.Array):
        inner, cross, square, sizes = carry
        rows = jnp.where(fresh[None, :], block - centre[None], 0.0)
        origin = jnp.where(fresh, -centre, 0.0)
        return (
            inner + matmul(rows, rows.T),
            cross + matmul(rows, origin),
            square + matmul(origin, origin),
            # Not finite becomes inf before the maximum: a vectorised maximum may drop a NaN.
            jnp.maximum(sizes, jnp.where(jnp.isfinite(rows), jnp.abs(rows), jnp.inf).max(1)),
        )

    start = tuple(jnp.zeros(shape, x.dtype) for shape in ((n, n), (n,), (), (n,)))
    centre, (inner, cross, square, sizes) = map_blocks(lower_median, x, fold=fold, carry=start)
    gram = jnp.block([[inner, cross[:, None]], [cross[None, :], square.reshape(1, 1)]])
    return centre, gram, sizes


def _factor(sizes: jax.Array, unit: jax.Array) -> jax.Array:
    """What scales a centred row to units, at most `_FAR` of them; 0 for lost rows. Never a product that underflows."""
    return jnp.where(jnp.isfinite(sizes), jnp.minimum(1.0 / unit, _FAR / jnp.maximum(sizes, unit)), 0.0)


def _median_size(sizes: jax.Array, tallest: jax.Array) -> jax.Array:
    """A power of two near the median row's size.

    Where most rows are the centre itself, the smallest of the other sizes, the centre's own and 1. Whoever owns that
    row, rows drawn back to it keep their order, while a unit too large would make honest rows coincide.
    """
    n = sizes.shape[0]
    positive = (sizes > 0) & jnp.isfinite(sizes)
    middle = _order_statistic(sizes, n // 2)
    least_other = jnp.minimum(jnp.where(positive, sizes, jnp.inf).min(), jnp.where(tallest > 0, tallest, 1.0))
    size = jnp.where((middle > 0) & jnp.isfinite(middle), middle, jnp.minimum(least_other, 1.0))
    least = int(jnp.finfo(sizes.dtype).minexp)  # the inverse of the unit must not be subnormal: that flushes to 0
    _, exponent = jnp.frexp(size)
    return jnp.ldexp(jnp.ones((), sizes.dtype), jnp.clip(exponent - 1, least + 2, -least))


def _order_statistic(values: jax.Array, k: Numeric) -> jax.Array:
    return jnp.where(ranks(values) == k, values, 0.0).sum()


def _with_origin(matrix: jax.Array) -> jax.Array:
    """``[m, n] -> [m + 1, n + 1]``: what a row's weights lack to 1 lies on the origin, which maps to itself."""
    n = matrix.shape[1]
    rest = 1.0 - matrix.sum(1, keepdims=True)
    origin = jnp.zeros((1, n + 1), matrix.dtype).at[0, n].set(1.0)
    return jnp.concatenate([jnp.concatenate([matrix, rest], axis=1), origin], axis=0)


def touches_lost(matrix: jax.Array, finite: jax.Array) -> jax.Array:
    """Which mixed rows put weight on a lost row: bool[m]."""
    return ((matrix != 0) & ~finite[None, :]).any(1)


def _mask_gram(gram: jax.Array, finite: jax.Array) -> jax.Array:
    keep = jnp.append(finite, True)
    return jnp.where(keep[:, None] & keep[None, :], gram, 0.0)


def _lose(squared: jax.Array, finite: jax.Array) -> jax.Array:
    """Distances with lost rows at +inf and a diagonal of exact zeros."""
    n = finite.shape[0]
    both = finite[:, None] & finite[None, :]
    return jnp.where(jnp.eye(n, dtype=bool), 0.0, jnp.where(both, squared, jnp.inf))


def _gram_distances(gram: jax.Array, finite: jax.Array) -> jax.Array:
    n = finite.shape[0]
    inner = gram[:n, :n]
    squares = jnp.diagonal(inner)
    return _lose(jnp.maximum(squares[:, None] + squares[None, :] - 2.0 * inner, 0.0), finite)


def _measure_again(
    squared: jax.Array, gram: jax.Array, between: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """Replace the distances that suffered from cancellation by sums of squared differences, a pair at a time.

    None for rows in general position. A row found identical to an earlier one becomes its alias, so that b colluding
    copies cost b - 1 pairs.

    Args:
      squared: f32[n, n], distances from inner products.
      gram: f32[n + 1, n + 1].
      between: ``(i, j) -> f32[]``, the squared distance by differences.
    """
    n = squared.shape[0]
    squares = jnp.diagonal(gram)[:n]
    close = squared < _CANCELS * (squares[:, None] + squares[None, :])
    index = jnp.arange(n)

    def again(carry):
        squared, close, alias = carry
        i, j = jnp.unravel_index(jnp.argmax(close), (n, n))
        exact = between(i, j)
        pair = (index[:, None] == i) & (index[None, :] == j)
        squared = jnp.where(pair | pair.T, exact, squared)
        copy = (index == j) & (exact == 0.0)
        close = close & ~pair & ~copy[:, None] & ~copy[None, :]
        return squared, close, jnp.where(copy, i, alias)

    start = (squared, close & (index[:, None] < index[None, :]), index)
    squared, _, alias = jax.lax.while_loop(lambda carry: carry[1].any(), again, start)
    return squared[alias][:, alias]
