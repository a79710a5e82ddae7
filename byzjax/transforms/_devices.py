"""Attacks where every device is a worker and has its own gradient alone: faults, and liars who know nobody else."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from byzjax.base import Attack
from byzjax.checks import shown
from byzjax.checks.contracts import check_like, check_pair, only_masked
from byzjax.collectives import device_number, own_copy
from byzjax.promises import traits_of
from byzjax.rng import drawable
from byzjax.stacked.coordinate_axis import AxisName
from byzjax.stacked.device_axes import varying_axes
from byzjax.types import Params
from byzjax.values.made import is_own

_NAME = "inject_attack"


def state_specs(tx: optax.GradientTransformation, params: Params, mesh: jax.sharding.Mesh) -> Any:
    """How the state of a chain lies on a mesh, as `jax.shard_map` is told: most of it is the same on all devices.

    What a device keeps for itself varies over the axis of its links: shares of every worker's gradient
    (``robust_aggregate(foolsgold(n), axis_name=…)``), and what a faulty device remembers (`stale`). ``specs`` in
    ``state = jax.shard_map(tx.init, mesh=mesh, in_specs=jax.P(), out_specs=specs)(params)`` lets them out.

    Args:
      tx: any chain of links.
      params: leaves ``[*p]``, the same on all devices, or their shapes.
      mesh: with the axis that the links name.

    Returns:
      A tree like the state, of ``P(axis)`` where it varies over axes, else ``P()``.

    >>> from byzjax import aggregators as agg
    >>> from byzjax.transforms import robust_aggregate
    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> tx = robust_aggregate(agg.foolsgold(1), axis_name="data")
    >>> specs = state_specs(tx, {"w": jnp.zeros(3)}, mesh)
    >>> specs.count == jax.P(), specs.rule.total[0] == jax.P("data")
    (True, True)
    """
    seen: list[Any] = []

    def look(params: Params) -> jax.Array:
        state = tx.init(params)
        seen.append(jax.tree.map(lambda leaf: _spec(sorted(varying_axes(leaf), key=mesh.axis_names.index)), state))
        return jnp.zeros(())

    jax.eval_shape(jax.shard_map(look, mesh=mesh, in_specs=(P(),), out_specs=P()), params)
    return seen[-1]


def _spec(axes: list[str]) -> P:
    return P() if not axes else P(axes[0] if len(axes) == 1 else tuple(axes))


class InjectAttackState(NamedTuple):
    """The attack's own state, and what it needs to draw keys."""

    attack: Any
    key: jax.Array
    count: jax.Array  # i32[]


def on_each_device(
    attack: Attack, byzantine: jax.Array, key: jax.Array, axis_name: AxisName
) -> optax.GradientTransformationExtraArgs:
    """`inject_attack` where updates are leaves ``[*p]`` of each device along an axis."""
    if attack._call is None or not is_own(attack._call.factory):
        raise ValueError(
            f"{_NAME}: attack {shown(attack)} is not one of byzjax.attacks, and may read what others sent, which no "
            f"device along axis_name = {axis_name!r} has; use one of them, as bit_flip, or byzjax.simulate."
        )
    if traits_of(attack._call.factory).adaptive:
        raise ValueError(
            f"{_NAME}: {attack!r} reads what others sent, which no device along axis_name = {axis_name!r} has; use one "
            "that starts from a worker's own gradient, as bit_flip or soft_error, or byzjax.simulate."
        )

    def init(params: Params) -> InjectAttackState:
        state = attack.init(params, 1)
        own = jax.tree.map(lambda leaf: own_copy(leaf, axis_name, _NAME) if jnp.ndim(leaf) else leaf, state)
        return InjectAttackState(own, key, jnp.zeros((), jnp.int32))

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
