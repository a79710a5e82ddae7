"""A sweep before it runs: its cells, traced and cut into chunks, and the keys under which those are kept."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jaxlib.version
import numpy as np

from byzjax.checks import check_integer
from byzjax.programs.equations import Kept, flags, settings
from byzjax.results.timeline import check_lengths
from byzjax.sharding import RUNS
from byzjax.storage.chunk_store import FORMAT, ChunkStore
from byzjax.storage.digests import digest
from byzjax.sweeps.batch_size import Compiler, host_memory
from byzjax.sweeps.executor import Chunk
from byzjax.sweeps.grid import Options, Points, grid_points, grid_values
from byzjax.sweeps.progress import SweepProgress
from byzjax.sweeps.tracing import Output, TracedProgram, trace


class TracedCell(NamedTuple):
    """One combination of the discrete choices, and the program of one of its runs."""

    index: tuple[int, ...]
    label: str
    program: TracedProgram


class PlannedCell(NamedTuple):
    """A traced cell, cut into chunks."""

    traced: TracedCell
    batch_size: int
    chunks: tuple[Chunk, ...]


class SweepPlan(NamedTuple):
    """All that is known of a sweep before it runs.

    Attributes:
      config: JSON-able; what the attributes of the data set say.
      grid: axis -> its values as they were given, which label it.
      options: of the cells.
      cells: in the order of the options' product.
      outputs: what the cells give together.
      environment: what determines the bits of a run beside its program and its batch.
      compiler: of all cells; it keeps the time.
      tracing_seconds: what tracing took.
    """

    config: dict[str, Any]
    grid: Mapping[str, Sequence[Any]]
    options: Options
    cells: list[PlannedCell]
    outputs: dict[str, Output]
    environment: dict[str, Any]
    compiler: Compiler
    tracing_seconds: float

    def chunks(self) -> list[Chunk]:
        """What is to be computed: cells whose programs are equal share their chunks."""
        return list({chunk.key: chunk for cell in self.cells for chunk in cell.chunks}.values())

    def rounds(self) -> int:
        """Of a run; 0 where nothing was recorded in every round."""
        return max((out.shape[0] for out in self.outputs.values() if out.leading == "round"), default=0)


def plan_sweep(
    fn: Callable[..., Any],
    grid: Mapping[str, Sequence[Any]],
    options: Options,
    config: dict[str, Any],
    *,
    batch_size: int | str,
    mesh: jax.sharding.Mesh | None,
    code_version: str,
    store: ChunkStore | None,
    display: SweepProgress,
) -> SweepPlan:
    """Trace every cell, find out how many runs a chunk has, and cut; nothing is computed.

    Args:
      fn: as in `byzjax.sweep`.
      grid: as in `byzjax.sweep`.
      options: of the cells.
      config: JSON-able; its ``eval_every`` is checked against what ``fn`` gives.
      batch_size: as in `byzjax.sweep`.
      mesh: as in `byzjax.sweep`.
      code_version: of byzjax.
      store: remembers batch sizes.
      display: is told what is traced and compiled.

    Raises:
      ValueError: a function that does not fit, what it gives too large, a bad batch size.
    """
    start = time.perf_counter()
    axes = grid_values(grid)
    points, num_runs = grid_points(axes), math.prod(len(values) for values in axes.values())
    compiler = Compiler(points, mesh)
    environment = _environment(compiler, code_version)
    traced = _trace_cells(fn, options, points, display)
    outputs = _merged_outputs(traced, axes=(*axes, *options))
    _check_size(outputs, num_runs * len(traced))
    _check_eval_every(outputs, config.get("eval_every"))
    tracing_seconds = time.perf_counter() - start
    sizes = _batch_sizes(traced, batch_size, num_runs, compiler, store, display)
    cells = [
        PlannedCell(cell, size, _cut(cell, size, points, num_runs, environment, compiler, display))
        for cell, size in zip(traced, sizes, strict=True)
    ]
    return SweepPlan(config, grid, options, cells, outputs, environment, compiler, tracing_seconds)


def _environment(compiler: Compiler, code_version: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "platform": compiler.device.platform,
        "device_kind": compiler.device.device_kind,
        "settings": settings(),
        "xla_flags": flags(),
        "runs": compiler.shares,
        "code": code_version,
    }


def _trace_cells(fn: Callable[..., Any], options: Options, points: Points, display: SweepProgress) -> list[TracedCell]:
    """All cells before any is run: what does not fit is said at once."""
    cells: list[TracedCell] = []
    seen: dict[int, Kept] = {}
    for index in itertools.product(*(range(len(pairs)) for pairs in options.values())):
        picked = {axis: pairs[k] for k, (axis, pairs) in zip(index, options.items(), strict=True)}
        label = ", ".join(f"{axis}={name}" for axis, (name, _) in picked.items())
        if label in {cell.label for cell in cells}:  # of labels with commas in them
            label += f" (cell {len(cells)})"
        display.note(f"tracing {label}")
        try:
            program = trace(fn, {axis: value for axis, (_, value) in picked.items()}, points, seen)
        except Exception as error:
            error.add_note(
                f"This was while fn was traced for {label or 'the only cell'}; {', '.join(points)} are traced."
            )
            raise
        cells.append(TracedCell(index, label, program))
    return cells


def _merged_outputs(cells: list[TracedCell], axes: Collection[str]) -> dict[str, Output]:
    """What all cells give together; what a cell lacks will be NaN there.

    Raises:
      ValueError: cells that give different things under one name, or lack what cannot be NaN; the name of an axis.
    """
    merged: dict[str, Output] = {}
    for cell in cells:
        for name, mine in cell.program.outputs.items():
            first = merged.setdefault(name, mine)
            if first != mine:
                raise ValueError(
                    f"sweep: {name!r} is {mine.dtype}{list(mine.shape)} for {cell.label}, and "
                    f"{first.dtype}{list(first.shape)} before; cells of one data set must agree."
                )
    for cell, (name, output) in itertools.product(cells, merged.items()):
        if name not in cell.program.outputs and output.dtype.kind != "f":
            raise ValueError(f"sweep: {cell.label} gives no {name!r}, and {output.dtype} has no NaN to say so.")
    both = sorted(set(merged) & set(axes))
    if both:
        raise ValueError(f"sweep: fn gives {both}, which are axes; call what it gives something else.")
    return merged


def _batch_sizes(
    cells: list[TracedCell],
    wanted: int | str,
    num_runs: int,
    compiler: Compiler,
    store: ChunkStore | None,
    display: SweepProgress,
) -> list[int]:
    """Of every cell, multiples of the mesh's ``runs``; what is found out, a store remembers.

    Raises:
      ValueError: a batch size that is not a positive integer, or does not fit the mesh.
    """
    shares = compiler.shares
    if wanted != "auto":
        size = check_integer(wanted, "batch_size", "sweep", least=1)
        if size % shares:
            raise ValueError(f"sweep: batch_size = {size} must be a multiple of the mesh's {RUNS!r} axis, {shares}.")
        return [min(size, -(-num_runs // shares) * shares)] * len(cells)
    sizes: dict[str, int] = {}
    for cell in cells:
        fingerprint = cell.program.fingerprint
        if fingerprint in sizes:
            continue
        name = digest([fingerprint, num_runs, len(cells), shares, compiler.device.device_kind])[:32]
        memory = store if cell.program.storable else None
        size = None if memory is None else memory.decided(name)
        if size is None:
            size = compiler.batch_size(cell.program, num_runs, len(cells), cell.label, display)
            size = size if memory is None else memory.decide(name, size)
        sizes[fingerprint] = size
    return [sizes[cell.program.fingerprint] for cell in cells]


def _cut(
    cell: TracedCell,
    batch_size: int,
    points: Points,
    num_runs: int,
    environment: dict[str, Any],
    compiler: Compiler,
    display: SweepProgress,
) -> tuple[Chunk, ...]:
    """The chunks of a cell. The last repeats its last run, so that all of them are one program."""
    launcher = functools.partial(compiler.launch, cell.program, batch_size, cell.label, display)
    chunks = []
    for first in range(0, num_runs, batch_size):
        index = np.minimum(np.arange(first, first + batch_size), num_runs - 1)
        part = {axis: values[index] for axis, values in points.items()}
        digests = {axis: [values.dtype.str, digest(values)] for axis, values in part.items()}
        count = min(batch_size, num_runs - first)
        inputs = {"program": cell.program.fingerprint, "batch_size": batch_size, "lanes": digests}
        key = digest({**environment, **inputs})
        chunks.append(Chunk(key, cell.label, part, count, launcher, cell.program.storable))
    return tuple(chunks)


def _check_size(outputs: Mapping[str, Output], num_runs: int) -> None:
    """Say now, not after the sweep, that its data set does not fit."""
    sizes = {name: num_runs * math.prod(out.shape) * out.dtype.itemsize for name, out in outputs.items()}
    wanted, free = sum(sizes.values()), host_memory()
    if wanted > free:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"sweep: {num_runs} runs give {wanted / 1e9:.3g} GB, most of it {largest!r}, and {free / 1e9:.3g} GB of "
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
