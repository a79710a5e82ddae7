"""``byzjax reproduce``: the experiments of the paper and byzjax's own, resumable."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byzjax.checks import quoted
from byzjax.cli.console import console, polite, warn

if TYPE_CHECKING:
    from byzjax.experiments.experiment import Experiment


class Semantics(StrEnum):
    """Whose experiments."""

    paper = "paper"
    released = "released"
    both = "both"


@polite
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT",
            help="quartic, mnist, shakespeare, ablation, or all of them; or lmo.",
            show_default=False,
        ),
    ],
    variant: Annotated[
        Semantics, typer.Option(help="As the text says, as the authors' released code runs, or one after the other.")
    ] = Semantics.paper,
    store: Annotated[Path, typer.Option(help="Finished runs are kept here, and data sets and report put here.")] = Path(
        "reproduction"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="All of the machinery at a reduced size, in minutes.")] = False,
    attack: Annotated[list[str] | None, typer.Option(help="Only this one (repeatable): BF, LF, Mimic, ALIE.")] = None,
    aggregator: Annotated[list[str] | None, typer.Option(help="Only this one (repeatable): RFA, Krum, CM.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this one (repeatable): Base, Decay, Byz-NSGDM.")
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="In place of every method's grid (repeatable).")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many.", show_default="the experiment's")] = None,
    rounds: Annotated[int | None, typer.Option(help="Fewer rounds.", show_default="the experiment's")] = None,
    references: Annotated[bool, typer.Option(help="Also without attack, and with the plain mean under attack.")] = True,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side in one program.", show_default="found out")
    ] = None,
    code_version: Annotated[
        str | None,
        typer.Option(
            help="In place of the hash of byzjax's source, to go on with a store after a change of no consequence."
        ),
    ] = None,
) -> None:
    """Run an experiment of the paper: every attack, rule, method, learning rate and seed of one part of Table 1.

    Or byzjax's own study of server steps, lmo, on MNIST and on text, which has no variants.

    Every finished chunk of runs is kept; the same command goes on where it was stopped. Then: byzjax report STORE.
    """
    from byzjax.experiments import registry
    from byzjax.experiments.reproduce import path_of
    from byzjax.experiments.reproduce import reproduce as run

    picked = {
        "attacks": tuple(attack or ()),
        "aggregators": tuple(aggregator or ()),
        "methods": tuple(method or ()),
        "learning_rates": tuple(sorted(learning_rate or ())),
        "num_seeds": seeds,
        "num_rounds": rounds,
    }
    picked = {name: value for name, value in picked.items() if value not in (None, ())}
    chosen = _parts(registry.experiments(name, variant.value), picked, quick, references)
    for experiment in chosen if len(chosen) > 1 else ():
        experiment.task()  # what cannot be had is said before hours of something else
    for experiment in chosen:
        run(experiment, store, batch_size=batch_size or "auto", code_version=code_version)
        console().print(f"Written: {path_of(experiment, store)}", soft_wrap=True)
    console().print(f"Next: byzjax report {quoted(str(store))}", soft_wrap=True)


def _parts(experiments: list[Experiment], picked: dict[str, Any], quick: bool, references: bool) -> list[Experiment]:
    import dataclasses

    from byzjax.experiments import registry
    from byzjax.experiments.experiment import reduced

    found, lacking = [], []
    for experiment in experiments:
        try:
            part = (registry.quick if quick else reduced)(experiment, **picked)
        except ValueError as error:
            lacking.append(f"{experiment.name} ({experiment.variant}): {error}")
            continue
        found.append(part if references else dataclasses.replace(part, references=False))
    if not found:
        raise ValueError(lacking[0])
    for line in lacking:
        warn(f"left out: {line}")
    return found
