"""Gaussian noise on every leaf of a tree."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from byzjax.stacked.blocks import wide_dtype
from byzjax.stacked.coordinate_axis import of_a_part, part_number
from byzjax.types import Numeric, Params, Stacked


def add_noise(tree: Stacked | Params, std: Numeric, key: jax.Array) -> Stacked | Params:
    """``tree + N(0, std² I)``, drawn in float32 or wider, each leaf in its own dtype.

    Every leaf draws by a key of its own, so that other leaves or dtypes are other noise: promise ``noisy``.

    >>> add_noise({"w": jnp.zeros(2)}, 0.0, jax.random.key(0))["w"].tolist()
    [0.0, 0.0]
    """
    leaves, structure = jax.tree.flatten(tree)

    def noisy(leaf: jax.Array, key: jax.Array) -> jax.Array:
        wide = wide_dtype([leaf])
        drawn = jax.random.normal(key, leaf.shape, wide) * jnp.asarray(std, wide)
        return (leaf.astype(wide) + drawn).astype(leaf.dtype)

    if of_a_part():
        key = jax.random.fold_in(key, part_number())
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [noisy(leaf, k) for leaf, k in zip(leaves, keys, strict=True)])
