"""A sweep before it runs: its cells, traced and cut into chunks, and the keys under which those are kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jaxlib.version
import numpy as np

from byzjax.checks import check_integer
from byzjax.programs.equations import Kept, flags, settings
from byzjax.storage.chunk_store import FORMAT, Store
from byzjax.storage.digests import digest
from byzjax.sweeps.batch_size import Compiler
from byzjax.sweeps.executor import Chunk
from byzjax.sweeps.grid import Lanes, Options
from byzjax.sweeps.progress import SweepProgress
from byzjax.sweeps.tracing import RUNS, Device, Output, Program, trace


class Cell(NamedTuple):
    """One combination of the discrete choices."""

    index: tuple[int, ...]
    label: str
    program: Program
    batch_size: int = 0
    chunks: tuple[Chunk, ...] = ()


def traced(fn: Callable[..., Any], options: Options, lanes: Lanes, bar: SweepProgress) -> list[Cell]:
    """All cells before any is run: what does not fit is said at once."""
    cells: list[Cell] = []
    seen: dict[int, Kept] = {}
    for index in itertools.product(*(range(len(pairs)) for pairs in options.values())):
        picked = {axis: pairs[k] for k, (axis, pairs) in zip(index, options.items(), strict=True)}
        label = ", ".join(f"{axis}={name}" for axis, (name, _) in picked.items())
        if label in {cell.label for cell in cells}:  # of labels with commas in them
            label += f" (cell {len(cells)})"
        bar.note(f"tracing {label}")
        try:
            program = trace(fn, {axis: value for axis, (_, value) in picked.items()}, lanes, seen)
        except Exception as error:
            error.add_note(
                f"This was while fn was traced for {label or 'the only cell'}; {', '.join(lanes)} are traced."
            )
            raise
        cells.append(Cell(index, label, program))
    return cells


def outputs(cells: list[Cell], axes: Collection[str]) -> dict[str, Output]:
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


def sized(
    cells: list[Cell],
    wanted: int | str,
    num_lanes: int,
    compiler: Compiler,
    store: Store | None,
    bar: SweepProgress,
) -> list[Cell]:
    """The cells with their batch sizes, multiples of the mesh's ``runs``; what is found out, a store remembers.

    Raises:
      ValueError: a batch size that is not a positive integer, or does not fit the mesh.
    """
    runs = compiler.runs
    if wanted != "auto":
        size = check_integer(wanted, "batch_size", "sweep", least=1)
        if size % runs:
            raise ValueError(f"sweep: batch_size = {size} must be a multiple of the mesh's {RUNS!r} axis, {runs}.")
        return [cell._replace(batch_size=min(size, -(-num_lanes // runs) * runs)) for cell in cells]
    sizes: dict[str, int] = {}
    for cell in cells:
        program = cell.program.fingerprint
        if program in sizes:
            continue
        name = digest([program, num_lanes, len(cells), runs, compiler.device.device_kind])[:32]
        remembers = store if cell.program.kept else None
        known = None if remembers is None else remembers.decided(name)
        if known is None:
            known = compiler.batch_size(cell.program, num_lanes, len(cells), cell.label, bar)
            known = known if remembers is None else remembers.decide(name, known)
        sizes[program] = known
    return [cell._replace(batch_size=sizes[cell.program.fingerprint]) for cell in cells]


def facts(device: Device, **more: Any) -> dict[str, Any]:
    """What determines the bits of a lane beside its program and its batch."""
    return {
        "format": FORMAT,
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "platform": device.platform,
        "device_kind": device.device_kind,
        "settings": settings(),
        "xla_flags": flags(),
        **more,
    }


def cut(cell: Cell, lanes: Lanes, num_lanes: int, facts: dict[str, Any]) -> Cell:
    """The cell with its chunks. The last repeats its last lane, so that all of them are one program."""
    chunks = []
    for first in range(0, num_lanes, cell.batch_size):
        index = np.minimum(np.arange(first, first + cell.batch_size), num_lanes - 1)
        values = {axis: points[index] for axis, points in lanes.items()}
        said = {axis: [points.dtype.str, digest(points)] for axis, points in values.items()}
        key = digest({**facts, "program": cell.program.fingerprint, "batch_size": cell.batch_size, "lanes": said})
        count = min(cell.batch_size, num_lanes - first)
        chunks.append(Chunk(key, cell.label, values, count, cell.program.kept))
    return cell._replace(chunks=tuple(chunks))
