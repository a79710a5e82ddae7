"""A sweep: one function of named scalars at all points of a grid, vmapped in chunks, as one data set."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from byzjax import results
from byzjax.sharding import RUNS
from byzjax.storage import digests, netcdf
from byzjax.storage.chunk_store import DATASET, Arrays, ChunkStore, StoreError
from byzjax.storage.digests import digest, plain
from byzjax.sweeps.batch_size import concurrency
from byzjax.sweeps.executor import Chunk, compute
from byzjax.sweeps.grid import Options, as_json, cell_labels, check_names, coordinate, grid_values
from byzjax.sweeps.planning import SweepPlan, plan_sweep
from byzjax.sweeps.progress import SweepProgress

if TYPE_CHECKING:
    import xarray


def sweep(
    fn: Callable[..., Any],
    *,
    grid: Mapping[str, Sequence[float]],
    cells: Mapping[str, Sequence[Any] | Mapping[str, Any]] | None = None,
    batch_size: int | Literal["auto"] = "auto",
    mesh: jax.sharding.Mesh | None = None,
    store: str | Path | None = None,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
    name: str | None = None,
    code_version: str | None = None,
) -> xarray.Dataset:
    """Evaluate ``fn(**point)`` at every point of ``grid × cells``, with one compiled program per cell.

    ``fn`` is called once per cell and never again, with one keyword argument per axis: a traced scalar for a grid axis,
    the Python value for a cell axis. So it must not branch on a grid axis. It must be pure: its result is a function
    of its arguments and of the arrays that it closes over (which are copied then, and not compiled in).

    A run that diverges never raises: it is frozen, counted and flagged in ``diverged``, and NaN from there on.

    With a ``store``, a finished chunk is written at once, under a hash of all that determines it: the traced program,
    the bits of the arrays that it closes over, the values of its runs, the batch size, byzjax's source, JAX, jaxlib,
    JAX's settings that change numbers, and the kind of device. So it is never computed twice, and a sweep that was
    killed goes on where it was, with the same bits. Processes with the same store share the work. What a function that
    calls back into Python gives (`jax.pure_callback`) no hash can tell: that is never kept, and every call computes it.

    Under `jax.distributed` every process computes chunks on its own devices. They need a store that all of them see,
    and each returns the whole data set.

    Args:
      fn: returns a `Result`, whose state is dropped, or a flat dict of arrays. If that has a flag ``finite``, a run
        where it is false has diverged; otherwise one where a number is not finite.
      grid: axis -> numbers. ``seed`` arrives as uint32; inside, make it a key: ``jax.random.key(seed)``. Others arrive
        as int32, float32 or bool, or in 64 bits where JAX is told to use them.
      cells: axis -> values, or axis -> {label: value} for values that are not their own label.
      batch_size: runs per chunk. ``"auto"`` is a power of two: what fits into memory by XLA's analysis of the compiled
        program, leaves some chunks to see progress by, and on a CPU stays in the cache. A store remembers it, because
        the same run in chunks of another size may differ by rounding.
      mesh: runs are laid on its axis ``"runs"``, without communication.
      store: a folder, new or of earlier sweeps. At the end the data set is put there, too, as ``dataset.nc``, which
        ``byzjax plot`` draws; that of another sweep is kept beside it.
      progress: show cells, chunks, rates, ETA and how many runs diverged.
      config: JSON-able: what the attributes shall say of what ``fn`` does; its ``eval_every`` numbers ``eval``.
      name: what progress and the store call the sweep; the function's name by default.
      code_version: in place of the hash of byzjax's source, to go on with a store after a change of no consequence.

    Returns:
      A data set with the cell axes, the grid axes, and then ``round``, ``eval``, ``class``, …; ``diverged`` has the
      cell and grid axes alone. Attributes: the configuration as JSON, versions, device, counts of ``lanes`` and
      ``diverged``, and ``compile_seconds`` and ``run_seconds`` of this call.

    Raises:
      ValueError: an empty axis, an axis that is not numbers, a function that does not fit, a bad batch size or mesh; a
        value of the grid, or one computed from it, that a factory called with it refuses, before anything is computed.
      OSError: the store cannot be written; what is in it is kept.
      KeyboardInterrupt: with a store, after the chunks in flight were written.

    >>> import byzjax, jax.numpy as jnp
    >>> from byzjax import aggregators as agg, attacks, methods, tasks
    >>> task = tasks.quartic(num_workers=5)
    >>> def run(seed, learning_rate, rule):  # seed and learning_rate are traced, rule is a string
    ...     method = methods.byz_nsgdm(learning_rate, aggregator=agg.REGISTRY[rule]())
    ...     return byzjax.simulate(task, method, attacks.none(), byzantine=jnp.zeros(5, bool),
    ...                            key=jax.random.key(seed), num_rounds=4, eval_every=2)
    >>> dataset = byzjax.sweep(run, grid={"learning_rate": [0.1, 0.3], "seed": [0, 1, 2]},
    ...                        cells={"rule": ["mean", "median"]}, progress=False)
    >>> dict(dataset.objective.sizes)
    {'rule': 2, 'learning_rate': 2, 'seed': 3, 'eval': 2}
    """
    start = time.perf_counter()
    name = name or str(getattr(fn, "__name__", "sweep"))
    options = cell_labels(cells or {})
    check_names(grid_values(grid), options)
    _check_mesh(mesh, store)
    described = _described(name, grid, options, config or {})
    chunk_store = None if store is None else ChunkStore(store)

    with SweepProgress(name, shown=progress) as display:
        plan = plan_sweep(
            fn,
            grid,
            options,
            described,
            batch_size=batch_size,
            mesh=mesh,
            code_version=code_version or digests.code_version(),
            store=chunk_store,
            display=display,
        )
        arrays = execute(plan, chunk_store, display)
        compile_seconds = plan.tracing_seconds + plan.compiler.seconds
        run_seconds = time.perf_counter() - start - compile_seconds
        dataset = assemble(plan, arrays)
        dataset.attrs.update(compile_seconds=compile_seconds, run_seconds=run_seconds)
        if chunk_store is not None and jax.process_index() == 0:
            _publish(chunk_store, dataset, display)
        display.say(f"{name}: {_summary(dataset)}")
    return dataset


def execute(plan: SweepPlan, store: ChunkStore | None, display: SweepProgress) -> dict[str, Arrays]:
    """The arrays of all chunks by their keys. A store is told what is begun, before anything is computed.

    Args:
      plan: of the sweep.
      store: where finished chunks are, and go.
      display: is told of every chunk.

    Raises:
      KeyboardInterrupt, StoreError, ValueError: see `executor.compute`.
    """
    chunks = plan.chunks()
    if store is not None:
        _record(store, plan, chunks, display)
    display.begin(
        {cell.traced.label: sum(chunk.cell == cell.traced.label for chunk in chunks) for cell in plan.cells},
        runs=sum(chunk.count for chunk in chunks),
        rounds=plan.rounds(),
    )
    workers = concurrency(plan.compiler.device, plan.compiler.mesh, len(chunks))
    return compute(chunks, store=store, display=display, workers=workers)


def assemble(plan: SweepPlan, arrays: Mapping[str, Arrays]) -> xarray.Dataset:
    """The data set: all chunks in their places, and in the attributes what it is made of.

    Args:
      plan: of the sweep.
      arrays: of every chunk, by its key.
    """
    import xarray

    coordinates = {axis: coordinate([label for label, _ in pairs]) for axis, pairs in plan.options.items()}
    coordinates |= {axis: np.asarray(values) for axis, values in plan.grid.items()}
    sizes = [len(values) for values in coordinates.values()]
    cell_sizes, grid_sizes = sizes[: len(plan.options)], sizes[len(plan.options) :]
    dataset = xarray.Dataset(
        coords={axis: (axis, values, results.described(axis)) for axis, values in coordinates.items()},
        attrs=results.provenance(plan.config),
    )
    for name in results.in_order(plan.outputs):
        shape, dtype, leading = plan.outputs[name]
        missing = np.nan if dtype.kind == "f" else 0
        whole = np.full((*cell_sizes, math.prod(grid_sizes), *shape), missing, dtype)
        for cell in plan.cells:
            if name in cell.traced.program.outputs:
                whole[cell.traced.index] = np.concatenate([arrays[chunk.key][name] for chunk in cell.chunks])
        dims = *coordinates, *results.dims_of(name, len(shape), leading)
        dataset[name] = (dims, whole.reshape(*sizes, *shape), results.described(name))
    dataset = results.with_coordinates(dataset, plan.config.get("eval_every"))
    dataset.attrs.update(
        code_version=plan.environment["code"],
        batch_size=json.dumps({cell.traced.label: cell.batch_size for cell in plan.cells}),
        lanes=dataset["diverged"].size,
        diverged=int(dataset["diverged"].sum()),
    )
    return dataset


def _described(
    name: str, grid: Mapping[str, Sequence[Any]], options: Options, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration that the attributes hold.

    Raises:
      ValueError: it cannot be saved: said now, not after the sweep.
    """
    described = plain(
        {
            **config,
            "name": name,
            "grid": {axis: as_json(values) for axis, values in grid.items()},
            "cells": {axis: [label for label, _ in pairs] for axis, pairs in options.items()},
        }
    )
    netcdf.check_attributes(results.provenance(described), "sweep")
    return described


def _record(store: ChunkStore, plan: SweepPlan, chunks: list[Chunk], display: SweepProgress) -> None:
    """Note in the store what is begun; say if it holds the same sweep, made by something else."""
    keys = sorted(chunk.key for chunk in chunks if chunk.storable)
    fingerprint = digest(plan.config)[:16]
    manifest = {
        **plan.environment,
        "name": plan.config["name"],
        "config": plan.config,
        "begun": time.time(),
        "lanes": sum(chunk.count for chunk in chunks),
        "programs": digest([cell.traced.program.fingerprint for cell in plan.cells]),
        "batch_sizes": [cell.batch_size for cell in plan.cells],
        "chunks": keys,
    }
    missing = [key for key in keys if key not in store]
    for other in store.sweeps(fingerprint).values():
        if missing and other["chunks"] != keys:
            changed = [
                f"{what} {other.get(what)} there, {manifest[what]} here"
                for what in (*plan.environment, "batch_sizes")
                if other.get(what) != manifest[what]
            ]
            reason = "; ".join(changed) or "what the function computes, or its data, was different"
            display.say(
                f"{plan.config['name']}: {store.path} holds this sweep as another version made it ({reason}). Its "
                f"{len(other['chunks'])} chunks are kept and not used; what differs is computed anew."
            )
    try:
        store.record(fingerprint, manifest)
    except StoreError:
        if missing:
            raise


def _publish(store: ChunkStore, dataset: xarray.Dataset, display: SweepProgress) -> None:
    """Put the data set into the store; where nothing can be written, the caller has it all the same."""
    try:
        store.publish(dataset)
    except StoreError as error:
        display.say(f"{display.name}: no {DATASET} is kept: {error}")


def _summary(dataset: xarray.Dataset) -> str:
    attrs = dataset.attrs
    line = f"{attrs['lanes']} runs in {attrs['run_seconds']:.3g} s, and {attrs['compile_seconds']:.3g} s of compilation"
    if attrs["diverged"]:
        line += f"; {attrs['diverged']} runs diverged: their numbers are NaN from there on, and `diverged` says which"
    return line


def _check_mesh(mesh: jax.sharding.Mesh | None, store: str | Path | None) -> None:
    if mesh is not None and RUNS not in mesh.axis_names:
        raise ValueError(f"sweep: the mesh has axes {mesh.axis_names}, and no {RUNS!r} to lay runs on.")
    if jax.process_count() == 1:
        return
    if store is None:
        raise ValueError(
            "sweep: several processes share the work through a store; pass store=, a folder all of them see."
        )
    if mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError(
            "sweep: the mesh has devices of other processes; every process sweeps on its own: make it of "
            "jax.local_devices()."
        )
