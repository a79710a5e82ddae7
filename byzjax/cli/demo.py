"""``byzjax demo``: three of twenty workers lie about MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byzjax.cli.console import console, polite, table

if TYPE_CHECKING:
    pass


@polite
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="100 rounds instead of 1000: half a minute instead of two.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of results, table and figures; finished runs in it are kept.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all runs.")] = 0,
    num_rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds per run.", show_default="1000, or 100 with --quick")
    ] = None,
) -> None:
    """Three methods on MNIST with 3 of 20 workers lying: a table and three figures."""
    import dataclasses

    from byzjax.experiments.demo import demo as experiment
    from byzjax.experiments.demo import report as report

    base = experiment.QUICK if quick else experiment.Demo()
    rounds = num_rounds or base.num_rounds
    chosen = dataclasses.replace(base, seed=seed, num_rounds=rounds, eval_every=min(base.eval_every, rounds))
    screen = console()
    screen.print(f"{report.setting(chosen)} {len(chosen.entries)} runs.")
    runs = experiment.run(chosen, out, say=lambda line: typer.echo(line, err=True))
    paths = report.write(chosen, runs, out)

    shown = table(*report.HEADINGS)
    for row in report.rows(runs):
        shown.add_row(*report.cells(row))
    screen.print(shown)
    screen.print(f"{report.LEGEND} {report.how_long(runs)}", style="dim", soft_wrap=True)
    screen.print("\nWhat this shows:")
    for line in report.findings(runs):
        screen.print(f"- {line}", soft_wrap=True)
    screen.print(f"Written: {', '.join(map(str, paths))}, and {len(runs)} runs in {out / 'runs'}", soft_wrap=True)
