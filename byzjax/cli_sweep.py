"""``byzjax sweep`` and ``byzjax plot``: a grid in TOML to a store, and a store to figures and tables."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byzjax.checks import quoted
from byzjax.console import console, polite, several, table, warn
from byzjax.files import shortened

if TYPE_CHECKING:
    import xarray

    from byzjax.experiments.grid import GridConfig
    from byzjax.experiments.grid_run import Plan

DATASET = "dataset.nc"  # in the store


class Kind(StrEnum):
    """What `byzjax plot` draws."""

    curves = "curves"
    heatmap = "heatmap"
    table = "table"


class End(StrEnum):
    """Of a metric's range."""

    max = "max"
    min = "min"


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
        bool, typer.Option("--dry-run", help="Show cells, lanes, compilations and memory, and run nothing.")
    ] = False,
) -> None:
    """All runs of a grid, resumable: finished chunks are kept, and the data set is put beside them.

    In GRID.toml, the table run has the options of `byzjax run` with underscores (num_byzantine = 3); a list makes an
    axis. Learning rates, betas and seeds run side by side in one program; every combination of the others is compiled
    apart. The table sweep has store, batch_size, skip_invalid, and select = { over, by, reduce, best, last }.
    """
    from byzjax import results
    from byzjax.experiments import grid as grids
    from byzjax.experiments import grid_run

    if grid.is_dir():
        raise ValueError(f"{grid} is a folder; name a grid in TOML, as examples/ has some.")
    config = grids.load(grid, overrides or [])
    if dry_run:
        _show_plan(config, grid_run.plan(config))
        return
    dataset = grid_run.execute(config, say=lambda line: typer.echo(line, err=True))
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
        shown.add_row(*labels, "–" if reason else str(config.num_lanes), reason or "")
    console().print(shown)
    lanes = " × ".join(f"{len(values)} {name}" for name, values in config.lanes.items())
    lines = [
        f"{several(len(plan.cells), 'cell')} × {several(plan.lanes, 'lane')} ({lanes}) = "
        f"{several(len(plan.cells) * plan.lanes, 'run')}",
        f"{several(plan.programs, 'program')} to compile{_sharing(plan)}",
        f"{several(plan.chunks, 'chunk')} of {several(plan.batch_size, 'lane')}{_found(config, plan)}, "
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
    from byzjax.experiments.grid import describe

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
    from byzjax.experiments.grid_run import choose, named
    from byzjax.plotting.summaries import TIME, metric_of

    assert config.select is not None
    with _warnings_as_lines():
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


@polite
def plot(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A store, or a data set.", show_default=False)],
    kind: Annotated[Kind, typer.Option(help="What to draw.")] = Kind.curves,
    metric: Annotated[
        str | None, typer.Option(help="Which variable.", show_default="test_accuracy, or gradient_norm")
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(help="Horizontal axis; of a table, its columns.", show_default="rounds, f or attack"),
    ] = None,
    y: Annotated[
        list[str] | None, typer.Option(help="Vertical axis; of a table, its rows, once per axis.", show_default="rest")
    ] = None,
    over: Annotated[str, typer.Option(help="Axis of means and confidence intervals.")] = "seed",
    every_seed: Annotated[bool, typer.Option("--every-seed", help="Draw the single runs too.")] = False,
    panels: Annotated[str | None, typer.Option(help="Axis with a panel for each of its values (curves).")] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="AXIS=VALUE", help="Only these values; may be repeated.")
    ] = None,
    choose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS",
            help="Choose this axis by --by; may be repeated.",
            show_default="learning_rate and beta, and under the worst attack the rule; none for curves",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="What to choose by; never a test metric.", show_default="val_accuracy")
    ] = None,
    best: Annotated[
        End | None, typer.Option(help="Whether much or little of it is good.", show_default="by its name")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="Choose by the mean of so many last evaluations.")] = 1,
    worst: Annotated[
        str | None,
        typer.Option(help="Axis shown at its worst; 'none' for none.", show_default="attack, if a heat map lacks it"),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the figure.", show_default="the metric")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Files to write, without suffix; or a folder.", show_default="PATH/KIND-METRIC, and what else is said"
        ),
    ] = None,
) -> None:
    """Curves and heat maps as PNG and PDF, tables as Markdown and LaTeX.

    Curves are means over seeds with a 95 % confidence band. A heat map of f × heterogeneity shows the worst attack,
    for the rule and the hyperparameters that are best on validation data. Diverged runs are counted, never averaged.
    """
    from byzjax import plotting, results
    from byzjax.plotting import choices, summaries, sweeps, tables
    from byzjax.specs import nearest

    given = {"y": y, "worst": worst, "panels": panels, "every-seed": every_seed, "title": title, "by": by}
    _check_used(kind, {name for name, value in given.items() if value}, choosing=bool(choose))
    file = path / DATASET if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise ValueError(f"{path} holds no {DATASET}; byzjax sweep writes it when all runs are finished.")
    whole = results.load(file)
    named = lambda axis: "optimizer" if axis == "method" and "optimizer" in whole.dims else axis  # noqa: E731
    x, y, panels, choose, worst = named(x), _each(named, y), named(panels), _each(named, choose), named(worst)
    fixed = {named(axis): values for axis, values in _fixed(where or []).items()}
    dataset = summaries.where(whole, fixed)
    metric = summaries.metric_of(dataset, metric)
    if over != "seed" and over not in dataset.sizes:
        raise ValueError(
            f"--over: {over!r} is not an axis here; {nearest(over, [str(axis) for axis in dataset.sizes])}."
        )
    end: Any = best and best.value
    said = {"x": x, "y": y, "over": over if over != "seed" else None, "panels": panels, **fixed, "choose": choose}
    said |= {"by": by, "best": end, "last": last if last > 1 else None, "worst": worst, "every-seed": every_seed}
    name = _file_name(f"{kind}-{metric}", said)
    out = (out / name if out.is_dir() else out) if out else file.parent / name
    with _warnings_as_lines():
        if kind is Kind.curves:
            note = ""
            if choose:
                dataset, note = choices.chosen_lines(
                    dataset, metric, choose=choose, by=by, best=end, over=over, last=last
                )
            figure = sweeps.curves(
                dataset, metric, x=x, over=over, panels=panels, every_seed=every_seed, title=title, note=note
            )
            paths = plotting.save(figure, out)
        else:
            laid = choices.layout(
                dataset, metric, table=kind is Kind.table, x=x, y=y, over=over, worst=worst, choose=choose, by=by
            )
            picture = choices.picture(dataset, metric, **laid._asdict(), over=over, by=by, best=end, last=last)
            if kind is Kind.heatmap:
                paths = plotting.save(sweeps.heatmap(dataset, picture, title=title), out)
            else:
                made = tables.table(dataset, picture)
                typer.echo(tables.markdown(made))
                paths = tables.save(made, out)
    typer.echo(f"Written: {', '.join(map(str, paths))}", err=True)


def _each(function: Callable[[str], str], texts: list[str] | None) -> list[str] | None:
    return texts and [function(text) for text in texts]


def _file_name(start: str, said: Mapping[str, Any]) -> str:
    """A name that tells figures of one metric apart by all that was said of them; a long one ends in a digest.

    >>> _file_name("heatmap-loss", {"x": None, "attack": ["ipm(scale=10)"], "choose": ["f", "beta"]})
    'heatmap-loss-attack=ipm(scale=10)-choose=f+beta'
    """
    texts = {name: "+".join(value) if isinstance(value, list) else str(value) for name, value in said.items() if value}
    whole = "-".join([start, *(name if text == "True" else f"{name}={text}" for name, text in texts.items())])
    return shortened(re.sub(r"[^\w.=+()-]+", "_", whole))


_NOT_OF = {  # what a kind has no use for
    Kind.curves: {"y", "worst"},
    Kind.heatmap: {"panels", "every-seed"},
    Kind.table: {"panels", "every-seed", "title"},
}


def _check_used(kind: Kind, given: set[str], *, choosing: bool) -> None:
    """Refuse options that would be dropped without a word."""
    for name in sorted(given & _NOT_OF[kind]):
        raise ValueError(f"--{name} says nothing about --kind {kind}; leave it out, or choose another kind.")
    if kind is Kind.curves and "by" in given and not choosing:
        raise ValueError("--by says nothing without --choose; name the axis to choose, as in --choose learning_rate.")


def _fixed(texts: list[str]) -> dict[str, list[str]]:
    fixed: dict[str, list[str]] = {}
    for text in texts:
        axis, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--where {text}: write axis=value, as in attack=alie.")
        fixed.setdefault(axis.strip(), []).append(value.strip())
    return fixed


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """What a choice warns of, once each, as lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for line in dict.fromkeys(str(one.message) for one in caught):
        warn(line)
