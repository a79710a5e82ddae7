"""From a function of named scalars to a compiled program of many lanes."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from byzjax.axes import Lanes
from byzjax.simulate import Result
from byzjax.store import digest

Device = Any  # jax.Device, which type checkers take for a variable
RUNS = "runs"  # the axis of a mesh that lanes are laid on


class Output(NamedTuple):
    """What a lane gives under one name."""

    shape: tuple[int, ...]
    dtype: np.dtype
    leading: str | None  # what the first axis is: "round", "eval", or something else


@dataclasses.dataclass(frozen=True)
class Program:
    """One cell of a sweep, traced.

    Attributes:
      call: ``(constants, lane) -> {name: array}`` for the values of one lane.
      constants: the arrays that the function closes over. They are arguments, so they are not compiled in.
      outputs: what a lane gives.
      fingerprint: a hash of the program and the bits of its constants, the same in every process.
      widest: bytes of the largest set of numbers that one operation gives.
      spread: whether it lays itself out on a mesh with the axis ``runs``, as a run with a mesh does.
    """

    call: Callable[..., dict[str, jax.Array]]
    constants: list[Any]
    outputs: dict[str, Output]
    fingerprint: str
    widest: int
    spread: bool

    def lane_bytes(self) -> int:
        """What a lane gives, in bytes."""
        return sum(math.prod(out.shape) * out.dtype.itemsize for out in self.outputs.values())


def trace(fn: Callable[..., Any], cell: Mapping[str, Any], lanes: Lanes, digests: dict[int, str]) -> Program:
    """Trace ``fn`` once, with the Python values of a cell and a traced scalar per grid axis.

    Args:
      fn: the function.
      cell: axis -> value.
      lanes: axis -> values; only their dtypes matter.
      digests: id -> hash of constants seen before, which cells share; it is added to.

    Raises:
      ValueError: the function cannot take the axes, or returns neither a `Result` nor a flat dict of arrays.
    """
    _check_takes(fn, [*cell, *lanes])
    leading: dict[str, str | None] = {}

    def flat(lane: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs, kinds = _flat(fn(**cell, **lane))
        leading.update(kinds)
        return outputs

    point = {name: jax.ShapeDtypeStruct((), values.dtype) for name, values in lanes.items()}
    closed, outputs = jax.make_jaxpr(flat, return_shape=True)(point)
    names, (jaxpr, constants) = sorted(outputs), (closed.jaxpr, closed.consts)

    def call(constants: list[Any], lane: dict[str, jax.Array]) -> dict[str, jax.Array]:
        values = jax.core.eval_jaxpr(jaxpr, constants, *(lane[name] for name in sorted(lane)))
        return dict(zip(names, values, strict=True))

    def bits(array: Any) -> str:
        if id(array) not in digests:
            digests[id(array)] = digest(_bits(array))
        return digests[id(array)]

    text = jax.jit(call).lower(constants, point).as_text()
    inside = [value for eqn in _equations(jaxpr) for value in _array_literals(eqn)]
    fingerprint = digest([digest(text.encode()), [bits(array) for array in [*constants, *inside]]])
    widest = max((sum(_bytes(v.aval) for v in eqn.outvars) for eqn in _equations(jaxpr)), default=0)
    given = {name: Output(outputs[name].shape, outputs[name].dtype, first) for name, first in leading.items()}
    maps = [eqn for eqn in _equations(jaxpr) if eqn.primitive.name == "shard_map"]
    spread = any(RUNS in eqn.params["mesh"].shape for eqn in maps)
    return Program(call, constants, given, fingerprint, widest, spread)


def compile_lanes(program: Program, lanes: Lanes, size: int, mesh: jax.sharding.Mesh | None) -> jax.stages.Compiled:
    """The program of ``size`` lanes: ``(constants, lanes) -> {name: [size, …]}``.

    Args:
      program: of one lane.
      lanes: axis -> values; only their dtypes matter.
      size: how many lanes at once; a multiple of the mesh's ``runs``.
      mesh: lanes are laid on its axis ``runs``. Each device runs the program of its own share: no communication, but
        for that of lanes which are spread themselves.
    """
    runs = 1 if mesh is None else mesh.shape[RUNS]
    # A program that is spread has parts that are manual over all axes, which must not be so twice.
    apart = mesh is not None and not program.spread
    together = mesh is not None and program.spread
    batched = jax.vmap(
        program.call,
        in_axes=(None, 0),
        axis_size=size // runs if apart else size,
        spmd_axis_name=RUNS if together else None,
    )
    structs = {name: jax.ShapeDtypeStruct((size,), values.dtype) for name, values in lanes.items()}
    if mesh is not None:
        P = jax.sharding.PartitionSpec
        if apart:
            batched = jax.shard_map(
                batched, mesh=mesh, in_specs=(P(), P(RUNS)), out_specs=P(RUNS), axis_names={RUNS}, check_vma=False
            )
        split, whole = (jax.sharding.NamedSharding(mesh, spec) for spec in (P(RUNS), P()))
        return jax.jit(batched, in_shardings=(whole, split), out_shardings=split).lower(
            program.constants, structs
        ).compile()  # fmt: skip
    return jax.jit(batched).lower(program.constants, structs).compile()


def _check_takes(fn: Callable[..., Any], names: Sequence[str]) -> None:
    try:
        inspect.signature(fn).bind(**dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(f"sweep: fn does not take the axes {list(names)} as keyword arguments ({error}).") from error


def _flat(value: Any) -> tuple[dict[str, Any], dict[str, str | None]]:
    if isinstance(value, Result):
        both = set(value.history) & set(value.evals)
        if both:
            raise ValueError(f"sweep: {sorted(both)} are recorded in every round and evaluated too; rename one.")
        outputs = {**value.history, **value.evals}
        leading: dict[str, str | None] = {**dict.fromkeys(value.history, "round"), **dict.fromkeys(value.evals, "eval")}
        finite = None if value.state is None else value.state.finite
    elif isinstance(value, Mapping):
        outputs, leading, finite = dict(value), dict.fromkeys(value), None
    else:
        raise ValueError(f"sweep: fn must return a Result or a flat dict of arrays, not {type(value).__name__}.")
    for name, output in outputs.items():
        if not isinstance(name, str) or not isinstance(output, jax.Array | np.ndarray | float | int | bool):
            raise ValueError(f"sweep: fn returns {name!r}: {type(output).__name__}; a flat dict of arrays is wanted.")
        output = jnp.asarray(output)
        if jnp.issubdtype(output.dtype, jnp.floating) and output.dtype.itemsize < 4:
            output = output.astype(jnp.float32)  # netCDF knows no narrower ones, and nothing is lost
        outputs[name] = output
        real = jnp.issubdtype(output.dtype, jnp.number) and not jnp.issubdtype(output.dtype, jnp.complexfloating)
        if not real and output.dtype != jnp.bool_:
            raise ValueError(f"sweep: fn returns {name!r} of dtype {output.dtype}; a data set holds numbers and flags.")
        if 0 in output.shape:
            raise ValueError(f"sweep: fn returns {name!r} of shape {output.shape}, which holds nothing; leave it out.")
    if "diverged" in outputs:
        raise ValueError("sweep: 'diverged' is the sweep's own; call what fn returns something else.")
    outputs["diverged"] = ~(_finite(outputs) if finite is None else finite)
    return outputs, {**leading, "diverged": None}


def _finite(outputs: Mapping[str, jax.Array]) -> jax.Array:
    """What a function that returns no state says of itself, or else whether all its numbers are finite."""
    if "finite" in outputs and outputs["finite"].dtype == jnp.bool_:
        return outputs["finite"].all()
    floats = [jnp.isfinite(value).all() for value in outputs.values() if jnp.issubdtype(value.dtype, jnp.inexact)]
    return jnp.stack(floats).all() if floats else jnp.ones((), bool)


def _bits(array: Any) -> bytes:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    values = np.asarray(array)
    return f"{values.dtype} {values.shape} ".encode() + values.tobytes()


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if hasattr(inner, "eqns"):
                    yield from _equations(getattr(inner, "jaxpr", inner))


def _array_literals(eqn: Any) -> list[Any]:
    """Arrays that the function closes over, where this JAX keeps them in the equations."""
    values = [getattr(var, "val", None) for var in eqn.invars]
    return [value for value in values if value is not None and np.ndim(value) > 0]


def _bytes(aval: Any) -> int:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 0)
