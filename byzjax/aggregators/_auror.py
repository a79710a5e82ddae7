"""Rules in which every coordinate votes on the workers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.aggregators._builders import mean_of
from byzjax.base import Aggregator, Trust
from byzjax.checks import check_integer, check_number, num_workers_of
from byzjax.promises import promises
from byzjax.stacked import order_statistics
from byzjax.stacked.coordinate_axis import total
from byzjax.stacked.order_statistics import nan_last, sort_workers
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import value

_ROUNDED = 1e-6  # relative difference that may be rounding


class AurorState(NamedTuple):
    """What `auror` remembers."""

    indicative: Params  # leaves bool[*p]
    rounds: jax.Array  # i32[]


@promises(scale=False, robust=False)
@value
def auror(*, gap: Numeric = 0.002, share: Numeric = 0.5, num_rounds: int = 10) -> Aggregator:
    """Auror: the mean of the workers who are seldom in the minority where the workers' values split in two.

    In every coordinate the values are split by 2-means, exactly; it is indicative if the means of the two parts differ
    by α or more. A worker who is in the smaller part in more than a share τ of the indicative coordinates is dropped.
    In parts of equal size nobody is suspicious; where everybody would be dropped, nobody is. Of two equally good cuts
    the lower one counts.

    Args:
      gap: α > 0, in units of the updates; may be traced. 0.002 in FLPoison, which suggests 1e-4 for MNIST.
      share: τ, 0 ≤ τ < 1, may be traced; 0.5 in the paper.
      num_rounds: which coordinates are indicative is settled in this round; until then it is found anew in every one.

    Shapes: ``f32[n, d] -> f32[d]``. State: one truth value per coordinate. A row with NaN or inf is dropped.

    Raises:
      ValueError: an argument out of range.

    Shen, Tople, Saxena. AUROR: defending against poisoning attacks in collaborative deep learning systems. ACSAC 2016.

    >>> import byzjax
    >>> byzjax.aggregate(auror(), jnp.array([[1.0, 2.0], [1.5, 2.0], [1.0, 2.0], [7.0, -8.0]]), return_weights=True)[1]
    Array([0.33333334, 0.33333334, 0.33333334, 0.        ], dtype=float32)
    """
    check_number(gap, "gap", "auror", least=0, open_below=True)
    check_number(share, "share", "auror", least=0, below=1)
    last = check_integer(num_rounds, "num_rounds", "auror", least=1)

    def init(params: Params) -> AurorState:
        return AurorState(jax.tree.map(lambda p: jnp.zeros(p.shape, bool), params), jnp.zeros((), jnp.int32))

    def update_with_trust(updates: Stacked, state: AurorState, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        n = num_workers_of(updates)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        finite = lengths.finite
        dtype = lengths.unit.dtype
        present = jax.tree.map(lambda x: jnp.where(stacked.per_row(finite, x), x.astype(dtype), jnp.nan), updates)
        splits = stacked.coordinatewise(split_in_two, present, rows=True)
        indicative = jax.tree.map(
            lambda split, known: jnp.where(state.rounds < last, split[1] >= jnp.asarray(gap, dtype), known),
            splits,
            state.indicative,
        )

        def against(x: jax.Array, split: jax.Array, counts: jax.Array) -> jax.Array:
            edge, _, side = split[:, None]
            fewer = jnp.where(side < 0, x <= edge, (side > 0) & (x > edge))
            return (fewer & counts[None]).sum(tuple(range(1, x.ndim)), dtype=jnp.int32)

        votes = sum(jax.tree.leaves(jax.tree.map(against, present, splits, indicative)), jnp.zeros((n,), jnp.int32))
        voters = sum((leaf.sum(dtype=jnp.int32) for leaf in jax.tree.leaves(indicative)), jnp.zeros((), jnp.int32))
        votes, voters = total((votes, voters))
        most = jnp.asarray(share, dtype) * voters.astype(dtype) * (1.0 + _ROUNDED)
        good = finite & (votes.astype(dtype) <= most)
        good = jnp.where(good.any(), good, finite)
        weights = mean_of(good, dtype)
        return stacked.combine(weights, updates, frame), AurorState(indicative, state.rounds + 1), Trust(weights)

    return Aggregator(init, update_with_trust=update_with_trust)


def split_in_two(x: jax.Array) -> jax.Array:
    """Every column's best split in two by 2-means, NaN left out: ``[n, d] -> [3, d]``.

    Returns:
      The largest value of the lower part; the difference of the parts' means; −1 where the lower part is the smaller
      one, 1 where the upper part is, else 0.

    >>> split_in_two(jnp.array([[0.0], [9.0], [1.0]]))[:, 0].round(3).tolist()
    [1.0, 8.5, 1.0]
    """
    n = x.shape[0]
    num_present = (x == x).sum(0).astype(x.dtype)
    ordered = jnp.stack(sort_workers(x)) if n <= order_statistics.MAX_NETWORK else jnp.sort(nan_last(x), axis=0)
    counted = jnp.arange(n)[:, None].astype(x.dtype) < num_present[None]
    most = jnp.where(counted, ordered, -jnp.inf).max(0)
    radius = 0.5 * most - 0.5 * ordered[0]
    centre = 0.5 * most + 0.5 * ordered[0]
    unit = jnp.where(counted, (ordered - centre[None]) / jnp.where(radius > 0, radius, 1.0)[None], 0.0)
    mean = unit.sum(0) / jnp.maximum(num_present, 1.0)
    below = jnp.cumsum(jnp.where(counted, unit - mean[None], 0.0), axis=0)
    size = jnp.arange(1, n + 1)[:, None].astype(x.dtype)
    rest = num_present[None] - size
    apart = jnp.where(rest > 0, jnp.abs(below) * (1.0 / size + 1.0 / jnp.maximum(rest, 1.0)), 0.0)  # of the two means
    best = jnp.argmax(apart * jnp.abs(below), axis=0)[None]

    def at(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, best, axis=0)[0]

    fewer = jnp.sign(at(size - rest))
    return jnp.stack([at(ordered), at(apart) * radius, fewer])
