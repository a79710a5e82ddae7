"""Distances of points so close together that their inner products cancel: measured again about one of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from byzjax.stacked.control_flow import while_loop

_CANCELS = 2.0**-6  # a squared distance below this share of the squared norms is measured again


def measure_again(
    gram: jax.Array,
    finite: jax.Array,
    num_rows: int,
    products_from: Callable[[jax.Array], jax.Array],
    equal: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Distances from inner products, and again about a point nearby wherever they cancel: f32[k, k].

    Every point that is close to another takes the first such point as its pivot. Copies of their pivot, as colluders
    send them, are recognised by reading the two. For the others one product about the pivots serves all
    clusters at once, and clusters within clusters take another turn; none for points in general position. The first
    that has a close one is the pivot of all that are close to it, so every turn settles at least one pair.

    Args:
      gram: f32[k, k], inner products of rows and fixed points.
      finite: bool[k].
      num_rows: how many of the points are rows; fixed ones are not measured again from each other.
      products_from: ``i32[k] -> f32[k, k]``, inner products of the points about their pivots.
      equal: ``(i, j) -> bool[]``, whether two points are the same.
    """
    count = len(finite)
    index = jnp.arange(count)
    row = index < num_rows

    def close(squared: jax.Array, scale: jax.Array) -> jax.Array:
        return squared < _CANCELS * scale

    def pivots(squared: jax.Array, scale: jax.Array) -> jax.Array:
        near = close(squared, scale)
        return jnp.where(near.any(1), jnp.minimum(jnp.argmax(near, axis=1), index), index)

    def again(state):
        squared, scale = state
        pivot = pivots(squared, scale)
        inner = products_from(pivot)
        inner = 0.5 * (inner + inner.T)
        norms = jnp.diagonal(inner)
        sums = norms[:, None] + norms[None, :]
        to_pivot = (pivot[:, None] == index[None, :]) | (pivot[None, :] == index[:, None])
        better = (pivot[:, None] == pivot[None, :]) & (to_pivot | (sums < scale))
        squared = jnp.where(better, jnp.maximum(sums - 2.0 * inner, 0.0), squared)
        return squared, jnp.where(better, jnp.where(to_pivot, 0.0, sums), scale)

    squares = jnp.diagonal(gram)
    squared = lose(jnp.maximum(squares[:, None] + squares[None, :] - 2.0 * gram, 0.0), finite)
    scale = jnp.where(finite[:, None] & finite[None, :], squares[:, None] + squares[None, :], 0.0)
    scale = jnp.where(jnp.eye(count, dtype=bool) | ~(row[:, None] | row[None, :]), 0.0, scale)
    alias = index
    if equal is not None:
        first = pivots(squared, scale)

        def compare(state):
            alias, pending = state
            i = jnp.argmax(pending)
            return jnp.where((index == i) & equal(i, first[i]), first[i], alias), pending & (index != i)

        alias, _ = while_loop(lambda state: state[1].any(), compare, (alias, first != index))
        own = alias == index
        scale = jnp.where(own[:, None] & own[None, :], scale, 0.0)
    squared, _ = while_loop(lambda state: close(*state).any(), again, (squared, scale))
    return lose(squared if equal is None else squared[alias][:, alias], finite)


def lose(squared: jax.Array, finite: jax.Array) -> jax.Array:
    """Distances with lost points at +inf and a diagonal of exact zeros."""
    n = finite.shape[0]
    both = finite[:, None] & finite[None, :]
    return jnp.where(jnp.eye(n, dtype=bool), 0.0, jnp.where(both, squared, jnp.inf))
