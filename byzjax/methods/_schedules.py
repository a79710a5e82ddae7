"""Schedules of step sizes and of momenta, as optax has them: functions of the round, counted from 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from byzjax.checks import check_choice, check_integer, check_number
from byzjax.types import Numeric
from byzjax.values import Value, value

Schedule = Callable[[jax.Array], jax.Array]


class Scheduled(Value):
    """A schedule that is a value: equal to another of the same call.

    Args:
      function: of the round counted from 0.
    """

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def __call__(self, count: Any) -> Any:
        return self._function(count)


@value
def sqrt_decay(learning_rate: Numeric) -> Schedule:
    """The practical schedule of the paper, ``γ_k = γ₀/√k`` for k = 1, 2, …, as an optax schedule of k − 1.

    >>> float(sqrt_decay(1.0)(3))
    0.5
    """
    return Scheduled(lambda count: learning_rate / jnp.sqrt(jnp.asarray(count + 1, jnp.result_type(float))))


@value
def fixed_horizon(learning_rate: Numeric, num_rounds: Numeric) -> Schedule:
    """The step size of Theorem 1, ``γ = γ₀/(K + 1)^{3/4}`` in all of K rounds; with `fixed_horizon_beta` for β.

    K counts the rounds of Algorithm 1, k = 1, …, K. The proof sums over the K + 1 steps from x⁰, …, x^K, one more than
    the algorithm takes; for its bound to the letter run one round more than ``num_rounds``.

    Args:
      learning_rate: γ₀ > 0; for its bound at most 1/(2L₁), (K + 1)^{1/4}/(√32 L₁) and 1/(√(128(1 + 2κ)) L₁).
      num_rounds: K, may be traced.

    Raises:
      ValueError: γ₀ not finite or not positive, or K < 1.

    >>> float(fixed_horizon(8.0, 15)(0))
    1.0
    """
    check_number(learning_rate, "learning_rate", "fixed_horizon", least=0, open_below=True)
    check_number(num_rounds, "num_rounds", "fixed_horizon", least=1)
    return Scheduled(lambda count: learning_rate / (num_rounds + 1) ** 0.75)


@value
def fixed_horizon_beta(num_rounds: Numeric) -> Schedule:
    """The momentum of Theorem 1, ``β = 1 − η`` with ``η = (K + 1)^{−1/2}`` in all of K rounds.

    Args:
      num_rounds: K, as in `fixed_horizon`.

    Raises:
      ValueError: K < 1.

    >>> float(fixed_horizon_beta(15)(0))
    0.75
    """
    check_number(num_rounds, "num_rounds", "fixed_horizon_beta", least=1)
    return Scheduled(lambda count: 1 - (num_rounds + 1) ** -0.5)


@value
def doubling(learning_rate: Numeric, first: int = 1) -> Schedule:
    """The doubling trick of Remark 2: `fixed_horizon` for blocks of K₀, 2K₀, 4K₀, … rounds; K need not be known.

    The remark says "via standard doubling tricks" and no more. The one in the book that it cites (Hazan, Introduction
    to online convex optimization, 2016) starts the algorithm anew with every block. Here a block goes on from the
    model and the momenta of the last; `doubling_beta` can restart the momenta.

    Args:
      learning_rate: γ₀ > 0, may be traced.
      first: K₀, rounds of the first block.

    Raises:
      ValueError: γ₀ not finite or not positive, or K₀ no integer from 1 to 2³¹ − 1.

    >>> [round(1 / float(doubling(1.0)(k)) ** (4 / 3)) for k in range(8)]
    [2, 3, 3, 5, 5, 5, 5, 9]
    """
    check_number(learning_rate, "learning_rate", "doubling", least=0, open_below=True)
    first = _check_first(first, "doubling")
    return Scheduled(lambda count: learning_rate / (_block(count, first)[0] + 1) ** 0.75)


@value
def doubling_beta(first: int = 1, *, restart: bool = False) -> Schedule:
    """The momentum that goes with `doubling`: `fixed_horizon_beta` in blocks of K₀, 2K₀, 4K₀, … rounds.

    Args:
      first: K₀.
      restart: β = 0 in the first round of a block, which begins it with fresh gradients as v⁰.

    Raises:
      ValueError: K₀ no integer from 1 to 2³¹ − 1.

    >>> [round((1 - float(doubling_beta()(k))) ** -2) for k in range(8)]
    [2, 3, 3, 5, 5, 5, 5, 9]
    """
    first = _check_first(first, "doubling_beta")
    restart = check_choice(restart, (False, True), "restart", "doubling_beta")

    def beta(count: Any) -> jax.Array:
        length, begins = _block(count, first)
        usual = 1 - (length + 1) ** -0.5
        return jnp.where(begins, 0.0, usual) if restart else usual

    return Scheduled(beta)


def _check_first(first: Any, where: str) -> int:
    first = check_integer(first, "first", where, least=1)
    if first >= 2**31:
        raise ValueError(f"{where}: first = {first} is more rounds than are counted, 2³¹ − 1; use fixed_horizon.")
    return first


def _block(count: Any, first: int) -> tuple[jax.Array, jax.Array]:
    """How many rounds the block of a round has, and whether it begins there: blocks end before K₀(2^j − 1)."""
    count = jnp.asarray(count, jnp.int32)
    power = jnp.left_shift(1, 31 - jax.lax.clz(count // first + 1))
    wide = jnp.result_type(float)
    return jnp.asarray(first, wide) * power.astype(wide), count == first * (power - 1)


def schedule(learning_rate: Numeric | Schedule, decay: bool, where: str) -> optax.ScalarOrSchedule:
    """A schedule as it is; a number γ₀ checked, and with ``decay`` divided by √k."""
    if callable(learning_rate):
        return learning_rate  # type: ignore[return-value]
    check_number(learning_rate, "learning_rate", where, least=0, open_below=True)
    return sqrt_decay(learning_rate) if decay else learning_rate  # type: ignore[return-value]
