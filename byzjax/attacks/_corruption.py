"""Silent data corruption: what faulty hardware sends instead of a gradient, without any intent."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.attacks._simple import no_state
from byzjax.base import Attack
from byzjax.checks import check_integer, check_mask, num_workers_of
from byzjax.promises import promises
from byzjax.rng import check_key
from byzjax.stacked.blocks import wide_dtype
from byzjax.types import Params, Stacked
from byzjax.values import value


@promises(noisy=True)
@value
def soft_error(bit: int | None = None) -> Attack:
    """Soft error: one bit of one coordinate of what a Byzantine worker computed is flipped.

    ``v_i = g_i`` but for one coordinate k, ``v_ik = g_ik XOR 2^j`` on its binary representation; k is drawn uniformly
    over all leaves, and j over all bits. Most flips change next to nothing; the exponent's highest
    makes 10³⁸ of 1/2 in float32, and infinity of 1.

    Args:
      bit: j, 0 for the lowest bit of the mantissa; the highest bit is the sign, the one below it the highest of the
        exponent. None draws it.

    Raises:
      ValueError: no such bit, or no key.

    Baumann. Radiation-induced soft errors in advanced semiconductor technologies. IEEE TDMR 2005. In training: He,
    Hutton, Chan, De Gruijl, Govindaraju, Patil, Li. Understanding and mitigating hardware failures in deep learning
    training systems. ISCA 2023.

    >>> attack = soft_error(bit=31)
    >>> x = jnp.array([[1.0], [2.0]])
    >>> attack.update(x, (), None, byzantine=jnp.array([False, True]), key=jax.random.key(0))[0].tolist()
    [[1.0], [-2.0]]
    """
    chosen = None if bit is None else check_integer(bit, "bit", "soft_error", least=0)

    def update(updates: Stacked, state, params=None, *, byzantine: jax.Array, key: jax.Array | None = None, **extra):
        del params, extra
        n = num_workers_of(updates)
        where, which = jax.random.split(check_key(key, "soft_error"))
        leaves, structure = jax.tree.flatten(updates)
        places = jax.random.randint(where, (n,), 0, sum(leaf.size for leaf in leaves) // n)
        rows, before = [], 0
        for leaf in leaves:
            width, number = leaf.size // n, 8 * leaf.dtype.itemsize
            if chosen is not None and chosen >= number:
                raise ValueError(f"soft_error: bit = {chosen} of {leaf.dtype} must be below {number}.")
            drawn = jax.random.randint(which, (n,), 0, number) if chosen is None else jnp.full((n,), chosen)
            rows.append(_with_flipped_bits(leaf.reshape(n, width), places - before, drawn).reshape(leaf.shape))
            before += width
        return stacked.replace_rows(updates, byzantine, jax.tree.unflatten(structure, rows)), state

    return Attack(no_state, update)


def _with_flipped_bits(x: jax.Array, places: jax.Array, bits: jax.Array) -> jax.Array:
    """``x`` (``[n, d]``) with one bit flipped in one coordinate of every row; in none where its place is outside."""
    kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    at = jnp.arange(x.shape[0]), jnp.where(places < 0, x.shape[1], places)
    old = jax.lax.bitcast_convert_type(x.at[at].get(mode="fill", fill_value=0), kind)
    flipped = old ^ jnp.left_shift(jnp.ones((), kind), bits.astype(kind))
    return x.at[at].set(jax.lax.bitcast_convert_type(flipped, x.dtype), mode="drop")


@value
def nan() -> Attack:
    """NaN: each Byzantine worker sends nothing but NaN, as after an overflow or a division by zero.

    ``v_i = (NaN, …, NaN)``. No paper.

    >>> nan().update(jnp.array([[1.0], [2.0]]), (), None, byzantine=jnp.array([False, True]))[0].tolist()
    [[1.0], [nan]]
    """
    return _constant(jnp.nan)


@value
def zero() -> Attack:
    """Zero: each Byzantine worker sends zeros, as a device does whose buffer nobody filled.

    ``v_i = 0``. A mean over n workers shrinks by b/n; rules that look for the middle see b rows that agree. No paper.

    >>> zero().update(jnp.array([[1.0], [2.0]]), (), None, byzantine=jnp.array([False, True]))[0].tolist()
    [[1.0], [0.0]]
    """
    return _constant(0.0)


def _constant(number: float) -> Attack:
    def update(updates: Stacked, state, params=None, *, byzantine: jax.Array, **extra):
        del params, extra
        rows = jax.tree.map(lambda x: jnp.full_like(x, number), updates)
        return stacked.replace_rows(updates, byzantine, rows), state

    return Attack(no_state, update)


class StaleState(NamedTuple):
    """What every worker would have sent in the last rounds."""

    history: Stacked  # leaves [n, k, *p], the latest last, float32 or wider
    rounds: jax.Array  # i32[]


@value
def stale(delay: int = 1) -> Attack:
    """Stale gradients: each Byzantine worker sends what it should have sent k rounds before.

    ``v_i^t = g_i^{t−k}``; in the first k rounds ``g_i^t``, since there is nothing older. As from a device that is
    behind the others, or whose buffer is sent again. No paper.

    Args:
      delay: k ≥ 1, static. State: k × n × d numbers.

    Raises:
      ValueError: k < 1.

    >>> attack, mask = stale(), jnp.array([False, True])
    >>> state = attack.init(jnp.zeros(1), 2)
    >>> _, state = attack.update(jnp.array([[1.0], [2.0]]), state, None, byzantine=mask)
    >>> attack.update(jnp.array([[3.0], [4.0]]), state, None, byzantine=mask)[0].tolist()
    [[3.0], [2.0]]
    """
    delay = check_integer(delay, "delay", "stale", least=1)

    def init(params: Params, num_workers: int) -> StaleState:
        def nothing(p: Any) -> jax.Array:
            return jnp.zeros((num_workers, delay, *p.shape), wide_dtype([p]))

        return StaleState(jax.tree.map(nothing, params), jnp.zeros((), jnp.int32))

    def update(updates: Stacked, state: StaleState, params=None, *, byzantine: jax.Array, **extra):
        del params, extra
        late = check_mask(byzantine, num_workers_of(updates)) & (state.rounds >= delay)
        oldest = jax.tree.map(lambda h, x: h[:, 0].astype(x.dtype), state.history, updates)
        history = jax.tree.map(
            lambda h, x: jnp.concatenate([h[:, 1:], x[:, None].astype(h.dtype)], axis=1), state.history, updates
        )
        return stacked.replace_rows(updates, late, oldest), StaleState(history, state.rounds + 1)

    return Attack(init, update)
