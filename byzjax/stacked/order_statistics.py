"""Order statistics over the worker axis: NaN sorts last, ties cost nothing, ranks may be traced.

Up to `MAX_NETWORK` workers a compare-exchange network of elementwise minima and maxima over rows replaces the sort: it
fuses into one loop over the coordinates. Beyond, `order_statistic` bisects the ordered integer images of the floats:
as many counting passes as the float has bits, exact, and compiled in no time. `jnp.sort` is their reference.
"""

from __future__ import annotations

import bisect
import functools

import jax
import jax.numpy as jnp

from byzjax.checks.traced import concrete
from byzjax.stacked.blocks import cache_numbers
from byzjax.stacked.control_flow import fori_loop
from byzjax.stacked.sums import add
from byzjax.types import Numeric

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


@functools.cache
def partition_network(n: int, cuts: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """`sorting_network` without what only orders values whose ranks lie between the same two cuts.

    From the back, a comparator is left out where both of its outputs end, untouched, between the same cuts.

    >>> partition_network(4, (3,))  # the largest last
    ((0, 1), (2, 3), (1, 3))
    """
    between: list[int | None] = [bisect.bisect_right(cuts, rank) for rank in range(n)]
    comparators = []
    for low, high in reversed(sorting_network(n)):
        if between[low] is None or between[low] != between[high]:
            between[low] = between[high] = None
            comparators.append((low, high))
    return tuple(reversed(comparators))


def sort_workers(x: jax.Array, cuts: tuple[int, ...] | None = None) -> list[jax.Array]:
    """The rows of ``x`` sorted in each coordinate.

    Args:
      x: ``[n, …]``.
      cuts: only sort values apart whose ranks have a cut between them; a cut ``c`` is between ranks c − 1 and c.

    Returns:
      n arrays ``[…]``, smallest first. A NaN is taken for +inf, hence last. Rows that are not used cost nothing
      after compilation, for up to `MAX_NETWORK` workers.

    >>> [float(row[0]) for row in sort_workers(jnp.array([[3.0], [jnp.nan], [1.0]]))]
    [1.0, 3.0, inf]
    """
    n = x.shape[0]
    x = nan_last(x)
    if n > MAX_NETWORK:
        return list(jnp.sort(x, axis=0))
    rows = list(x)
    for low, high in sorting_network(n) if cuts is None else partition_network(n, cuts):
        a, b = rows[low], rows[high]
        swap = b < a
        rows[low], rows[high] = jnp.where(swap, b, a), jnp.where(swap, a, b)
    return rows


def nan_last(x: jax.Array) -> jax.Array:
    """``x`` with +inf in place of NaN."""
    return jnp.where(jnp.isnan(x), jnp.asarray(jnp.inf, x.dtype), x)


def finite_or_nan(x: jax.Array) -> jax.Array:
    """``x`` with NaN in place of ±inf: a result made of values that are lost is none."""
    return jnp.where(jnp.isfinite(x), x, x - x)


def order_statistic(x: jax.Array, k: Numeric) -> jax.Array:
    """The k-th smallest of the n values in each coordinate, counted from 0: ``[n, …] -> […]``.

    Args:
      x: ``[n, …]``, NaN counted as +inf.
      k: 0 ≤ k < n, may be traced.

    >>> order_statistic(jnp.array([[3.0], [jnp.nan], [1.0]]), 1).tolist()
    [3.0]
    """
    if x.shape[0] > MAX_NETWORK:
        return _bisect(nan_last(x), k)
    rows = sort_workers(x)
    return rows[int(k)] if concrete(k) is not None else jnp.stack(rows)[k]


def rank_sum(x: jax.Array, low: Numeric, high: Numeric) -> jax.Array:
    """The sum of the values of rank ``low`` to ``high − 1`` in each coordinate: ``[n, …] -> […]``.

    Values outside are not touched, be they infinite.

    Args:
      x: ``[n, …]``, NaN counted as +inf.
      low, high: 0 ≤ low < high ≤ n, may be traced.

    >>> rank_sum(jnp.array([[3.0], [jnp.inf], [1.0], [5.0]]), 1, 3).tolist()
    [8.0]
    """
    if x.shape[0] <= MAX_NETWORK:
        ends = concrete(low), concrete(high)
        cuts = None if ends[0] is None or ends[1] is None else (int(ends[0]), int(ends[1]))
        kept = [jnp.where((r >= low) & (r < high), row, 0.0) for r, row in enumerate(sort_workers(x, cuts))]
        return add(kept)
    x = nan_last(x)
    first, last = _bisect(x, low), _bisect(x, high - 1)
    inside = sum_rows(jnp.where((x > first[None]) & (x < last[None]), x, 0.0))
    # Several values may equal the first or the last; only so many of them have a rank inside.
    firsts = jnp.minimum(_count(x <= first[None]), high) - low
    lasts = high - _count(x < last[None])
    ends = firsts.astype(x.dtype) * first + lasts.astype(x.dtype) * last
    return jnp.where(first == last, jnp.asarray(high - low, x.dtype) * first, inside + ends)


def lowest_sum(x: jax.Array, scores: jax.Array, count: Numeric) -> jax.Array:
    """The sum of the ``count`` values of lowest score in each coordinate; of equal scores the smaller values.

    Where several values of different size share the last score, those that count enter with their mean.

    Args:
      x: ``[n, …]``, without NaN.
      scores: ``[n, …]``, NaN counted as +inf; a value with an infinite score never counts: NaN where one would.
      count: 1 ≤ count ≤ n, may be traced.

    >>> lowest_sum(jnp.array([[1.0], [5.0], [2.0]]), jnp.array([[1.0], [1.0], [0.0]]), 2).tolist()
    [3.0]
    """
    scores = nan_last(scores)
    last = order_statistic(scores, count - 1)[None]
    below, level = scores < last, (scores == last) & jnp.isfinite(scores)
    room = (count - _count(below)).astype(x.dtype)
    least = jnp.where(level, x, jnp.inf).min(0)
    small, large = level & (x == least[None]), level & (x > least[None])

    def take(mask: jax.Array, most: jax.Array) -> tuple[jax.Array, jax.Array]:
        there = _count(mask).astype(x.dtype)
        taken = jnp.minimum(there, most)
        return sum_rows(jnp.where(mask, x, 0.0)) * taken / jnp.maximum(there, 1.0), most - taken

    smaller, room = take(small, room)
    larger, _ = take(large, room)
    lowest = sum_rows(jnp.where(below, x, 0.0)) + smaller + larger
    return finite_or_nan(jnp.where(jnp.isfinite(last[0]), lowest, last[0]))


def sum_rows(x: jax.Array) -> jax.Array:
    """The sum over the leading axis, pairwise, so that rounding grows with log n."""
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        rest = x[2 * half :]
        x = x[:half] + x[half : 2 * half]
        x = jnp.concatenate([x, rest]) if rest.shape[0] else x
    return x[0]


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


def median_of(values: jax.Array, present: jax.Array) -> jax.Array:
    """The median of some of n numbers, the mean of the middle two of an even number; all others are +inf.

    >>> float(median_of(jnp.array([5.0, jnp.inf, 1.0]), jnp.array([True, False, True])))
    3.0
    """
    count = present.sum(dtype=jnp.int32)
    order = ranks(values)
    low = jnp.where(order == (count - 1) // 2, values, 0.0).sum()
    high = jnp.where(order == count // 2, values, 0.0).sum()
    return 0.5 * (low + high)


def lowest(values: jax.Array, count: Numeric) -> jax.Array:
    """Which are the ``count`` smallest along the last axis; of equal values those of lower index.

    Args:
      values: ``[…, n]``, without NaN.
      count: 0 ≤ count ≤ n, may be traced.

    Returns:
      bool[…, n].

    >>> lowest(jnp.array([2.0, 1.0, 2.0]), 2).tolist()
    [True, True, False]
    """
    n = values.shape[-1]
    if n <= MAX_NETWORK:
        return ranks(values) < count

    def of_row(row: jax.Array) -> jax.Array:
        last = _bisect(row, jnp.clip(count - 1, 0, n - 1))
        below, level = row < last, row == last
        room = count - _count(below)
        return below | (level & (jnp.cumsum(level, dtype=jnp.int32) <= room))

    rows = values.reshape(-1, n)
    if len(rows) == 1:
        return of_row(rows[0]).reshape(values.shape)
    # As many rows at a time as stay in cache while they are counted again and again.
    return jax.lax.map(of_row, rows, batch_size=max(cache_numbers() // n, 1)).reshape(values.shape)


def _count(mask: jax.Array) -> jax.Array:
    return mask.sum(0, dtype=jnp.int32)


def _bisect(x: jax.Array, k: Numeric) -> jax.Array:
    """The k-th smallest over the leading axis, by bisection over all floats of that size; x has no NaN."""
    ordered = _ordered(x)
    least = jnp.full(x.shape[1:], _ordered(jnp.asarray(-jnp.inf, x.dtype)))
    most = jnp.full(x.shape[1:], _ordered(jnp.asarray(jnp.inf, x.dtype)))

    def halve(_, interval):
        least, most = interval
        middle = (least & most) + ((least ^ most) >> 1)  # their mean, rounded down, where their sum may overflow
        enough = _count(ordered <= middle[None]) > k
        return jnp.where(enough, least, middle + 1), jnp.where(enough, middle, most)

    _, found = fori_loop(0, 8 * x.dtype.itemsize, halve, (least, most))
    return _unordered(found, x.dtype)


def _ordered(x: jax.Array) -> jax.Array:
    """Signed integers in the order of the floats: negative ones have their lower bits flipped."""
    kind = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, kind)
    return bits ^ ((bits >> (8 * x.dtype.itemsize - 1)) & jnp.iinfo(kind).max)


def _unordered(integers: jax.Array, dtype: jnp.dtype) -> jax.Array:
    limits = jnp.iinfo(integers.dtype)
    return jax.lax.bitcast_convert_type(integers ^ ((integers >> (limits.bits - 1)) & limits.max), dtype)
