"""Figures of runs. Every function returns a matplotlib `Figure`; none touches pyplot or a display.

A method has one colour and a rule one line style, in all figures; the colours are Okabe and Ito's, which colour-blind
readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from byzjax.results import config_of, writing

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Runs = Mapping[str, xarray.Dataset]

_METHOD_COLORS = {"byz_nsgdm": "#0072B2", "momentum_sgd": "#D55E00", "momentum_sgd(decay=True)": "#009E73"}
_OTHER_COLORS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_NAMES = {
    "byz_nsgdm": "Byz-NSGDM",
    "momentum_sgd": "Baseline",
    "momentum_sgd(decay=True)": "Baseline-Decay",
    "nnm": "NNM",
    "rfa": "RFA",
    "mean": "plain mean",
    "none": "no attack",
    "bit_flip": "bit flip",
    "label_flip": "label flip",
    "sign_flip": "sign flip",
    "ipm": "IPM",
    "alie": "ALIE",
    "mnist": "MNIST",
}
_LOGARITHMIC = ("norm", "loss", "error", "spread", "objective", "distance", "kappa")
_WIDTH = 2.0


class Style(NamedTuple):
    """How a run is drawn."""

    color: Any
    linestyle: Any = "-"
    linewidth: float = _WIDTH


def method_of(dataset: xarray.Dataset) -> str:
    """The method of a run, as it was specified."""
    return config_of(dataset)["method"]


def display_name(spec: str) -> str:
    """A specification in words for readers.

    >>> display_name("nnm,rfa"), display_name("ipm(scale=10.0)"), display_name("momentum_sgd(decay=True)")
    ('NNM + RFA', 'IPM (scale 10)', 'Baseline-Decay')
    """
    from byzjax.specs import parse_chain

    if spec in _NAMES:
        return _NAMES[spec]
    words = []
    for part in parse_chain(spec):
        given = [_plain(value) for value in part.args]
        given += [f"{name.replace('_', ' ')} {_plain(value)}" for name, value in part.kwargs.items()]
        words.append(_NAMES.get(part.name, part.name) + (f" ({', '.join(given)})" if given else ""))
    return " + ".join(words)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def styles(runs: Runs) -> dict[str, Style]:
    """A colour per method, and a line style per pair of rule and attack.

    Args:
      runs: label -> data set.
    """
    configs = {label: config_of(dataset) for label, dataset in runs.items()}
    others = [c["method"] for c in configs.values() if c["method"] not in _METHOD_COLORS]
    spare = {method: _OTHER_COLORS[i % len(_OTHER_COLORS)] for i, method in enumerate(dict.fromkeys(others))}
    settings = list(dict.fromkeys((c["aggregator"], c["attack"]) for c in configs.values()))
    colors = {**_METHOD_COLORS, **spare}
    lines = {setting: _LINES[i % len(_LINES)] for i, setting in enumerate(settings)}
    return {label: Style(colors[c["method"]], lines[c["aggregator"], c["attack"]]) for label, c in configs.items()}


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 4.2, **layout: Any
) -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes ``[rows, columns]``.

    Args:
      rows: of panels.
      columns: of panels.
      width: in inches.
      height: in inches.
      **layout: of ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)  # inches
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


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
    if not runs:
        raise ValueError("curves: there are no runs to draw.")
    figure, axes = new_figure(height=4.4)
    draw_curves(axes[0, 0], runs, variable, style=style or styles(runs), log=log)
    axes[0, 0].set_title(title or _long_name(next(iter(runs.values())), variable))
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
      ValueError: a run without that variable.
    """
    for label, dataset in runs.items():
        if variable not in dataset:
            raise ValueError(f"curves: {label!r} has no variable {variable!r}; it has {', '.join(map(str, dataset))}.")
        values = dataset[variable]
        y = np.asarray(values, float) * (100 if _is_share(variable) else 1)
        ax.plot(np.asarray(values[values.dims[0]]), _running_mean(y, smooth), label=label, **style[label]._asdict())
    first = next(iter(runs.values()))
    describe(ax, variable, _long_name(first, variable), first[variable].attrs.get("units", "1"), log)


def describe(ax: Axes, variable: str, long_name: str, units: str, log: bool | None = None) -> None:
    """Label both axes, and choose the scale of the vertical one."""
    ax.set_xlabel("round")
    if _is_share(variable):
        ax.set_ylim(-2, 102)
        ax.set_ylabel(f"{long_name} (%)")
        return
    ax.set_ylabel(long_name if units == "1" else f"{long_name} ({units})")
    positive = any((np.asarray(line.get_ydata(), float) > 0).any() for line in ax.lines)
    if positive and (any(word in variable for word in _LOGARITHMIC) if log is None else log):
        ax.set_yscale("log")


def legend_below(figure: Figure, ax: Axes, columns: int | None = None) -> None:
    """A legend under the panels, where it covers no data.

    Args:
      figure: which reserves the room.
      ax: whose lines are explained.
      columns: of the legend.
    """
    handles, labels = ax.get_legend_handles_labels()
    width = columns or min(len(labels), 3)
    figure.legend(handles, labels, loc="outside lower center", ncols=width, frameon=False, handlelength=3.2)


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
    if not runs:
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
    figure.suptitle(title)
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


def overview(dataset: xarray.Dataset, *, title: str) -> Figure:
    """One run at a glance: what its model is worth, what the server saw, and what the attack achieved.

    Args:
      dataset: of one run.
      title: of the figure.
    """
    figure, axes = new_figure(1, 2, width=10.0, height=4.2)
    left, right = axes[0]
    true = [name for name in ("test_accuracy", "gradient_norm") if dataset.sizes.get("eval") and name in dataset]
    if true == ["gradient_norm"]:
        shown = {
            "true gradient norm": ("gradient_norm", "#0072B2", "-"),
            "norm of the aggregate": ("aggregate_norm", "#D55E00", ":"),
        }
        left.set_title("The true gradient, and what the server saw")
    elif true:
        shown = {"test": ("test_accuracy", "#0072B2", "-"), "validation": ("val_accuracy", "#E69F00", "--")}
        left.set_title("Accuracy of the model")
    else:
        shown = {"loss": ("loss", "#0072B2", "-")}
        left.set_title("Loss on the honest workers' batches")
    _draw_several(left, dataset, shown)
    if true:
        left.set_ylabel("norm" if true == ["gradient_norm"] else "accuracy (%)")
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
    figure.suptitle(title)
    return figure


def _draw_several(ax: Axes, dataset: xarray.Dataset, shown: Mapping[str, tuple[str, Any, Any]]) -> None:
    """Several variables of one run, with a legend above the panel's data."""
    drawn = {label: spec for label, spec in shown.items() if spec[0] in dataset}
    for label, (variable, color, linestyle) in drawn.items():
        values = dataset[variable]
        y = np.asarray(values, float) * (100 if _is_share(variable) else 1)
        how: dict[str, Any] = {"color": color, "linestyle": linestyle, "marker": "." if len(y) == 1 else None}
        ax.plot(np.asarray(values[values.dims[0]]), y, label=label, linewidth=1.6, **how)
    if drawn:
        variable = next(iter(drawn.values()))[0]
        describe(ax, variable, _long_name(dataset, variable), dataset[variable].attrs.get("units", "1"))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    else:
        ax.set_axis_off()


def save(figure: Figure, path_without_suffix: str | Path) -> list[Path]:
    """Write a figure as PNG and PDF.

    Args:
      figure: which.
      path_without_suffix: ``"demo/accuracy"`` gives ``demo/accuracy.png`` and ``demo/accuracy.pdf``.

    Returns:
      The two paths.
    """
    paths = [Path(f"{path_without_suffix}{suffix}") for suffix in (".png", ".pdf")]
    for path in paths:
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else None  # the same figure is the same file
        with writing(path) as temporary:
            figure.savefig(temporary, metadata=metadata)
    return paths


def _running_mean(values: np.ndarray, length: int) -> np.ndarray:
    """Centred, over what there is at the ends."""
    if length <= 1:
        return values
    half = length // 2
    return np.array([np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _is_share(variable: str) -> bool:
    return "accuracy" in variable


def _long_name(dataset: xarray.Dataset, variable: str) -> str:
    return dataset[variable].attrs.get("long_name", variable) if variable in dataset else variable
