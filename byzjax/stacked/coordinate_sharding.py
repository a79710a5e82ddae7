"""Stacks that lie on several devices: every function of `stacked` works on all rows of a shard of the coordinates.

Between these functions a stack is what it looks like, leaves ``[n, *p]`` of which a device holds some rows, and any JAX
code on it is right. A function of `stacked` exchanges rows for coordinates (one all-to-all), runs as it is on the
matrices ``[n, d/k]`` of a device, and adds up over devices what it adds up over coordinates (`coordinate_axis.total`
and its like). What was exchanged once is remembered while a round is traced.

What an argument and a result are to the devices is declared at the function, by `over_coordinates`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from byzjax.stacked.blocks import flatten
from byzjax.stacked.coordinate_axis import of_a_part, one_of_several
from byzjax.stacked.geometry import Frame
from byzjax.types import Params, Stacked

AXIS = "workers"

Function = TypeVar("Function", bound=Callable[..., Any])
# What an argument or a result is to the devices that share the coordinates.
Kind = Literal["stack", "params", "anchor", "frame", "columns", "plain"]
STACK: Kind = "stack"  # leaves [n, *p]
PARAMS: Kind = "params"  # leaves [*p]
ANCHOR: Kind = "anchor"  # a weight and leaves [*p]
FRAME: Kind = "frame"
COLUMNS: Kind = "columns"  # of a result: chosen coordinates [n, k], each on the device that has it
PLAIN: Kind = "plain"  # of a result: the same on all devices
Kinds = Kind | tuple[Kind, ...]
Said = Callable[[dict[str, Any]], Any]  # what it is depends on the arguments


class CoordinateSharding:
    """The devices that share the coordinates of a round, and the stacks whose coordinates they hold already.

    Args:
      mesh: with an axis "workers".
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._parts = mesh.shape[AXIS]
        self._known: dict[tuple[int, ...], tuple[list[Any], list[jax.Array]]] = {}

    def remember(self, updates: Stacked, matrices: list[jax.Array]) -> None:
        """That a stack is the same as matrices ``[n, d_k]``, padded, whose coordinates are spread.

        Both come from the same trace, so that whoever reaches the leaves of the one may use the other.
        """
        self._known[_ids(updates)] = jax.tree.leaves(updates), matrices  # leaves that live on keep their ids

    def exchanged(self, updates: Stacked) -> list[jax.Array]:
        """The matrices ``[n, d_k]`` of a stack, padded, their coordinates spread over the devices."""
        known = self._known.get(_ids(updates))
        if known is not None:
            return known[1]
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(updates)]
        n = leaves[0].shape[0]
        more = -n % self._parts
        if more:
            leaves = [jnp.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1)) for leaf in leaves]

        def exchange(leaves: list[jax.Array]) -> list[jax.Array]:
            matrices, _ = flatten(leaves)
            return [jax.lax.all_to_all(self._padded(x), AXIS, 1, 0, tiled=True)[:n] for x in matrices]

        return self._map(exchange, P(AXIS), P(None, AXIS))(leaves)

    def call(
        self, function: Callable[..., Any], arguments: dict[str, Any], takes: dict[str, Kind], returns: Kinds
    ) -> Any:
        """A function of `stacked` on the shard of every device; arguments that are not in ``takes`` go as they are."""
        laid = {name: _TAKEN[kind](self, arguments[name]) for name, kind in takes.items()}
        arrays = {name: array for name, (array, _) in laid.items()}
        specs = {name: spec for name, (_, spec) in laid.items()}
        others = {name: value for name, value in arguments.items() if name not in takes}
        several = isinstance(returns, tuple)
        kinds = returns if several else (returns,)

        def part(arrays: dict[str, Any]) -> tuple[Any, ...]:
            with one_of_several(AXIS):
                given = function(**others, **arrays)
            return tuple(self._gathered(kind, x) for kind, x in zip(kinds, given if several else (given,), strict=True))

        given = self._map(part, specs, tuple(_GIVEN[kind] for kind in kinds))(arrays)
        results = [self._restored(kind, x, arguments) for kind, x in zip(kinds, given, strict=True)]
        return tuple(results) if several else results[0]

    def _gathered(self, kind: Kind, value: Any) -> Any:
        """What a device has to tell the others."""
        if kind == "params":
            return [jax.lax.all_gather(x, AXIS, tiled=True) for x in value]
        if kind == "columns":  # each lies on one device, and the others have zeros there
            return jax.lax.psum_scatter(self._padded(value), AXIS, scatter_dimension=1, tiled=True)
        return value

    def _restored(self, kind: Kind, value: Any, arguments: dict[str, Any]) -> Any:
        """As the caller knows it, without padding."""
        if kind == "columns":
            columns = value[:, : len(arguments["chosen"])]
            self.remember(columns, [value])
            return columns
        if kind not in ("params", "stack"):
            return value
        matrices, unflatten = flatten(arguments["updates"])
        restored = unflatten([y[..., : x.shape[1]] for x, y in zip(matrices, value, strict=True)])
        if kind == "stack":
            self.remember(restored, value)
        return restored

    def vectors(self, params: Params) -> list[jax.Array]:
        """Leaves ``[*p]`` as vectors ``[d_k]``, padded."""
        matrices, _ = flatten(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params))
        return [self._padded(x[0]) for x in matrices]

    def _map(self, function: Callable[..., Any], takes: Any, gives: Any) -> Callable[..., Any]:
        # Manual over all axes: whether an output is the same on every device is known here, and not checked.
        return jax.shard_map(function, mesh=self._mesh, in_specs=(takes,), out_specs=gives, check_vma=False)

    def _padded(self, x: jax.Array) -> jax.Array:
        """With zeros up to a multiple of the number of parts: zeros in all rows change no inner product."""
        d = x.shape[-1]
        more = max(-(-d // self._parts), 1) * self._parts - d
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)]) if more else x


# kind of argument -> what a function is given on every device, and how that is laid out
_TAKEN: dict[Kind, Callable[[CoordinateSharding, Any], tuple[Any, Any]]] = {
    "stack": lambda sharding, stack: (sharding.exchanged(stack), P(None, AXIS)),
    "params": lambda sharding, params: (sharding.vectors(params), P(AXIS)),
    "anchor": lambda sharding, anchor: (
        anchor._replace(point=sharding.vectors(anchor.point)),
        type(anchor)(P(), P(AXIS)),
    ),
    "frame": lambda sharding, frame: (frame, Frame(P(AXIS), P(), P())),  # type: ignore[arg-type]
}

_GIVEN: dict[Kind, Any] = {
    "plain": P(),
    "params": P(),
    "stack": P(None, AXIS),
    "columns": P(None, AXIS),
    "frame": Frame(P(AXIS), P(), P()),  # type: ignore[arg-type]
}

_CURRENT: ContextVar[CoordinateSharding | None] = ContextVar("coordinate_sharding", default=None)


def current() -> CoordinateSharding | None:
    """The devices that share the coordinates of the round that is being traced; None on one device."""
    return _CURRENT.get()


@contextlib.contextmanager
def shard_coordinates(mesh: Mesh | None) -> Iterator[None]:
    """Let the devices along the axis "workers" of a mesh share the coordinates of what is traced inside."""
    if mesh is None or mesh.shape[AXIS] == 1:
        yield
        return
    token = _CURRENT.set(CoordinateSharding(mesh))
    try:
        # JAX traces a jitted function anew under another mesh: it must not meet one that was traced without.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            yield
    finally:
        _CURRENT.reset(token)


def over_coordinates(*, returns: Kinds | Said, **takes: Kind | Said) -> Callable[[Function], Function]:
    """Let a function of stacks work on shards of the coordinates where devices share them.

    Args:
      returns: what it returns; a tuple for a tuple.
      takes: by its name, what an argument is; one that is None, or not named, is given to every device as it is.

    Either may be a function of the arguments that says.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        unknown = set(takes) - set(signature.parameters)
        assert not unknown, f"{function.__name__} has no argument {unknown}"

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            sharding = _CURRENT.get()
            if sharding is None or of_a_part():
                return function(*args, **kwargs)
            arguments = signature.bind(*args, **kwargs).arguments
            kinds = {name: _of(kind, arguments) for name, kind in takes.items() if arguments.get(name) is not None}
            return sharding.call(function, arguments, kinds, _of(returns, arguments))

        return wrapped  # type: ignore[return-value]

    return decorate


def _of(kinds: Any, arguments: dict[str, Any]) -> Any:
    return kinds(arguments) if callable(kinds) else kinds


def _ids(tree: Any) -> tuple[int, ...]:
    return tuple(id(leaf) for leaf in jax.tree.leaves(tree))
