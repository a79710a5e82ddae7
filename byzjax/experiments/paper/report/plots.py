"""The figures of the paper, and those that it does not have: panels of attacks × rules, a line per method.

All take data sets of `byzjax.experiments.reproduce`: with every learning rate (``dataset``), or at the chosen
ones (``chosen``, see `byzjax.experiments.rate_choice.chosen`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from byzjax.plotting.style import (
    METHOD_COLORS,
    OTHER_COLORS,
    band,
    count_from,
    long_name,
    new_figure,
    set_title,
    ticks_of_powers,
)
from byzjax.results.metric_names import is_share

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Behind(NamedTuple):
    """A curve of others."""

    learning_rate: float
    rounds: np.ndarray
    values: np.ndarray


Dotted = Mapping[tuple[str, str, str], Behind]  # by attack, rule, method
_METHODS = {
    "Base": METHOD_COLORS["momentum_sgd"],
    "Decay": METHOD_COLORS["momentum_sgd(decay=True)"],
    "Byz-NSGDM": METHOD_COLORS["byz_nsgdm"],
}
_AUTHORS = "the authors' runs (⋯: at another rate)"
_REFERENCES = ("none", "mean")
_PER_CENT = 100.0
_ENTRY = 1.5  # inches that an entry of a legend takes


def curves(
    chosen: xarray.Dataset, variable: str, *, title: str, label: str, log: bool, dotted: Dotted | None = None
) -> Figure:
    """One variable over rounds, mean ± standard deviation over seeds; in every panel the chosen rates.

    On a logarithmic axis the band ends at the smallest run where mean − deviation is not positive.

    Args:
      chosen: at the chosen rates.
      variable: which.
      title: of the figure.
      label: of the vertical axis.
      log: logarithmic axis.
      dotted: curves of others, to be drawn behind; their rate is said where it is not ours.
    """

    def draw(ax: Axes, part: xarray.Dataset) -> None:
        behind = dotted or {}
        for one in _methods(part):
            name = str(one["optimizer"].item())
            key = (str(one["attack"].item()), str(one["aggregator"].item()), name)
            if key in behind:
                values = _units(behind[key].values, variable)
                ax.plot(behind[key].rounds, values, ":", color="#555555", linewidth=1.4, zorder=1.5)
                ax.plot(behind[key].rounds, values, ":", color=color(name), linewidth=1.4, zorder=1.6)
            _line(ax, one, variable, color(name), _rate(one) + _other_rate(one, behind.get(key)), log=log)
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.99), "borderaxespad": 0.1}
        ax.legend(**above, ncols=3, fontsize=7, frameon=False, handlelength=1.2, columnspacing=1.2, handletextpad=0.5)

    figure, axes = _panels(chosen, draw, label=label, xlabel="round", log=log, title_pad=16)
    if not log and is_share(variable):
        _zoom(axes)
    entries = {name: {"color": color(name)} for name in map(str, chosen["optimizer"].values)}
    if dotted:
        entries[_AUTHORS] = {"color": "#555555", "linestyle": ":"}
    return _finished(figure, axes, entries, title)


def two_norms(chosen: xarray.Dataset, true: str, seen: str, *, title: str) -> Figure:
    """A norm that the server cannot see, solid, beside that of its aggregate, dashed; means over seeds.

    Args:
      chosen: at the chosen rates.
      true: the variable of the solid lines.
      seen: that of the dashed ones.
      title: of the figure.
    """

    def draw(ax: Axes, part: xarray.Dataset) -> None:
        for one in _methods(part):
            name = str(one["optimizer"].item())
            _line(ax, one, true, color(name), name, log=True, with_band=False)
            _line(ax, one, seen, color(name), name, log=True, with_band=False, linestyle=(0, (2, 1.2)), linewidth=1.0)

    figure, axes = _panels(chosen, draw, label="norm", xlabel="round", log=True)
    entries: dict[str, dict[str, Any]] = {name: {"color": color(name)} for name in map(str, chosen["optimizer"].values)}
    entries[long_name(chosen, true)] = {"color": "#555555"}
    entries[long_name(chosen, seen)] = {"color": "#555555", "linestyle": (0, (2, 1.2)), "linewidth": 1.0}
    return _finished(figure, axes, entries, title)


def sensitivity(
    dataset: xarray.Dataset, values: xarray.DataArray, rates: xarray.DataArray, *, title: str, label: str, log: bool
) -> Figure:
    """What every learning rate gave: means over seeds, bars from the worst to the best seed, a ring at the chosen rate.

    A rate at which a run diverged is a cross at the edge of the panel.

    Args:
      dataset: with all rates.
      values: of every run, NaN where it diverged; axes optimizer, case, learning_rate and seed.
      rates: the chosen rates; axes optimizer and case.
      title: of the figure.
      label: of the vertical axis.
      log: logarithmic vertical axis.
    """
    every = dataset.drop_vars(list(dataset.data_vars)).assign(value=values, tried=dataset["tried"].any("seed"))
    every["lost"] = dataset["diverged"].any("seed") & every["tried"]
    every["chosen"] = rates.drop_vars(["learning_rate", "at_edge", "num_tried"], errors="ignore")

    def draw(ax: Axes, part: xarray.Dataset) -> None:
        for number, one in enumerate(_methods(part)):
            name = str(one["optimizer"].item())
            x = np.asarray(one["learning_rate"], float)
            runs = np.asarray(one["value"].transpose("learning_rate", "seed"), float)
            there = np.asarray(one["tried"]) & np.isfinite(runs).all(1)
            mean = runs[there].mean(1)
            bars = np.abs(np.stack([runs[there].min(1), runs[there].max(1)]) - mean)
            ax.errorbar(x[there], mean, bars, fmt="o-", ms=3, lw=1.4, capsize=2, color=color(name))
            ring = np.isclose(x[there], float(one["chosen"]))
            ax.plot(x[there][ring], mean[ring], "o", ms=9, mfc="none", mec=color(name))
            lost = x[np.asarray(one["lost"])]
            high = 0.97 - 0.06 * number
            ax.plot(lost, np.full(len(lost), high), "x", color=color(name), transform=ax.get_xaxis_transform())
        ax.set_xscale("log")
        ticks_of_powers(ax.xaxis, *ax.get_xlim())

    figure, axes = _panels(every, draw, label=label, xlabel="learning rate γ₀", log=log)
    entries: dict[str, dict[str, Any]] = {name: {"color": color(name)} for name in map(str, every["optimizer"].values)}
    entries["chosen"] = {"color": "#555555", "linestyle": "", "marker": "o", "markersize": 9, "markerfacecolor": "none"}
    if bool(every["lost"].any()):
        entries["a run diverged"] = {"color": "#555555", "linestyle": "", "marker": "x"}
    return _finished(figure, axes, entries, title)


def classes(chosen: xarray.Dataset, variable: str, *, title: str) -> Figure:
    """Accuracy per class after the last round, mean over seeds: a row per cell, a block per method.

    Args:
      chosen: at the chosen rates.
      variable: with the dimension ``class``.
      title: of the figure.
    """
    last = _PER_CENT * chosen[variable].isel(eval=-1).mean("seed")
    labels = [
        f"{_attack(str(attack))}, {_rule(str(rule))}"
        for attack, rule in zip(chosen["attack"].values, chosen["aggregator"].values, strict=True)
    ]
    methods = [str(label) for label in chosen["optimizer"].values]
    figure, axes = new_figure(
        1, len(methods), width=2.0 + 3.7 * len(methods), height=1.5 + 0.27 * len(labels), sharey=True
    )
    image = None
    for place, (ax, name) in enumerate(zip(axes[0], methods, strict=True)):
        values = np.asarray(last.isel(optimizer=place).transpose("case", "class"), float)
        image = ax.imshow(values, vmin=0, vmax=100, cmap="cividis", aspect="auto")
        _written(ax, values, lambda value: f"{value:.0f}", dark=lambda value: value < 55)
        ax.set_xticks(range(values.shape[1]))
        ax.set_yticks(range(len(labels)), labels)
        ax.tick_params(length=0)
        ax.set_title(name)
        ax.set_xlabel("class")
    figure.colorbar(image, ax=list(axes[0]), label="accuracy (%)", fraction=0.03)  # type: ignore[arg-type]
    set_title(figure, title)
    return figure


def color(method: str) -> str:
    """Of a method's lines, by its label."""
    return _METHODS.get(method, OTHER_COLORS[0])


def _panels(
    dataset: xarray.Dataset,
    draw: Callable[[Axes, xarray.Dataset], None],
    *,
    label: str,
    xlabel: str,
    log: bool,
    title_pad: float = 6.0,
) -> tuple[Figure, np.ndarray]:
    """A panel per attack, downwards, and rule, across; the references are left out."""
    cases = list(zip(map(str, dataset["attack"].values), map(str, dataset["aggregator"].values), strict=True))
    table = [case for case in cases if not set(case) & set(_REFERENCES)]
    attacks, rules = (list(dict.fromkeys(part)) for part in zip(*table, strict=True))
    figure, axes = new_figure(
        len(attacks),
        len(rules),
        width=1.0 + 3.2 * len(rules),
        height=1.0 + 2.5 * len(attacks),
        sharex=True,
        sharey=True,
    )
    for (row, attack), (column, rule) in itertools.product(enumerate(attacks), enumerate(rules)):
        ax = axes[row, column]
        if (attack, rule) in table:
            draw(ax, dataset.isel(case=cases.index((attack, rule))))
        else:
            ax.text(0.5, 0.5, "not run", ha="center", va="center", transform=ax.transAxes, color="#777777")
        ax.set_title(f"{attack}, {rule}", fontsize=10, pad=title_pad)
        if column == 0:
            ax.set_ylabel(label)
        if row == len(attacks) - 1:
            ax.set_xlabel(xlabel)
        if xlabel == "round":
            count_from(ax)
    if log:
        _logarithmic(axes)
    return figure, axes


def _logarithmic(axes: np.ndarray) -> None:
    for ax in axes.flat:
        ax.set_yscale("log")
    for ax in axes.flat:
        ticks_of_powers(ax.yaxis, *ax.get_ylim())


def _finished(figure: Figure, axes: np.ndarray, entries: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], **{"linewidth": 2.0, **style}, label=name) for name, style in entries.items()]
    fitting = max(int(figure.get_figwidth() / _ENTRY), 1)  # beside each other; more would be cut off
    ncols = min(len(lines), 5, fitting)
    figure.legend(handles=lines, loc="outside lower center", ncols=ncols, frameon=False, handlelength=2.6)
    set_title(figure, title)
    return figure


def _methods(part: xarray.Dataset) -> Iterator[xarray.Dataset]:
    for place in range(part.sizes["optimizer"]):
        yield part.isel(optimizer=place)


def _line(
    ax: Axes,
    one: xarray.Dataset,
    variable: str,
    paint: str,
    label: str,
    *,
    log: bool,
    with_band: bool = True,
    linestyle: Any = "-",
    linewidth: float = 1.6,
) -> None:
    """The mean of the finite runs, and a band of one standard deviation."""
    runs = _units(np.asarray(one[variable].transpose("seed", "eval"), float), variable)
    runs = runs[np.isfinite(runs).all(1)]
    rounds = np.asarray(one["eval"])
    if not len(runs):
        ax.plot([], [], linestyle=linestyle, color=paint, label="diverged")
        return
    mean, deviation = runs.mean(0), runs.std(0)
    ax.plot(rounds, mean, linestyle=linestyle, linewidth=linewidth, color=paint, label=label, zorder=2.5)
    if with_band and len(runs) > 1:
        low, high = band(mean, deviation, variable)
        low = np.where(low > 0, low, runs.min(0)) if log else low
        ax.fill_between(rounds, low, high, color=paint, alpha=0.2, linewidth=0, zorder=2)


def _zoom(axes: np.ndarray) -> None:
    """Of accuracies, leave out the first quarter's climb."""
    drawn = [np.asarray(line.get_ydata(), float) for ax in axes.flat for line in ax.lines]
    late = np.concatenate([np.empty(0), *(values[len(values) // 4 :] for values in drawn)])
    late = late[np.isfinite(late)]
    if late.size:
        axes.flat[0].set_ylim(max(-2.0, late.min() - 8.0), 101.0)


def _written(ax: Axes, values: np.ndarray, text: Callable[[float], str], dark: Callable[[float], bool]) -> None:
    """The numbers of a heat map in its cells."""
    ax.grid(False)
    ax.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        shown = text(value) if np.isfinite(value) else "–"
        ax.text(column, row, shown, ha="center", va="center", fontsize=8, color="white" if dark(value) else "black")


def _rate(one: xarray.Dataset) -> str:
    rate = float(one["learning_rate"])
    return f"γ₀ = {rate:g}" if np.isfinite(rate) else "no rate"


def _other_rate(one: xarray.Dataset, behind: Behind | None) -> str:
    """Of the dotted curve, where that is another one."""
    if behind is None or np.isclose(behind.learning_rate, float(one["learning_rate"]), rtol=1e-5):
        return ""
    return f" (⋯ {behind.learning_rate:g})"


def _units(values: Any, variable: str) -> np.ndarray:
    return np.asarray(values, float) * (_PER_CENT if is_share(variable) else 1.0)


def _attack(label: str) -> str:
    return "no attack" if label == "none" else label


def _rule(label: str) -> str:
    return "plain mean" if label == "mean" else label
