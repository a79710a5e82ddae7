"""The figures of a study: those that the paper has, and their companions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from byzjax import plotting
from byzjax.experiments.paper import published, verdicts
from byzjax.experiments.paper.report import ablation_plot, plots
from byzjax.experiments.paper.studies import Study
from byzjax.experiments.text import count
from byzjax.plotting.style import capitalized, long_name
from byzjax.results.metric_names import is_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUMBERS = {"ablation": "figure1", "mnist": "figure2", "quartic": "figure3", "shakespeare": "figure4"}


class Saved(NamedTuple):
    """A figure on disk: PNG first, PDF second, and what it shows."""

    paths: list[Path]
    caption: str


def save(study: Study, out: Path) -> list[Saved]:
    """Draw all figures of a study that its data allow.

    Args:
      study: which.
      out: a folder.
    """
    saved = []
    for name, figure, caption in _drawn(study):
        saved.append(Saved(plotting.save(figure, out / f"{name}-{study.variant}"), caption))
    return saved


def _drawn(study: Study) -> list[tuple[str, Figure, str]]:
    metric, number = study.metric, _NUMBERS.get(study.name, study.name)
    over = f"mean over {count(study.num_seeds, 'seed')}"
    if "beta" in study.dataset.dims:
        return [(number, _ablation(study), f"Figure 1 of the paper, variant {study.variant}: β and γ₀, {over}.")]
    if not study.in_table:
        return []
    log = not is_share(metric.name)
    label = _label(study)
    dotted = _dotted(study)
    behind = " Dotted: the authors' runs, at their rates, said after ⋯ where ours is another." if dotted else ""
    name = f"{number[:-1].capitalize()} {number[-1]}" if number.startswith("figure") else number
    made = [
        (
            number,
            plots.curves(study.chosen, metric.name, title=study.title, label=label, log=log, dotted=dotted),
            f"{name} of the paper, variant {study.variant}: {label}, {over} ± standard deviation, at the chosen rates."
            f"{behind}",
        ),
        (
            f"{number}-rates",
            plots.sensitivity(
                study.dataset,
                verdicts.final(study.dataset),
                study.chosen["learning_rate"],
                title=f"{study.title}: every rate",
                label=metric.title,
                log=log,
            ),
            f"Sensitivity to the learning rate: {metric.title}, {over}; bars from the worst to the best seed.",
        ),
    ]
    true = "gradient_norm" if study.has("gradient_norm") else "honest_norm"
    if study.has(true, "aggregate_norm"):
        names = [long_name(study.chosen, name) for name in (true, "aggregate_norm")]
        title = f"{study.title}: {names[0]}, and what the server saw"
        figure = plots.two_norms(study.chosen, true, "aggregate_norm", title=title)
        caption = f"Solid: {names[0]}. Dashed: {names[1]}. {capitalized(over)}."
        made.insert(1, (f"{number}-norms", figure, caption))
    if study.has("test_accuracy_per_class"):
        title = f"{study.title}: test accuracy per class after the last round, %"
        figure = plots.classes(study.chosen, "test_accuracy_per_class", title=title)
        made.append((f"{number}-classes", figure, f"Test accuracy per class after the last round, {over}."))
    return made


def _label(study: Study) -> str:
    """Of an axis that shows the metric in its own unit, or a share in per cent."""
    metric = study.metric
    plain = metric.factor == 1 or is_share(metric.name)
    return metric.title if plain else long_name(study.dataset, metric.name)


def _dotted(study: Study) -> plots.Dotted | None:
    """The authors' curves of the metric, where the setting is theirs."""
    if study.variant != "released":
        return None
    made = {
        place: (
            np.array([point.round for point in points]),
            np.array([point.values[study.metric.name] for point in points]),
        )
        for place, points in published.curves(study.name).items()
        if study.metric.name in points[0].values
    }
    last, cells = study.config["num_rounds"], published.table1(study.name)
    return {
        place: plots.Behind(cells[place].learning_rate, rounds[rounds <= last], values[rounds <= last])
        for place, (rounds, values) in made.items()
    } or None


def _ablation(study: Study) -> Figure:
    at = {"optimizer": 0, "case": 0}
    where = f"{study.methods[0]}, {', '.join(study.cases[0])}"
    return ablation_plot.figure(
        study.dataset.isel(at),
        study.chosen.isel(at),
        study.metric.name,
        title=f"{study.title}: {where}, mean over {count(study.num_seeds, 'seed')}",
        label=_label(study),
        digits=study.metric.digits,
    )
