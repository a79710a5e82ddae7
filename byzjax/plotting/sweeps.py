"""Figures of sweeps: curves with confidence bands, and heat maps. Every function returns a matplotlib `Figure`."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from byzjax.checks import check_dataset
from byzjax.plotting.choices import Picture
from byzjax.plotting.style import (
    LINES,
    METHOD_COLORS,
    OTHER_COLORS,
    Style,
    band,
    capitalized,
    count_from,
    long_name,
    new_figure,
    set_title,
    small_print,
    ticks_of_powers,
)
from byzjax.plotting.summaries import (
    AXES,
    LEVEL,
    SYMBOLS,
    TIME,
    Summary,
    axis_labels,
    axis_of,
    fixed,
    in_units,
    metric_label,
    metric_of,
    speaking_labels,
    summarize,
)
from byzjax.results.metric_names import is_logarithmic, is_share
from byzjax.results.reading import believed

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LINES = 24  # more cannot be told apart
_COLORS = (*METHOD_COLORS.values(), *OTHER_COLORS)
_LINE_HEIGHT = 10.5  # points
_MOST_NAMED = 4  # lines whose diverged runs a caption names


def curves(
    dataset: xarray.Dataset,
    metric: str,
    *,
    x: str | None = None,
    over: str = "seed",
    panels: str | None = None,
    every_seed: bool = False,
    title: str | None = None,
    note: str = "",
    log: bool | None = None,
) -> Figure:
    """A metric over rounds, or over another axis: the mean over seeds and its 95 % confidence band.

    Every combination of the axes that are left is a line. A run that diverged is left out of the mean from where it
    did, and counted in the caption.

    Args:
      dataset: of a sweep.
      metric: which variable.
      x: the horizontal axis; the rounds by default. With another one the last evaluation is shown.
      over: the axis of the mean and the band.
      panels: an axis with a panel for each of its values.
      every_seed: draw the single runs too.
      title: of the figure.
      note: more for the caption, e.g. how hyperparameters were chosen.
      log: logarithmic vertical axis; by default for norms, losses, errors and distances.

    Raises:
      ValueError: an axis that is not there, or more lines than can be told apart.
    """
    dataset = believed(check_dataset(dataset, "curves"))
    values = dataset[metric_of(dataset, metric)]
    time = next((axis for axis in TIME if axis in values.dims), None)
    x = axis_of(values, x or time or "round", "x")
    if panels:
        axis_of(values, panels, "panels")
    if time and x != time:
        values = values.isel({time: -1})
    values = values.squeeze([axis for axis in values.dims if values.sizes[axis] == 1 and axis not in (x, over, panels)])
    lined = [str(axis) for axis in values.dims if axis not in (x, over, panels)]
    drawn = line_styles(dataset, lined)  # what was chosen is in coordinates
    summary = summarize(values, over)

    names = speaking_labels(dataset, panels) if panels else [""]
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure, axes = new_figure(
        rows, columns, width=max(7.0, 4.2 * columns), height=1.2 + 3.0 * rows, sharex=True, sharey=True
    )
    for ax, (index, name) in zip(axes.flat, enumerate(names), strict=False):
        part = {panels: index} if panels else {}
        for label, (place, style) in drawn.items():
            _draw_line(ax, summary.isel(**part, **place), metric, x, label, style)
            if every_seed and over in values.dims:
                _draw_seeds(ax, values.isel({**part, **place}), metric, x, over, style)
        ax.set_title(name, fontsize=10)
    for ax in axes.flat[len(names) :]:
        ax.remove()
    for ax in axes.flat[: len(names)]:
        _describe(ax, dataset, metric, x, summary, log)
        ax.label_outer()
    same = fixed(dataset, metric, (x, over, str(panels)))
    set_title(figure, title or ", ".join([capitalized(long_name(dataset, metric)), *same]))
    notes = [_band_note(values, over, every_seed), _diverged_note(summary, values, x in TIME, drawn), note]
    small_print(figure, notes, axes.flat[0] if len(drawn) > 1 else None)
    return figure


def line_styles(dataset: xarray.Dataset, axes: Sequence[str]) -> dict[str, tuple[dict[str, int], Style]]:
    """A line for every combination of axes: label -> its place and style. Methods keep their colour in all figures.

    Args:
      dataset: of a sweep.
      axes: whose combinations are lines. The method, else the first, else the longest decides the colour, the others
        the dashes.

    Raises:
      ValueError: there are too many.
    """
    if not axes:
        return {"": ({}, Style(_COLORS[0]))}
    number = math.prod(dataset.sizes[axis] for axis in axes)
    coloured = "optimizer" if "optimizer" in axes else axes[0]
    if number > dataset.sizes[coloured] * len(LINES):
        coloured = max(axes, key=lambda axis: dataset.sizes[axis])
    palette = _palette(dataset[coloured].values)
    others = [axis for axis in axes if axis != coloured]
    dashes = list(itertools.product(*(range(dataset.sizes[axis]) for axis in others)))
    if number > _MOST_LINES or len(dashes) > len(LINES) or len(palette) < dataset.sizes[coloured]:
        raise ValueError(
            f"curves: {number} lines ({', '.join(f'{dataset.sizes[a]} × {a}' for a in axes)}) cannot be told apart: "
            "fix axes with --where, choose hyperparameters with --choose, or use --panels."
        )
    names = {axis: speaking_labels(dataset, axis) for axis in axes}
    lines = {}
    for places in itertools.product(*(range(dataset.sizes[axis]) for axis in axes)):
        place = dict(zip(axes, places, strict=True))
        dash = dashes.index(tuple(place[axis] for axis in others))
        said = [names[axis][place[axis]] for axis in axes] + _chosen(dataset, place)
        lines[", ".join(said)] = place, Style(palette[place[coloured]], LINES[dash % len(LINES)], 1.8)
    return lines


def _chosen(dataset: xarray.Dataset, place: dict[str, int]) -> list[str]:
    """The hyperparameters that were chosen for a line, where they are the same in all panels."""
    names = [name for name in SYMBOLS if name in dataset.coords and name not in dataset.dims]
    values = [dataset[name].isel(place) for name in names if set(dataset[name].dims) == set(place)]
    return [f"{SYMBOLS[str(value.name)]}{float(value):g}" for value in values]


def _palette(values: np.ndarray) -> list[Any]:
    """Numbers go from dark to light; names get colours of their own, as far as there are any."""
    if values.dtype.kind in "iuf" and len(values) > 1:
        from matplotlib import colormaps

        return [colormaps["viridis"](share) for share in np.linspace(0, 0.9, len(values))]
    if all(value in METHOD_COLORS for value in values):
        return [METHOD_COLORS[value] for value in values]
    return list(_COLORS[: len(values)])


def _draw_line(ax: Axes, summary: Summary, metric: str, x: str, label: str, style: Style) -> None:
    at = _positions(summary.mean, x)
    mean, half = (in_units(np.asarray(part, float), metric) for part in (summary.mean, summary.half_width))
    how: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(at) <= 12 else {}
    ax.plot(at, mean, label=label, **style._asdict(), **how)
    ax.fill_between(at, *band(mean, half, metric), color=style.color, alpha=0.18, linewidth=0)


def _draw_seeds(ax: Axes, values: xarray.DataArray, metric: str, x: str, over: str, style: Style) -> None:
    lines = in_units(np.asarray(values.transpose(x, over), float), metric)
    ax.plot(_positions(values, x), lines, color=style.color, linestyle=style.linestyle, linewidth=0.6, alpha=0.5)


def _positions(values: xarray.Dataset | xarray.DataArray, x: str) -> np.ndarray:
    at = values[x].values
    return at if at.dtype.kind in "iuf" else np.arange(len(at))


def _describe(ax: Axes, dataset: xarray.Dataset, metric: str, x: str, summary: Summary, log: bool | None) -> None:
    label, names = axis_labels(dataset, x)
    at = _positions(dataset, x)
    ax.set_xlabel(label)
    ax.set_ylabel(textwrap.fill(metric_label(dataset, metric), 40))
    if dataset[x].dtype.kind not in "iuf":
        ax.set_xticks(at, names)
    elif x == "learning_rate" and len(at) > 1 and at.min() > 0 and at.max() / at.min() >= 10:
        ax.set_xscale("log")
        ticks_of_powers(ax.xaxis, at.min(), at.max())
    elif dataset[x].dtype.kind in "iu":
        count_from(ax)
    if is_share(metric):
        ax.set_ylim(-2, 102)
        return
    mean = np.asarray(summary.mean)
    positive = mean[mean > 0]
    if positive.size and (is_logarithmic(metric) if log is None else log):
        ax.set_yscale("log")
        ax.set_ylim(0.5 * positive.min(), 2 * positive.max())  # a band may reach below 0, which this axis does not have
        ticks_of_powers(ax.yaxis, *ax.get_ylim())


def _band_note(values: xarray.DataArray, over: str, every_seed: bool) -> str:
    number = values.sizes.get(over, 1)
    if number < 2:
        return f"One {over}: no confidence band."
    thin = ", thin lines: the single runs" if every_seed else ""
    return f"Mean over {number} {over}s; band: its {100 * LEVEL:.0f} % confidence interval (Student's t){thin}."


def _diverged_note(summary: Summary, values: xarray.DataArray, in_time: bool, drawn: Any) -> str:
    """Who diverged, by name as far as there is room."""
    time = [axis for axis in summary.diverged.dims if axis in TIME]
    last = summary.diverged.isel(dict.fromkeys(time, -1))
    total = int(last.sum())
    runs = math.prod(size for axis, size in values.sizes.items() if axis not in TIME)
    if not total:
        return ""
    by_line = {label: int(last.isel(place).sum()) for label, (place, _) in drawn.items()}
    named = [f"{label}: {count}" for label, count in by_line.items() if count and label]
    listed = "; ".join(named[:_MOST_NAMED]) + ("; …" if len(named) > _MOST_NAMED else "")
    whose = f" ({listed})" if named else ""
    return f"{total} of {runs} runs diverged{whose} and {'stop there' if in_time else 'are left out'}."


def heatmap(dataset: xarray.Dataset, picture: Picture, *, title: str | None = None) -> Figure:
    """Two axes against each other, a number in every cell; hatched where runs diverged.

    Args:
      dataset: of a sweep.
      picture: what `byzjax.plotting.choices.picture` made of it.
      title: of the figure.

    Raises:
      ValueError: a picture of one axis, or of more than two.
    """
    check_dataset(dataset, "heatmap")
    if len(picture.shown) != 2:
        raise ValueError(f"heatmap: two axes are wanted, not {', '.join(picture.shown)}; a table can show more.")
    (y_label, rows), (x_label, columns) = (axis_labels(dataset, axis) for axis in picture.shown)
    y, x = picture.shown
    texts = {
        (row, column): [picture.number(**{y: row, x: column}), *picture.remarks(**{y: row, x: column})]
        for row in range(len(rows))
        for column in range(len(columns))
    }
    widest = max(len(line) for lines in texts.values() for line in lines)
    longest = max(map(len, columns))
    wide, high = (
        max(0.8, 0.3 + 0.065 * widest, min(1.5, 0.2 + 0.075 * longest)),
        max(0.55, 0.3 + 0.14 * max(map(len, texts.values()))),
    )
    figure, axes = new_figure(
        width=2.6 + 0.07 * max(map(len, rows)) + wide * len(columns), height=1.4 + high * len(rows)
    )
    ax = axes[0, 0]
    image = _draw_cells(ax, picture, texts)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    if 0.2 + 0.075 * longest > wide:
        ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    figure.colorbar(image, ax=ax, label=metric_label(dataset, picture.metric), fraction=0.05, pad=0.02)
    set_title(figure, title or heading(dataset, picture), fontsize=11)
    small_print(figure, picture.caption)
    return figure


def heading(dataset: xarray.Dataset, picture: Picture) -> str:
    """What a picture shows, in a few words."""
    what = capitalized(long_name(dataset, picture.metric))
    worst = "" if picture.worst is None else f" under the worst {AXES.get(str(picture.worst.name), picture.worst.name)}"
    return ", ".join([what + worst, *picture.fixed])


def _draw_cells(ax: Axes, picture: Picture, texts: dict[tuple[int, int], list[str]]) -> Any:
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Rectangle

    values = np.ma.masked_invalid(in_units(picture.summary.mean.values, picture.metric))
    low, high = (values.min(), values.max()) if values.count() else (0.0, 1.0)
    if is_share(picture.metric):
        norm = Normalize(0, 100)
    elif low > 0 and high > 2 * low and is_logarithmic(picture.metric):
        norm = LogNorm(low, high)
    else:
        margin = 0.1 * abs(high) + 1e-9 if high - low < 1e-3 * abs(high) else 0.0  # else rounding would get colours
        norm = Normalize(low - margin, high + margin)
    image = ax.imshow(values, norm=norm, cmap="cividis", aspect="auto")
    ax.set_facecolor("#eeeeee")  # cells without a number
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    for (row, column), lines in texts.items():
        color = image.cmap(norm(values[row, column])) if values[row, column] is not np.ma.masked else (0.93, 0.93, 0.93)
        if int(picture.summary.diverged[row, column]):
            corner = column - 0.5, row - 0.5
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="#D55E00", linewidth=0))
        _write(ax, column, row, lines, color)
    return image


def _write(ax: Axes, x: float, y: float, lines: Sequence[str], background: Any) -> None:
    """Several lines into a cell, the first one large."""
    dark = float(np.dot(background[:3], (0.299, 0.587, 0.114))) < 0.5
    for index, line in enumerate(lines):
        ax.annotate(
            line,
            (x, y),
            xytext=(0, _LINE_HEIGHT * ((len(lines) - 1) / 2 - index)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7 if index else 9,
            fontweight="normal" if index else "bold",
            color="white" if dark else "black",
            bbox={"facecolor": background, "linewidth": 0, "pad": 1.0},
        )
