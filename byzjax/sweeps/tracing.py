"""From a function of named scalars to a compiled program of many runs."""

from __future__ import annotations

import dataclasses
import functools
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
from byzjax.programs.compiled import quick_options
from byzjax.programs.equations import Kept, calls_back, equations, keep, with_kept
from byzjax.sharding import RUNS
from byzjax.simulation.simulate import Result
from byzjax.storage import netcdf
from byzjax.storage.digests import digest
from byzjax.sweeps.grid import Points
from byzjax.sweeps.refusals import check_points, of_these
from byzjax.values import numbers_as_constants, with_constants

Device = Any  # jax.Device, which type checkers take for a variable


class Output(NamedTuple):
    """What a run gives under one name."""

    shape: tuple[int, ...]
    dtype: np.dtype
    leading: str | None  # what the first axis is: "round", "eval", or something else


@dataclasses.dataclass(frozen=True)
class TracedProgram:
    """One cell of a sweep, traced.

    Attributes:
      call: ``(constants, point) -> {name: array}`` for the values of one run.
      constants: the arrays that the function closes over. They are arguments, so they are not compiled in.
      outputs: what a run gives.
      executable: a hash of what is compiled, equal for programs that differ in their constants alone: cells whose
        learning rates or attacks' scales differ.
      fingerprint: a hash of the program and the bits of its constants, the same in every process if it is ``storable``.
      storable: whether that hash says all. It cannot of one that calls back into Python: that is like no other.
      widest: bytes of the largest set of numbers that one operation gives.
      sharded: whether it lays itself out on a mesh with the axis ``runs``, as a run with a mesh does.
    """

    call: Callable[..., dict[str, jax.Array]]
    constants: list[Any]
    outputs: dict[str, Output]
    executable: str
    fingerprint: str
    storable: bool
    widest: int
    sharded: bool

    def run_bytes(self) -> int:
        """What a run gives, in bytes."""
        return sum(math.prod(out.shape) * out.dtype.itemsize for out in self.outputs.values())


def trace(fn: Callable[..., Any], cell: Mapping[str, Any], points: Points, seen: dict[int, Kept]) -> TracedProgram:
    """Trace ``fn`` once, with the Python values of a cell and a traced scalar per grid axis.

    Args:
      fn: the function.
      cell: axis -> value.
      points: axis -> values: their dtypes, and what the checks of hyperparameters look at.
      seen: constants of other cells, see `programs.keep`; it is added to.

    Raises:
      ValueError: the function cannot take the axes, returns neither a `Result` nor a flat dict of arrays, or checks a
        value that it computes from the axes, and refuses that of a run.
    """
    _check_takes(fn, [*cell, *points])
    if isinstance(fn, jax.stages.Wrapped):  # compiled once in any case, and inside a program no check reaches the runs
        fn = fn.__wrapped__  # type: ignore[attr-defined]
    leading: dict[str, str | None] = {}
    checks: list[Callable[[Any], Any]] = []

    def flat(point: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], list[jax.Array]]:
        with noting() as noted, numbers_as_constants():
            outputs, kinds = _flat(fn(**{axis: with_constants(value) for axis, value in cell.items()}, **point))
        leading.update(kinds)
        later = of_these(noted, point)
        checks.extend(check for _, check in later)
        return outputs, [value for value, _ in later]

    scalars = {name: jax.ShapeDtypeStruct((), values.dtype) for name, values in points.items()}
    closed, (outputs, _) = jax.make_jaxpr(flat, return_shape=True)(scalars)
    check_points(closed, len(outputs), checks, points)
    names = sorted(outputs)
    jaxpr, inside = with_kept(closed.jaxpr, seen)
    outside = [keep(array, seen) for array in closed.consts]
    constants = [constant.copy for constant in outside]

    def call(constants: list[Any], point: dict[str, jax.Array]) -> dict[str, jax.Array]:
        values = jax.core.eval_jaxpr(jaxpr, constants, *(point[name] for name in sorted(point)))
        return dict(zip(names, values, strict=False))  # what is checked comes after them

    text = jax.jit(call).lower(constants, scalars).as_text()
    storable = not calls_back(jaxpr)
    unique = None if storable else uuid.uuid4().hex
    # What a program calls in Python is not in its text, be it for nothing but to print.
    speaks = any("callback" in equation.primitive.name for equation in equations(jaxpr))
    executable = digest([digest(text.encode()), inside, uuid.uuid4().hex if speaks else None])
    fingerprint = digest([digest(text.encode()), inside, unique, [constant.digest for constant in outside]])
    widest = max((sum(_bytes(v.aval) for v in eqn.outvars) for eqn in equations(jaxpr)), default=0)
    given = {name: Output(outputs[name].shape, outputs[name].dtype, first) for name, first in leading.items()}
    maps = [eqn for eqn in equations(jaxpr) if eqn.primitive.name == "shard_map"]
    sharded = any(RUNS in eqn.params["mesh"].shape for eqn in maps)
    return TracedProgram(call, constants, given, executable, fingerprint, storable, widest, sharded)


def compile_runs(
    program: TracedProgram, points: Points, size: int, mesh: jax.sharding.Mesh | None
) -> jax.stages.Compiled:
    """The program of ``size`` runs: ``(constants, points) -> {name: [size, …]}``.

    Args:
      program: of one run.
      points: axis -> values; only their dtypes matter.
      size: how many runs at once; a multiple of the mesh's ``runs``.
      mesh: runs are laid on its axis ``runs``. Each device runs the program of its own share: no communication, but
        for that of runs which are sharded themselves.
    """
    structs = {name: jax.ShapeDtypeStruct((size,), values.dtype) for name, values in points.items()}
    of_many = functools.partial(jax.vmap, program.call, in_axes=(None, 0))
    if mesh is None:
        jitted = jax.jit(of_many(axis_size=size))
    else:
        split, whole = jax.P(RUNS), jax.P()
        if program.sharded:  # it has parts that are manual over all axes, which must not be so twice
            batched = of_many(axis_size=size, spmd_axis_name=RUNS)
        else:
            batched = jax.shard_map(
                of_many(axis_size=size // mesh.shape[RUNS]),
                mesh=mesh,
                in_specs=(whole, split),
                out_specs=split,
                axis_names={RUNS},
                check_vma=False,
            )
        splitting, replicating = jax.NamedSharding(mesh, split), jax.NamedSharding(mesh, whole)
        jitted = jax.jit(batched, in_shardings=(replicating, splitting), out_shardings=splitting)
    lowered = jitted.lower(program.constants, structs)
    return lowered.compile(quick_options())


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
