"""The axis of devices that share the coordinates of a stack: what a part has to tell the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

_PART: ContextVar[str | None] = ContextVar("part", default=None)  # the axis of devices that share the coordinates


@contextlib.contextmanager
def one_of_several(axis: str) -> Iterator[None]:
    """What is traced inside sees a part of the coordinates, those of one device along a mesh axis."""
    token = _PART.set(axis)
    try:
        yield
    finally:
        _PART.reset(token)


def of_a_part() -> bool:
    """Whether what is traced sees a part of the coordinates only."""
    return _PART.get() is not None


def part_number() -> Any:
    """Which part that is; 0 where it is all of them."""
    axis = _PART.get()
    return 0 if axis is None else jax.lax.axis_index(axis)


def number_of_parts() -> int:
    """How many parts there are; 1 where what is traced sees all coordinates."""
    axis = _PART.get()
    return 1 if axis is None else jax.lax.axis_size(axis)


def joined(parts: list[jax.Array]) -> jax.Array:
    """Matrices or vectors as one along the last axis, with the parts of all devices: worth it where they are small."""
    whole = jnp.concatenate(parts, axis=-1)
    axis = _PART.get()
    return whole if axis is None else jax.lax.all_gather(whole, axis, axis=whole.ndim - 1, tiled=True)


def total(sums: Any) -> Any:
    """Sums over coordinates, when each device has taken its own; any tree of arrays."""
    axis = _PART.get()
    return sums if axis is None else jax.lax.psum(sums, axis)


def greatest(maxima: Any) -> Any:
    """Maxima over coordinates, when each device has taken its own; any tree of arrays without NaN."""
    axis = _PART.get()
    return maxima if axis is None else jax.lax.pmax(maxima, axis)


def every(holds: jax.Array) -> jax.Array:
    """Whether something holds for all coordinates, when each device has looked at its own."""
    axis = _PART.get()
    return holds if axis is None else jax.lax.pmin(holds.astype(jnp.int32), axis) > 0
