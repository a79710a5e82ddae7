"""Named key streams, and what may be drawn from. A run has one key, which never advances.

A round's key is ``fold_in(key, step)``, and each consumer folds in its own name. So a new consumer never shifts
another's numbers, every method sees the same minibatches at the same seed, and a resumed run continues bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl

from byzjax.checks import shown


class RoundKeys(NamedTuple):
    """One key per consumer of randomness in a round."""

    data: jax.Array
    model: jax.Array
    attack: jax.Array
    poison: jax.Array
    aggregator: jax.Array


# A stream's number is part of what determines a result: append, never renumber.
_STREAMS = {"data": 0, "model": 1, "attack": 2, "poison": 3, "aggregator": 4}
_ESTIMATOR = 5  # a stream, too; drawn from in rounds with an estimator alone
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
    base = jax.random.fold_in(drawable(key), step)
    return RoundKeys(**{name: jax.random.fold_in(base, number) for name, number in _STREAMS.items()})


def estimator_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """What estimators draw from in one round, apart from the streams of `round_keys`."""
    return jax.random.fold_in(jax.random.fold_in(drawable(key), step), _ESTIMATOR)


def init_key(key: jax.Array) -> jax.Array:
    """The key of the initial parameters, apart from every round's."""
    return jax.random.fold_in(drawable(key), _INIT)


def order_key(key: jax.Array) -> jax.Array:
    """The key of what is drawn for several rounds together, as the order of an epoch."""
    return jax.random.fold_in(drawable(key), _ORDER)


def drawable(key: jax.Array, where: str = "key") -> jax.Array:
    """The key with which every lane of a ``vmap`` draws what it draws alone.

    Keys of ``"rbg"`` do not by themselves: under ``vmap`` JAX draws for all lanes from the first one's key. They are
    given an implementation of the same numbers that draws lane after lane. Other keys are what they were.

    Args:
      key: typed, or raw key data of the default implementation.
      where: who draws, for the message.

    Raises:
      ValueError: a key of ``"unsafe_rbg"``, for which ``fold_in(fold_in(key, 1), 2)`` equals
        ``fold_in(fold_in(key, 2), 1)``: rounds and streams would share their numbers.

    >>> keys = jax.random.split(jax.random.key(0, impl="rbg"), 2)
    >>> both = jax.vmap(lambda key: jax.random.bits(drawable(key)))(keys)
    >>> bool(both[1] == jax.random.bits(keys[1]))
    True
    """
    kind = jax.random.key_impl(key)
    if kind == "unsafe_rbg":
        raise ValueError(
            f"{where}: keys of the PRNG 'unsafe_rbg' are not independent after fold_in: rounds, streams and workers "
            "would draw the same numbers; use jax.random.key(seed, impl='threefry2x32'), or 'rbg'."
        )
    return jax.random.wrap_key_data(key_data(key), impl=_RBG_BY_LANE) if kind == "rbg" else key


def check_key(key: jax.Array | None, where: str) -> jax.Array:
    """Reject what is not one key, or one that cannot be drawn from, and return it as `drawable` makes it.

    Raises:
      ValueError: no key, several, or one of ``"unsafe_rbg"``.
    """
    if not isinstance(key, jax.Array):
        raise ValueError(f"{where}: needs a PRNG key, not {shown(key)}; pass key=jax.random.key(seed).")
    if key.shape != () if is_key(key) else not _is_raw_key(key):
        raise ValueError(
            f"{where}: {key.dtype}{list(key.shape)} is not one PRNG key; pass key=jax.random.key(seed), and vmap over "
            "several."
        )
    return drawable(key, where)


def worker_keys(state: Any, worker: jax.Array) -> Any:
    """A worker's state with a key of its own in place of every key that all workers share.

    Args:
      state: any tree. A vector of uint32 as long as a raw key of the default implementation is taken for one.
      worker: i32[], its index.

    >>> bool((worker_keys(jax.random.PRNGKey(0), 1) == worker_keys(jax.random.PRNGKey(0), 2)).all())
    False
    """

    def own(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if is_key(leaf) or _is_raw_key(leaf):
            return jax.random.fold_in(drawable(leaf, "per_worker"), worker)
        return leaf

    return jax.tree.map(own, state)


def is_key(leaf: Any) -> bool:
    """Whether an array holds keys as a type of their own."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def implementation(key: jax.Array) -> str:
    """The name of what draws from a key."""
    return str(jax.random.key_impl(key))


def of_implementation(data: jax.Array, name: str) -> jax.Array:
    """Keys of what `implementation` has named."""
    return jax.random.wrap_key_data(data, impl=_RBG_BY_LANE if name == str(_RBG_BY_LANE) else name)


def key_data(leaf: Any) -> Any:
    """Keys as plain numbers; other arrays as they are."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _is_raw_key(leaf: Any) -> bool:
    """Whether an array looks like one key of the default implementation, without a type of its own."""
    if leaf.dtype != jnp.uint32 or leaf.ndim != 1:
        return False
    return leaf.shape == jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


def _rbg(data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(data, impl="rbg")


def _bits_by_lane(data: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    @jax.custom_batching.custom_vmap
    def bits(data: jax.Array) -> jax.Array:
        return jax.random.bits(_rbg(data), shape, f"uint{bit_width}")

    @bits.def_vmap
    def _(axis_size: int, in_batched: list[bool], data: jax.Array) -> tuple[jax.Array, bool]:
        del axis_size, in_batched
        return jax.lax.map(bits, data), True

    return bits(data)


# fold_in and split are threefry's in "rbg", which vmap as they should.
_RBG_BY_LANE = define_prng_impl(
    key_shape=(4,),
    seed=lambda seed: key_data(jax.random.key(seed, impl="rbg")),
    split=lambda data, shape: key_data(jax.random.split(_rbg(data), shape)),
    random_bits=_bits_by_lane,
    fold_in=lambda data, number: key_data(jax.random.fold_in(_rbg(data), number)),
    name="rbg, lane by lane",
    tag="rbg_by_lane",
)
