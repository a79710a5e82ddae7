"""Norms of a vector: their unit steps, and the dual norms.

A step is ``argmax_{‖d‖ ≤ 1} ⟨x, d⟩``, exactly 0 at x = 0. Arrays are of any shape, of float32 or wider, and finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax.transforms._normalize import near_one


class Norm(NamedTuple):
    """A norm of one array.

    Attributes:
      step: of an array, ``argmax_{‖d‖ ≤ 1} ⟨x, d⟩``.
      dual: of an array, ``max_{‖d‖ ≤ 1} ⟨x, d⟩``, f32[].
    """

    step: Callable[[jax.Array], jax.Array]
    dual: Callable[[jax.Array], jax.Array]


def units(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """``x/‖x‖₂`` along the axes; 0 where that is 0."""
    scaled, norm = _lengths(x, axis)[1:]
    return scaled / jnp.where(norm == 0, 1.0, norm)


def lengths(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """``‖x‖₂`` along the axes, which are kept."""
    power, _, norm = _lengths(x, axis)
    return norm / power


def _lengths(x: jax.Array, axis: int | tuple[int, ...] | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    power, scaled = near_one(x, axis)
    return power, scaled, jnp.sqrt(jnp.square(scaled).sum(axis, keepdims=True))


def largest_alone(x: jax.Array) -> jax.Array:
    """±1 at the entry of largest absolute value, of several the first, and 0 elsewhere."""
    place = jnp.argmax(jnp.abs(x.ravel()))
    return jnp.where(jnp.arange(x.size) == place, jnp.sign(x.ravel()), 0.0).reshape(x.shape)


VECTOR_NORMS = {
    "l2": Norm(units, lambda x: lengths(x).sum()),
    "linf": Norm(jnp.sign, lambda x: jnp.abs(x).sum()),
    "l1": Norm(largest_alone, lambda x: jnp.abs(x).max()),
    "rms": Norm(lambda x: math.sqrt(x.size) * units(x), lambda x: math.sqrt(x.size) * lengths(x).sum()),
}
