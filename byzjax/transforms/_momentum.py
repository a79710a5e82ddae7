"""Momentum with a β that may change."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax.checks import check_choice, number_or_nan
from byzjax.transforms._link import Link, floating
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

    The state keeps the dtypes of the parameters, and what is given has the updates'; `per_worker` widens 16 bits.

    Args:
      beta: β in [0, 1), may be traced, and all is NaN where it is out of range then; or a schedule, a function of the
        update counted from 0, used as it is: η_k = 1 − β_k of Algorithm 1. A number gives `optax.ema` without bias
        correction, and `optax.trace`.
      kind: ``"ema"``, or ``"heavy_ball"`` for the second formula.

    Raises:
      ValueError: β outside [0, 1), an unknown kind, or leaves of integers.

    >>> tx = momentum(lambda count: jnp.where(count == 0, 0.0, 0.5))
    >>> first, state = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)))
    >>> float(first[0]), float(tx.update(3 * jnp.ones(1), state)[0][0])
    (1.0, 2.0)
    """
    where = "momentum"
    averages = check_choice(kind, typing.get_args(Momentum), "kind", where) == "ema"
    if not callable(beta):
        b: Any = number_or_nan(beta, "beta", where, least=0, below=1)
        inner = optax.ema(b, debias=False) if averages else optax.trace(b)
        return _kept(inner.init, inner.update, "ema" if averages else "trace")

    make: Any = ScheduledEmaState if averages else ScheduledTraceState

    def init(params: Params) -> Any:
        return make(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Params, state: Any):
        count, old = state
        now = beta(count)

        def mixed(v: jax.Array, g: jax.Array) -> jax.Array:
            b = jnp.asarray(now, v.dtype)
            return b * v + ((1 - b) * g if averages else g)

        new = jax.tree.map(mixed, old, updates)
        return new, make(optax.safe_increment(count), new)

    return _kept(init, update, "ema" if averages else "trace")


def _kept(init: Any, step: Any, field: str) -> Link:
    """A link that computes in the wider of two dtypes, and keeps those of its state and of the updates."""

    def update(updates: Params, state: Any, params: Params | None = None, **extra):
        del params, extra
        updates, old = floating(updates, "momentum"), getattr(state, field)
        with jax.numpy_dtype_promotion("standard"):
            wide = jax.tree.map(lambda g, v: jnp.promote_types(g.dtype, v.dtype), updates, old)
        given, new = step(_as(updates, wide), state._replace(**{field: _as(old, wide)}))
        return _as(given, updates), new._replace(**{field: _as(getattr(new, field), old)})

    return Link(init, update)


def _as(tree: Params, like: Params) -> Params:
    """In the dtypes of another tree, or those that are its leaves."""
    return jax.tree.map(lambda leaf, other: leaf.astype(getattr(other, "dtype", other)), tree, like)
