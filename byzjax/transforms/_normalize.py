"""Normalisation of an aggregate to unit length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from byzjax.types import Params


def global_norm(tree: Params) -> jax.Array:
    """``‖x‖`` over all leaves jointly, f32[], without under- or overflow of the squares.

    >>> round(float(global_norm({"a": jnp.array([3e-30]), "b": jnp.array([4e-30])})) / 5e-30, 6)
    1.0
    """
    shrink, norm = _norm(tree)
    return norm / shrink


def normalized(tree: Params) -> Params:
    """``x / ‖x‖`` over all leaves jointly; exactly 0 at 0, with NaN where x is not finite."""
    shrink, norm = _norm(tree)

    def scale(x: jax.Array) -> jax.Array:
        kind = jnp.complex128 if norm.dtype == jnp.float64 else jnp.complex64
        wide = kind if jnp.iscomplexobj(x) else norm.dtype
        return (x.astype(wide) * shrink.astype(wide) / jnp.where(norm == 0, 1.0, norm).astype(wide)).astype(x.dtype)

    return jax.tree.map(scale, tree)


def normalize_by_global_norm() -> optax.GradientTransformationExtraArgs:
    """An optax link: ``u ← v / ‖v‖`` over all parameters jointly, line 6 of Algorithm 1.

    Complex parameters have the norm of their real and imaginary parts together, as in `optax.global_norm`. Exactly 0
    at v = 0, and exact in relative terms for ‖v‖ from the smallest to the largest float32, where
    ``optax.contrib`` variants divide 0 by 0 or add 1e-6, which is a different method when gradients are that small.

    >>> tx = normalize_by_global_norm()
    >>> tx.update(jnp.array([3e-25, 4e-25]), tx.init(jnp.zeros(2)))[0].round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    >>> tx.update(jnp.zeros(2), tx.init(jnp.zeros(2)))[0].tolist()
    [0.0, 0.0]
    """

    def update(updates: Params, state, params=None, **extra):
        del params, extra
        return normalized(updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


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
    least = int(jnp.finfo(dtype).minexp)  # neither the power nor its inverse may be subnormal: those flush to 0
    _, exponent = jnp.frexp(largest)
    shrink = jnp.ldexp(jnp.ones((), dtype), jnp.clip(2 - exponent, least, -least))
    return shrink, jnp.sqrt(jnp.stack([jnp.square(part * shrink).sum() for part in parts]).sum())
