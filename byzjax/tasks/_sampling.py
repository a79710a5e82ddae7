"""Which of its examples every worker takes in a round."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.checks import check_choice, check_integer
from byzjax.rng import order_key

Sampling = Literal["replacement", "epochs"]

_TURNS = 64  # of the shuffle; 16 are enough for χ² to see no difference from random orders of 3 to 3,530 places


class Sampler(NamedTuple):
    """A way to draw places.

    Attributes:
      draw: ``(data, key, step) -> i32[n, B]``, places below ``data["sizes"]``.
      data: arrays that belong into the task's data.
      by_round: what `Task.by_round` should be. If so, ``key`` must be the run's and ``step`` the round; else ``key`` is
        the round's and ``step`` is not looked at.
    """

    draw: Callable[..., jax.Array]
    data: dict[str, jax.Array]
    by_round: bool


def sampler(
    sizes: np.ndarray,
    batch_size: int,
    *,
    sampling: Sampling = "replacement",
    rounds_per_epoch: int | None = None,
    order_seed: int | None = None,
    where: str = "sampler",
) -> Sampler:
    """Batches of B of every worker's examples.

    Args:
      sizes: i[n], how many examples each worker has.
      batch_size: B.
      sampling: ``"replacement"``: B independent uniform draws a round. ``"epochs"``: each worker goes through its
        examples in an order of its own, a new one for every epoch, ``⌊size/B⌋`` rounds long; what is left over then is
        not used in that epoch. A worker with fewer than B examples takes some of them more than once a round.
      rounds_per_epoch: shuffle again after so many rounds, for ``"epochs"``; at most ``⌊size/B⌋`` of the smallest
        shard.
      order_seed: draw the same batches in every run, from this seed; by default from the run's key.
      where: what messages begin with.

    Raises:
      ValueError: B < 1; an unknown ``sampling``; ``rounds_per_epoch`` without epochs or beyond the smallest shard; a
        seed that is not an integer from 0 to 2³² − 1.

    >>> take = sampler(np.array([6, 4]), 2, sampling="epochs")
    >>> rounds = [take.draw({"sizes": jnp.array([6, 4])}, jax.random.key(0), step) for step in range(6)]
    >>> sorted(int(place) for batch in rounds[:3] for place in batch[0])
    [0, 1, 2, 3, 4, 5]
    """
    batch_size = check_integer(batch_size, "batch_size", where, least=1)
    check_choice(sampling, typing.get_args(Sampling), "sampling", where)
    if rounds_per_epoch is not None:
        rounds_per_epoch = check_integer(rounds_per_epoch, "rounds_per_epoch", where, least=1)
        most = int(sizes.min()) // batch_size
        if sampling != "epochs":
            raise ValueError(f"{where}: rounds_per_epoch has no effect; use it with sampling='epochs'.")
        if rounds_per_epoch > most:
            raise ValueError(
                f"{where}: rounds_per_epoch = {rounds_per_epoch} is too many: the smallest shard has {sizes.min()} "
                f"examples, {most} batches of {batch_size}; use fewer, or smaller batches."
            )
    by_round = sampling == "epochs" or order_seed is not None
    data, kind = {}, None
    if order_seed is not None:
        seed = check_integer(order_seed, "order_seed", where, least=0)
        if seed >= 1 << 32:
            raise ValueError(f"{where}: order_seed = {order_seed} must be less than 2**32.")
        own = order_key(jax.random.key(seed))
        kind, data["order_key"] = jax.random.key_impl(own), jax.random.key_data(own)

    def draw(data: dict, key: jax.Array, step: jax.Array | None) -> jax.Array:
        if not by_round:
            return jax.random.randint(key, (len(sizes), batch_size), 0, data["sizes"][:, None])
        if step is None:
            raise ValueError(f"{where}: its batches depend on the round; call sample(data, key, step) with its number.")
        step = jnp.asarray(step, jnp.int32)
        if order_seed is not None:
            key = jax.random.wrap_key_data(data["order_key"], impl=kind)
        if sampling == "epochs":
            return _in_epochs(key, step, data["sizes"], batch_size, rounds_per_epoch)
        shape = (len(sizes), batch_size)
        return jax.random.randint(jax.random.fold_in(key, step), shape, 0, data["sizes"][:, None], jnp.int32)

    return Sampler(draw, data, by_round)


def _in_epochs(
    key: jax.Array, step: jax.Array, sizes: jax.Array, batch_size: int, rounds_per_epoch: int | None
) -> jax.Array:
    """The places of one round, from the round's number alone: no order has to be remembered."""

    def of_worker(key: jax.Array, size: jax.Array) -> jax.Array:
        length = jnp.maximum(size // batch_size, 1) if rounds_per_epoch is None else rounds_per_epoch
        first = (step % length) * batch_size
        places = first + jnp.arange(batch_size, dtype=jnp.int32)  # whatever the precision, the same draws
        return shuffled(jax.random.fold_in(key, step // length), size, places % size)

    return jax.vmap(of_worker)(jax.random.split(key, len(sizes)), sizes)


def shuffled(key: jax.Array, size: jax.Array, places: jax.Array) -> jax.Array:
    """What a random order of ``0 … size − 1`` has at the given places, without the rest of it being computed.

    Swap or not: in every turn a place ``x`` and its mirror image ``(K − x) mod size`` are exchanged or not, by one bit
    of a hash that both have in common. A sort of all places would cost more than a round of a small model.

    Source: Hoang, Morris, Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012; the hash is the
    finaliser of MurmurHash3.

    >>> sorted(shuffled(jax.random.key(0), jnp.asarray(7), jnp.arange(7)).tolist())
    [0, 1, 2, 3, 4, 5, 6]
    """
    mirrors, salts = jax.random.split(key)

    def turn(place: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        mirror, salt = drawn
        other = mirror - place
        other = jnp.where(other < 0, other + size, other)
        bit = _mixed(jnp.maximum(place, other).astype(jnp.uint32) ^ salt) & 1
        return jnp.where(bit == 1, other, place), None

    drawn = jax.random.randint(mirrors, (_TURNS,), 0, size, places.dtype), jax.random.bits(salts, (_TURNS,), jnp.uint32)
    return jax.lax.scan(turn, places, drawn)[0]


def _mixed(h: jax.Array) -> jax.Array:
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
