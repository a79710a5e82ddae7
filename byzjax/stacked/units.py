"""The unit of a stack, near the size of its median row, and how far a row may reach in it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from byzjax.stacked.geometry import (
    FAR,
)
from byzjax.stacked.order_statistics import ranks
from byzjax.types import Numeric

NEAR = 2.0**90  # a squared size in units below which no row is drawn back
ORDINARY = (2.0**-80, 2.0**80)  # squared sizes that are summed in plain units


def absolute(y: jax.Array) -> jax.Array:
    """``|y|``, +inf where it is not finite: a vectorised maximum may drop a NaN."""
    return jnp.where(jnp.isfinite(y), jnp.abs(y), jnp.inf)


def to_units(sizes: jax.Array, unit: jax.Array, far: float = FAR) -> jax.Array:
    """What scales a centred row to units, at most ``far`` of them; 0 for lost rows. Never a product that underflows."""
    return jnp.where(jnp.isfinite(sizes), jnp.minimum(1.0 / unit, far / jnp.maximum(sizes, unit)), 0.0)


def median_size(sizes: jax.Array, tallest: jax.Array | None = None, room: int = 0) -> jax.Array:
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
    middle = number_of_rank(sizes, n // 2)
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


def number_of_rank(values: jax.Array, k: Numeric) -> jax.Array:
    """The k-th smallest of n numbers; NaN, as from a lost row, counts as +inf."""
    values = jnp.where(jnp.isnan(values), jnp.inf, values)
    return jnp.where(ranks(values) == k, values, 0.0).sum()


def scale_is_safe(middle: jax.Array, largest: jax.Array) -> jax.Array:
    """Whether squared sizes, of the median row and of the largest point, can be summed in plain units."""
    return (middle >= ORDINARY[0]) & (largest <= jnp.minimum(ORDINARY[1], middle * NEAR))
