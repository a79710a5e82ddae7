"""Large gradients under rules on single coordinates: piece after piece, so that no more than one is under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.stacked.control_flow import fori_loop
from byzjax.stacked.coordinate_axis import gathered

MOST = 1 << 24  # coordinates that travel at a time: what is under way is a copy
CACHED = 1 << 20  # the same on a CPU, under rules on single coordinates: fresh memory costs more than what fills it


def in_a_piece() -> int:
    """Coordinates in a piece, under rules on single coordinates."""
    return min(MOST, CACHED) if jax.default_backend() == "cpu" else MOST


def reduced_in_pieces(reduce: Callable[[jax.Array], jax.Array], leaf: jax.Array, axis: tuple[str, ...]) -> jax.Array:
    """A rule on single coordinates of one leaf ``[*p]`` of every device, as `byzjax.robust_pmean` has it.

    Args:
      reduce: ``[n, d] -> [d]``.
      leaf: this device's.
      axis: of the devices.
    """
    n, flat = jax.lax.axis_size(axis), leaf.reshape(-1)
    d = flat.size
    width = min(in_a_piece(), d) // n * n

    def reduced(rows: jax.Array) -> Any:
        return stacked.coordinatewise(reduce, rows)

    def turn(k: jax.Array, result: jax.Array) -> jax.Array:
        start = jnp.minimum(k * width, d - width)  # the last piece may overlap the one before
        piece = jax.lax.dynamic_slice_in_dim(flat, start, width).reshape(n, -1)
        rows = jax.lax.all_to_all(piece, axis, 0, 0, tiled=True)
        return jax.lax.dynamic_update_slice_in_dim(result, gathered(reduced(rows), axis), start, 0)

    return fori_loop(0, -(-d // width), turn, jnp.zeros((d,), leaf.dtype)).reshape(leaf.shape)
