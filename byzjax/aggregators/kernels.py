"""From a worker-space kernel to an optax link."""

from __future__ import annotations

import jax
import optax

from byzjax import stacked
from byzjax.base import Aggregator, Coordinatewise, Mixing, PreAggregator, Stacked, Weights, num_workers_of


def coordinate_rule(kernel: Coordinatewise) -> Aggregator:
    """A stateless rule from ``reduce: [n, d] -> [d]``."""

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        num_workers_of(updates)
        return stacked.coordinatewise(kernel.reduce, updates), state

    return Aggregator(optax.init_empty_state, update, kernel)


def weights_rule(kernel: Weights) -> Aggregator:
    """A stateless rule from ``weights: (geometry, key) -> f32[n]``."""

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        num_workers_of(updates)
        geometry, frame = stacked.measure(updates)
        return stacked.combine(kernel.weights(geometry, key), updates, frame), state

    return Aggregator(optax.init_empty_state, update, kernel)


def mixing_rule(kernel: Mixing) -> PreAggregator:
    """A stateless pre-aggregation from ``matrix: (geometry, key) -> f32[m, n]``."""

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        num_workers_of(updates)
        geometry, frame = stacked.measure(updates)
        return stacked.mix(kernel.matrix(geometry, key), updates, frame), state

    return PreAggregator(optax.init_empty_state, update, kernel)
