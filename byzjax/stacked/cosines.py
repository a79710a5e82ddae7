"""Where rows point, whatever their lengths: what no row can spoil for another one, however many are hostile."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.types import Stacked

_ROUNDED = 4.0  # roundings between two rows at length one
Rows = TypeVar("Rows")  # a stacked tree, or the array that is one


class Directions(NamedTuple):
    """The rows of a stack at length one.

    Attributes:
      rows: leaves ``[n, *p]``, float32 or wider; zero for rows that are zero or hold NaN or inf.
      has_direction: bool[n].
      finite: bool[n].
      units: f32[n], for each row a power of two near its largest coordinate.
      norms: f32[n], the length of each row in its unit: their product may overflow.
    """

    rows: Stacked
    has_direction: jax.Array
    finite: jax.Array
    units: jax.Array
    norms: jax.Array


def directions(updates: Stacked) -> Directions:
    """Every row divided by its length, by way of a power of two, so that nothing over- or underflows."""
    largest = stacked.largest_coordinates(updates)
    finite = jnp.isfinite(largest)
    has_direction = finite & (largest >= jnp.finfo(largest.dtype).tiny)
    exponent = jnp.where(has_direction, exponents(largest), 0)
    wide = jax.tree.map(lambda x: jnp.where(stacked.per_row(has_direction, x), x.astype(largest.dtype), 0.0), updates)
    rows = shifted(wide, -exponent)
    lengths, _ = stacked.measure_lengths(rows, "origin")
    norms = jnp.sqrt(lengths.squares) * lengths.unit
    rows = _scaled(rows, 1.0 / jnp.where(has_direction, norms, 1.0))
    return Directions(rows, has_direction, finite, jnp.ldexp(jnp.ones((), largest.dtype), exponent), norms)


def cosine_distances(updates: Stacked) -> jax.Array:
    """``1 − ⟨x_i, x_j⟩/(‖x_i‖ ‖x_j‖)``, f32[n, n]; 1 to zero and lost rows.

    From the distances of the rows at length one, ``‖u_i − u_j‖²/2``: no row costs another one digits, and what tells
    nearly equal directions apart is not rounded away beside 1. Directions that differ by no more than the rounding of
    rows to length one are equal: parallel rows are, and none is nearer to another by chance.
    """
    unit = directions(updates)
    geometry, _ = stacked.measure(unit.rows, origin=False)
    squared = geometry.distances * jnp.square(geometry.unit)
    both = unit.has_direction[:, None] & unit.has_direction[None, :]
    apart = jnp.where(squared > 2.0 * jnp.square(_ROUNDED * jnp.finfo(squared.dtype).eps), 0.5 * squared, 0.0)
    return jnp.where(both, jnp.clip(apart, 0.0, 2.0), 1.0)


def exponents(sizes: jax.Array) -> jax.Array:
    """Of the power of two at or below each size, i32[n]; 0 where the size is 0 or not finite.

    >>> exponents(jnp.array([0.75, 1.0, 5.0, 0.0, jnp.inf])).tolist()
    [-1, 0, 2, 0, 0]
    """
    positive = jnp.isfinite(sizes) & (sizes > 0)
    return jnp.where(positive, jnp.frexp(jnp.where(positive, sizes, 1.0))[1] - 1, 0)


def shifted(rows: Rows, exponents: jax.Array) -> Rows:
    """Every row times ``2^exponent``, i32[n]; in two steps, for the factor itself may leave the range of numbers.

    >>> shifted(jnp.array([[1.0], [2.0**-120]]), jnp.array([0, 240])).tolist() == [[1.0], [2.0**120]]
    True
    """
    dtype = jnp.result_type(*jax.tree.leaves(rows))
    half = exponents // 2
    one = jnp.ones((), dtype)
    return _scaled(_scaled(rows, jnp.ldexp(one, half)), jnp.ldexp(one, exponents - half))


def _scaled(rows: Rows, factors: jax.Array) -> Rows:
    return jax.tree.map(lambda x: x * stacked.per_row(factors, x), rows)
