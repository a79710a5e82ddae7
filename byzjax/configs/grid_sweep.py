"""A grid's sweep: what cannot run is said before anything does, tasks are built once, and a dry run counts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.configs.grid_config import AXES, GridConfig, describe
from byzjax.configs.run_config import RunConfig
from byzjax.configs.specs import nearest
from byzjax.programs.equations import Kept
from byzjax.selection import select
from byzjax.simulation.simulate import Result
from byzjax.sweeps import batch_size, tracing
from byzjax.sweeps.grid import grid_points, grid_values
from byzjax.sweeps.progress import SweepProgress
from byzjax.sweeps.sweep import sweep
from byzjax.task import Task

if TYPE_CHECKING:
    import xarray


class Invalid(NamedTuple):
    """A cell that cannot run, and why."""

    cell: dict[str, Any]
    reason: str

    def __str__(self) -> str:
        return f"{describe(self.cell)}: {self.reason}"


class Tasks:
    """The tasks of a grid, each built once. Arrays that are equal in several tasks are held once."""

    def __init__(self):
        self._tasks: dict[tuple[str, int, int], Task] = {}
        self._arrays: dict[str, jax.Array] = {}

    def __getitem__(self, config: RunConfig) -> Task:
        """The task of a run.

        Raises:
          ValueError: whatever its factory refuses.
        """
        key = config.task, config.num_workers, config.num_byzantine
        if key not in self._tasks:
            task = config.calls()["task"][0].build()
            self._tasks[key] = jax.tree.map(self._shared, task)
        return self._tasks[key]

    def num_bytes(self) -> int:
        """What all of them hold together."""
        return sum(array.nbytes for array in self._arrays.values())

    def _shared(self, array: jax.Array) -> jax.Array:
        values = np.asarray(array)
        key = hashlib.sha256(f"{values.dtype} {values.shape} ".encode() + values.tobytes()).hexdigest()
        return self._arrays.setdefault(key, array)


def invalid_cells(
    grid: GridConfig, tasks: Tasks, trace: Callable[[dict[str, Any]], Any] | None = None
) -> list[Invalid]:
    """The cells that cannot run, found by building all of their parts and tracing a round. Nothing is computed.

    Args:
      grid: all of it.
      tasks: the grid's; filled on the way.
      trace: is called with every cell whose parts fit, and raises a ValueError where they do not fit together; by
        default it traces one round.
    """

    def one_round(cell: dict[str, Any]) -> None:
        config = grid.config(**cell, num_rounds=1, eval_every=0)
        jax.eval_shape(lambda task: config.simulate(config.build(task)), tasks[config])

    refusals = ((cell, _refusal(grid, cell, tasks, trace or one_round)) for cell in grid.points())
    return [Invalid(cell, reason) for cell, reason in refusals if reason]


def _refusal(grid: GridConfig, cell: dict[str, Any], tasks: Tasks, trace: Callable[..., Any]) -> str | None:
    try:
        task = tasks[grid.config(**cell)]
        for name in ("learning_rate", "beta"):  # no factory can look at them when they are traced
            for value in grid.axes.get(name, ()):
                grid.config(**cell, **{name: value}).build(task)
        trace(cell)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def check(grid: GridConfig, tasks: Tasks, say: Callable[[str], None] = lambda line: None) -> list[Invalid]:
    """The cells that are to be left out.

    Args:
      grid: all of it.
      tasks: the grid's; filled on the way.
      say: is told, a line each, which cells cannot run.

    Raises:
      ValueError: cells that cannot run, unless the grid leaves such cells out; no cell that can.
    """
    invalid = invalid_cells(grid, tasks)
    for one in invalid:
        say(f"cannot run: {one}")
    if len(invalid) == grid.num_cells:
        raise ValueError(f"no cell of the grid can run; the first is {invalid[0]}")
    if invalid and not grid.skip_invalid:
        raise ValueError(
            f"{len(invalid)} of {grid.num_cells} cells cannot run, the first is {invalid[0]} Change the grid, or leave "
            "such cells out with sweep.skip_invalid = true."
        )
    if grid.select is not None:
        left_out = [one.cell for one in invalid]
        config = grid.config(**next(cell for cell in grid.points() if cell not in left_out))
        _rehearse(grid, jax.eval_shape(lambda task: config.simulate(config.build(task)), tasks[config]))
    return invalid


def _rehearse(grid: GridConfig, result: Result) -> None:
    """Choose hyperparameters from nothing, so that what does not fit is said before the sweep and not after it."""
    import xarray

    from byzjax.results import dims_of

    assert grid.select is not None
    leading = {**dict.fromkeys(result.history, "round"), **dict.fromkeys(result.evals, "eval")}
    by = grid.select.by
    if by not in leading:
        raise ValueError(f"sweep.select.by: {by!r} is not reported by these runs; {nearest(by, leading)}.")
    shape = {**result.history, **result.evals}[by].shape
    if grid.select.last > shape[0]:
        raise ValueError(
            f"sweep.select.last = {grid.select.last} must be between 1 and the {shape[0]} of {leading[by]!r}; lower "
            "it, or run more rounds."
        )
    sizes = [len(values) for values in grid.axes.values()]
    coordinates: dict[str, Any] = {axis: list(values) for axis, values in named(grid.axes).items()}
    dims = *coordinates, *dims_of(by, len(shape), leading[by])
    coordinates |= {dim: np.arange(size) for dim, size in zip(dims[len(sizes) :], shape, strict=True)}
    nothing = xarray.Dataset({by: (dims, np.zeros((*sizes, *shape)))}, coordinates)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choose(grid, nothing)


def choose(grid: GridConfig, dataset: xarray.Dataset) -> xarray.Dataset:
    """A grid's data set at the hyperparameters that its ``[sweep.select]`` chooses; see `byzjax.select`."""
    assert grid.select is not None
    over = list(named(dict.fromkeys(grid.select.over)))
    return select(dataset, **{**dataclasses.asdict(grid.select), "over": over})


def named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of runs under the names that axes of a data set have."""
    return {AXES.get(field, field): value for field, value in fields.items()}


def function(grid: GridConfig, tasks: Tasks, skipped: Iterable[Invalid] = ()) -> Callable[..., Result]:
    """What `byzjax.sweep` evaluates: a run as a function of the axes.

    Args:
      grid: all of it.
      tasks: the grid's, with every task that is needed: nothing may be built while the function is traced.
      skipped: cells that give nothing.
    """
    left_out = [invalid.cell for invalid in skipped]

    fields = {axis: field for field, axis in AXES.items()}

    def run(**point: Any) -> Result:
        point = {fields.get(name, name): value for name, value in point.items()}
        if {name: point[name] for name in grid.cells} in left_out:
            return Result(None, {"finite": jnp.ones(grid.config().num_rounds, bool)}, {})  # type: ignore[arg-type]
        config = grid.config(**point)
        return config.simulate(config.build(tasks[config]))

    return run


def execute(
    grid: GridConfig, *, progress: bool = True, say: Callable[[str], None] = lambda line: None
) -> xarray.Dataset:
    """Sweep a grid.

    Args:
      grid: all of it.
      progress: show cells, chunks, rates and ETA.
      say: is told, a line each, which cells are left out.

    Returns:
      See `byzjax.sweep`. The coordinate ``ran``, over the cell axes, is false where a cell was left out.

    Raises:
      ValueError: see `check` and `byzjax.sweep`.
      OSError, KeyboardInterrupt: see `byzjax.sweep`.
    """
    tasks = Tasks()
    skipped = check(grid, tasks, say)
    dataset = sweep(
        function(grid, tasks, skipped),
        grid=grid.traced,
        cells=named(grid.cells),
        batch_size=grid.batch_size,
        store=grid.store,
        progress=progress,
        config={**grid.as_dict(), "eval_every": grid.config().eval_every},
        name=grid.name,
    )
    left_out = [invalid.cell for invalid in skipped]
    ran = np.array([cell not in left_out for cell in grid.points()]).reshape([len(v) for v in grid.cells.values()])
    dataset.attrs["skipped"] = json.dumps([invalid._asdict() for invalid in skipped])
    return dataset.assign_coords(ran=(tuple(named(grid.cells)), ran, {"long_name": "the cell was run", "units": "1"}))


class Plan(NamedTuple):
    """What a sweep would do.

    Attributes:
      invalid: cells that cannot run.
      cells: cells that can.
      runs_per_cell: points of its grid.
      programs: how many there are to compile; cells whose programs are equal share one.
      batch_size: runs per chunk, of the cell that needs most.
      chunks: of all cells together, if all have that batch size.
      chunk_bytes: what a chunk of that cell takes beside the data, by XLA's analysis; None where there is none.
      data_bytes: of the tasks, which all chunks share.
      result_bytes: of the data set.
      at_once: chunks that are computed at a time.
      measured: the cell that was compiled to know.
    """

    invalid: list[Invalid]
    cells: list[dict[str, Any]]
    runs_per_cell: int
    programs: int
    batch_size: int
    chunks: int
    chunk_bytes: int | None
    data_bytes: int
    result_bytes: int
    at_once: int
    measured: dict[str, Any]


def plan(grid: GridConfig, *, progress: bool = True) -> Plan:
    """What `execute` would do. Every cell is traced, one is compiled, and none is run.

    Args:
      grid: all of it; cells that cannot run are left out, whether the grid says so or not.
      progress: show what is going on.

    Raises:
      ValueError: no cell can run; see `byzjax.sweep`.
    """
    tasks, points = Tasks(), grid_points(grid_values(grid.traced))
    traced: list[tuple[dict[str, Any], tracing.TracedProgram]] = []
    seen: dict[int, Kept] = {}
    with SweepProgress(grid.name, shown=progress) as display:

        def trace(cell: dict[str, Any]) -> None:
            display.note(f"tracing {describe(cell)}")
            traced.append((cell, tracing.trace(function(grid, tasks), cell, points, seen)))

        invalid = invalid_cells(grid, tasks, trace)
        if not traced:
            raise ValueError(f"no cell of the grid can run; the first is {invalid[0]}")
        most, program = max(traced, key=lambda pair: pair[1].widest + pair[1].run_bytes())
        compiler = batch_size.Compiler(points, None)
        size = grid.batch_size
        if size == "auto":
            size = compiler.batch_size(program, grid.runs_per_cell, grid.num_cells, describe(most), display)
        size = min(size, grid.runs_per_cell)
        memory = compiler.compile(program, size, describe(most), display).memory_analysis()
    chunks = len(traced) * -(-grid.runs_per_cell // size)
    return Plan(
        invalid,
        [cell for cell, _ in traced],
        grid.runs_per_cell,
        len({program.executable for _, program in traced}),
        size,
        chunks,
        None if memory is None else memory.temp_size_in_bytes + memory.output_size_in_bytes,
        tasks.num_bytes(),
        grid.runs_per_cell * sum(program.run_bytes() for _, program in traced),
        batch_size.concurrency(compiler.device, None, chunks),
        most,
    )
