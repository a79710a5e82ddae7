"""An experiment of the paper cell by cell, so that a run that is cut leaves whole cells.

    python benchmarks/cells.py shakespeare released STORE --rates published
    byzjax report STORE

What ``byzjax reproduce`` runs as one sweep per method, here one attack, rule and method after the other, each added
to the data set as soon as it is there; the rule RFA first, and Byz-NSGDM before the baselines. Resumable. ``--jobs``
shares the cells among processes: on an accelerator the programs of small models take longer to compile than to run.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax

import byzjax
from byzjax.experiments.experiment import MEAN, Experiment, reduced
from byzjax.experiments.paper import published, registry
from byzjax.experiments.paper.recipes import OURS
from byzjax.experiments.reproduce import reproduce
from byzjax.storage import digests

SHARE = 0.9  # of the device's memory, for all processes together


class Cell(NamedTuple):
    """What is run together: all rates and seeds of a method under an attack."""

    attack: str
    rule: str
    method: str


def cells(experiment: Experiment, references: bool) -> list[Cell]:
    """Rule by rule in the paper's order, the references last; Byz-NSGDM first of the methods.

    Args:
      experiment: the whole.
      references: also the plain mean, under each attack and without.
    """
    methods = sorted(experiment.methods, key=lambda method: method != OURS)
    rules = [*experiment.aggregators, *([MEAN] if references else [])]
    return [Cell(attack, rule, method) for rule in rules for attack in experiment.attacks for method in methods]


def part(experiment: Experiment, cell: Cell, rate: float | None) -> Experiment:
    """A cell as an experiment of its own; that of a reference has the same without attack beside it.

    Args:
      experiment: the whole.
      cell: which.
      rate: in place of the method's grid.
    """
    rates = () if rate is None else (rate,)
    found = reduced(experiment, attacks=(cell.attack,), methods=(cell.method,), learning_rates=rates)
    if cell.rule == MEAN:
        return dataclasses.replace(found, aggregators={}, references=True)
    rules = {cell.rule: experiment.aggregators[cell.rule]}
    return dataclasses.replace(found, aggregators=rules, references=False)


def main() -> int:
    """All cells that the store has not, in this process or in several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(registry.REGISTRY))
    parser.add_argument("variant", choices=["paper", "released"])
    parser.add_argument("store", type=Path)
    parser.add_argument("--rates", choices=["grid", "published"], default="grid", help="the experiment's, or Table 1's")
    parser.add_argument("--references", action="store_true", help="also the plain mean, and no attack")
    parser.add_argument("--side-by-side", type=int, help="runs in one program (all of a cell)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cells and the device")
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--code-version", help="see byzjax reproduce")
    parser.add_argument("--quick", action="store_true", help="a piece of the experiment")
    args = parser.parse_args()
    if args.jobs > 1 and args.job is None:
        return several(args.jobs)
    byzjax.enable_compilation_cache()  # a cell that is cut is compiled already when it is begun again
    known = published.table1(args.experiment) if args.rates == "published" else {}
    if args.rates == "published" and not known:
        parser.error(f"--rates published: Table 1 has no {args.experiment}")
    experiment = registry.experiment(args.experiment, args.variant)
    experiment = registry.quick(experiment) if args.quick else experiment
    task = experiment.task()  # once for all cells
    experiment = dataclasses.replace(experiment, task=lambda: task)
    found = cells(experiment, args.references)
    for number, cell in list(enumerate(found))[args.job or 0 :: args.jobs]:
        start = time.perf_counter()
        rate = known[published.Place(*cell)].learning_rate if cell in known else None
        piece = part(experiment, cell, rate)
        done = marker(args.store, piece, cell, args.code_version)
        runs = num_runs(piece, cell)
        if not done.exists():
            reproduce(
                piece,
                args.store,
                progress=False,
                batch_size=min(runs, args.side_by_side or runs),
                code_version=args.code_version,
            )
            done.parent.mkdir(exist_ok=True)
            done.touch()
        print(
            f"{number + 1} of {len(found)}: {' / '.join(cell)}, {runs} runs, {time.perf_counter() - start:.1f} s",
            flush=True,
        )
    return 0


def num_runs(piece: Experiment, cell: Cell) -> int:
    """How many runs a rule has in a cell."""
    axes = (piece.methods[cell.method].learning_rates, piece.seeds, *piece.lanes.values())
    return math.prod(len(axis) for axis in axes)


def marker(store: Path, piece: Experiment, cell: Cell, code_version: str | None) -> Path:
    """A file that says that a cell is in the data set, for tracing it again only to find that takes seconds."""
    said = [
        piece.described(), cell, piece.methods[cell.method].learning_rates, piece.seeds, dict(piece.lanes),
        code_version or digests.code_version(), jax.__version__, jax.devices()[0].device_kind,
    ]  # fmt: skip
    return store / "cells" / f"{piece.name}-{piece.variant}-{digests.digest(digests.plain(said))[:16]}"


def several(jobs: int) -> int:
    """The same call in several processes, each with every so manyth cell and a share of the device's memory."""
    env = {**os.environ, "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{SHARE / jobs:.2f}"}
    command = [sys.executable, __file__, *sys.argv[1:], "--job"]
    started = [subprocess.Popen([*command, str(job)], env=env) for job in range(jobs)]
    try:
        return max(abs(child.wait()) for child in started)
    except KeyboardInterrupt:  # that the others were sent, too: what they have in flight is finished and kept
        for child in started:
            child.wait()
        raise


if __name__ == "__main__":
    sys.exit(main())
