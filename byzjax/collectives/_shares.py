"""Who holds which coordinates while a rule runs: every device a share of them, of the gradients of all workers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.collectives._axes import num_devices
from byzjax.collectives._pieces import exchanged_in_pieces, gathered_in_pieces
from byzjax.stacked.blocks import SMALL_LEAF, wide_dtype
from byzjax.stacked.coordinate_axis import Held, one_of_several
from byzjax.stacked.device_axes import varying_axes


class _Vector(NamedTuple):
    """Leaves that travel as one vector."""

    members: tuple[int, ...]  # which leaves
    size: int  # their coordinates on this device
    width: int  # coordinates of a share
    split: tuple[str, ...]  # axes along which every device has other coordinates of them: each gives away its own
    shared: tuple[str, ...]  # those along which it has the same ones: each takes a part
    dtype: Any  # that it travels in


class Shares:
    """How the coordinates of a gradient are dealt out to the devices.

    Args:
      leaves: of a gradient; their shapes, dtypes and types matter.
      axis: along it every device is a worker, with a gradient of its own.
      parameter_axes: further axes along which gradients are cut into pieces, as parameters are.
      apart: no leaf is joined with another one, for rules that judge leaf by leaf.
    """

    def __init__(
        self, leaves: Sequence[jax.Array], axis: tuple[str, ...], parameter_axes: tuple[str, ...], apart: bool
    ):
        self._axis = axis
        self._axes = *parameter_axes, *axis
        self._shapes = [leaf.shape for leaf in leaves]
        least = 0 if apart else SMALL_LEAF + 1
        large = [(k,) for k, leaf in enumerate(leaves) if leaf.size >= least]
        small: dict[tuple[str, ...], list[int]] = {}
        for k, leaf in enumerate(leaves):
            if leaf.size < least:
                small.setdefault(_in(varying_axes(leaf), parameter_axes), []).append(k)
        self._vectors = [
            self._vector([leaves[k] for k in members], tuple(members), parameter_axes, wide_dtype(list(leaves)))
            for members in [*large, *small.values()]
        ]

    def _vector(
        self, leaves: list[jax.Array], members: tuple[int, ...], parameter_axes: tuple[str, ...], wide: Any
    ) -> _Vector:
        split = _in(varying_axes(leaves[0]), parameter_axes)
        shared = tuple(name for name in parameter_axes if name not in split)
        size, dtype = sum(leaf.size for leaf in leaves), wide if len(leaves) > 1 else leaves[0].dtype
        width = max(-(-size // jax.lax.axis_size((*shared, *self._axis))), 1)
        return _Vector(members, size, width, split, shared, dtype)

    def rows(self, leaves: Sequence[jax.Array]) -> list[jax.Array]:
        """The share of all workers' gradients that this device judges, matrices ``[n, w]``: one all-to-all."""

        def exchange(vector: _Vector) -> jax.Array:
            x = self._padded(leaves, vector, vector.dtype)
            n = num_devices(self._axis, "axis_name", "robust_pmean")
            parts = self._mine(x.reshape(-1, n, vector.width), vector)
            return exchanged_in_pieces(parts, self._axis)

        return [exchange(vector) for vector in self._vectors]

    def share(self, leaves: Sequence[jax.Array]) -> list[jax.Array]:
        """Of what all devices have, leaves ``[*p]``, the share of this one: vectors ``[w]``, in the leaves' dtype."""

        def cut(vector: _Vector) -> jax.Array:
            kinds = {jnp.dtype(leaves[k].dtype) for k in vector.members}
            x = self._padded(leaves, vector, kinds.pop() if len(kinds) == 1 else wide_dtype(list(leaves)))
            mine = self._mine(x.reshape(-1, jax.lax.axis_size(self._axis), vector.width), vector)
            return jax.lax.dynamic_index_in_dim(mine, jax.lax.axis_index(self._axis), keepdims=False)

        return [cut(vector) for vector in self._vectors]

    def whole(self, shares: Sequence[jax.Array], like: Sequence[Any]) -> list[jax.Array]:
        """From the shares ``[w]`` of all devices leaves ``[*p]`` on each, in the dtypes of ``like``."""
        found: dict[int, jax.Array] = {}
        for vector, share in zip(self._vectors, shares, strict=True):
            x, start = gathered_in_pieces(share, (*vector.shared, *self._axis)), 0
            for k in vector.members:
                size = math.prod(self._shapes[k])
                leaf = jax.lax.slice_in_dim(x, start, start + size)
                found[k], start = leaf.reshape(self._shapes[k]).astype(like[k].dtype), start + size
        return [found[k] for k in range(len(found))]

    @contextlib.contextmanager
    def one_of_several(self) -> Iterator[None]:
        """What is traced inside is a rule that sees this device's share."""
        first, stop, count = [], [], 0
        for vector in self._vectors:
            start = count + (jax.lax.axis_index(vector.split) * vector.size if vector.split else 0)
            first.append(start + jax.lax.axis_index((*vector.shared, *self._axis)) * vector.width)
            stop.append(start + vector.size)
            count += vector.size * (jax.lax.axis_size(vector.split) if vector.split else 1)
        with one_of_several(self._axes, Held(count, tuple(first), tuple(stop))):
            yield

    def _mine(self, parts: jax.Array, vector: _Vector) -> jax.Array:
        """What falls to the devices along ``axis``, ``[n, w]``, of the parts of all who hold the same coordinates."""
        if not vector.shared:
            return parts[0]
        return jax.lax.dynamic_index_in_dim(parts, jax.lax.axis_index(vector.shared), keepdims=False)

    def _padded(self, leaves: Sequence[jax.Array], vector: _Vector, dtype: Any) -> jax.Array:
        """A vector with zeros up to a multiple of the number of shares: equal in all rows, they change no distance."""
        flat = [leaves[k].reshape(-1).astype(dtype) for k in vector.members]
        more = vector.width * jax.lax.axis_size((*vector.shared, *self._axis)) - vector.size
        if len(flat) == 1:
            return jnp.pad(flat[0], (0, more)) if more else flat[0]
        return jnp.concatenate([*flat, jnp.zeros((more,), flat[0].dtype)] if more else flat)


def _in(names: frozenset[str], axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in axes if name in names)
