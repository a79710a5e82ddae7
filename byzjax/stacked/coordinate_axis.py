"""The axis of devices that share the coordinates of a stack: what a part has to tell the others."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.stacked.device_axes import types_name_axes

AxisName = str | tuple[str, ...]


class Held(NamedTuple):
    """Which coordinates a device holds while a whole rule sees a part of them.

    Attributes:
      count: how many there are on all devices, without padding.
      first: of each matrix, the index of its first column among all coordinates.
      stop: of each matrix, the index behind its last column; what lies beyond is padding.
    """

    count: int
    first: tuple[Any, ...]
    stop: tuple[Any, ...]


class _Part(NamedTuple):
    axis: AxisName  # of the devices that share the coordinates
    held: Held | None


_PART: ContextVar[_Part | None] = ContextVar("part", default=None)


@contextlib.contextmanager
def one_of_several(axis: AxisName, held: Held | None = None) -> Iterator[None]:
    """What is traced inside sees a part of the coordinates, those of one device along one or several mesh axes."""
    token = _PART.set(_Part(axis, held))
    try:
        yield
    finally:
        _PART.reset(token)


def of_a_part() -> bool:
    """Whether what is traced sees a part of the coordinates only."""
    return _PART.get() is not None


def held() -> Held | None:
    """Which part that is, where a whole rule sees no more."""
    part = _PART.get()
    return None if part is None else part.held


def part_number() -> Any:
    """The number of the part; 0 where it is all of them."""
    part = _PART.get()
    return 0 if part is None else jax.lax.axis_index(part.axis)


def number_of_parts() -> int:
    """How many parts there are; 1 where what is traced sees all coordinates."""
    part = _PART.get()
    return 1 if part is None else jax.lax.axis_size(part.axis)


def joined(parts: list[jax.Array]) -> jax.Array:
    """Matrices or vectors as one along the last axis, with the parts of all devices: worth it where they are small."""
    whole = jnp.concatenate(parts, axis=-1)
    part = _PART.get()
    return whole if part is None else gathered(whole, part.axis)


def gathered(x: jax.Array, axis: AxisName) -> jax.Array:
    """Pieces of all devices along the last axis, in the order of the devices, and of a type that says: all alike."""
    of_mesh = jax.sharding.get_abstract_mesh().manual_axes
    if isinstance(axis, tuple) and len(axis) > 1 and not set(axis) <= set(of_mesh):
        for name in reversed(axis):  # nested `jax.vmap` gathers along one axis at a time
            x = gathered(x, name)
        return x
    gather = functools.partial(jax.lax.all_gather, x, axis, axis=x.ndim - 1, tiled=True)
    if not types_name_axes():
        return gather()
    try:
        return gather(to="invarying")
    except (TypeError, ValueError):  # another JAX, where sums alone have such a type
        width = x.shape[-1]
        whole = jnp.zeros((*x.shape[:-1], width * jax.lax.axis_size(axis)), x.dtype)
        place = jax.lax.axis_index(axis) * width
        return jax.lax.psum(jax.lax.dynamic_update_slice_in_dim(whole, x, place, x.ndim - 1), axis)


def total(sums: Any) -> Any:
    """Sums over coordinates, when each device has taken its own; any tree of arrays."""
    part = _PART.get()
    return sums if part is None else jax.lax.psum(sums, part.axis)


def greatest(maxima: Any) -> Any:
    """Maxima over coordinates, when each device has taken its own; any tree of arrays without NaN."""
    part = _PART.get()
    return maxima if part is None else jax.lax.pmax(maxima, part.axis)


def every(holds: jax.Array) -> jax.Array:
    """Whether something holds for all coordinates, when each device has looked at its own."""
    part = _PART.get()
    return holds if part is None else jax.lax.pmin(holds.astype(jnp.int32), part.axis) > 0
