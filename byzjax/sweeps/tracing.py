"""From a function of named scalars to a compiled program of many lanes."""

from __future__ import annotations

import dataclasses
import inspect
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from byzjax.checks.traced import noting
from byzjax.programs.equations import Kept, calls_back, equations, keep, with_kept
from byzjax.simulation.simulate import Result
from byzjax.storage import netcdf
from byzjax.storage.digests import digest
from byzjax.sweeps.grid import Lanes
from byzjax.sweeps.refusals import check_lanes, of_these

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
      fingerprint: a hash of the program and the bits of its constants, the same in every process where it is ``kept``.
      kept: whether that hash says all. It cannot of a program that calls back into Python: that one is like no other.
      widest: bytes of the largest set of numbers that one operation gives.
      spread: whether it lays itself out on a mesh with the axis ``runs``, as a run with a mesh does.
    """

    call: Callable[..., dict[str, jax.Array]]
    constants: list[Any]
    outputs: dict[str, Output]
    fingerprint: str
    kept: bool
    widest: int
    spread: bool

    def lane_bytes(self) -> int:
        """What a lane gives, in bytes."""
        return sum(math.prod(out.shape) * out.dtype.itemsize for out in self.outputs.values())


def trace(fn: Callable[..., Any], cell: Mapping[str, Any], lanes: Lanes, seen: dict[int, Kept]) -> Program:
    """Trace ``fn`` once, with the Python values of a cell and a traced scalar per grid axis.

    Args:
      fn: the function.
      cell: axis -> value.
      lanes: axis -> values: their dtypes, and what the checks of hyperparameters look at.
      seen: constants of other cells, see `programs.keep`; it is added to.

    Raises:
      ValueError: the function cannot take the axes, returns neither a `Result` nor a flat dict of arrays, or checks a
        value that it computes from the axes, and refuses that of a lane.
    """
    _check_takes(fn, [*cell, *lanes])
    if isinstance(fn, jax.stages.Wrapped):  # compiled once in any case, and inside a program no check reaches the lanes
        fn = fn.__wrapped__  # type: ignore[attr-defined]
    leading: dict[str, str | None] = {}
    checks: list[Callable[[Any], Any]] = []

    def flat(lane: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], list[jax.Array]]:
        with noting() as noted:
            outputs, kinds = _flat(fn(**cell, **lane))
        leading.update(kinds)
        later = of_these(noted, lane)
        checks.extend(check for _, check in later)
        return outputs, [value for value, _ in later]

    point = {name: jax.ShapeDtypeStruct((), values.dtype) for name, values in lanes.items()}
    closed, (outputs, _) = jax.make_jaxpr(flat, return_shape=True)(point)
    check_lanes(closed, len(outputs), checks, lanes)
    names = sorted(outputs)
    jaxpr, inside = with_kept(closed.jaxpr, seen)
    outside = [keep(array, seen) for array in closed.consts]
    constants = [kept.copy for kept in outside]

    def call(constants: list[Any], lane: dict[str, jax.Array]) -> dict[str, jax.Array]:
        values = jax.core.eval_jaxpr(jaxpr, constants, *(lane[name] for name in sorted(lane)))
        return dict(zip(names, values, strict=False))  # what is checked comes after them

    text = jax.jit(call).lower(constants, point).as_text()
    kept = not calls_back(jaxpr)
    said = [digest(text.encode()), [one.digest for one in outside], inside, None if kept else uuid.uuid4().hex]
    widest = max((sum(_bytes(v.aval) for v in eqn.outvars) for eqn in equations(jaxpr)), default=0)
    given = {name: Output(outputs[name].shape, outputs[name].dtype, first) for name, first in leading.items()}
    maps = [eqn for eqn in equations(jaxpr) if eqn.primitive.name == "shard_map"]
    spread = any(RUNS in eqn.params["mesh"].shape for eqn in maps)
    return Program(call, constants, given, digest(said), kept, widest, spread)


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
        if not isinstance(name, str) or not isinstance(
            output, jax.Array | np.ndarray | np.generic | float | int | bool
        ):
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
    netcdf.check_names(outputs, "sweep")
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


def _bytes(aval: Any) -> int:
    shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 0)
