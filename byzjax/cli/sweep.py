"""``byzjax sweep``: a grid in TOML to a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byzjax.checks import quoted
from byzjax.cli.console import console, polite, several, table, warn, warnings_as_lines
from byzjax.cli.plot import DATASET

if TYPE_CHECKING:
    import xarray

    from byzjax.configs.grid_config import GridConfig
    from byzjax.configs.grid_sweep import Plan


@polite
def sweep(
    grid: Annotated[Path, typer.Argument(metavar="GRID.toml", help="`byzjax examples` has some.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="TABLE.KEY=VALUE", help="A TOML value in place of the file's: run.seed='{ count = 3 }'."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, runs, compilations and memory, and run nothing.")
    ] = False,
) -> None:
    """All runs of a grid, resumable: finished chunks are kept, and the data set is put beside them.

    In GRID.toml, the table run has the options of `byzjax run` with underscores (num_byzantine = 3); a list makes an
    axis. Learning rates, betas and seeds run side by side in one program; every combination of the others is compiled
    apart. The table sweep has store, batch_size, skip_invalid, and select = { over, by, reduce, best, last }.
    """
    from byzjax import results
    from byzjax.configs import grid_config as grids
    from byzjax.configs import grid_sweep

    if grid.is_dir():
        raise ValueError(f"{grid} is a folder; name a grid in TOML, as examples/ has some.")
    config = grids.load(grid, overrides or [])
    if dry_run:
        _show_plan(config, grid_sweep.plan(config))
        return
    dataset = grid_sweep.execute(config, say=lambda line: typer.echo(line, err=True))
    path = results.save(dataset, Path(config.store) / DATASET)
    if config.select is not None:
        _show_selection(config, dataset)
    hint = f"byzjax plot {quoted(config.store)} --kind curves"
    console().print(f"Written: {path}. Next: {hint}", soft_wrap=True)


def _show_plan(config: GridConfig, plan: Plan) -> None:
    shown = table(*config.cells or ["cell"], "runs", "cannot run because")
    reasons = {str(one.cell): one.reason for one in plan.invalid}
    for cell in config.points():
        reason = reasons.get(str(cell))
        labels = [str(value) for value in cell.values()] or ["the only one"]
        shown.add_row(*labels, "–" if reason else str(config.runs_per_cell), reason or "")
    console().print(shown)
    points = " × ".join(f"{len(values)} {name}" for name, values in config.traced.items())
    lines = [
        f"{several(len(plan.cells), 'cell')} × {several(plan.runs_per_cell, 'point')} ({points}) = "
        f"{several(len(plan.cells) * plan.runs_per_cell, 'run')}",
        f"{several(plan.programs, 'program')} to compile{_sharing(plan)}",
        f"{several(plan.chunks, 'chunk')} of {several(plan.batch_size, 'run')}{_found(config, plan)}, "
        f"{plan.at_once} at a time",
        f"memory: {_size(plan.data_bytes)} of data, and {_chunk(plan)}",
        f"data set: {_size(plan.result_bytes)}, in {config.store}",
    ]
    for line in lines:
        console().print(line, soft_wrap=True)
    if plan.invalid and not config.skip_invalid:
        warn(
            f"{several(len(plan.invalid), 'cell')} cannot run; the sweep will refuse, unless sweep.skip_invalid = true."
        )


def _sharing(plan: Plan) -> str:
    equal = len(plan.cells) - plan.programs
    return f"; {several(equal, 'cell')} with the program of another" if equal else ""


def _found(config: GridConfig, plan: Plan) -> str:
    return ", found for the widest cell" if config.batch_size == "auto" and len(plan.cells) > 1 else ""


def _chunk(plan: Plan) -> str:
    from byzjax.configs.grid_config import describe

    if plan.chunk_bytes is None:
        return "an unknown amount per chunk: XLA has no memory analysis on this platform"
    return f"{_size(plan.chunk_bytes)} per chunk, by XLA's analysis of the widest cell ({describe(plan.measured)})"


def _size(number: float) -> str:
    """Bytes for readers.

    >>> _size(28_214_477), _size(900)
    ('28.2 MB', '0.9 kB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def _show_selection(config: GridConfig, dataset: xarray.Dataset) -> None:
    """The chosen values, and what they give."""
    import itertools

    from byzjax import results
    from byzjax.configs.grid_sweep import choose, named
    from byzjax.plotting.summaries import TIME, metric_of

    assert config.select is not None
    with warnings_as_lines():
        chosen = choose(config, dataset)
    path = results.save(chosen, Path(config.store) / "selected.nc")
    over = list(named(dict.fromkeys(config.select.over)))
    places = [str(dim) for dim in chosen[over[0]].dims]
    metrics = list(dict.fromkeys((config.select.by, metric_of(chosen))))
    ends = {name: chosen[name].isel({axis: -1 for axis in TIME if axis in chosen[name].dims}) for name in metrics}
    shown = table(*places, *over, *metrics)
    for index in itertools.product(*(range(chosen.sizes[dim]) for dim in places)):
        place = dict(zip(places, index, strict=True))
        labels = [str(chosen[name].isel({d: i for d, i in place.items() if d in chosen[name].dims}).item())
                  for name in (*places, *over)]  # fmt: skip
        shown.add_row(*labels, *(f"{float(ends[name].isel(place).mean(skipna=False)):.4g}" for name in metrics))
    console().print(shown)
    console().print(f"Chosen by {config.select.by}. Numbers: last evaluation, mean. Written: {path}", soft_wrap=True)
