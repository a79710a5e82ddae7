"""What worker space knows of a stack: inner products and distances of its rows, and what mixing makes of them.

`measuring` says how they are taken from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.blocks import matmul

FAR = 2.0**46  # the largest distance from the centre that a row is measured at, in units of the median row


class Geometry(NamedTuple):
    """What worker space knows of n rows: inner products about a robust centre, in robust units.

    Attributes:
      gram: f32[n + p, n + p], inner products about the centre of the rows and of p fixed points: the origin, if it was
        asked for, and the reference, if one was given.
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

    @property
    def rows(self) -> jax.Array:
        """f32[n, n], the inner products of the rows alone."""
        n = self.num_workers
        return self.gram[:n, :n]

    @property
    def far(self) -> jax.Array:
        """bool[n], rows that were drawn back: their distances to each other and absolute ones are not known."""
        n = self.num_workers
        return jnp.diagonal(self.gram)[:n] > 0.99 * FAR**2

    def squared_norms(self, about: Any = "origin") -> jax.Array:
        """``‖x_i − p‖²``, f32[n]; +inf for lost rows.

        Args:
          about: p: "origin", "previous" (the reference), "median" (the centre), or the index of a row.
        """
        n = self.num_workers
        squares = jnp.diagonal(self.gram)
        if not isinstance(about, str):
            return self.distances[about]
        if about == "median":
            norms = squares[:n]
        else:
            point = {"origin": n, "previous": n + 1}[about]
            norms = jnp.maximum(squares[:n] - 2.0 * self.gram[point, :n] + squares[point], 0.0)
        return jnp.where(self.finite, norms, jnp.inf)

    def mix(self, matrix: jax.Array) -> Geometry:
        """The geometry of ``matrix @ rows``; ``matrix`` is f32[m, n].

        A mixed row is lost if it puts any weight on a lost row.
        """
        affine = _with_fixed_points(matrix, self.gram.shape[0] - self.num_workers)
        gram = matmul(matmul(affine, self.gram), affine.T)
        finite = ~touches_lost(matrix, self.finite)
        gram = mask_gram(gram, finite)
        return self._replace(gram=gram, distances=gram_distances(gram, finite), finite=finite)


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


def _with_fixed_points(matrix: jax.Array, count: int) -> jax.Array:
    """``[m, n] -> [m + p, n + p]``: what a row's weights lack to 1 lies on the origin; fixed points stay."""
    if count == 0:
        return matrix
    m = matrix.shape[0]
    rest = jnp.zeros((m, count), matrix.dtype).at[:, 0].set(1.0 - matrix.sum(1))
    return jnp.block(
        [[matrix, rest], [jnp.zeros((count, matrix.shape[1]), matrix.dtype), jnp.eye(count, dtype=matrix.dtype)]]
    )


def touches_lost(matrix: jax.Array, finite: jax.Array) -> jax.Array:
    """Which mixed rows put weight on a lost row: bool[m]."""
    return ((matrix != 0) & ~finite[None, :]).any(1)


def mask_gram(gram: jax.Array, finite: jax.Array) -> jax.Array:
    keep = jnp.concatenate([finite, jnp.ones((gram.shape[0] - finite.shape[0],), bool)])
    return jnp.where(keep[:, None] & keep[None, :], gram, 0.0)


def lose(squared: jax.Array, finite: jax.Array) -> jax.Array:
    """Distances with lost rows at +inf and a diagonal of exact zeros."""
    n = finite.shape[0]
    both = finite[:, None] & finite[None, :]
    return jnp.where(jnp.eye(n, dtype=bool), 0.0, jnp.where(both, squared, jnp.inf))


def gram_distances(gram: jax.Array, finite: jax.Array) -> jax.Array:
    n = finite.shape[0]
    inner = gram[:n, :n]
    squares = jnp.diagonal(inner)
    return lose(jnp.maximum(squares[:, None] + squares[None, :] - 2.0 * inner, 0.0), finite)
