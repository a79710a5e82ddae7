"""Attacks where every device is a worker and has its own gradient alone: faults, and liars who know nobody else."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax.base import Attack
from byzjax.checks.contracts import check_like, check_pair, only_masked
from byzjax.collectives import device_number, own_copy
from byzjax.promises import traits_of
from byzjax.rng import drawable
from byzjax.stacked.coordinate_axis import AxisName
from byzjax.types import Params

_NAME = "inject_attack"


class InjectAttackState(NamedTuple):
    """The attack's own state, and what it needs to draw keys."""

    attack: Any
    key: jax.Array
    count: jax.Array  # i32[]


def on_each_device(
    attack: Attack, byzantine: jax.Array, key: jax.Array, axis_name: AxisName
) -> optax.GradientTransformationExtraArgs:
    """`inject_attack` where updates are leaves ``[*p]`` of each device along an axis."""
    if attack._call is not None and traits_of(attack._call.factory).adaptive:
        raise ValueError(
            f"{_NAME}: {attack!r} reads what others sent, which no device along axis_name = {axis_name!r} has; use one "
            "that starts from a worker's own gradient, as bit_flip or soft_error, or byzjax.simulate."
        )

    def init(params: Params) -> InjectAttackState:
        state = attack.init(params, 1)
        if jax.tree.leaves(state):  # a device's own
            state = own_copy(state, axis_name, _NAME)
        return InjectAttackState(state, key, jnp.zeros((), jnp.int32))

    def update(updates: Params, state: InjectAttackState, params=None, *, grads: Params | None = None, **extra):
        if not jax.tree.leaves(updates):
            return updates, state
        extra.pop("key", None)  # the rule's, not the attack's
        number = device_number(axis_name, len(byzantine), _NAME)
        mine = byzantine[number][None]
        rows = jax.tree.map(lambda x: jnp.asarray(x)[None], updates)
        extra |= {
            "grads": rows if grads is None else jax.tree.map(lambda x: x[None], grads),
            "key": jax.random.fold_in(jax.random.fold_in(drawable(state.key), state.count), number),
            "aggregate": None,
        }
        answer = attack.update(rows, state.attack, params, byzantine=mine, **extra)
        sent, inner = check_pair(answer, "Attack.update", wanted="(updates, state)")
        check_like(sent, rows, "the updates", "Attack.update", fix="return them with other rows.")
        sent = jax.tree.map(lambda x: x[0], only_masked(sent, rows, mine))
        return sent, InjectAttackState(inner, state.key, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
