"""What the demo shows: a table, findings computed from its numbers, and three figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byzjax import plotting, results
from byzjax.experiments.demo.demo import BIT_FLIP, IPM, MEAN, NONE, NSGDM, ROBUST, Demo, Entry, Runs
from byzjax.plotting import Style, display_name
from byzjax.storage.files import expanded, writing

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

FIELDS: tuple[str, ...] = (  # of the CSV file
    "method",
    "aggregator",
    "attack",
    "learning_rate",
    "test_accuracy",
    "test_accuracy_at_best_validation",
    "worst_class",
    "worst_class_accuracy",
    "mean_empirical_kappa",
    "seconds",
    "compile_seconds",
    "diverged_at",
)
HEADINGS = ("method", "rule", "attack", "γ₀", "test %", "best val. %", "worst: %", "κ̂", "time s")
LEGEND = (
    "test: accuracy at the last evaluation; best val.: where validation accuracy was best; worst: the worst class and "
    "its accuracy; κ̂: aggregation error / honest spread, mean over rounds. γ₀ was chosen per run, on validation data."
)
_SMOOTH = 50  # rounds, and no more than a tenth of all
_LOST = 0.5  # a class below this accuracy is called lost


def rows(runs: Runs) -> list[dict[str, Any]]:
    """One dict per run, with the keys `FIELDS` and full precision; None where there is no number.

    Args:
      runs: what `demo.run` returned.
    """
    return [_row(entry, dataset) for entry, dataset in runs.items()]


def _row(entry: Entry, dataset: xarray.Dataset) -> dict[str, Any]:
    per_class = np.asarray(dataset["test_accuracy_per_class"].isel(eval=-1), float)
    validation = np.asarray(dataset["val_accuracy"], float)
    best = None if np.isnan(validation).all() else int(np.nanargmax(validation))
    worst = None if np.isnan(per_class).all() else int(np.nanargmin(per_class))
    kappa = np.asarray(results.empirical_kappa(dataset), float)
    numbers = {
        "test_accuracy": dataset["test_accuracy"][-1],
        "test_accuracy_at_best_validation": None if best is None else dataset["test_accuracy"][best],
        "worst_class_accuracy": None if worst is None else per_class[worst],
        "mean_empirical_kappa": None if np.isnan(kappa).all() else np.nanmean(kappa),
        "seconds": dataset.attrs["seconds"],
        "compile_seconds": dataset.attrs["compile_seconds"],
    }
    return {
        **entry._asdict(),
        **{name: None if value is None or np.isnan(float(value)) else float(value) for name, value in numbers.items()},
        "worst_class": worst,
        "diverged_at": results.diverged_at(dataset),
    }


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table for readers, under `HEADINGS`."""

    def percent(name: str) -> str:
        return "–" if row[name] is None else f"{100 * row[name]:.1f}"

    return [
        *(display_name(row[name]) for name in ("method", "aggregator", "attack")),
        f"{row['learning_rate']:g}",
        percent("test_accuracy") if row["diverged_at"] is None else "diverged",
        percent("test_accuracy_at_best_validation"),
        "–" if row["worst_class"] is None else f"{row['worst_class']}: {100 * row['worst_class_accuracy']:.0f}",
        "–" if row["mean_empirical_kappa"] is None else f"{row['mean_empirical_kappa']:.2f}",
        f"{row['seconds']:.0f}",
    ]


def how_long(runs: Runs) -> str:
    """What all runs together took, in a sentence."""
    table = rows(runs)
    total = sum(row["seconds"] for row in table)
    compiling = sum(row["compile_seconds"] or 0.0 for row in table)
    device = next(iter(runs.values())).attrs["device_kind"]
    return f"{len(runs)} runs took {total:.0f} s, about {compiling:.0f} s of it compiling, on {device}."


def markdown(demo: Demo, runs: Runs) -> str:
    """The table and the findings as Markdown."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows(runs)]
    notes = [f"- {line}" for line in findings(runs)]
    return "\n".join(
        [
            f"# byzjax demo\n\n{setting(demo)}\n",
            *lines,
            f"\n{LEGEND} {how_long(runs)}\n\n## What this shows\n",
            *notes,
            "",
        ]
    )


def comma_separated(runs: Runs) -> str:
    """The rows with full precision, as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(runs))
    return buffer.getvalue()


def setting(demo: Demo) -> str:
    """What all runs have in common, in a sentence."""
    return (
        f"{display_name(demo.task)}, n = {demo.num_workers} workers, the last {demo.num_byzantine} of them Byzantine, "
        f"{demo.num_rounds} rounds, seed {demo.seed}."
    )


def findings(runs: Runs) -> list[str]:
    """What the numbers say, a sentence each: computed, whoever looks better.

    Args:
      runs: what `demo.run` returned; sentences about runs that are not there are left out.
    """
    table = {(row["method"], row["aggregator"], row["attack"]): row for row in rows(runs)}
    lines = []
    for attack in dict.fromkeys(entry.attack for entry in runs):
        where = "Without attack" if attack == NONE else f"Under {display_name(attack)}"
        robust, plain = table.get((NSGDM, ROBUST, attack)), table.get((NSGDM, MEAN, attack))
        if robust and plain:
            comparison = _compare(display_name(ROBUST), robust, "the plain mean", plain)
            lines.append(f"{where}, {comparison} ({display_name(NSGDM)}).")
        peers = [row for row in table.values() if (row["aggregator"], row["attack"]) == (ROBUST, attack)]
        if len(peers) > 1:
            last = _ranking(peers, "test_accuracy")
            best = _ranking(peers, "test_accuracy_at_best_validation")
            rule = display_name(ROBUST)
            lines.append(f"{where}, the methods with {rule} end at {last}; at their best validation, {best}.")
        rules = {display_name(ROBUST): robust, "the plain mean": plain}
        lost = [f"{rule} {_lost(runs, row)}" for rule, row in rules.items() if row]
        if lost:
            lines.append(f"{where}, {display_name(NSGDM)} with {'; with '.join(lost)}.")
    for row in table.values():
        if row["diverged_at"] is not None:
            lines.append(f"{_name(row)} diverged in round {row['diverged_at']}.")
    lines.append("One seed: differences of a few points may change places with another.")
    return lines


def _name(row: dict[str, Any]) -> str:
    return f"{display_name(row['method'])} with {display_name(row['aggregator'])}, {display_name(row['attack'])},"


def _accuracy(row: dict[str, Any], column: str = "test_accuracy") -> str:
    return "divergence" if row[column] is None else f"{100 * row[column]:.1f} %"


def _compare(one: str, a: dict[str, Any], other: str, b: dict[str, Any]) -> str:
    text = f"{other} ends at {_accuracy(b)} and {one} at {_accuracy(a)}"
    if a["test_accuracy"] is None or b["test_accuracy"] is None:
        return text
    points = 100 * (a["test_accuracy"] - b["test_accuracy"])
    if abs(points) < 0.05:
        return f"{text}: no difference"
    return f"{text}: {one} is {abs(points):.1f} points {'better' if points > 0 else 'worse'}"


def _ranking(peers: list[dict[str, Any]], column: str) -> str:
    ordered = sorted(peers, key=lambda row: -1.0 if row[column] is None else row[column], reverse=True)
    return ", ".join(f"{display_name(row['method'])} {_accuracy(row, column)}" for row in ordered)


def _lost(runs: Runs, row: dict[str, Any]) -> str:
    entry = Entry(*(row[field] for field in Entry._fields))
    per_class = np.asarray(runs[entry]["test_accuracy_per_class"].isel(eval=-1), float)
    lost = [str(label) for label, accuracy in enumerate(per_class) if not accuracy >= _LOST]
    if not lost:
        worst = f"class {row['worst_class']}, {100 * row['worst_class_accuracy']:.0f} %"
        return f"gets at least half of every class right (worst: {worst})"
    return f"gets less than half of class{'es' * (len(lost) > 1)} {', '.join(lost)} right"


def styles(runs: Runs) -> dict[str, Style]:
    """The demo's lines: solid for the robust rule, dashed for the mean, thin and dotted for the references."""
    lines = {(ROBUST, True): "-", (MEAN, True): "--", (ROBUST, False): "-.", (MEAN, False): ":"}
    drawn = {}
    for entry, dataset in runs.items():
        base = plotting.styles({"": dataset})[""]
        attacked = entry.attack != NONE
        line = lines.get((entry.aggregator, attacked), "-")
        drawn[_label(entry)] = Style(base.color, line, 2.0 if attacked else 1.2)
    return drawn


def _label(entry: Entry) -> str:
    label = f"{display_name(entry.method)}, {display_name(entry.aggregator)}"
    return f"{label}, no attack" if entry.attack == NONE else label


def accuracy_figure(demo: Demo, runs: Runs) -> Figure:
    """Test accuracy over rounds, a panel per attack, each with the attack-free references."""
    attacks = [attack for attack in dict.fromkeys(entry.attack for entry in runs) if attack != NONE] or [NONE]
    figure, axes = plotting.new_figure(1, len(attacks), width=5.2 * len(attacks), height=4.8, sharey=True)
    for ax, attack in zip(axes[0], attacks, strict=True):
        panel = [entry for entry in runs if entry.attack == attack] + [entry for entry in runs if entry.attack == NONE]
        shown = {_label(entry): runs[entry] for entry in dict.fromkeys(panel)}
        plotting.draw_curves(ax, shown, "test_accuracy", style=styles(runs))
        ax.set_title(f"{demo.num_byzantine} of {demo.num_workers} workers: {display_name(attack)}")
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    plotting.legend_below(figure, axes[0, 0])
    figure.suptitle(f"Test accuracy on {display_name(demo.task)}, seed {demo.seed}")
    return figure


def per_class_figure(demo: Demo, runs: Runs) -> Figure:
    """Accuracy per class after the last round, rows grouped by attack."""
    labelled = {
        f"{display_name(entry.attack)} | {display_name(entry.method)}, {display_name(entry.aggregator)}": dataset
        for entry, dataset in runs.items()
    }
    return plotting.per_class(labelled, title=f"Which classes are lost: test accuracy after round {demo.num_rounds}")


def kappa_figure(demo: Demo, runs: Runs) -> Figure | None:
    """Empirical κ over rounds of Byz-NSGDM, a panel per attack; None if it is not among the runs."""
    own = {
        entry: dataset.assign(empirical_kappa=results.empirical_kappa(dataset))
        for entry, dataset in runs.items()
        if entry.method == NSGDM
    }
    attacks = [attack for attack in (NONE, BIT_FLIP, IPM) if any(entry.attack == attack for entry in own)]
    if not attacks:
        return None
    smooth = max(1, min(_SMOOTH, demo.num_rounds // 10))
    figure, axes = plotting.new_figure(1, len(attacks), width=3.7 * len(attacks), height=4.4, sharey=True)
    color = plotting.styles({"": next(iter(own.values()))})[""].color
    style = {display_name(e.aggregator): Style(color, {MEAN: "--"}.get(e.aggregator, "-")) for e in own}
    for ax, attack in zip(axes[0], attacks, strict=True):
        shown = {display_name(e.aggregator): dataset for e, dataset in own.items() if e.attack == attack}
        plotting.draw_curves(ax, shown, "empirical_kappa", style=style, smooth=smooth)
        ax.set_title(display_name(attack))
    axes[0, 0].set_ylabel("aggregation error / honest spread")
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    plotting.legend_below(figure, axes[0, -1])
    mean = f" (running mean over {smooth} rounds)" if smooth > 1 else ""
    figure.suptitle(f"Empirical κ of {display_name(NSGDM)}'s aggregate{mean}")
    return figure


def write(demo: Demo, runs: Runs, out: Path) -> list[Path]:
    """Table and figures into a folder.

    Args:
      demo: the setting.
      runs: what `demo.run` returned.
      out: the folder.

    Returns:
      The files.
    """
    paths, out = [], expanded(out, "demo")
    for name, text in (("table.md", markdown(demo, runs)), ("table.csv", comma_separated(runs))):
        with writing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(out / name)
    figures = {"accuracy": accuracy_figure, "per_class": per_class_figure, "kappa": kappa_figure}
    for name, draw in figures.items():
        figure = draw(demo, runs)
        if figure is not None:
            paths += plotting.save(figure, out / name)
    return paths
