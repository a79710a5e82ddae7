"""Large leaves travel piece after piece: what is under way is a copy, and of such a leaf no more than one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.stacked.control_flow import fori_loop
from byzjax.stacked.coordinate_axis import gathered

MOST = 1 << 24  # coordinates that travel at a time
CACHED = 1 << 20  # the same on a CPU, where fresh memory costs more than what fills it


def in_a_piece() -> int:
    """Coordinates in a piece."""
    return min(MOST, CACHED) if jax.default_backend() == "cpu" else MOST


def exchanged_in_pieces(parts: jax.Array, axis: tuple[str, ...]) -> jax.Array:
    """An all-to-all: row j goes to device j, and what came from device i is row i, ``[n, w]``."""
    if parts.size <= in_a_piece():
        return _exchanged(parts, axis)

    def turn(start: jax.Array, size: int) -> jax.Array:
        return _exchanged(jax.lax.dynamic_slice_in_dim(parts, start, size, axis=1), axis)

    return _in_turn(turn, parts.shape[0], parts.shape[1], parts.dtype)


def _exchanged(parts: jax.Array, axis: tuple[str, ...]) -> jax.Array:
    if len(axis) == 1 or set(axis) <= set(jax.sharding.get_abstract_mesh().manual_axes):
        return jax.lax.all_to_all(parts, axis, 0, 0, tiled=True)
    # Nested `jax.vmap` exchanges along one axis at a time.
    x = parts.reshape(*(jax.lax.axis_size(name) for name in axis), -1)
    for k, name in enumerate(axis):
        x = jax.lax.all_to_all(x, name, k, k, tiled=True)
    return x.reshape(parts.shape)


def gathered_in_pieces(share: jax.Array, axis: tuple[str, ...]) -> jax.Array:
    """The shares ``[w]`` of all devices, one after the other: ``[n w]``."""
    n, width = jax.lax.axis_size(axis), share.shape[0]
    if n * width <= in_a_piece():
        return gathered(share, axis)

    def turn(start: jax.Array, size: int) -> jax.Array:
        return gathered(jax.lax.dynamic_slice_in_dim(share, start, size), axis).reshape(n, size)

    return _in_turn(turn, n, width, share.dtype).reshape(-1)


def reduced_in_pieces(reduce: Callable[[jax.Array], jax.Array], leaf: jax.Array, axis: tuple[str, ...]) -> jax.Array:
    """A rule on single coordinates of one leaf ``[*p]`` of every device, which never has a share of all of it.

    Args:
      reduce: ``[n, d] -> [d]``.
      leaf: this device's; not smaller than n.
      axis: of the devices.
    """
    n, flat = jax.lax.axis_size(axis), leaf.reshape(-1)

    def turn(start: jax.Array, size: int) -> Any:
        piece = jax.lax.dynamic_slice_in_dim(flat, start, size).reshape(n, size // n)
        reduced: Any = stacked.coordinatewise(reduce, _exchanged(piece, axis))
        return gathered(reduced, axis)[None]

    return _in_turn(turn, 1, flat.size, leaf.dtype, n).reshape(leaf.shape)


def _in_turn(
    turn: Callable[[jax.Array, int], jax.Array], rows: int, width: int, dtype: Any, multiple: int = 1
) -> jax.Array:
    """``[rows, width]`` from ``turn(start, size) -> [rows, size]``, whose last piece may overlap the one before."""
    size = min(in_a_piece() // rows, width) // multiple * multiple

    def place(k: jax.Array, done: jax.Array) -> jax.Array:
        start = jnp.minimum(k * size, width - size)
        return jax.lax.dynamic_update_slice_in_dim(done, turn(start, size), start, axis=1)

    return fori_loop(0, -(-width // size), place, jnp.zeros((rows, width), dtype))
