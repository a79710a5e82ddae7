"""Momentum with a β that may change."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax.checks import check_choice, check_number
from byzjax.transforms._link import Link
from byzjax.types import Numeric, Params
from byzjax.values import value

Momentum = Literal["ema", "heavy_ball"]


class ScheduledEmaState(NamedTuple):
    """As `optax.EmaState`."""

    count: jax.Array  # i32[]
    ema: Params  # leaves [*p]


class ScheduledTraceState(NamedTuple):
    """As `optax.TraceState`, with the round."""

    count: jax.Array  # i32[]
    trace: Params  # leaves [*p]


@value
def momentum(beta: Numeric | Callable[[jax.Array], Any], *, kind: Momentum = "ema") -> Link:
    """An optax link: ``v ← β v + (1 − β) g``, line 3 of Algorithm 1, or ``v ← β v + g``.

    Args:
      beta: β in [0, 1), may be traced; or a schedule, a function of the update counted from 0: η_k = 1 − β_k of
        Algorithm 1. A number gives `optax.ema` without bias correction, and `optax.trace`.
      kind: ``"ema"``, or ``"heavy_ball"`` for the second formula.

    Raises:
      ValueError: β outside [0, 1), or an unknown kind.

    >>> tx = momentum(lambda count: jnp.where(count == 0, 0.0, 0.5))
    >>> first, state = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)))
    >>> float(first[0]), float(tx.update(3 * jnp.ones(1), state)[0][0])
    (1.0, 2.0)
    """
    averages = check_choice(kind, typing.get_args(Momentum), "kind", "momentum") == "ema"
    if not callable(beta):
        check_number(beta, "beta", "momentum", least=0, below=1)
        inner = optax.ema(beta, debias=False) if averages else optax.trace(beta)  # type: ignore[arg-type]
        return Link(inner.init, optax.with_extra_args_support(inner).update)

    make: Any = ScheduledEmaState if averages else ScheduledTraceState

    def init(params: Params) -> Any:
        return make(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Params, state: Any, params: Params | None = None, **extra):
        del params, extra
        count, old = state
        now = beta(count)

        def mixed(v: jax.Array, g: jax.Array) -> jax.Array:
            b = jnp.asarray(now, v.dtype)
            return b * v + ((1 - b) * g if averages else g)

        new = jax.tree.map(mixed, old, updates)
        return new, make(optax.safe_increment(count), new)

    return Link(init, update)
