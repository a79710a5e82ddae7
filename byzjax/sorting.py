"""Order statistics over the worker axis: NaN sorts last, ties cost nothing.

For up to `MAX_NETWORK` workers a compare-exchange network of elementwise minima and maxima over rows replaces the
sort: it fuses into one loop over the coordinates. Beyond, `jnp.sort`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

MAX_NETWORK = 128


@functools.cache
def sorting_network(n: int) -> tuple[tuple[int, int], ...]:
    """The comparators (low, high) of Batcher's odd-even merge sort for n inputs, in order.

    Knuth, The Art of Computer Programming, vol. 3, algorithm 5.2.2M.

    >>> sorting_network(3)
    ((0, 1), (0, 2), (1, 2))
    """
    comparators = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        comparators.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return tuple(comparators)


def sort_workers(x: jax.Array) -> list[jax.Array]:
    """The rows of ``x`` sorted in each coordinate.

    Args:
      x: ``[n, …]``.

    Returns:
      n arrays ``[…]``, smallest first. A NaN is taken for +inf, hence last. Rows that are not used cost nothing
      after compilation.

    >>> [float(row[0]) for row in sort_workers(jnp.array([[3.0], [jnp.nan], [1.0]]))]
    [1.0, 3.0, inf]
    """
    n = x.shape[0]
    if n > MAX_NETWORK:
        ordered = jnp.sort(x, axis=0)
        return [jnp.where(jnp.isnan(row), jnp.inf, row) for row in ordered]
    rows = [jnp.where(jnp.isnan(row), jnp.asarray(jnp.inf, x.dtype), row) for row in x]
    for low, high in sorting_network(n):
        a, b = rows[low], rows[high]
        swap = b < a
        rows[low], rows[high] = jnp.where(swap, b, a), jnp.where(swap, a, b)
    return rows


def ranks(values: jax.Array) -> jax.Array:
    """The rank of each value along the last axis, counted from 0; equal values rank by index.

    Ranks make masks (``ranks(v) < n - f``), and masks let f be traced. Counting comparisons beats a sort for the
    n of distributed training and vectorises under ``vmap``.

    Args:
      values: ``[…, n]``, without NaN.

    Returns:
      i32[…, n].

    >>> ranks(jnp.array([2.0, 1.0, 2.0])).tolist()
    [1, 0, 2]
    """
    n = values.shape[-1]
    if n > MAX_NETWORK:
        order = jnp.argsort(values, axis=-1, stable=True)
        return jnp.argsort(order, axis=-1).astype(jnp.int32)
    index = jnp.arange(n)
    mine, other = values[..., :, None], values[..., None, :]
    earlier = jnp.broadcast_to(index[None, :] < index[:, None], jnp.broadcast_shapes(mine.shape, other.shape))
    before = (other < mine) | ((other == mine) & earlier)
    return before.sum(-1, dtype=jnp.int32)
