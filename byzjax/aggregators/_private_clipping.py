"""Clipping with noise: norm clipping against backdoors, client-level differential privacy."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators._builders import weights_rule
from byzjax.aggregators._norms import clipping, shortening
from byzjax.base import Aggregator, PreAggregator, Trust, Weights
from byzjax.checks import check_number, num_workers_of
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.rng import check_key
from byzjax.stacked import Geometry, Lengths
from byzjax.stacked.noise import add_noise
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import value


@promises(translation=False, scale=False, averaging=False, robust=False)
@value
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
@value
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


_RANGE = (2.0**-100, 2.0**100)


class AdaptiveClippingState(NamedTuple):
    """What `adaptive_clipping` remembers."""

    max_norm: jax.Array  # f32[], C_t


@promises(translation=False, scale=False, averaging=False, robust=False)
@value
def adaptive_clipping(
    initial_norm: Numeric = 0.1,
    *,
    quantile: Numeric = 0.5,
    learning_rate: Numeric = 0.2,
    count_noise_std: Numeric = 0.0,
    noise_multiplier: Numeric = 0.0,
) -> PreAggregator:
    """Quantile clipping: rows are shortened to a bound that follows a quantile of their norms over the rounds.

    ``y_i = x_i min(1, C_t/‖x_i‖) + N(0, (σ C_t)² I)`` and ``C_{t+1} = C_t exp(−η (b_t − γ))``, where
    ``b_t = (1/n) (|{i : ‖x_i‖ ≤ C_t}| + N(0, σ_b²))`` is the share of rows that were *not* clipped. f hostile rows
    change that share by no more than f/n. C stays between 2^−100 and 2^100.

    Args:
      initial_norm: C_1 > 0, may be traced.
      quantile: γ in [0, 1], may be traced; 0.5 lets C follow the median norm.
      learning_rate: η > 0, may be traced; 0.2 in the paper.
      count_noise_std: σ_b ≥ 0 of the noise on the count, may be traced; n/20 in the paper.
      noise_multiplier: σ ≥ 0 of the noise on every row as in `dp_clipping`, may be traced. The noise z C_t/n on the
        mean, of TensorFlow Privacy and Flower, is σ = z/√n.

    Shapes: ``f32[n, d] -> f32[n, d]``. State: one number. Needs a key if there is noise. A row with NaN or inf is
    lost, and counts as clipped.

    Raises:
      ValueError: an argument out of range, or noise without a key.

    Andrew, Thakkar, McMahan, Ramaswamy. Differentially private learning with adaptive clipping. NeurIPS 2021.

    >>> import byzjax
    >>> byzjax.aggregate(adaptive_clipping(initial_norm=5.0), jnp.array([[6.0, 8.0], [0.0, 1.0]])).tolist()
    [[3.0, 4.0], [0.0, 1.0]]
    """
    name = "adaptive_clipping"
    check_number(initial_norm, "initial_norm", name, least=0, open_below=True)
    check_number(quantile, "quantile", name, least=0)
    if (known := concrete(quantile, lambda value: adaptive_clipping(quantile=value))) is not None and known > 1:
        raise ValueError(f"{name}: quantile = {quantile} must be at most 1; it is a share of the workers.")
    check_number(learning_rate, "learning_rate", name, least=0, open_below=True)
    check_number(count_noise_std, "count_noise_std", name, least=0)
    check_number(noise_multiplier, "noise_multiplier", name, least=0)
    counts_exactly, no_noise = concrete(count_noise_std) == 0, concrete(noise_multiplier) == 0

    def init(params: Params) -> AdaptiveClippingState:
        return AdaptiveClippingState(jnp.asarray(initial_norm, stacked.wide_dtype(jax.tree.leaves(params))))

    def clip(updates: Stacked, state: AdaptiveClippingState, key: jax.Array | None):
        n = num_workers_of(updates)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        bound = state.max_norm.astype(lengths.unit.dtype) / lengths.unit
        factors = shortening(lengths, bound)
        count = (frame.sizes <= state.max_norm).sum().astype(bound.dtype)
        keys = None if counts_exactly and no_noise else jax.random.split(check_key(key, name))
        if keys is not None and not counts_exactly:
            count = count + count_noise_std * jax.random.normal(keys[0], (), bound.dtype)
        rate = jnp.asarray(learning_rate, bound.dtype)
        grown = state.max_norm * jnp.exp(-rate * (count / n - quantile)).astype(state.max_norm.dtype)
        grown = jnp.clip(grown, *_RANGE)  # from 0 and from infinity there is no way back
        clipped = stacked.scale_rows(factors, updates, frame)
        if keys is not None and not no_noise:
            clipped = add_noise(clipped, noise_multiplier * state.max_norm, keys[1])
        return clipped, AdaptiveClippingState(grown), factors

    def update_with_trust(updates: Stacked, state: AdaptiveClippingState, params=None, *, key=None, **extra):
        del params, extra
        clipped, state, factors = clip(updates, state, key)
        return clipped, state, Trust(mixing=jnp.diag(factors))

    def update(updates: Stacked, state: AdaptiveClippingState, params=None, *, key=None, **extra):
        del params, extra
        return clip(updates, state, key)[:2]

    return PreAggregator(init, update_with_trust=update_with_trust) if no_noise else PreAggregator(init, update)
