"""The study of server steps, from its data sets in a store: a page with tables, and a figure of each part."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byzjax import plotting, results
from byzjax.experiments.experiment import MEAN, Metric
from byzjax.experiments.lmo.experiment import STEPS
from byzjax.experiments.rate_choice import chosen
from byzjax.experiments.text import count, grid, number, spread
from byzjax.plotting.style import set_title, small_print
from byzjax.storage.files import expanded, writing

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

PARTS = {"mnist": "MNIST", "shakespeare": "Small GPT"}
_COLORS: dict[str, str] = dict(
    zip(STEPS, ("#222222", "#d55e00", "#9ecae1", "#3182bd", "#08306b", "#009e73"), strict=True)
)
_EDGES = {"low": "↓", "high": "↑", "": ""}


def found(store: str | Path) -> list[Path]:
    """The data sets of the study in a store."""
    folder = expanded(store, "store")
    return [path for part in PARTS if (path := folder / f"lmo-{part}.nc").is_file()]


def report(store: str | Path, out: str | Path) -> list[Path]:
    """Write ``lmo.md`` and its figures; the page first.

    Args:
      store: with lmo-mnist.nc, lmo-shakespeare.nc, or both.
      out: a folder.
    """
    out, pages, figures = expanded(out, "report"), [], []
    for path in found(store):
        whole = results.load(path)
        part = reported(whole)
        saved = plotting.save(figure(part), out / path.stem)
        pages.append(section(whole, part, saved[0].name))
        figures += saved
    page = out / "lmo.md"
    with writing(page) as temporary:
        temporary.write_text("\n".join(["# Server steps under attack\n", *pages]), encoding="utf-8")
    return [page, *figures]


def reported(dataset: xarray.Dataset) -> xarray.Dataset:
    """At the chosen rates, the seeds that did not choose them."""
    choose = results.config_of(dataset)["tuning"]["seeds"] or []
    part = chosen(dataset)
    return part.sel(seed=[seed for seed in part["seed"].values if seed not in choose])


def section(whole: xarray.Dataset, part: xarray.Dataset, image: str) -> str:
    """One part of the study in Markdown."""
    config = results.config_of(whole)
    metric = Metric(**config["metric"])
    steps = [str(label) for label in part["optimizer"].values]
    seeds, rounds = part.sizes["seed"], config["num_rounds"]
    last, kappa = _last(part, metric), part["kappa"].where(part["tried"] & ~part["diverged"])
    heads = ["rule", "attack", *steps]

    def result(at: dict[str, int]) -> str:
        ran = part["tried"].isel(at).values
        fewer = "" if ran.all() or not ran.any() else f", {count(int(ran.sum()), 'seed')}"
        return spread(last.isel(at).values[ran], metric.digits) + fewer

    return "\n".join(
        [
            f"## {PARTS[config['variant']]}\n",
            f"{config['num_workers']} workers, {config['num_byzantine']} of them lie, {rounds} rounds, "
            f"{config['num_parameters']:,} parameters. {metric.title.capitalize()} after the last round, mean ± "
            f"standard deviation over {count(seeds, 'seed')}; rates chosen on `{config['tuning']['by']}` with "
            f"{count(len(config['tuning']['seeds']), 'other seed')}, anew for every cell, among {_rates(whole)}.\n",
            f"![{metric.title} of every step, rule and attack]({image})\n",
            grid(heads, _rows(part, result)),
            "The chosen γ₀; ↓ and ↑ at an end of the grid.\n",
            grid(heads, _rows(part, lambda at: _rate(part.isel(at)))),
            "κ̂ of Definition 1 in the dual norm of the step, mean over the evaluations of all seeds: how far the "
            "aggregate is from the honest mean, in units of the honest workers' mean distance from it.\n",
            grid(heads, _rows(part, lambda at: number(float(kappa.isel(at).mean()), 3))),
            *(f"- {note}" for note in config["notes"]),
            "",
        ]
    )


def figure(part: xarray.Dataset) -> Figure:
    """A panel for each rule: attacks across, a mark for each step."""
    metric = Metric(**results.config_of(part)["metric"])
    values = _last(part, metric)
    attacks, rules = (list(dict.fromkeys(map(str, part[name].values))) for name in ("attack", "aggregator"))
    drawn, axes = plotting.new_figure(
        2 if len(rules) > 2 else 1, min(len(rules), 2), width=10.0, height=7.0 if len(rules) > 2 else 4.2, sharey=True
    )
    steps = [str(label) for label in part["optimizer"].values]
    any_lost = False
    for ax, rule in zip(axes.flat, rules, strict=False):
        for place, step in enumerate(steps):
            x, middle, half, lost = [], [], [], []
            for k, attack in enumerate(attacks):
                at = {"optimizer": place, "case": _case(part, attack, rule)}
                if at["case"] is None:
                    continue
                cell = values.isel(at).values[part["tried"].isel(at).values]
                kept = cell[np.isfinite(cell)]
                x.append(k + 0.12 * (place - (len(steps) - 1) / 2))
                middle.append(kept.mean() if kept.size else np.nan)
                half.append(kept.std() if kept.size else np.nan)
                lost.append(kept.size < cell.size)
            color = _COLORS[step]
            ax.errorbar(x, middle, half, fmt="o", color=color, label=step, capsize=2, markersize=5)
            for at, value in itertools.compress(zip(x, middle, strict=True), lost):
                ax.annotate("×", (at, value if np.isfinite(value) else 0.02), color=color, xycoords=_across(ax, value))
                any_lost = True
        ax.set_xticks(range(len(attacks)), ["no attack" if name == "none" else name for name in attacks])
        ax.set_xlim(-0.5, len(attacks) - 0.5)
        ax.set_title("plain mean" if rule == MEAN else rule)
        if metric.best == "min":
            ax.set_yscale("log")
    for row in axes:
        row[0].set_ylabel(metric.title)
    set_title(drawn, f"Server steps: {PARTS[results.config_of(part)['variant']]}")
    over = f"Mean ± standard deviation over {count(part.sizes['seed'], 'seed')}."
    small_print(drawn, [over, "×: a run diverged, and is left out." if any_lost else ""], axes[0, 0])
    return drawn


def _last(part: xarray.Dataset, metric: Metric) -> xarray.DataArray:
    """What a table prints, NaN where a run diverged."""
    return (part[metric.name] * metric.factor).isel(eval=-1).where(~part["diverged"])


def _across(ax: Any, value: float) -> Any:
    """Coordinates of data, or the bottom of the panel where there is no value."""
    return "data" if np.isfinite(value) else ax.get_xaxis_transform()


def _rows(part: xarray.Dataset, cell: Any) -> list[list[str]]:
    attacks, rules = (list(dict.fromkeys(map(str, part[name].values))) for name in ("attack", "aggregator"))
    rows = []
    for rule in rules:
        for attack in attacks:
            case = _case(part, attack, rule)
            if case is not None:
                cells = [cell({"optimizer": k, "case": case}) for k in range(part.sizes["optimizer"])]
                rows.append(["plain mean" if rule == MEAN else rule, attack, *cells])
    return rows


def _case(part: xarray.Dataset, attack: str, rule: str) -> int | None:
    hits = np.flatnonzero((part["attack"].values == attack) & (part["aggregator"].values == rule))
    return int(hits[0]) if hits.size else None


def _rate(cell: xarray.Dataset) -> str:
    rate = float(cell["learning_rate"])
    return f"{number(rate)} {_EDGES[str(cell['at_edge'].item())]}".strip()


def _rates(whole: xarray.Dataset) -> str:
    return ", ".join(f"{rate:.3g}" for rate in np.asarray(whole["learning_rate"], float))
