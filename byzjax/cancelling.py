"""Distances of rows so close together that their inner products cancel: measured again about one of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from byzjax.geometry import gram_distances, lose
from byzjax.loops import while_loop

_COMPARED = 1 << 13  # coordinates of two rows that are compared at a time
_CANCELS = 2.0**-6  # a squared distance below this share of the squared norms is measured again


def measure_again(
    gram: jax.Array,
    finite: jax.Array,
    equal: Callable[[jax.Array, jax.Array], jax.Array],
    products_from: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Distances from inner products, and again about a row nearby wherever they cancel.

    Every row that is close to another takes the first such row as its pivot. Copies of their pivot, as colluders
    send them, are recognised by reading the two rows. For the others one product about the pivots serves all
    clusters at once, and clusters within clusters take another turn; none for rows in general position. The first row
    that has a close one is the pivot of all that are close to it, so every turn settles at least one pair.

    Args:
      gram: f32[n + p, n + p].
      finite: bool[n].
      equal: ``(i, j) -> bool[]``, whether two rows are the same.
      products_from: ``i32[n] -> f32[n, n]``, inner products of the rows about their pivots.
    """
    n = finite.shape[0]
    index = jnp.arange(n)

    def close(squared: jax.Array, scale: jax.Array) -> jax.Array:
        return squared < _CANCELS * scale

    def pivots(squared: jax.Array, scale: jax.Array) -> jax.Array:
        near = close(squared, scale)
        return jnp.where(near.any(1), jnp.minimum(jnp.argmax(near, axis=1), index), index)

    def compare(state):
        alias, pending = state
        i = jnp.argmax(pending)
        return jnp.where((index == i) & equal(i, first[i]), first[i], alias), pending & (index != i)

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

    squares = jnp.diagonal(gram)[:n]
    squared = gram_distances(gram, finite)
    scale = jnp.where(finite[:, None] & finite[None, :], squares[:, None] + squares[None, :], 0.0)
    scale = jnp.where(jnp.eye(n, dtype=bool), 0.0, scale)
    first = pivots(squared, scale)
    alias, _ = while_loop(lambda state: state[1].any(), compare, (index, first != index))
    own = alias == index
    scale = jnp.where(own[:, None] & own[None, :], scale, 0.0)
    squared, _ = while_loop(lambda state: close(*state).any(), again, (squared, scale))
    return lose(squared[alias][:, alias], finite)


def equal_rows(x: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
    """Whether two rows are the same, read up to the first block that differs."""
    d = x.shape[1]
    width = min(d, _COMPARED)

    def step(state):
        start, _ = state
        at = jnp.minimum(start, d - width)
        two = [jax.lax.dynamic_slice(x, (k.astype(at.dtype), at), (1, width)) for k in (i, j)]
        return start + width, (two[0] == two[1]).all()

    start = (jnp.zeros((), jnp.int32), jnp.ones((), bool))
    return while_loop(lambda state: state[1] & (state[0] < d), step, start)[1]
