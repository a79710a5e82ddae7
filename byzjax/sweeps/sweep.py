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
from byzjax.checks import check_integer
from byzjax.results.timeline import check_lengths
from byzjax.storage import digests, netcdf
from byzjax.storage.chunk_store import DATASET, Arrays, Store, StoreError
from byzjax.storage.digests import digest, plain
from byzjax.sweeps import planning
from byzjax.sweeps.batch_size import Compiler, concurrency, host_memory
from byzjax.sweeps.executor import Chunk, compute
from byzjax.sweeps.grid import Options, cell_labels, check_names, coordinate, flatten, grid_values, said
from byzjax.sweeps.planning import Cell
from byzjax.sweeps.progress import SweepProgress
from byzjax.sweeps.tracing import RUNS, Output

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

    A lane that diverges never raises: it is frozen, counted and flagged in ``diverged``, and NaN from there on.

    With a ``store``, a finished chunk is written at once, under a hash of all that determines it: the traced program,
    the bits of the arrays that it closes over, the values of its lanes, the batch size, byzjax's source, JAX, jaxlib,
    JAX's settings that change numbers, and the kind of device. So it is never computed twice, and a sweep that was
    killed goes on where it was, with the same bits. Processes with the same store share the work. What a function that
    calls back into Python gives (`jax.pure_callback`) no hash can tell: that is never kept, and every call computes it.

    Under `jax.distributed` every process computes chunks on its own devices. They need a store that all of them see,
    and each returns the whole data set.

    Args:
      fn: returns a `Result`, whose state is dropped, or a flat dict of arrays. If that has a flag ``finite``, a lane
        where it is false has diverged; otherwise one where a number is not finite.
      grid: axis -> numbers. ``seed`` arrives as uint32; inside, make it a key: ``jax.random.key(seed)``. Others arrive
        as int32, float32 or bool, or in 64 bits where JAX is told to use them.
      cells: axis -> values, or axis -> {label: value} for values that are not their own label.
      batch_size: lanes per chunk. ``"auto"`` is a power of two: what fits into memory by XLA's analysis of the compiled
        program, leaves some chunks to see progress by, and on a CPU stays in the cache. A store remembers it, because
        the same lane in chunks of another size may differ by rounding.
      mesh: lanes are laid on its axis ``"runs"``, without communication.
      store: a folder, new or of earlier sweeps. At the end the data set is put there, too, as ``dataset.nc``, which
        ``byzjax plot`` draws; that of another sweep is kept beside it.
      progress: show cells, chunks, rates, ETA and how many lanes diverged.
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
    axes, options = grid_values(grid), cell_labels(cells or {})
    check_names(axes, options)
    _check_mesh(mesh, store)
    described = plain(
        {
            **(config or {}),
            "name": name,
            "grid": {axis: said(values) for axis, values in grid.items()},
            "cells": {axis: [label for label, _ in pairs] for axis, pairs in options.items()},
        }
    )
    # Say now, not after the sweep, that it cannot be saved.
    netcdf.check_attributes(results.provenance(described), "sweep")
    kept = None if store is None else Store(store)
    lanes, num_lanes = flatten(axes), math.prod(len(values) for values in axes.values())
    compiler = Compiler(lanes, mesh)
    facts = planning.facts(compiler.device, runs=compiler.runs, code=code_version or digests.code_version())

    with SweepProgress(name, shown=progress) as bar:
        cells_ = planning.traced(fn, options, lanes, bar)
        outputs = planning.outputs(cells_, axes=(*axes, *options))
        _check_size(outputs, num_lanes * len(cells_))
        _check_eval_every(outputs, described.get("eval_every"))
        tracing = time.perf_counter() - start
        cells_ = planning.sized(cells_, batch_size, num_lanes, compiler, kept, bar)
        cells_ = [planning.cut(cell, lanes, num_lanes, facts) for cell in cells_]
        chunks = list({chunk.key: chunk for cell in cells_ for chunk in cell.chunks}.values())
        if kept is not None:
            _record(kept, described, cells_, chunks, facts, bar)
        bar.begin(
            {cell.label: sum(chunk.cell == cell.label for chunk in chunks) for cell in cells_},
            lanes=sum(chunk.count for chunk in chunks),
            rounds=max((out.shape[0] for out in outputs.values() if out.leading == "round"), default=0),
        )
        programs = {cell.label: (cell.program, cell.batch_size, cell.label) for cell in cells_}
        found = compute(
            chunks,
            lambda label: compiler.launch(*programs[label], bar),
            store=kept,
            bar=bar,
            workers=concurrency(compiler.device, mesh, len(chunks)),
        )
        running = time.perf_counter() - start - tracing - compiler.seconds
        dataset = _assemble(cells_, outputs, found, grid, options, described)
        dataset.attrs.update(
            code_version=facts["code"],
            batch_size=json.dumps({cell.label: cell.batch_size for cell in cells_}),
            lanes=dataset["diverged"].size,
            diverged=int(dataset["diverged"].sum()),
            compile_seconds=tracing + compiler.seconds,
            run_seconds=running,
        )
        if kept is not None and jax.process_index() == 0:
            _publish(kept, dataset, bar)
        bar.say(f"{name}: {_summary(dataset)}")
    return dataset


def _record(
    store: Store,
    config: dict[str, Any],
    cells: list[Cell],
    chunks: list[Chunk],
    facts: dict[str, Any],
    bar: SweepProgress,
) -> None:
    """Note in the store what is begun; say if it holds the same sweep, made by something else."""
    keys = sorted(chunk.key for chunk in chunks if chunk.kept)
    identity = digest(config)[:16]
    manifest = {
        **facts,
        "name": config["name"],
        "config": config,
        "begun": time.time(),
        "lanes": sum(chunk.count for chunk in chunks),
        "programs": digest([cell.program.fingerprint for cell in cells]),
        "batch_sizes": [cell.batch_size for cell in cells],
        "chunks": keys,
    }
    missing = [key for key in keys if key not in store]
    for other in store.sweeps(identity).values():
        if missing and other["chunks"] != keys:
            changed = [
                f"{what} {other.get(what)} there, {manifest[what]} here"
                for what in (*facts, "batch_sizes")
                if other.get(what) != manifest[what]
            ]
            reason = "; ".join(changed) or "what the function computes, or its data, was different"
            bar.say(
                f"{config['name']}: {store.path} holds this sweep as another version made it ({reason}). Its "
                f"{len(other['chunks'])} chunks are kept and not used; what differs is computed anew."
            )
    try:
        store.record(identity, manifest)
    except StoreError:
        if missing:
            raise


def _publish(store: Store, dataset: xarray.Dataset, bar: SweepProgress) -> None:
    """Put the data set into the store; where nothing can be written, the caller has it all the same."""
    try:
        store.publish(dataset)
    except StoreError as error:
        bar.say(f"{bar.name}: no {DATASET} is kept: {error}")


def _assemble(
    cells: list[Cell],
    outputs: dict[str, Output],
    found: dict[str, Arrays],
    grid: Mapping[str, Sequence[Any]],
    options: Options,
    config: dict[str, Any],
) -> xarray.Dataset:
    """All chunks, in their places."""
    import xarray

    coordinates = {axis: coordinate([label for label, _ in pairs]) for axis, pairs in options.items()}
    coordinates |= {axis: np.asarray(values) for axis, values in grid.items()}
    sizes = [len(values) for values in coordinates.values()]
    outer = sizes[: len(options)]
    dataset = xarray.Dataset(
        coords={axis: (axis, values, results.described(axis)) for axis, values in coordinates.items()},
        attrs=results.provenance(config),
    )
    for name in results.in_order(outputs):
        shape, dtype = outputs[name].shape, outputs[name].dtype
        lanes = math.prod(sizes[len(options) :])
        array = np.full((*outer, lanes, *shape), np.nan if dtype.kind == "f" else 0, dtype)
        for cell in cells:
            if name in cell.program.outputs:
                array[cell.index] = np.concatenate([found[chunk.key][name] for chunk in cell.chunks])
        dims = *coordinates, *results.dims_of(name, len(shape), outputs[name].leading)
        dataset[name] = (dims, array.reshape(*sizes, *shape), results.described(name))
    return results.with_coordinates(dataset, config.get("eval_every"))


def _summary(dataset: xarray.Dataset) -> str:
    attrs = dataset.attrs
    line = (
        f"{attrs['lanes']} lanes in {attrs['run_seconds']:.3g} s, and {attrs['compile_seconds']:.3g} s of compilation"
    )
    if attrs["diverged"]:
        line += f"; {attrs['diverged']} lanes diverged: their numbers are NaN from there on, and `diverged` says which"
    return line


def _check_size(outputs: Mapping[str, Output], lanes: int) -> None:
    """Say now, not after the sweep, that its data set does not fit."""
    sizes = {name: lanes * math.prod(out.shape) * out.dtype.itemsize for name, out in outputs.items()}
    wanted, free = sum(sizes.values()), host_memory()
    if wanted > free:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"sweep: {lanes} lanes give {wanted / 1e9:.3g} GB, most of it {largest!r}, and {free / 1e9:.3g} GB of "
            "memory are free; record or evaluate less, or sweep in parts."
        )


def _check_eval_every(outputs: Mapping[str, Output], eval_every: Any) -> None:
    """Say now, not after the sweep, that its evaluations would be of other rounds than they are labelled with."""
    lengths = {out.leading: out.shape[0] for out in outputs.values() if out.leading in ("round", "eval")}
    if eval_every is not None and len(lengths) == 2:
        check_lengths(
            lengths["round"],
            lengths["eval"],
            check_integer(eval_every, "config: eval_every", "sweep", least=0),
            "sweep",
        )


def _check_mesh(mesh: jax.sharding.Mesh | None, store: str | Path | None) -> None:
    if mesh is not None and RUNS not in mesh.axis_names:
        raise ValueError(f"sweep: the mesh has axes {mesh.axis_names}, and no {RUNS!r} to lay lanes on.")
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
