"""``byzjax reproduce``: the experiments of the paper, resumable."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byzjax.console import console, polite

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
        typer.Argument(metavar="EXPERIMENT", help="quartic, mnist, shakespeare, ablation, or all.", show_default=False),
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

    Every finished chunk of runs is kept; the same command goes on where it was stopped. Then: byzjax report STORE.
    """
    from byzjax.experiments import registry
    from byzjax.experiments.reproduce import path_of
    from byzjax.experiments.reproduce import reproduce as run

    chosen = [
        _part(experiment, quick, attack, aggregator, method, learning_rate, seeds, rounds, references)
        for experiment in registry.experiments(name, variant.value)
    ]
    for experiment in chosen:
        run(experiment, store, batch_size=batch_size or "auto", code_version=code_version)
        console().print(f"Written: {path_of(experiment, store)}", soft_wrap=True)
    console().print(f"Next: byzjax report {store}", soft_wrap=True)


def _part(
    experiment: Experiment,
    quick: bool,
    attack: list[str] | None,
    aggregator: list[str] | None,
    method: list[str] | None,
    learning_rate: list[float] | None,
    seeds: int | None,
    rounds: int | None,
    references: bool,
) -> Experiment:
    import dataclasses

    from byzjax.experiments.experiment import reduced
    from byzjax.experiments.registry import QUICK

    if quick:
        experiment = reduced(experiment, **QUICK[experiment.name, experiment.variant])
    if not references:
        experiment = dataclasses.replace(experiment, references=False)
    return reduced(
        experiment,
        attacks=tuple(attack or ()),
        aggregators=tuple(aggregator or ()),
        methods=tuple(method or ()),
        learning_rates=tuple(sorted(learning_rate or ())),
        num_seeds=seeds,
        num_rounds=rounds,
    )
