"""Runs a second against how many run side by side: where does a device become busy?

``python benchmarks/batch_size.py`` prints a line per point and writes a table, JSON and a figure to
``benchmarks/results``; ``--quick`` is a smoke run. Two tasks: the quartic of ``sweep.py`` (n = 20, d = 10) and the MLP
on MNIST (n = 20, d = 109,386), both Byz-NSGDM with NNM and the geometric median under bit flip, through
`byzjax.sweep`. Points that are in the output folder are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from _timing import label, machine, table
from sweep import F, N, runner

import byzjax
from byzjax import metrics, tasks
from byzjax._version import __version__

CHUNKS = 3  # of a sweep, the first of which also warms the device up
SECONDS = 4.0  # of a chunk, beyond which no larger one is tried: where it takes so long, the device is busy


class Curve(NamedTuple):
    """A task, how long a run is, and how many runs are tried side by side."""

    task: Callable[[], byzjax.Task]
    rounds: int
    sizes: tuple[int, ...]


def curves(quick: bool) -> dict[str, Curve]:
    """What is measured."""
    if quick:
        return {"quartic": Curve(lambda: tasks.quartic(N, F, dim=10), 50, (1, 16))}
    return {
        "quartic": Curve(lambda: tasks.quartic(N, F, dim=10), 1000, (1, 16, 256, 4096, 16384)),
        "mnist": Curve(lambda: tasks.mnist(N, F), 150, (1, 4, 16, 64)),
    }


def main() -> None:
    """All points of all curves that are not there yet."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true", help="a smoke run: two points, nothing written")
    options.add_argument("--out", type=Path, help="write there, whatever the other options")
    args = options.parse_args()
    where = machine()
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    path = None if out is None else out / f"batch-size-{label(where)}.json"
    report: dict[str, Any] = {
        "machine": where,
        "versions": {"byzjax": __version__, "jax": jax.__version__, "jaxlib": jax.lib.__version__},
        "points": [],
    }
    if path is not None and path.exists():
        report["points"] = json.loads(path.read_text())["points"]
    for name, curve in curves(args.quick).items():
        task = curve.task()
        for size in curve.sizes:
            known = {(p["task"], p["rounds"], p["size"]): p for p in report["points"]}
            point = known.get((name, curve.rounds, size)) or measure(name, task, curve.rounds, size)
            if (name, curve.rounds, size) not in known:
                report["points"].append(point)
                print(json.dumps(point), flush=True)
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(report, indent=1) + "\n")
            if point["run_s"] > SECONDS:
                break
    print(render(report))
    if path is not None:
        path.with_suffix(".md").write_text(render(report))
        figure(report, path.with_suffix(".png"))


def measure(name: str, task: byzjax.Task, rounds: int, size: int) -> dict[str, Any]:
    """A point: a sweep of a few chunks of so many runs."""
    fn = runner(rounds, metrics.record(), task)
    dataset = byzjax.sweep(fn, grid=lanes(CHUNKS * size), batch_size=size, progress=False)
    seconds = dataset.attrs["run_seconds"] / CHUNKS
    return {
        "task": name,
        "rounds": rounds,
        "size": size,
        "run_s": round(seconds, 4),
        "compile_s": round(dataset.attrs["compile_seconds"], 2),
        "runs_per_s": float(f"{size / seconds:.4g}"),
        "us_per_round": float(f"{1e6 * seconds / (size * rounds):.4g}"),
    }


def lanes(count: int) -> dict[str, Any]:
    """So many runs: seeds at one learning rate and momentum, for all runs cost the same."""
    return {"seed": np.arange(count), "learning_rate": [0.05], "beta": [0.9]}


def render(report: dict[str, Any]) -> str:
    """The report for people."""
    m = report["machine"]
    rows = [
        (p["task"], p["rounds"], p["size"], p["runs_per_s"], p["us_per_round"], p["run_s"], p["compile_s"])
        for p in report["points"]
    ]
    header = ("task", "rounds", "side by side", "runs a second", "µs per round of a run", "s", "s to compile")
    return (
        "\n\n".join(
            [
                "# Runs side by side",
                f"{m['cores']} cores, {m['cpu']}, on {m['device']}; load of the machine before: {m['load_before']}."
                f" n = {N}, f = {F}; jax {report['versions']['jax']}. Data are brought back after the last round.",
                table(header, rows),
            ]
        )
        + "\n"
    )


def figure(report: dict[str, Any], path: Path) -> None:
    """Runs a second against runs side by side, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for name in dict.fromkeys(p["task"] for p in report["points"]):
        some = [p for p in report["points"] if p["task"] == name]
        rounds = some[0]["rounds"]
        ax.plot(
            [p["size"] for p in some], [p["runs_per_s"] for p in some], "o-", label=f"{name}, {rounds:,} rounds a run"
        )
    ax.set(xscale="log", yscale="log", xlabel="runs side by side", ylabel="runs a second")
    ax.grid(which="both", alpha=0.2)
    ax.legend()
    fig.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
