"""What worker space knows of a stack: inner products and distances of its rows, and what mixing makes of them.

`gram` says how they are taken from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.stacked.close_pairs import lose, measure_again
from byzjax.stacked.sums import matmul, product

FARTHEST = 2.0**110  # the same in a small stack, where lengths are measured, and no squares
FAR = 2.0**46  # the largest distance from the centre that a row is measured at, in units of the median row


class Places(NamedTuple):
    """Where the points of a small stack lie, so that any two of them can be subtracted.

    Attributes:
      points: f32[n + p, d], the rows, lost ones zeroed and far ones drawn back, and the fixed points; scaled down where
        a unit is longer than 1.
      scale: f32[], what brings differences of points to units.
    """

    points: jax.Array
    scale: jax.Array

    def offsets(self, k: Any) -> jax.Array:
        """``p_i − p_k`` in units, f32[n + p, d]: near the k-th point no digit is lost."""
        return (self.points - self.points[k][None]) * self.scale


class Geometry(NamedTuple):
    """What worker space knows of n rows: inner products about a robust centre, in robust units, and all distances.

    Besides the rows there are p fixed points: the origin, if it was asked for, the reference, if one was given, and
    always last the centre itself, the coordinate-wise lower median of the rows as they were received.

    Attributes:
      gram: f32[n + p, n + p], inner products about the centre.
      separations: f32[n + p, n + p], squared distances, 0 on the diagonal, +inf to lost rows. Those of rows, and of
        rows to fixed points, keep their digits however small they are beside the gram matrix.
      finite: bool[n], false for lost rows. Their entries of ``gram`` are 0.
      unit: f32[], the length of one unit. Divide absolute thresholds by it.
      places: of a small stack, else None: then combinations of points are measured by inner products.
    """

    gram: jax.Array
    separations: jax.Array
    finite: jax.Array
    unit: jax.Array
    places: Places | None = None

    @property
    def num_workers(self) -> int:
        return self.finite.shape[0]

    @property
    def num_points(self) -> int:
        """How many there are, n + p."""
        return self.gram.shape[0]

    @property
    def rows(self) -> jax.Array:
        """f32[n, n], the inner products of the rows alone."""
        n = self.num_workers
        return self.gram[:n, :n]

    @property
    def distances(self) -> jax.Array:
        """f32[n, n], the squared distances of the rows."""
        n = self.num_workers
        return self.separations[:n, :n]

    @property
    def far(self) -> jax.Array:
        """bool[n], rows that were drawn back: their distances to each other and absolute ones are not known."""
        n = self.num_workers
        return jnp.diagonal(self.gram)[:n] > 0.99 * FAR**2

    def index_of(self, about: Any) -> Any:
        """Which point that is: "origin", "previous" (the reference), "median" (the centre), or the index of a row."""
        n = self.num_workers
        return {"origin": n, "previous": n + 1, "median": self.num_points - 1}.get(about, about)

    def squared_norms(self, about: Any = "origin") -> jax.Array:
        """``‖x_i − p‖²``, f32[n], +inf for lost rows; of a point p as in `index_of`."""
        k = self.index_of(about)
        if self.places is None:
            return self.separations[k, : self.num_workers]
        squares = jnp.square(self.places.offsets(k)[: self.num_workers]).sum(-1)
        return jnp.where(self.finite, squares, jnp.inf)

    def norms(self, about: Any = "origin") -> jax.Array:
        """``‖x_i − p‖``, f32[n], as `squared_norms`; of a small stack also where the square is out of range."""
        if self.places is None:
            return safe_sqrt(self.squared_norms(about))
        return jnp.where(self.finite, _norms(self.places.offsets(self.index_of(about))[: self.num_workers]), jnp.inf)

    def distances_from(self, point: jax.Array) -> jax.Array:
        """``‖x_i − z‖`` from a combination ``z = Σ_j a_j p_j`` of the points, f32[n]; +inf for lost rows.

        Measured about the point of largest weight, ``z − p = Σ_{j ≠ p} a_j (p_j − p)``: so an iterate that leaves a row
        by a billionth of a unit is known to be a billionth of a unit away.

        Args:
          point: f32[n + p], the weights a_j, of sum 1.
        """
        n, pivot, others = self.num_workers, jnp.argmax(point), _without_largest(point)
        if self.places is not None:
            away = _distances_by_differences(self.places.offsets(pivot), others)[:n]
        else:
            away = _distances_by_products(self._about(pivot), self.separations[pivot], others)[:n]
        return jnp.where(self.finite, away, jnp.inf)

    def distance_between(self, one: jax.Array, other: jax.Array) -> jax.Array:
        """``‖Σ_j (a_j − b_j) p_j‖`` of two combinations of the points, f32[]."""
        pivot = jnp.argmax(one)
        moved = jnp.where(jnp.arange(len(one)) == pivot, 0.0, one - other)
        if self.places is not None:
            return _norms(product(moved, self.places.offsets(pivot))[None])[0]
        return safe_sqrt((moved[:, None] * self._about(pivot) * moved[None, :]).sum())

    def mix(self, matrix: jax.Array, affine: bool = False) -> Geometry:
        """The geometry of ``matrix @ rows``; ``matrix`` is f32[m, n].

        A mixed row is lost if it puts any weight on a lost row.

        Args:
          matrix: what its rows lack to 1 lies on the origin.
          affine: they lack nothing but rounding.
        """
        n, count, m = self.num_workers, self.num_points - self.num_workers, len(matrix)
        mixing = _with_fixed_points(matrix, count, affine)
        finite = ~touches_lost(matrix, self.finite)
        if self.places is not None:
            # About the origin rows that were scaled down to it keep their digits, about the centre those near it.
            offsets = self.places.offsets(-1 if affine else n)
            points = jnp.where(known_points(finite, count)[:, None], matmul(mixing, offsets), 0.0)
            return small_geometry(Places(points, jnp.ones((), points.dtype)), finite, self.unit)
        gram = mask_gram(matmul(matmul(mixing, self.gram), mixing.T), finite)
        squared = jnp.where(jnp.isfinite(self.separations), self.separations, 0.0)

        def products_from(pivot: jax.Array) -> jax.Array:
            steps = mixing - mixing[pivot]
            return -0.5 * matmul(matmul(steps, squared), steps.T)

        separations = measure_again(gram, known_points(finite, count), m, products_from)
        return self._replace(gram=gram, separations=separations, finite=finite)

    def _about(self, pivot: jax.Array) -> jax.Array:
        """``⟨p_i − p, p_j − p⟩``, f32[n + p, n + p]: from distances, or about the centre, whichever rounds less."""
        squares, known = jnp.diagonal(self.gram), jnp.isfinite(self.separations[pivot])
        among = jnp.where(jnp.isfinite(self.separations), self.separations, 0.0)
        to_pivot = among[pivot]
        reach = jnp.sqrt(squares) + jnp.sqrt(squares[pivot])
        sums = to_pivot[:, None] + to_pivot[None, :]
        by_gram = self.gram - self.gram[pivot][:, None] - self.gram[pivot][None, :] + squares[pivot]
        inner = jnp.where(sums + among < reach[:, None] * reach[None, :], 0.5 * (sums - among), by_gram)
        # By Cauchy and Schwarz, so that a copy of p has no product that is rounding alone.
        lengths = safe_sqrt(to_pivot)
        limit = lengths[:, None] * lengths[None, :]
        return jnp.where(known[:, None] & known[None, :], jnp.clip(inner, -limit, limit), 0.0)


def small_geometry(places: Places, finite: jax.Array, unit: jax.Array) -> Geometry:
    """The geometry of points that are all there: all differences are formed, no loops, which is what ``vmap`` likes."""
    placed = places.offsets(-1)
    placed = placed * (FAR / jnp.maximum(jnp.abs(placed).max(-1, initial=0.0), FAR))[:, None]
    known = known_points(finite, len(placed) - len(finite))
    separations = lose(jnp.square(placed[:, None] - placed[None, :]).sum(-1), known)
    gram = jnp.where(known[:, None] & known[None, :], matmul(placed, placed.T), 0.0)
    return Geometry(gram, separations, finite, unit, places)


def _without_largest(point: jax.Array) -> jax.Array:
    return jnp.where(jnp.arange(len(point)) == jnp.argmax(point), 0.0, point)


def _distances_by_differences(offsets: jax.Array, others: jax.Array) -> jax.Array:
    """``‖p_i − p − Σ_j a_j (p_j − p)‖`` from the differences from p."""
    scale, shares = _scaled(others)
    return _norms(offsets - scale * product(shares, offsets)[None])


def _distances_by_products(about: jax.Array, to_pivot: jax.Array, others: jax.Array) -> jax.Array:
    """``‖p_i − p − Σ_j a_j (p_j − p)‖`` from inner products about p, and squared distances to it."""
    scale, shares = _scaled(others)
    inner = (about * shares[None]).sum(-1)
    weights = jnp.abs(shares)
    # What cancels down to rounding is not known to be zero, and must not hold an iteration on the row.
    rounding = float(jnp.finfo(about.dtype).eps)
    least = rounding * (weights[:, None] * jnp.abs(about) * weights[None]).sum()
    step = jnp.maximum((shares * inner).sum(), least)
    known = jnp.where(jnp.isfinite(to_pivot), to_pivot, 0.0)
    squared = jnp.maximum(known - 2.0 * scale * inner + scale * (scale * step), rounding * known)
    at_pivot = known <= 2.0**26 * float(jnp.finfo(known.dtype).tiny)  # squares of steps may be out of range
    return jnp.where(at_pivot, scale * safe_sqrt(step), safe_sqrt(squared))


def _scaled(others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of the weights, and their shares in it."""
    scale = jnp.abs(others).sum()
    return scale, others / jnp.where(scale > 0, scale, 1.0)


def _norms(rows: jax.Array) -> jax.Array:
    """``‖x_i‖``, where the squares may be out of range."""
    size = jnp.abs(rows).max(-1, initial=0.0)
    unit = jnp.where(size > 0, size, 1.0)
    return size * safe_sqrt(jnp.square(rows / unit[:, None]).sum(-1))


def safe_sqrt(squared: jax.Array) -> jax.Array:
    """The root, 0 of what is not positive; its derivative there is 0 instead of infinite."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


class Lengths(NamedTuple):
    """What `Geometry` tells of the rows' distances from one point, for rules that ask for no more.

    Attributes:
      squares: f32[n], squared, in robust units; +inf for lost rows.
      finite: bool[n].
      unit: f32[].
    """

    squares: jax.Array
    finite: jax.Array
    unit: jax.Array

    @property
    def num_workers(self) -> int:
        return self.finite.shape[0]

    def squared_norms(self, about: Any = "origin") -> jax.Array:
        """f32[n], about the point that was measured from, which the kernel named itself."""
        del about
        return self.squares

    def norms(self, about: Any = "origin") -> jax.Array:
        """The roots of `squared_norms`."""
        return safe_sqrt(self.squared_norms(about))


class Frame(NamedTuple):
    """How rows were placed before they were measured; needed to apply weights.

    Attributes:
      centre: the coordinate-wise lower median of each matrix, f32[d] each; or the point that lengths were measured
        from, None for the origin.
      reach: f32[n], the factor by which a far row was drawn towards the centre; 1 for all others.
      sizes: f32[n], the size of each centred row: its norm, or where that is out of range its largest coordinate; +inf
        for lost rows.
    """

    centre: Sequence[jax.Array | None]
    reach: jax.Array
    sizes: jax.Array

    @property
    def finite(self) -> jax.Array:
        return jnp.isfinite(self.sizes)


def known_points(finite: jax.Array, count: int) -> jax.Array:
    """Which of the rows and the ``count`` fixed points are finite: bool[n + p]."""
    return jnp.concatenate([finite, jnp.ones((count,), bool)])


def _with_fixed_points(matrix: jax.Array, count: int, affine: bool) -> jax.Array:
    """``[m, n] -> [m + p, n + p]``: what a row's weights lack to 1 lies on the origin; fixed points stay."""
    m, n = matrix.shape
    rest = jnp.zeros((m, count), matrix.dtype)
    if not affine:
        rest = rest.at[:, 0].set(1.0 - matrix.sum(1))
    return jnp.block([[matrix, rest], [jnp.zeros((count, n), matrix.dtype), jnp.eye(count, dtype=matrix.dtype)]])


def touches_lost(matrix: jax.Array, finite: jax.Array) -> jax.Array:
    """Which mixed rows put weight on a lost row: bool[m]."""
    return ((matrix != 0) & ~finite[None, :]).any(1)


def mask_gram(gram: jax.Array, finite: jax.Array) -> jax.Array:
    keep = known_points(finite, gram.shape[0] - finite.shape[0])
    return jnp.where(keep[:, None] & keep[None, :], gram, 0.0)
