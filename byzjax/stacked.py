"""The only module that touches ``n × d`` stacks.

Rules live in worker space: they see the `Geometry` of the rows (``n × n`` numbers), answer with weights or with a
mixing matrix, and this module applies the answer. Coordinatewise rules get the stack as matrices ``[n, d]``.

**Numerically Byzantine-proof.** The textbook ``‖a‖² + ‖b‖² − 2⟨a, b⟩`` in float32 loses honest distances to
cancellation, and centring on anything that attackers can move lets one huge row destroy them. Here

1. rows are centred on the coordinate-wise median, which a minority cannot move out of the honest range;
2. everything is measured in units of the median row's size, so nothing under- or overflows at any scale;
3. a row beyond 2⁴⁶ units is drawn back to 2⁴⁶ units on its own ray (its direction, all that a far row can tell, is
   kept); a row with NaN or inf is *lost*: distance +inf to all, weight exactly 0;
4. pairs so close that the Gram matrix cancels are measured again by their difference.

Sums over the worker axis are written row by row: a reduction over the leading axis is an order of magnitude
slower on CPU, and a product with a matrix cannot skip a row of NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax.base import Numeric, Params, Stacked, num_workers_of
from byzjax.sorting import ranks, sort_workers

_HIGHEST = jax.lax.Precision.HIGHEST  # the default float32 product on accelerators is TF32
_SMALL_LEAF = 1 << 16  # leaves with fewer coordinates are joined into one matrix
_UNROLL = 64  # rows that are summed one by one
_BLOCK = 1 << 16  # coordinates of the median that are computed at a time
_FAR = 2.0**46  # the largest distance from the centre, in units of the median row
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
        gram = _matmul(_matmul(affine, self.gram), affine.T)
        finite = ~_touches_lost(matrix, self.finite)
        gram = _mask_gram(gram, finite)
        return self._replace(gram=gram, distances=_gram_distances(gram, finite), finite=finite)


class Frame(NamedTuple):
    """How rows were placed before they were measured; needed to apply weights.

    Attributes:
      centre: the coordinate-wise median of each matrix, f32[d] each.
      reach: f32[n], the factor by which a far row was drawn towards the centre; 1 for all others.
      finite: bool[n].
    """

    centre: list[jax.Array]
    reach: jax.Array
    finite: jax.Array


def measure(updates: Stacked) -> tuple[Geometry, Frame]:
    """The geometry of a stack, and the frame in which weights on it are applied.

    Args:
      updates: leaves ``[n, *p]``.
    """
    matrices, _ = _flatten(updates)
    n = matrices[0].shape[0]
    centre = [_lower_median(x) for x in matrices]
    sizes = jnp.stack([_row_sizes(x, c) for x, c in zip(matrices, centre, strict=True)]).max(0)
    finite = jnp.isfinite(sizes)
    unit = _median_size(sizes)
    reach = jnp.where(finite, jnp.minimum(1.0, _FAR * unit / jnp.maximum(sizes, unit)), 0.0).astype(unit.dtype)
    factor = reach / unit

    rows = [
        jnp.where(finite[:, None], (x - c[None]) * factor[:, None], 0.0) for x, c in zip(matrices, centre, strict=True)
    ]
    gram = _add([_matmul(y, y.T) for y in rows])
    tallest = jnp.stack([jnp.abs(c).max() for c in centre]).max()
    towards = -jnp.minimum(1.0 / unit, _FAR / jnp.maximum(tallest, unit))
    cross = _add([_matmul(y, c * towards) for y, c in zip(rows, centre, strict=True)])
    square = _add([jnp.sum(jnp.square(c * towards)) for c in centre])
    gram = jnp.block([[gram, cross[:, None]], [cross[None, :], jnp.reshape(square, (1, 1))]])

    width = sum(y.shape[1] for y in rows)
    if n * n * width <= _EXACT:
        distances = _add([jnp.square(y[:, None] - y[None, :]).sum(-1) for y in rows])
        distances = _lose(distances, finite)
    else:
        distances = _measure_again(_gram_distances(gram, finite), gram, rows, finite)
    return Geometry(gram, distances, finite, unit), Frame(centre, reach, finite)


def distances(updates: Stacked) -> jax.Array:
    """Squared Euclidean distances between workers, f32[n, n].

    ``D_ij = ‖x_i − x_j‖²``, to a relative error of 1e-4 for honest pairs whatever a minority of rows holds; +inf to
    and from a row with NaN or inf. Squares beyond the range of float32 become inf.

    >>> distances(jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])).tolist()
    [[0.0, 25.0, 1.0], [25.0, 0.0, 18.0], [1.0, 18.0, 0.0]]
    """
    num_workers_of(updates)
    matrices, _ = _flatten(updates)
    geometry, frame = measure(updates)
    drawn_back = frame.finite & (frame.reach < 1.0)
    sizes = jnp.stack([_row_sizes(x, c) for x, c in zip(matrices, frame.centre, strict=True)]).max(0)
    true = geometry.distances * geometry.unit * geometry.unit
    # Seen from the honest rows, a far row's distance is that from the centre.
    far = jnp.where(drawn_back, sizes / (_FAR * geometry.unit), 1.0)
    stretch = jnp.maximum(far[:, None], far[None, :])
    return true * stretch * stretch


def combine(weights: jax.Array, updates: Stacked, frame: Frame) -> Params:
    """``Σ_i w_i x_i``, with far rows drawn back. Weight on a lost row is NaN, its absence exactly nothing.

    Args:
      weights: f32[n]; the missing part ``1 − Σ w_i`` lies on the origin.
    """
    matrices, unflatten = _flatten(updates)
    kept = weights * frame.reach
    spared = jnp.sum(weights * (1.0 - frame.reach), where=frame.finite)
    lost = jnp.where(jnp.any((weights != 0) & ~frame.finite), jnp.nan, 0.0).astype(kept.dtype)
    spared = spared + lost
    return unflatten(
        [
            _weighted_sum(kept, x) + jnp.where(spared != 0, spared * c, 0.0)
            for x, c in zip(matrices, frame.centre, strict=True)
        ]
    )


def mix(matrix: jax.Array, updates: Stacked, frame: Frame) -> Stacked:
    """``matrix @ x``: leaves ``[m, *p]``. A row that puts weight on a lost row is NaN.

    Args:
      matrix: f32[m, n].
    """
    matrices, unflatten = _flatten(updates)
    lost = _touches_lost(matrix, frame.finite)
    return unflatten(
        [jnp.where(lost[:, None], jnp.nan, _matmul(matrix, jnp.where(frame.finite[:, None], x, 0.0))) for x in matrices]
    )


def coordinatewise(reduce: Callable[[jax.Array], jax.Array], updates: Stacked) -> Params:
    """Apply ``reduce: [n, d] -> [d]`` to every coordinate of a stack; 16-bit floats are reduced in float32."""
    matrices, unflatten = _flatten(updates)
    return unflatten([reduce(x) for x in matrices])


def row_mean(x: jax.Array) -> jax.Array:
    """``(1/n) Σ_i x_i``: ``[n, d] -> [d]``, NaN and all."""
    n = x.shape[0]
    if n > _UNROLL:
        return _matmul(jnp.full((n,), 1.0 / n, x.dtype), x)
    return _add(list(x)) / n


def masked_mean(updates: Stacked, mask: jax.Array) -> Params:
    """The mean of the rows where ``mask`` (bool[n]) is true; the others are not read, be they NaN."""
    count = jnp.maximum(mask.sum(), 1)
    return coordinatewise(lambda x: _weighted_sum(mask.astype(x.dtype), x) / count.astype(x.dtype), updates)


def masked_std(updates: Stacked, mask: jax.Array, ddof: Numeric = 0) -> Params:
    """The coordinate-wise standard deviation of the rows where ``mask`` is true, ``ddof`` as in NumPy."""

    def std(x):
        dtype = x.dtype
        count = mask.sum().astype(dtype)
        mean = _weighted_sum(mask.astype(dtype), x) / jnp.maximum(count, 1)
        total = _add([jnp.where(m, jnp.square(row - mean), 0.0) for m, row in zip(mask, x, strict=True)])
        return jnp.sqrt(total / jnp.maximum(count - ddof, 1))

    return coordinatewise(std, updates)


def norms_about(updates: Stacked, centre: Params) -> jax.Array:
    """``‖x_i − c‖`` of every row, f32[n]. Not guarded against overflow: a measurement, not a decision."""
    matrices, _ = _flatten(updates)
    centres, _ = _flatten(jax.tree.map(lambda c: c[None], centre))
    return jnp.sqrt(_add([jnp.square(x - c).sum(1) for x, c in zip(matrices, centres, strict=True)]))


def replace_rows(updates: Stacked, mask: jax.Array, rows: Stacked | Params) -> Stacked:
    """``updates`` with the masked rows taken from ``rows``: leaves ``[n, *p]``, or one row ``[*p]`` for all."""

    def replace(x, y):
        y = y if y.ndim == x.ndim else y[None]
        return jnp.where(mask.reshape((-1,) + (1,) * (x.ndim - 1)), y, x).astype(x.dtype)

    return jax.tree.map(replace, updates, rows)


def _flatten(updates: Stacked) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Stacked]]:
    """A stack as matrices ``[n, d_k]`` in at least float32, small leaves joined; and the way back.

    The way back takes matrices ``[m, d_k]`` or vectors ``[d_k]`` and restores each leaf's shape and dtype.
    """
    leaves, structure = jax.tree.flatten(updates)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    n = leaves[0].shape[0]
    dtype = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32
    flat = [leaf.reshape(n, leaf.size // n).astype(dtype) for leaf in leaves]
    large = [k for k, x in enumerate(flat) if x.shape[1] > _SMALL_LEAF]
    small = [k for k, x in enumerate(flat) if x.shape[1] <= _SMALL_LEAF]
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


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _add(rows: list[jax.Array]) -> jax.Array:
    """The sum of equal arrays, pairwise, so that rounding grows with log n."""
    while len(rows) > 1:
        pairs = [a + b for a, b in zip(rows[::2], rows[1::2], strict=False)]
        rows = pairs + ([rows[-1]] if len(rows) % 2 else [])
    return rows[0]


def _weighted_sum(weights: jax.Array, x: jax.Array) -> jax.Array:
    """``Σ_i w_i x_i`` where a weight of 0 removes its row, be it NaN."""
    n = x.shape[0]
    weights = weights.astype(x.dtype)
    if n > _UNROLL:
        return _matmul(weights, jnp.where((weights != 0)[:, None], x, 0.0))
    return _add([jnp.where(weights[i] != 0, weights[i] * x[i], 0.0) for i in range(n)])


def _lower_median(x: jax.Array) -> jax.Array:
    """The coordinate-wise lower median of ``[n, d]``, a block of coordinates at a time.

    The loop is also what keeps XLA from fusing the network into every row that is later centred.
    """
    n, d = x.shape
    block = max(1, min(_BLOCK, -(-d // 2)))

    def body(i, out):
        start = jnp.minimum(i * block, d - block)  # the last block may overlap the one before
        part = jax.lax.dynamic_slice_in_dim(x, start, block, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(out, sort_workers(part)[(n - 1) // 2], start, axis=0)

    return jax.lax.fori_loop(0, -(-d // block), body, jnp.zeros((d,), x.dtype))


def _row_sizes(x: jax.Array, centre: jax.Array) -> jax.Array:
    """The largest coordinate of each centred row, +inf where one is not finite: f32[n]."""
    size = jnp.abs(x - centre[None])
    return jnp.where(jnp.isfinite(size), size, jnp.inf).max(1)


def _median_size(sizes: jax.Array) -> jax.Array:
    """A power of two near the median row's size; where most rows are the centre itself, the median of the others."""
    n = sizes.shape[0]
    positive = (sizes > 0) & jnp.isfinite(sizes)
    middle = _order_statistic(sizes, n // 2)
    others = _order_statistic(jnp.where(positive, sizes, jnp.inf), (positive.sum(dtype=jnp.int32) - 1) // 2)
    size = jnp.where((middle > 0) & jnp.isfinite(middle), middle, jnp.where(positive.any(), others, 1.0))
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


def _touches_lost(matrix: jax.Array, finite: jax.Array) -> jax.Array:
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


def _measure_again(squared: jax.Array, gram: jax.Array, rows: list[jax.Array], finite: jax.Array) -> jax.Array:
    """Replace the distances that suffered from cancellation by sums of squared differences, a row at a time.

    One pass over the data per row that has such a pair: none for rows in general position, a few for colluding
    copies, at most n - 1.
    """
    n = finite.shape[0]
    squares = jnp.diagonal(gram)[:n]
    close = squared < _CANCELS * (squares[:, None] + squares[None, :])
    close &= ~jnp.eye(n, dtype=bool)

    def again(carry):
        squared, close = carry
        i = jnp.argmax(close.any(1))
        exact = _add([jnp.square(y - y[i][None]).sum(1) for y in rows])
        mine = jnp.arange(n) == i
        squared = jnp.where(close & mine[:, None], exact[None, :], squared)
        squared = jnp.where(close & mine[None, :], exact[:, None], squared)
        return squared, close & ~mine[:, None] & ~mine[None, :]

    squared, _ = jax.lax.while_loop(lambda carry: carry[1].any(), again, (squared, close))
    return squared


__all__ = [
    "Frame",
    "Geometry",
    "combine",
    "coordinatewise",
    "distances",
    "masked_mean",
    "masked_std",
    "measure",
    "mix",
    "norms_about",
    "ranks",
    "replace_rows",
    "row_mean",
    "sort_workers",
]
