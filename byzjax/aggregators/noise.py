"""Clipping with noise: norm clipping against backdoors, client-level differential privacy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators.kernels import weights_rule
from byzjax.aggregators.norms import clipping, shortening
from byzjax.base import (
    Aggregator,
    Numeric,
    PreAggregator,
    Stacked,
    Weights,
    check_key,
    check_number,
    concrete,
    num_workers_of,
    promises,
)
from byzjax.stacked import Geometry, Lengths


@promises(translation=False, scale=False, averaging=False, robust=False)
def norm_clipping(max_norm: Numeric = 3.0, *, noise_std: Numeric = 0.0) -> Aggregator:
    """Norm clipping: the mean of rows shortened to at most C, plus noise if wanted ("weak differential privacy").

    ``norm_clipping(x) = (1/n) Σ_i x_i min(1, C/‖x_i‖) + N(0, σ² I)``. f hostile rows move the result by at most
    ``2 C f/n``. A row with NaN or inf counts as zero.

    Args:
      max_norm: C > 0, may be traced. FLPoison's default is 3.
      noise_std: σ ≥ 0 in every coordinate of the result, may be traced. FLPoison's ``weakDP`` adds N(0, s²) to every
        clipped row (s = 0.002), which is σ = s/√n.

    Shapes: ``f32[n, d] -> f32[d]``. Needs a key if σ is not 0; then it has no weight per worker to show.

    Raises:
      ValueError: C ≤ 0, σ < 0, or noise without a key.

    Sun, Kairouz, Suresh, McMahan. Can you really backdoor federated learning? 2019.

    >>> import byzjax
    >>> byzjax.aggregate(norm_clipping(max_norm=5.0), jnp.array([[6.0, 8.0], [0.0, 1.0]])).tolist()
    [1.5, 2.5]
    """
    check_number(max_norm, "max_norm", "norm_clipping", least=0, open_below=True)
    check_number(noise_std, "noise_std", "norm_clipping", least=0)

    def weights(geometry: Geometry | Lengths, key: jax.Array | None) -> jax.Array:
        del key
        factors = shortening(geometry, jnp.asarray(max_norm, geometry.unit.dtype) / geometry.unit)
        return jnp.where(geometry.finite, factors, 0.0) / geometry.num_workers

    clipped = weights_rule(Weights(weights, about="origin"))
    if concrete(noise_std) == 0:
        return clipped

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        key = check_key(key, "norm_clipping")
        mean, state = clipped.update(updates, state, params, **extra)
        return add_noise(mean, noise_std, key), state

    return Aggregator(optax.init_empty_state, update)


@promises(translation=False, scale=False, averaging=False, robust=False, stochastic=True, noisy=True, permutation=False)
def dp_clipping(max_norm: Numeric = 1.0, *, noise_multiplier: Numeric = 1.0) -> PreAggregator:
    """Client-level differential privacy: every row is shortened to at most C and gets Gaussian noise of its own.

    ``y_i = x_i min(1, C/‖x_i‖) + N(0, (σC)² I)``: the Gaussian mechanism on a client's whole contribution, whose
    sensitivity is C (2C under replacement of a client). For (ε, δ) of one release with ε ≤ 1,
    ``σ = √(2 ln(1.25/δ))/ε``; across rounds use an accountant. The mean of n such rows has noise of σC/√n.

    Args:
      max_norm: C > 0, may be traced.
      noise_multiplier: σ ≥ 0, may be traced; 0 is `clipping`.

    Shapes: ``f32[n, d] -> f32[n, d]``. Needs a key. A row with NaN or inf is lost.

    Raises:
      ValueError: C ≤ 0, σ < 0, or no key.

    McMahan, Ramage, Talwar, Zhang. Learning differentially private recurrent language models. ICLR 2018. Blades offers
    it as FedAvg with DP clients.

    >>> import byzjax
    >>> x = jnp.array([[6.0, 8.0], [0.0, 1.0]])
    >>> byzjax.aggregate(dp_clipping(max_norm=5.0, noise_multiplier=0.0), x, key=jax.random.key(0)).tolist()
    [[3.0, 4.0], [0.0, 1.0]]
    """
    check_number(max_norm, "max_norm", "dp_clipping", least=0, open_below=True)
    check_number(noise_multiplier, "noise_multiplier", "dp_clipping", least=0)
    kernel = clipping(max_norm)

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        num_workers_of(updates)
        key = check_key(key, "dp_clipping")
        clipped, state = kernel.update(updates, state, params, **extra)
        return add_noise(clipped, jnp.asarray(noise_multiplier) * max_norm, key), state

    return PreAggregator(optax.init_empty_state, update)


def add_noise(tree: stacked.Params, std: Numeric, key: jax.Array) -> stacked.Params:
    """``tree + N(0, std² I)``, drawn in float32 or wider, each leaf in its own dtype.

    >>> add_noise({"w": jnp.zeros(2)}, 0.0, jax.random.key(0))["w"].tolist()
    [0.0, 0.0]
    """
    leaves, structure = jax.tree.flatten(tree)

    def noisy(leaf: jax.Array, key: jax.Array) -> jax.Array:
        wide = stacked.wide_dtype([leaf])
        drawn = jax.random.normal(key, leaf.shape, wide) * jnp.asarray(std, wide)
        return (leaf.astype(wide) + drawn).astype(leaf.dtype)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [noisy(leaf, k) for leaf, k in zip(leaves, keys, strict=True)])
