"""Schedules of step sizes, as optax has them: functions of the round, counted from 0."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from byzjax.checks import check_number
from byzjax.types import Numeric

Schedule = Callable[[jax.Array], jax.Array]


def sqrt_decay(learning_rate: Numeric) -> Schedule:
    """The practical schedule of the paper, ``γ_k = γ₀/√k`` for k = 1, 2, …, as an optax schedule of k − 1.

    >>> float(sqrt_decay(1.0)(3))
    0.5
    """
    return lambda count: learning_rate / jnp.sqrt(jnp.asarray(count + 1, jnp.result_type(float)))


def schedule(learning_rate: Numeric | Schedule, decay: bool, where: str) -> optax.ScalarOrSchedule:
    """A schedule as it is; a number γ₀ checked, and with ``decay`` divided by √k."""
    if callable(learning_rate):
        return learning_rate  # type: ignore[return-value]
    check_number(learning_rate, "learning_rate", where, least=0, open_below=True)
    return sqrt_decay(learning_rate) if decay else learning_rate  # type: ignore[return-value]
