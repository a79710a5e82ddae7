"""Named key streams. A run has one key, which never advances.

A round's key is ``fold_in(key, step)``, and each consumer folds in its own name. So a new consumer never shifts
another's numbers, every method sees the same minibatches at the same seed, and a resumed run continues bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class RoundKeys(NamedTuple):
    """One key per consumer of randomness in a round."""

    data: jax.Array
    model: jax.Array
    attack: jax.Array
    poison: jax.Array
    aggregator: jax.Array


# A stream's number is part of what determines a result: append, never renumber.
_STREAMS = {"data": 0, "model": 1, "attack": 2, "poison": 3, "aggregator": 4}
_INIT = 0xFFFFFFFF  # outside the range of steps, so that no round shares the key of the initial parameters
_ORDER = 0xFFFFFFFE


def round_keys(key: jax.Array, step: jax.Array) -> RoundKeys:
    """The keys of one round.

    Args:
      key: the run's key.
      step: i32[], the number of rounds done.

    >>> a, b = round_keys(jax.random.key(0), 3), round_keys(jax.random.key(0), 3)
    >>> bool((jax.random.key_data(a.data) == jax.random.key_data(b.data)).all())
    True
    """
    base = jax.random.fold_in(key, step)
    return RoundKeys(**{name: jax.random.fold_in(base, number) for name, number in _STREAMS.items()})


def init_key(key: jax.Array) -> jax.Array:
    """The key of the initial parameters, apart from every round's."""
    return jax.random.fold_in(key, _INIT)


def order_key(key: jax.Array) -> jax.Array:
    """The key of what is drawn for several rounds together, as the order of an epoch."""
    return jax.random.fold_in(key, _ORDER)


def is_key(leaf: Any) -> bool:
    """Whether an array holds keys as a type of their own."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def implementation(key: jax.Array) -> str:
    """The name of what draws from a key."""
    return str(jax.random.key_impl(key))


def key_data(leaf: Any) -> Any:
    """Keys as plain numbers; other arrays as they are."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf
