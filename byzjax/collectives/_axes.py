"""The axes of devices that a collective runs over, and what the types of values say about them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from byzjax.stacked.coordinate_axis import AxisName
from byzjax.stacked.device_axes import types_name_axes, varying_axes, varying_over


def as_tuple(axis: AxisName) -> tuple[str, ...]:
    """One axis or several, as a tuple."""
    return tuple(axis) if isinstance(axis, tuple | list) else (axis,)


def num_devices(axis: tuple[str, ...], argument: str, where: str) -> int:
    """How many devices there are along these axes.

    Raises:
      ValueError: there is no such axis, or one is named twice.
    """
    check_apart(axis, (), argument, where)
    try:
        return jax.lax.axis_size(axis)
    except (NameError, KeyError, ValueError, TypeError):  # a number is a place to JAX
        raise ValueError(
            f"{where}: {argument} = {_shown(axis)} is no axis here; call it inside jax.shard_map over a mesh with that "
            f"axis, or under jax.pmap or jax.vmap with axis_name={_shown(axis)}."
        ) from None


def check_apart(axis: tuple[str, ...], others: tuple[str, ...], argument: str, where: str) -> None:
    """Reject an axis that is named twice, which `jax.vmap` would take for another one.

    Raises:
      ValueError: it is, in one argument, or as an axis of workers and of parameters.
    """
    if len(set(axis)) < len(axis):
        raise ValueError(f"{where}: {argument} = {_shown(axis)} names an axis twice; name each once.")
    both = [name for name in axis if name in others]
    if both:
        raise ValueError(
            f"{where}: {_shown(both)} is in axis_name and in parameter_axes; devices along an axis are workers, or "
            "hold pieces of one worker's gradient."
        )


def device_number(axis_name: AxisName, num_workers: int, where: str) -> jax.Array:
    """Which of so many workers this device is, i32[].

    Raises:
      ValueError: no such axis, or one of another size.
    """
    axis = as_tuple(axis_name)
    found = num_devices(axis, "axis_name", where)
    if found != num_workers:
        raise ValueError(
            f"{where}: byzantine has {num_workers} entries, but there are {found} devices along {_shown(axis)}; give "
            "each an entry."
        )
    return jax.lax.axis_index(axis)


def own_copy(tree: Any, axis_name: AxisName, where: str) -> Any:
    """What may become another thing on every device along an axis, of a type that says so.

    Raises:
      ValueError: no such axis.
    """
    axis = as_tuple(axis_name)
    num_devices(axis, "axis_name", where)
    return varying_over(tree, frozenset(axis)) if types_name_axes() else tree


def check_own(tree: Any, axis: tuple[str, ...], argument: str, where: str) -> None:
    """Reject values that are known to be the same on all devices, where each should have its own.

    Raises:
      ValueError: so says a leaf's type.
    """
    if not types_name_axes():
        return
    for path, leaf in jax.tree.leaves_with_path(tree):
        same = [name for name in axis if name not in varying_axes(leaf)]
        if same:
            raise ValueError(
                f"{where}: {argument}{jax.tree_util.keystr(path)} is the same on all devices along {_shown(same)}, so "
                "jax.grad has summed it over them already; take gradients of "
                f"jax.lax.pcast(params, {_shown(same)}, to='varying'), each device's own copy."
            )


def check_common(tree: Any, axis: tuple[str, ...], argument: str, where: str) -> None:
    """Reject values that differ from device to device, where all should have the same.

    Raises:
      ValueError: so says a leaf's type.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        apart = [name for name in axis if name in varying_axes(leaf)]
        if apart:
            raise ValueError(
                f"{where}: {argument}{jax.tree_util.keystr(path)} differs along {_shown(apart)} from device to device; "
                "pass what is the same on all, as in_specs=P() hands it over."
            )


def check_one_kind(axis: tuple[str, ...], argument: str, where: str) -> None:
    """Reject axes of `jax.vmap` inside `jax.shard_map` where JAX has no collective along them.

    Raises:
      ValueError: axes of both, or one of `jax.vmap` where types are checked.
    """
    of_mesh = [name for name in axis if name in jax.sharding.get_abstract_mesh().manual_axes]
    of_vmap = [name for name in axis if name not in of_mesh]
    if of_mesh and of_vmap:
        raise ValueError(
            f"{where}: {argument} = {_shown(axis)} has an axis of the mesh, {_shown(of_mesh)}, and one of jax.vmap, "
            f"{_shown(of_vmap)}; take axes of one kind."
        )
    if of_vmap and types_name_axes():
        raise ValueError(
            f"{where}: {argument} = {_shown(axis)} is an axis of jax.vmap inside jax.shard_map, along which JAX has "
            "collectives with check_vma=False alone; pass that to jax.shard_map."
        )


def agreed(tree: Any, axis: tuple[str, ...]) -> Any:
    """What all devices have computed alike, of a type that says so: the first one's, where types ask."""

    def one(leaf: jax.Array) -> jax.Array:
        apart = tuple(name for name in axis if name in varying_axes(leaf))
        if not apart:
            return leaf
        first = jax.lax.axis_index(apart) == 0
        kind = jnp.int32 if leaf.dtype == jnp.bool_ else leaf.dtype
        return jax.lax.psum(jnp.where(first, leaf.astype(kind), jnp.zeros((), kind)), apart).astype(leaf.dtype)

    return jax.tree.map(one, tree)


def _shown(axis: Any) -> str:
    return repr(axis[0] if len(axis) == 1 else tuple(axis))
