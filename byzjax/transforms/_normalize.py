"""The Euclidean length of a tree, and what it is where squares would under- or overflow."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from byzjax.types import Numeric, Params


def global_norm(tree: Params) -> jax.Array:
    """``‖x‖`` over all leaves jointly, f32[], without under- or overflow of the squares.

    >>> round(float(global_norm({"a": jnp.array([3e-30]), "b": jnp.array([4e-30])})) / 5e-30, 6)
    1.0
    """
    shrink, norm = _norm(tree)
    return norm / shrink


def normalized(tree: Params, length: Numeric = 1.0) -> Params:
    """``length · x / ‖x‖`` over all leaves jointly; exactly 0 at 0, with NaN where x is not finite."""
    shrink, norm = _norm(tree)

    def scale(x: jax.Array) -> jax.Array:
        wide = _wide(x, norm.dtype)
        unit = x.astype(wide) * shrink.astype(wide) / jnp.where(norm == 0, 1.0, norm).astype(wide)
        return (unit * jnp.asarray(length, norm.dtype).astype(wide)).astype(x.dtype)

    return jax.tree.map(scale, tree)


def clipped(tree: Params, length: Numeric) -> Params:
    """``x min(1, length/‖x‖)`` over all leaves jointly: x itself, bit for bit, where it is no longer than that."""
    shrink, norm = _norm(tree)
    # In units in which the norm is near 1. Of a length that is far from that, 0 or ∞ is left, which compares alike.
    short = norm <= jnp.asarray(length, norm.dtype) * shrink
    return jax.tree.map(lambda x, shorter: jnp.where(short, x, shorter), tree, normalized(tree, length))


def near_one(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> tuple[jax.Array, jax.Array]:
    """A power of two that brings the largest entry along the axes near 1, and the array after multiplying by it.

    The axes are kept. The power is exact; entries below 2⁻¹²⁶ of the largest are lost.
    """
    if not x.size:
        return jnp.ones([1] * x.ndim, x.dtype), x
    power = power_of_two(jnp.abs(x).max(axis, keepdims=True))
    return power, x * power


def _norm(tree: Params) -> tuple[jax.Array, jax.Array]:
    """A power of two that brings the largest coordinate near 1, and the norm after multiplying by it."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    if not leaves:
        return jnp.ones(()), jnp.zeros(())
    # A complex number is as long as the vector of its two parts.
    parts = [part for x in leaves for part in ((x.real, x.imag) if jnp.iscomplexobj(x) else (x,))]
    dtype = jnp.dtype(jnp.float64 if any(part.dtype == jnp.float64 for part in parts) else jnp.float32)
    parts = [part.astype(dtype) for part in parts]
    largest = jnp.stack([jnp.abs(part).max() for part in parts]).max()
    shrink = power_of_two(largest)
    return shrink, jnp.sqrt(jnp.stack([jnp.square(part * shrink).sum() for part in parts]).sum())


def power_of_two(largest: jax.Array) -> jax.Array:
    """What brings numbers ≥ 0 near 1 without rounding."""
    least = int(jnp.finfo(largest.dtype).minexp)  # neither it nor its inverse may be subnormal: those flush to 0
    _, exponent = jnp.frexp(largest)
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(2 - exponent, least, -least))


def _wide(x: jax.Array, dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to compute in: complex where the array is."""
    if not jnp.iscomplexobj(x):
        return dtype
    return jnp.dtype(jnp.complex128 if dtype == jnp.float64 else jnp.complex64)
