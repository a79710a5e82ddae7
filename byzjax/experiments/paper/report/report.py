"""The report of a store: Table 1, the paper's figures, and what the paper does not show; and all its numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from byzjax.experiments.experiment import VARIANTS
from byzjax.experiments.paper import published, studies, verdicts
from byzjax.experiments.paper.report import figures, sections, table1
from byzjax.experiments.paper.studies import Study
from byzjax.experiments.text import count, grid
from byzjax.plotting import tables
from byzjax.results.metric_names import is_test
from byzjax.storage.files import expanded, writing

FIELDS = (
    "task",
    "variant",
    "attack",
    "aggregator",
    "method",
    "learning_rate",
    "mean",
    "std",
    "num_seeds",
    "metric",
)
_PAPER = """\
A. Bolatov, S. Horváth, M. Takáč, E. Gorbunov, *Byzantine-Robust Optimization under (L₀, L₁)-Smoothness*, compares three
methods when 3 of 20 workers lie: Base (momentum SGD), Decay (the same with γ₀/√k) and Byz-NSGDM (normalised momentum
with γ₀/√k). Attacks: BF (bit flip), LF (label flip), Mimic, ALIE. Rules, each after nearest-neighbour mixing (NNM): RFA
(geometric median), Krum, CM (coordinate median). Every experiment exists in two variants:"""
_VARIANTS = {
    "paper": "what the paper's text says: Algorithm 1, its scales of noise, one grid of rates for all methods",
    "released": "what the authors' released code runs, which differs from the text in many places",
}


def report(store: str | Path, out: str | Path) -> list[Path]:
    """Write ``report.md``, ``table1.md``, ``table1.tex`` and the figures, as PNG and PDF, into a folder.

    Everything is computed from the data sets in the store. An experiment that is not there is said to be missing; part
    of one makes part of a report.

    Args:
      store: with data sets of `byzjax.experiments.reproduce.reproduce`.
      out: a folder.

    Returns:
      The files.

    Raises:
      FileNotFoundError, ValueError: see `byzjax.experiments.paper.studies.load`.
    """
    found, out = studies.load(store), expanded(out, "report")
    made = [table1.table(study) for study in found if _in_table1(study)]
    text = "\n".join(map(tables.markdown, made)) or "None of the experiments of Table 1 is in the store.\n"
    paths = [
        _written(out / "table1.md", f"# Table 1\n\n{text}"),
        _written(out / "table1.tex", "\n".join(map(tables.latex, made)) or "% no experiment of Table 1\n"),
    ]
    bodies = []
    for study in found:
        saved = figures.save(study, out)
        paths += [path for figure in saved for path in figure.paths]
        bodies.append(_section(study, saved))
    head = [_opening(found), _setting(found), _how_chosen(found), _table1(found)]
    return [_written(out / "report.md", "\n".join([*head, *bodies])), *paths]


def csv_rows(store: str | Path) -> list[dict[str, Any]]:
    """The metric of every cell at every rate that it was tried at, as rows with the keys `FIELDS`.

    ``mean`` and ``std`` (ddof = 0) are over the ``num_seeds`` seeds that stayed finite, after the last round, of the
    metric as it is in the data set: accuracies are shares. Where all seeds diverged they are empty. In the ablation the
    method says β.

    Args:
      store: as in `report`.

    Raises:
      FileNotFoundError, ValueError: see `byzjax.experiments.paper.studies.load`.
    """
    return [row for study in studies.load(store) for row in _rows(study)]


def comma_separated(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV, with a heading."""
    buffer = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _rows(study: Study) -> Iterator[dict[str, Any]]:
    dataset = study.dataset
    last = dataset[study.metric.name].isel(eval=-1).where(~dataset["diverged"])
    betas = list(range(dataset.sizes["beta"])) if "beta" in dataset.dims else [None]
    shape = (dataset.sizes["case"], dataset.sizes["optimizer"], len(betas), dataset.sizes["learning_rate"])
    for case, method, beta, rate in np.ndindex(shape):
        at = {"case": case, "optimizer": method, "learning_rate": rate}
        at |= {} if betas == [None] else {"beta": beta}
        if not bool(dataset["tried"].isel(at).any()):
            continue
        values = np.atleast_1d(np.asarray(last.isel(at), float))
        values = values[np.isfinite(values)]
        attack, rule = study.cases[case]
        label = study.methods[method]
        yield {
            "task": study.name,
            "variant": study.variant,
            "attack": attack,
            "aggregator": rule,
            "method": label if betas == [None] else f"{label}(beta={float(dataset['beta'][beta]):g})",
            "learning_rate": float(dataset["learning_rate"][rate]),
            "mean": float(values.mean()) if values.size else "",
            "std": float(values.std()) if values.size else "",
            "num_seeds": int(values.size),
            "metric": study.metric.name,
        }


def _written(path: Path, text: str) -> Path:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _in_table1(study: Study) -> bool:
    return bool(published.table1(study.name)) and bool(study.in_table)


def _opening(found: list[Study]) -> str:
    there = {study.key for study in found}
    missing = [
        f"{name} ({variant})" for name in studies.NAMES for variant in VARIANTS if f"{name}-{variant}" not in there
    ]
    shown = "\n".join(f"- **{variant}** is {words}." for variant, words in _VARIANTS.items())
    lines = [
        "# The paper's experiments, run by byzjax",
        "",
        _PAPER,
        "",
        shown,
        "",
        "All numbers and figures are computed from the data sets in the store by `byzjax report`.",
        "",
        f"**Missing in the store:** {', '.join(missing)}." if missing else "All experiments are in the store.",
        "",
    ]
    return "\n".join(lines)


def _setting(found: list[Study]) -> str:
    rows = []
    for study in found:
        dataset, attributes = study.dataset, study.dataset.attrs
        seeds = [int(seed) for seed in dataset["seed"].values]
        named = ", ".join(map(str, seeds)) if len(seeds) <= 5 else f"{seeds[0]} … {seeds[-1]}"
        cases = [case for place, case in enumerate(study.cases) if place in study.in_table]
        parts = (dict.fromkeys(part) for part in zip(*cases, strict=True)) if cases else ((), ())
        attacks, rules = (", ".join(part) for part in parts)
        minutes = (float(attributes[name]) / 60 for name in ("compile_seconds", "run_seconds"))
        rows.append(
            [
                study.title,
                attacks,
                rules,
                ", ".join(study.methods),
                f"{len(seeds)} ({named})",
                f"{study.config['num_rounds']}",
                f"{int(attributes['lanes'])}, {int(attributes['diverged'])} diverged",
                study.config["precision"],
                str(attributes["device_kind"]),
                f"byzjax {attributes['byzjax_version']}, jax {attributes['jax_version']}",
                " + ".join(f"{one:.1f} min" for one in minutes),
            ]
        )
    heads = ["experiment", "attacks", "rules", "methods", "seeds", "rounds", "runs", "numbers", "device", "versions"]
    notes = [f"- {study.title}: {note}" for study in found for note in study.config["notes"]]
    return "\n".join(["## What was run", "", grid([*heads, "compiling + running"], rows), *notes, ""])


def _how_chosen(found: list[Study]) -> str:
    lines = ["## How learning rates were chosen", ""]
    lines.append(
        "For every method, attack, rule (and β, in the ablation) anew, among the rates that the method was tried at:\n"
    )
    for study in found:
        tuning = study.config["tuning"]
        seeds = "all seeds" if tuning["seeds"] is None else f"seed{'s' * (len(tuning['seeds']) > 1)} "
        seeds += "" if tuning["seeds"] is None else ", ".join(map(str, tuning["seeds"]))
        after = "the last round" if tuning["after"] is None else f"round {tuning['after']}"
        what = "largest" if tuning["best"] == "max" else "smallest"
        sentence = f"- {study.title}: the {what} mean of `{tuning['by']}` over {seeds} after {after}"
        if is_test(tuning["by"]):
            sentence += (
                "; **this is test data**, as in the released experiments, so the reported numbers are optimistic"
            )
        elif tuning["by"] == study.metric.name and (tuning["after"] or math.inf) >= study.config["num_rounds"]:
            sentence += "; **this is the reported number itself**, so it is optimistic"
        lines.append(f"{sentence}.")
    lines.append("\nA rate at which one of these runs diverged is never chosen; of equals the smallest is.\n")
    return "\n".join(lines)


def _table1(found: list[Study]) -> str:
    shown = [study for study in found if _in_table1(study)]
    lines = ["## Table 1", ""]
    if not shown:
        return "\n".join([*lines, "None of its experiments is in the store.", ""])
    lines += ["Also as [Markdown](table1.md) and [LaTeX](table1.tex).", ""]
    lines += [f"### {study.title}\n\n{tables.markdown(table1.table(study))}" for study in shown]
    words = [f"- {study.title}: {_in_words(study)}" for study in shown]
    return "\n".join([*lines, "### In short", "", *words, "", "### How to read the verdicts", "", table1.LEGEND])


def _in_words(study: Study) -> str:
    rows, ranked = verdicts.rows(study.chosen), verdicts.rankings(study.chosen)
    groups = sum(verdicts.modes(row.values) is not None for row in rows)
    text = f"of {count(len(rows), 'cell')}, {table1.in_words(rows)}"
    text += f"; seeds fall into two groups in {groups}" if groups else ""
    known = [one for one in ranked if one.published]
    if known:
        held = sum(one.word == "holds" for one in known)
        text += f"; the published order of the methods holds in {held} of {len(known)} attacks × rules"
    return f"{text}."


def _section(study: Study, saved: list[figures.Saved]) -> str:
    lines = [f"## {study.title}", ""]
    lines += [f"![{figure.caption}]({figure.paths[0].name})\n\n*{figure.caption}*\n" for figure in saved]
    if "beta" in study.dataset.dims:
        return "\n".join([*lines, f"### β and the learning rate\n\n{sections.ablation(study)}"])
    if _in_table1(study):
        lines += [f"### Beside the published numbers\n\n{table1.agreement(study)}"]
        lines += [f"### The order of the methods\n\n{table1.ranking(study)}"]
    made = {title: section(study) for title, section in sections.SECTIONS.items()}
    lines += [f"### {title}\n\n{text}" for title, text in made.items() if text]
    lacking = [title for title, text in made.items() if not text]
    lines += [f"Not recorded in this experiment: {'; '.join(lacking)}.\n"] if lacking else []
    return "\n".join(lines)
