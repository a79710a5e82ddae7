"""From a worker-space kernel to an optax link."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.base import Aggregator, Coordinatewise, Mixing, PreAggregator, Scaling, Trust, Weights
from byzjax.checks import nan_unless, num_workers_of
from byzjax.stacked.order_statistics import lowest
from byzjax.types import Numeric, Params, Stacked


class PreviousAggregate(NamedTuple):
    """The state of a rule that starts from its last result."""

    previous: Params  # leaves [*p], float32 or wider, zero at first


def coordinate_rule(kernel: Coordinatewise) -> Aggregator:
    """A stateless rule from ``reduce: [n, d] -> [d]``."""

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        num_workers_of(updates)
        return stacked.coordinatewise(kernel.reduce, updates), state

    return Aggregator(optax.init_empty_state, update, kernel)


def weights_rule(kernel: Weights) -> Aggregator:
    """A rule from ``weights: (geometry, key) -> f32[n]``; stateless unless it is anchored at its last result."""
    return trusting_rule(kernel, None)


def trusting_rule(kernel: Weights, mixing: Mixing | None) -> Aggregator:
    """A rule from a kernel, after a pre-aggregation in worker space if there is one."""

    def init(params: Params):
        if kernel.anchor != "previous":
            return optax.EmptyState()
        return PreviousAggregate(jax.tree.map(lambda p: jnp.zeros(p.shape, stacked.wide_dtype([p])), params))

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        n = num_workers_of(updates)
        previous = state.previous if kernel.anchor == "previous" else None
        matrix = None
        if mixing is None and kernel.about is not None:
            geometry, frame = stacked.measure_lengths(updates, kernel.about, previous)
        else:
            affine = kernel.affine and (mixing is None or mixing.affine)
            geometry, frame = stacked.measure(updates, previous, origin=not affine)
        if mixing is not None:
            matrix = mixing.matrix(geometry, key)
            geometry = geometry.mix(matrix, mixing.affine)  # type: ignore[union-attr]
        answer = kernel.weights(geometry, key)
        m = geometry.num_workers
        weights = answer[:m] if matrix is None else stacked.matmul(answer[:m], matrix)
        anchor = None
        if kernel.anchor is not None:
            point = previous if previous is not None else stacked.centre_of(updates, frame)
            anchor = stacked.Anchor(answer[m], point)
        assert weights.shape == (n,)
        # What is remembered must not be rounded to 16 bits: steps smaller than that rounding would be lost.
        rows = updates if previous is None else jax.tree.map(lambda x: x.astype(stacked.wide_dtype([x])), updates)
        result = stacked.combine(weights, rows, frame, anchor, picks=kernel.picks and mixing is None)
        state = state if previous is None else PreviousAggregate(result)
        result = jax.tree.map(lambda y, x: y.astype(x.dtype), result, updates)
        return result, state, Trust(weights, matrix)

    return Aggregator(init, update_with_trust=update_with_trust, kernel=kernel if mixing is None else None)


def mixing_rule(kernel: Mixing) -> PreAggregator:
    """A stateless pre-aggregation from ``matrix: (geometry, key) -> f32[m, n]``."""

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        num_workers_of(updates)
        geometry, frame = stacked.measure(updates, origin=not kernel.affine)
        matrix = kernel.matrix(geometry, key)
        return stacked.mix(matrix, updates, frame), state, Trust(mixing=matrix)

    return PreAggregator(optax.init_empty_state, update_with_trust=update_with_trust, kernel=kernel)


def mixed_coordinate_rule(kernel: Coordinatewise, mixing: Mixing) -> Aggregator:
    """A rule on single coordinates after a pre-aggregation in worker space."""

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        num_workers_of(updates)
        geometry, frame = stacked.measure(updates, origin=not mixing.affine)
        matrix = mixing.matrix(geometry, key)
        return stacked.mix(matrix, updates, frame, kernel.reduce), state, Trust(mixing=matrix)

    return Aggregator(optax.init_empty_state, update_with_trust=update_with_trust)


def scaling_rule(kernel: Scaling) -> PreAggregator:
    """A stateless pre-aggregation from ``factors: (lengths, key) -> f32[n]``."""

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        num_workers_of(updates)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        factors = kernel.factors(lengths, key)
        mixing = jnp.diag(jnp.where(frame.finite, factors, 1.0))  # a lost row is a mixture of itself
        return stacked.scale_rows(factors, updates, frame), state, Trust(mixing=mixing)

    return PreAggregator(optax.init_empty_state, update_with_trust=update_with_trust, kernel=kernel)


def mean_of(members: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The weights of the mean of the members, NaN if there are none.

    Never 0/0: of a quotient of counts XLA's compiler makes 0.

    Args:
      members: bool[n].
      dtype: of the weights.

    >>> mean_of(jnp.array([True, False, True]), jnp.float32).tolist()
    [0.5, 0.0, 0.5]
    """
    return members.astype(dtype) / jnp.maximum(members.sum(), 1).astype(dtype) * nan_unless(members.any()).astype(dtype)


def mean_of_lowest(scores: jax.Array, count: Numeric) -> jax.Array:
    """The weights of the mean of the ``count`` rows with the lowest scores; ties go to the lowest index.

    Args:
      scores: ``[…, n]``, without NaN.
      count: may be traced.

    >>> mean_of_lowest(jnp.array([3.0, 1.0, 2.0]), 2).tolist()
    [0.0, 0.5, 0.5]
    """
    return jnp.where(lowest(scores, count), 1.0, 0.0).astype(scores.dtype) / jnp.asarray(count, scores.dtype)
