"""Coordinate-wise rules: mean, median, trimmed mean, mean around the median, sign majority.

A value that is not finite is lost: NaN and +inf sort last, −inf first, and where one would have to count the result is
NaN, not inf.

Yin, Chen, Ramchandran, Bartlett. Byzantine-robust distributed learning: towards optimal statistical rates. ICML 2018.
"""

from __future__ import annotations

import typing
from typing import Literal

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.aggregators._builders import coordinate_rule
from byzjax.base import Aggregator, Coordinatewise
from byzjax.checks import check_choice, check_f, check_minority
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.stacked import order_statistics
from byzjax.stacked.order_statistics import (
    finite_or_nan,
    lowest_sum,
    nan_last,
    order_statistic,
    rank_sum,
    sort_workers,
)
from byzjax.types import Numeric
from byzjax.values import value

Even = Literal["midpoint", "lower"]


@promises(robust=False)
@value
def mean() -> Aggregator:
    """The plain average, which a single worker can move anywhere.

    ``mean(x) = (1/n) Σ_i x_i``. The reference without robustness (Average in ByzFL, FedAvg elsewhere).

    Shapes: ``f32[n, d] -> f32[d]``. NaN and inf pass through.

    >>> import byzjax
    >>> byzjax.aggregate(mean(), jnp.array([[1.0, 2.0], [3.0, 6.0]])).tolist()
    [2.0, 4.0]
    """
    return coordinate_rule(Coordinatewise(stacked.row_mean))


@value
def median(even: Even = "midpoint") -> Aggregator:
    """The coordinate-wise median.

    ``median(x)_k`` is the middle one of the sorted ``x_1k, …, x_nk``; NaN sorts last, and a median that is not finite,
    since half of the values are lost, is NaN. Definition 1 holds with ``κ = 2 √d (1 + f/(n − 2f))`` for every f < n/2
    (Proposition 2 of the Byz-NSGDM paper).

    Args:
      even: with an even n, the mean of the two middle values (``"midpoint"``: NumPy, ByzFL, Blades, the
        Byz-NSGDM code) or the lower one (``"lower"``: ``torch.median``, hence several PyTorch code bases).

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: ``even`` is none of the two.

    >>> import byzjax
    >>> byzjax.aggregate(median(), jnp.array([[1.0], [2.0], [3.0], [jnp.nan]])).tolist()
    [2.5]
    >>> byzjax.aggregate(median(), jnp.array([[1.0], [2.0], [jnp.nan], [jnp.nan]])).tolist()
    [nan]
    >>> byzjax.aggregate(median(even="lower"), jnp.array([[1.0], [2.0], [3.0], [9.0]])).tolist()
    [2.0]
    """
    check_choice(even, typing.get_args(Even), "even", "median")

    def reduce(x: jax.Array) -> jax.Array:
        return middle(x, x.shape[0], even)

    return coordinate_rule(Coordinatewise(reduce))


@value
def trimmed_mean(f: Numeric) -> Aggregator:
    """The coordinate-wise mean without the f smallest and the f largest values.

    ``trimmed_mean(x)_k = (1/(n − 2f)) Σ_{r = f+1}^{n−f} x_(r)k`` with ``x_(1)k ≤ … ≤ x_(n)k``; NaN sorts last. NaN
    where more than f values are lost at one end. The convention of Yin et al., ByzFL (TrMean) and Blades; Flower's
    FedTrimmedAvg gives the fraction β = f/n. The kept values are averaged, never "the sum minus the extremes", which
    one inf turns into NaN.

    Args:
      f: number of values cut at either end, 0 ≤ f < n/2; may be traced. f = 0 is the mean.

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: f < 0, or 2f ≥ n.

    >>> import byzjax
    >>> byzjax.aggregate(trimmed_mean(f=1), jnp.array([[1.0], [2.0], [4.0], [jnp.inf]])).tolist()
    [3.0]
    """
    f = check_f(f, "trimmed_mean")

    def reduce(x: jax.Array) -> jax.Array:
        n = x.shape[0]
        minority = check_minority(f, n, "trimmed_mean")
        mean = rank_sum(x, f, n - f) / jnp.asarray(n - 2 * f, x.dtype)
        return finite_or_nan(mean) * minority

    return coordinate_rule(Coordinatewise(reduce))


@value
def meamed(f: Numeric, *, even: Even = "midpoint") -> Aggregator:
    """Mean around the median: in each coordinate, the mean of the n − f values nearest to the median.

    ``meamed(x)_k = (1/(n − f)) Σ_{i ∈ N_k} x_ik`` with ``N_k`` the n − f values nearest to the median of the k-th
    coordinate; of two values at the same distance the smaller one is nearer. NaN sorts last; NaN where more than f
    values are lost.

    Args:
      f: number of values left out, 0 ≤ f < n/2; may be traced. f = 0 is the mean.
      even: with an even n the median is the ``"midpoint"`` of the two middle values (ByzFL), or the ``"lower"`` one
        (ByzPy).

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: f < 0, 2f ≥ n, or ``even`` is none of the two.

    Xie, Koyejo, Gupta. Generalized Byzantine-tolerant SGD. 2018.

    >>> import byzjax
    >>> byzjax.aggregate(meamed(f=1), jnp.array([[1.0], [2.0], [3.0], [jnp.inf]])).tolist()
    [2.0]
    """
    f = check_f(f, "meamed")
    check_choice(even, typing.get_args(Even), "even", "meamed")

    def reduce(x: jax.Array) -> jax.Array:
        n = x.shape[0]
        minority = check_minority(f, n, "meamed")
        return mean_around_median(x, n, n - f, even) * minority

    return coordinate_rule(Coordinatewise(reduce))


@promises(translation=False, scale=False, averaging=False, robust=False)
@value
def sign_majority() -> Aggregator:
    """Majority vote of signs: ``sign(Σ_i sign(x_i))`` in each coordinate, 0 in a draw.

    The server of signSGD with majority vote. A vote is bounded, so that f < n/2 hostile workers cannot outvote a
    unanimous honest majority; the result is a direction, not an estimate of the mean. NaN does not vote.

    Shapes: ``f32[n, d] -> f32[d]``, values −1, 0, 1.

    Bernstein, Zhao, Azizzadenesheli, Anandkumar. signSGD with majority vote is communication efficient and fault
    tolerant. ICLR 2019.

    >>> import byzjax
    >>> byzjax.aggregate(sign_majority(), jnp.array([[5.0, -1.0], [0.1, 1.0], [-9.0, jnp.nan]])).tolist()
    [1.0, 0.0]
    """

    def reduce(x: jax.Array) -> jax.Array:
        votes = [jnp.where(jnp.isnan(row), 0.0, jnp.sign(row)) for row in x]
        return jnp.sign(sum(votes[1:], votes[0]))

    return coordinate_rule(Coordinatewise(reduce))


def middle(x: jax.Array, count: Numeric, even: str = "midpoint") -> jax.Array:
    """The median of the ``count`` smallest of n values in each coordinate, NaN if not finite: ``[n, …] -> […]``.

    Args:
      x: ``[n, …]``, NaN last.
      count: 1 ≤ count ≤ n, may be traced; those beyond are what a caller set to NaN.
      even: "midpoint" or "lower".

    >>> middle(jnp.array([[1.0], [4.0], [jnp.nan]]), 2).tolist()
    [2.5]
    """
    low = order_statistic(x, (count - 1) // 2)
    if even == "lower" or (concrete(count) is not None and int(count) % 2):
        return finite_or_nan(low)
    high = order_statistic(x, count // 2)
    return finite_or_nan(low + 0.5 * (high - low))  # their sum may overflow


def mean_around_median(x: jax.Array, count: Numeric, nearest: Numeric, even: str = "midpoint") -> jax.Array:
    """The mean of so many values ``nearest`` to the median of the ``count`` smallest: ``[n, …] -> […]``.

    Of two values at the same distance the smaller one is nearer. NaN where a value that is not finite would count.

    Args:
      x: ``[n, …]``, NaN last.
      count, nearest: 1 ≤ nearest ≤ count ≤ n, may be traced.
      even: as in `middle`.

    >>> mean_around_median(jnp.array([[1.0], [2.0], [3.0], [9.0]]), 4, 2).tolist()
    [2.5]
    """
    n, median = x.shape[0], middle(x, count, even)
    divisor = jnp.asarray(nearest, x.dtype)
    if n > order_statistics.MAX_NETWORK:
        x = nan_last(x)
        return lowest_sum(x, jnp.abs(x - median[None]), nearest) / divisor
    rows = sort_workers(x)

    def row(i: Numeric) -> jax.Array:
        return rows[int(i)] if concrete(i) is not None else jnp.stack(rows)[i]

    # The nearest values are neighbours in sorted order. Their window moves up while the value above it is nearer than
    # the lowest one in it.
    shifts = count - nearest
    most = int(shifts) if concrete(shifts) is not None else n - 1
    first = jnp.zeros(median.shape, jnp.int32)
    for start in range(most):
        above = row(start + nearest if concrete(nearest) is not None else jnp.minimum(start + nearest, n - 1))
        moves = (median - rows[start] > above - median) & (start < shifts)
        first = first + moves.astype(jnp.int32)
    inside = [jnp.where((r >= first) & (r < first + nearest), value, 0.0) for r, value in enumerate(rows)]
    return finite_or_nan(sum(inside[1:], inside[0]) / divisor)
