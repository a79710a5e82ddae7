"""Mimic: attackers that look like honest workers. Three published attacks carry the name."""

from __future__ import annotations

import typing
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.attacks._simple import no_state
from byzjax.base import Attack
from byzjax.checks import check_choice
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.transforms._accumulating import widened
from byzjax.transforms._normalize import normalized
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import value

Variant = Literal["reverse", "copy", "fixed"]
Source = Literal["momentum", "gradient"]


class ReverseState(NamedTuple):
    """How many rounds the attackers have waited."""

    count: jax.Array  # i32[]


class CopyState(NamedTuple):
    """The running mean, the direction of largest spread, and whom to copy."""

    count: jax.Array  # i32[]
    mean: Params  # leaves [*p]
    direction: Params  # leaves [*p], unit norm after the first round
    target: jax.Array  # i32[]


@promises(adaptive=True)
@value
def mimic(
    variant: Variant,
    *,
    warmup: Numeric | None = None,
    scale: Numeric = 2.0,
    of: Source = "momentum",
    worker: Numeric = 0,
) -> Attack:
    """Mimic, in one of the three meanings of the word. There is no default: say which you mean.

    * ``"reverse"`` (Byz-NSGDM): honest for ``warmup`` rounds (50), then ``v_b = −scale · (1/G) Σ_{i honest} v_i`` with
      scale 2, of the momenta v_i that honest workers send (``of="momentum"``: its language-model code), or
      ``v_b = −scale · (1/G) Σ_{i honest} g_i`` of their raw gradients (``of="gradient"``: the text of the paper).
    * ``"copy"`` (Karimireddy et al.): for ``warmup`` rounds (1 in their code and in the MNIST code of Byz-NSGDM) follow
      the direction z of largest spread among honest rows by a power iteration, and copy the honest worker with the
      largest ``⟨v_i, z⟩``; from then on copy that worker for good, so that its data count b + 1 times.
    * ``"fixed"`` (ByzFL, whose ``epsilon`` is the index): copy a given worker from the start.

    Args:
      variant: which attack.
      warmup: rounds before it begins or settles, may be traced; for "reverse" and "copy".
      scale: for "reverse", may be traced.
      of: for "reverse", the mean of what is turned round.
      worker: for "fixed", the index of the copied worker, may be traced.

    Raises:
      ValueError: an unknown variant or ``of``, a negative warmup (for "copy", less than 1) or worker.

    Karimireddy, He, Jaggi. Byzantine-robust learning on heterogeneous datasets via bucketing. ICLR 2022.

    >>> attack = mimic("fixed", worker=1)
    >>> updates, _ = attack.update(jnp.array([[1.0], [3.0], [9.0]]), (), None, byzantine=jnp.arange(3) == 2)
    >>> updates.tolist()
    [[1.0], [3.0], [3.0]]
    """
    check_choice(variant, typing.get_args(Variant), "variant", "mimic")
    check_choice(of, typing.get_args(Source), "of", "mimic")
    if variant == "reverse":
        return _reverse(_check_warmup(50 if warmup is None else warmup, 0), scale, of)
    if variant == "copy":
        return _copy(_check_warmup(1 if warmup is None else warmup, 1))
    return _fixed(worker)


def _check_warmup(warmup: Numeric, least: int) -> Numeric:
    rounds = concrete(warmup, lambda known: _check_warmup(known, least))
    if rounds is not None and rounds < least:
        raise ValueError(f"mimic: warmup = {warmup} must be at least {least} rounds.")
    return warmup


def _reverse(warmup: Numeric, scale: Numeric, of: str) -> Attack:
    def init(params: Params, num_workers: int) -> ReverseState:
        del params, num_workers
        return ReverseState(jnp.zeros((), jnp.int32))

    def update(
        updates: Stacked,
        state: ReverseState,
        params=None,
        *,
        byzantine: jax.Array,
        grads: Stacked | None = None,
        **extra,
    ):
        del params, extra
        turned = grads if of == "gradient" else updates
        if turned is None:
            raise ValueError("mimic: of = 'gradient' needs grads=…; use of='momentum' for the updates.")
        honest = stacked.masked_mean(turned, ~byzantine)
        forged = jax.tree.map(lambda m: -jnp.asarray(scale, m.dtype) * m, honest)
        active = byzantine & (state.count >= warmup)
        return stacked.replace_rows(updates, active, forged), ReverseState(state.count + 1)

    return Attack(init, update)


def _fixed(worker: Numeric) -> Attack:
    index = concrete(worker, _fixed)
    if index is not None and index < 0:
        raise ValueError(f"mimic: worker = {worker} must be the index of a worker, 0 … n − 1.")

    def update(updates: Stacked, state, params=None, *, byzantine: jax.Array, **extra):
        del params, extra
        n = byzantine.shape[0]
        if index is not None and index >= n:
            raise ValueError(f"mimic: worker = {worker} must be below n = {n}.")
        return stacked.replace_rows(updates, byzantine, stacked.pick_row(updates, jnp.asarray(worker))), state

    return Attack(no_state, update)


def _copy(warmup: Numeric) -> Attack:
    def init(params: Params, num_workers: int) -> CopyState:
        del num_workers
        zeros = jax.tree.map(jnp.zeros_like, widened(params))  # averages of 16 bits would stall
        return CopyState(jnp.zeros((), jnp.int32), zeros, zeros, jnp.zeros((), jnp.int32))

    def update(updates: Stacked, state: CopyState, params=None, *, byzantine: jax.Array, key: jax.Array, **extra):
        del params, extra
        honest = ~byzantine
        spying = state.count < warmup
        watched = _watch(widened(updates), state, honest, key)
        target = jnp.argmax(jnp.where(honest, stacked.inner(updates, watched.direction), -jnp.inf)).astype(jnp.int32)
        watched = watched._replace(target=target)
        new = jax.tree.map(lambda a, b: jnp.where(spying, a, b), watched, state._replace(count=watched.count))
        return stacked.replace_rows(updates, byzantine, stacked.pick_row(updates, new.target)), new

    return Attack(init, update)


def _watch(updates: Stacked, state: CopyState, honest: jax.Array, key: jax.Array) -> CopyState:
    """One step of the power iteration for the direction of largest spread.

    ``μ ← (t μ + v̄)/(t + 1)`` and ``z ← (t z + u/‖u‖)/(t + 1)``, normalised, with
    ``u = Σ_i ⟨v_i − μ, z⟩ (v_i − μ)`` over honest rows; z starts at a Gaussian draw.
    """
    first = state.count == 0
    seen = state.count.astype(jnp.float32) / (state.count + 1).astype(jnp.float32)
    leaves, structure = jax.tree.flatten(state.direction)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    drawn = jax.tree.unflatten(structure, drawn)
    start = jax.tree.map(lambda new, old: jnp.where(first, new, old), drawn, state.direction)

    average = stacked.masked_mean(updates, honest)
    mean = _blend(seen, state.mean, average)
    centred = jax.tree.map(lambda v, m: v - m[None], updates, mean)
    _, frame = stacked.measure_lengths(centred, "origin")
    along = jnp.where(honest, stacked.inner(centred, start), 0.0)
    pull = normalized(stacked.combine(along / jnp.maximum(honest.sum(), 1).astype(along.dtype), centred, frame))
    direction = normalized(_blend(seen, state.direction, pull))  # at first, seen = 0 and the old direction is zero
    return CopyState(state.count + 1, mean, direction, state.target)


def _blend(share: jax.Array, old: Params, new: Params) -> Params:
    return jax.tree.map(lambda a, b: share.astype(a.dtype) * a + (1 - share).astype(a.dtype) * b, old, new)
