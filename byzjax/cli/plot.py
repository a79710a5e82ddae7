"""``byzjax plot``: a store to figures and tables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from byzjax.cli.console import polite, warnings_as_lines
from byzjax.storage.files import shortened

DATASET = "dataset.nc"  # in the store


class Drawing(StrEnum):
    """What `byzjax plot` draws."""

    curves = "curves"
    heatmap = "heatmap"
    table = "table"


class End(StrEnum):
    """Of a metric's range."""

    max = "max"
    min = "min"


@polite
def plot(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A store, or a data set.", show_default=False)],
    kind: Annotated[Drawing, typer.Option(help="What to draw.")] = Drawing.curves,
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
    from byzjax.configs.specs import nearest
    from byzjax.plotting import choices, summaries, sweeps, tables
    from byzjax.plotting import layout as layouts

    given = {"y": y, "worst": worst, "panels": panels, "every-seed": every_seed, "title": title, "by": by}
    _check_used(kind, {name for name, value in given.items() if value}, choosing=bool(choose))
    file = path / DATASET if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise ValueError(f"{path} holds no {DATASET}; byzjax sweep writes it when all runs are finished.")
    whole = results.load(file)

    def named(axis: Any) -> Any:
        return "optimizer" if axis == "method" and "optimizer" in whole.dims else axis

    x, y, panels, choose, worst = named(x), _each(named, y), named(panels), _each(named, choose), named(worst)
    fixed = {named(axis): values for axis, values in _fixed(where or []).items()}
    dataset = summaries.where(whole, fixed)
    metric = summaries.metric_of(dataset, metric)
    if over != "seed" and over not in dataset.sizes:
        raise ValueError(
            f"--over: {over!r} is not an axis here; {nearest(over, [str(axis) for axis in dataset.sizes])}."
        )
    end: Any = best and best.value
    options = {"x": x, "y": y, "over": over if over != "seed" else None, "panels": panels, **fixed, "choose": choose}
    options |= {"by": by, "best": end, "last": last if last > 1 else None, "worst": worst, "every-seed": every_seed}
    labels = {
        str(axis): [str(label) for label in whole[axis].values.tolist()] for axis in fixed if axis in whole.coords
    }
    name = _file_name(f"{kind}-{metric}", options, labels)
    out = (out / name if out.is_dir() else out) if out else file.parent / name
    with warnings_as_lines():
        if kind is Drawing.curves:
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
            laid = layouts.layout(
                dataset, metric, table=kind is Drawing.table, x=x, y=y, over=over, worst=worst, choose=choose, by=by
            )
            picture = choices.picture(dataset, metric, **laid._asdict(), over=over, by=by, best=end, last=last)
            if kind is Drawing.heatmap:
                paths = plotting.save(sweeps.heatmap(dataset, picture, title=title), out)
            else:
                made = tables.table(dataset, picture)
                typer.echo(tables.markdown(made))
                paths = tables.save(made, out)
    typer.echo(f"Written: {', '.join(map(str, paths))}", err=True)


def _each(function: Callable[[str], str], texts: list[str] | None) -> list[str] | None:
    return texts and [function(text) for text in texts]


def _file_name(start: str, options: Mapping[str, Any], labels: Mapping[str, Sequence[str]] | None = None) -> str:
    """A name that tells figures of one metric apart by all options; a long one ends in a digest.

    So does one with a label that another of its axis cannot be told from, once it is spelt as file names are.

    Args:
      start: of the name.
      options: name -> value; those without a value are left out.
      labels: axis -> all that it has.

    >>> _file_name("heatmap-loss", {"x": None, "attack": ["ipm(scale=10)"], "choose": ["f", "beta"]})
    'heatmap-loss-attack=ipm(scale=10)-choose=f+beta'
    >>> _file_name("curves-loss", {"attack": ["a b"]}, {"attack": ["a b", "a/b"]})
    'curves-loss-attack=a_b-52a9cd9b'
    """
    values = {name: value if isinstance(value, list) else [str(value)] for name, value in options.items() if value}
    texts = {name: "+".join(value) for name, value in values.items()}
    whole = "-".join([start, *(name if text == "True" else f"{name}={text}" for name, text in texts.items())])
    ambiguous = any(
        _spelt(label) == _spelt(value)
        for axis, axis_labels in (labels or {}).items()
        for label in axis_labels
        for value in values.get(axis, ())
        if label != value
    )
    digest = f"-{hashlib.sha256(whole.encode()).hexdigest()[:8]}" if ambiguous else ""
    return shortened(_spelt(whole) + digest)


def _spelt(text: str) -> str:
    """As file names are."""
    return re.sub(r"[^\w.=+()-]+", "_", text)


_NOT_OF = {  # what a kind has no use for
    Drawing.curves: {"y", "worst"},
    Drawing.heatmap: {"panels", "every-seed"},
    Drawing.table: {"panels", "every-seed", "title"},
}


def _check_used(kind: Drawing, given: set[str], *, choosing: bool) -> None:
    """Refuse options that would be dropped without a word."""
    for name in sorted(given & _NOT_OF[kind]):
        raise ValueError(f"--{name} says nothing about --kind {kind}; leave it out, or choose another kind.")
    if kind is Drawing.curves and "by" in given and not choosing:
        raise ValueError("--by says nothing without --choose; name the axis to choose, as in --choose learning_rate.")


def _fixed(texts: list[str]) -> dict[str, list[str]]:
    fixed: dict[str, list[str]] = {}
    for text in texts:
        axis, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--where {text}: write axis=value, as in attack=alie.")
        fixed.setdefault(axis.strip(), []).append(value.strip())
    return fixed
