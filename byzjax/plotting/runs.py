"""Figures of runs. Every function returns a matplotlib `Figure`.

A method has one colour and a rule one line style, in all figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from byzjax.checks import check_dataset, check_kind
from byzjax.plotting.style import (
    LINES,
    METHOD_COLORS,
    OTHER_COLORS,
    Style,
    describe,
    legend_below,
    long_name,
    new_figure,
    set_title,
)
from byzjax.plotting.summaries import axis_name
from byzjax.results import config_of
from byzjax.results.metric_names import is_share
from byzjax.results.reading import believed

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Runs = Mapping[str, xarray.Dataset]


def check_runs(runs: Any, where: str) -> Runs:
    """Reject what does not map labels to data sets; returns it."""
    check_kind(runs, Mapping, "runs", where, fix="pass a dict: label -> data set.")
    for label, dataset in runs.items():
        check_dataset(dataset, where, f"runs[{label!r}]")
    return runs


def method_of(dataset: xarray.Dataset) -> str:
    """The method of a run, as it was specified; empty where its configuration does not say."""
    return config_of(dataset).get("method", "")


def styles(runs: Runs) -> dict[str, Style]:
    """A colour per method, and a line style per pair of rule and attack.

    Args:
      runs: label -> data set.
    """
    said = {label: config_of(dataset) for label, dataset in check_runs(runs, "styles").items()}
    configs = {label: {"method": label, "aggregator": "", "attack": "", **config} for label, config in said.items()}
    others = [c["method"] for c in configs.values() if c["method"] not in METHOD_COLORS]
    spare = {method: OTHER_COLORS[i % len(OTHER_COLORS)] for i, method in enumerate(dict.fromkeys(others))}
    settings = list(dict.fromkeys((c["aggregator"], c["attack"]) for c in configs.values()))
    colors = {**METHOD_COLORS, **spare}
    lines = {setting: LINES[i % len(LINES)] for i, setting in enumerate(settings)}
    return {label: Style(colors[c["method"]], lines[c["aggregator"], c["attack"]]) for label, c in configs.items()}


def curves(
    runs: Runs,
    variable: str,
    *,
    title: str | None = None,
    style: Mapping[str, Style] | None = None,
    log: bool | None = None,
) -> Figure:
    """One variable of several runs over rounds.

    Args:
      runs: label -> data set; the labels are the legend.
      variable: of the history or the evaluations, e.g. ``"test_accuracy"``.
      title: of the figure; the variable's long name by default.
      style: label -> `Style`; by default a colour per method and a line per rule and attack.
      log: logarithmic axis; by default for norms, losses, errors and distances.

    Raises:
      ValueError: no runs, or a run without that variable.
    """
    if not check_runs(runs, "curves"):
        raise ValueError("curves: there are no runs to draw.")
    figure, axes = new_figure(height=4.4)
    draw_curves(axes[0, 0], runs, variable, style=style or styles(runs), log=log)
    axes[0, 0].set_title(title or long_name(next(iter(runs.values())), variable))
    legend_below(figure, axes[0, 0])
    return figure


def draw_curves(
    ax: Axes, runs: Runs, variable: str, *, style: Mapping[str, Style], log: bool | None = None, smooth: int = 1
) -> None:
    """Draw one variable of several runs into existing axes.

    Args:
      ax: where.
      runs: label -> data set.
      variable: as in `curves`.
      style: label -> `Style`.
      log: as in `curves`.
      smooth: show the running mean over so many entries.

    Raises:
      ValueError: a run without that variable, or with fewer entries than the running mean.
    """
    runs = {label: believed(dataset) for label, dataset in check_runs(runs, "draw_curves").items()}
    for label, dataset in runs.items():
        if variable not in dataset:
            raise ValueError(f"curves: {label!r} has no variable {variable!r}; it has {', '.join(map(str, dataset))}.")
        values = dataset[variable]
        if smooth > max(1, len(values)):
            raise ValueError(
                f"curves: smooth = {smooth} entries are more than the {len(values)} of {variable!r} that {label!r} has."
            )
        y = np.asarray(values, float) * (100 if is_share(variable) else 1)
        ax.plot(np.asarray(values[values.dims[0]]), _running_mean(y, smooth), label=label, **style[label]._asdict())
    first = next(iter(runs.values()))
    units = first[variable].attrs.get("units", "1")
    describe(ax, variable, long_name(first, variable), units, log, axis_name(first, str(first[variable].dims[0])))


def per_class(
    runs: Runs, *, variable: str = "test_accuracy_per_class", title: str = "Test accuracy per class, last evaluation"
) -> Figure:
    """A table of accuracies, runs × classes, coloured: which classes a run lost.

    Args:
      runs: label -> data set; one row each. A label ``"group | row"`` puts rows of a group under a heading.
      variable: with the dimension ``class``.
      title: of the figure.

    Raises:
      ValueError: no runs, or a run without that variable or without an evaluation.
    """
    if not check_runs(runs, "per_class"):
        raise ValueError("per_class: there are no runs to draw.")
    for label, dataset in runs.items():
        if variable not in dataset or not dataset.sizes.get("eval"):
            raise ValueError(f"per_class: {label!r} has no evaluation of {variable!r}.")
    groups: dict[str, dict[str, np.ndarray]] = {}
    for label, dataset in runs.items():
        group, _, row = label.rpartition(" | ")
        groups.setdefault(group, {})[row] = 100 * np.asarray(dataset[variable].isel(eval=-1), float)
    sizes = [len(rows) for rows in groups.values()]
    figure, axes = new_figure(
        len(groups), 1, width=8.2, height=1.5 + 0.38 * sum(sizes) + 0.3 * len(groups), sharex=True, height_ratios=sizes
    )
    images = []
    for ax, (group, rows) in zip(axes[:, 0], groups.items(), strict=True):
        images.append(_draw_table(ax, list(rows), np.stack(list(rows.values()))))
        if group:
            ax.set_title(group, loc="left", fontsize=10, fontweight="bold")
    axes[-1, 0].set_xlabel("class")
    figure.colorbar(images[0], ax=list(axes[:, 0]), label="accuracy (%)", fraction=0.04)
    set_title(figure, title)
    return figure


def _draw_table(ax: Axes, rows: Sequence[str], values: np.ndarray) -> Any:
    image = ax.imshow(values, vmin=0, vmax=100, cmap="cividis", aspect="auto")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(values.shape[1]))
    ax.tick_params(length=0)
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.0f}" if np.isfinite(value) else "–"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if value < 55 else "black")
    return image


_YLABELS = {"gradient_norm": "norm", "test_accuracy": "accuracy (%)", "val_perplexity": "perplexity"}


def overview(dataset: xarray.Dataset, *, title: str = "One run at a glance") -> Figure:
    """One run at a glance: what its model is worth, what the server saw, and what the attack achieved.

    Args:
      dataset: of one run.
      title: of the figure.
    """
    dataset = believed(check_dataset(dataset, "overview"))
    figure, axes = new_figure(1, 2, width=10.0, height=4.2)
    left, right = axes[0]
    known = ("test_accuracy", "gradient_norm", "val_perplexity")  # a text may have no part for tests
    true = [name for name in known if dataset.sizes.get("eval") and name in dataset]
    if true == ["gradient_norm"]:
        shown = {
            "true gradient norm": ("gradient_norm", "#0072B2", "-"),
            "norm of the aggregate": ("aggregate_norm", "#D55E00", ":"),
        }
        left.set_title("The true gradient, and what the server saw")
    elif true == ["val_perplexity"]:
        shown = {"test": ("test_perplexity", "#0072B2", "-"), "validation": ("val_perplexity", "#E69F00", "--")}
        left.set_title("Perplexity of the model")
    elif true:
        shown = {"test": ("test_accuracy", "#0072B2", "-"), "validation": ("val_accuracy", "#E69F00", "--")}
        left.set_title("Accuracy of the model")
    else:
        shown = {"loss": ("loss", "#0072B2", "-")}
        left.set_title("Loss on the honest workers' batches")
    _draw_several(left, dataset, shown)
    if true:
        left.set_ylabel(_YLABELS[true[0]])
    _draw_several(
        right,
        dataset,
        {
            "error of the aggregate": ("aggregation_error", "#D55E00", "-"),
            "spread of honest updates": ("honest_spread", "#009E73", "--"),
        },
    )
    right.set_title("Distances from the honest mean")
    right.set_ylabel("distance")
    set_title(figure, title)
    return figure


def _draw_several(ax: Axes, dataset: xarray.Dataset, shown: Mapping[str, tuple[str, Any, Any]]) -> None:
    """Several variables of one run, with a legend above the panel's data."""
    drawn = {label: spec for label, spec in shown.items() if spec[0] in dataset}
    for label, (variable, color, linestyle) in drawn.items():
        values = dataset[variable]
        y = np.asarray(values, float) * (100 if is_share(variable) else 1)
        how: dict[str, Any] = {"color": color, "linestyle": linestyle, "marker": "." if len(y) == 1 else None}
        ax.plot(np.asarray(values[values.dims[0]]), y, label=label, linewidth=1.6, **how)
    if drawn:
        variable = next(iter(drawn.values()))[0]
        units, time = dataset[variable].attrs.get("units", "1"), str(dataset[variable].dims[0])
        describe(ax, variable, long_name(dataset, variable), units, xlabel=axis_name(dataset, time))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    else:
        ax.set_axis_off()


def _running_mean(values: np.ndarray, length: int) -> np.ndarray:
    """Centred, over what there is at the ends."""
    if length <= 1:
        return values
    before, after = (length - 1) // 2, length // 2
    return np.array([np.mean(values[max(0, i - before) : i + after + 1]) for i in range(len(values))])
