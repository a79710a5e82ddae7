"""Lane-rounds a second of a sweep of the quartic, beside a Python loop over single runs and NumPy.

``python benchmarks/sweep.py`` prints a table and JSON and writes both to ``benchmarks/results``; ``--quick`` is a smoke
run. 1,000 lanes (seeds × learning rates × β) of Byz-NSGDM with NNM and the geometric median under bit flip, n = 20. All
arms do the same algorithm: before the clock starts, the NumPy versions are compared with byzjax without noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _timing import Timing, label, machine, table

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, tasks
from byzjax._version import __version__
from byzjax.testing import references

N, F, DIM = 20, 3, 10
GRID = {"seed": range(10), "learning_rate": np.geomspace(0.01, 1.0, 10), "beta": np.linspace(0.0, 0.9, 10)}
LANES = 1000
RECORDS = {"evaluations only": metrics.record(), "all metrics": metrics.default_record}
GOALS = {"us_per_lane_round": 15.0, "over_single_runs": 2.5, "over_numpy": 200.0}
SWEEP, SINGLE = "byzjax.sweep", "Python loop over jitted single runs"
PLAIN, ROWWISE = "NumPy, loops over workers", "NumPy, no loop over workers"


def runner(rounds: int, record: metrics.Record, task: byzjax.Task | None = None) -> Callable[..., byzjax.Result]:
    """One lane."""
    task = tasks.quartic(N, F, dim=DIM) if task is None else task
    rule = byzjax.chain(agg.nnm(f=F), agg.geometric_median())

    def quartic(seed, learning_rate, beta):
        return byzjax.simulate(
            task,
            methods.byz_nsgdm(learning_rate, aggregator=rule, beta=beta),
            attacks.bit_flip(),
            byzantine=jnp.arange(N) >= N - F,
            key=jax.random.key(seed),
            num_rounds=rounds,
            eval_every=max(1, rounds // 10),
            record=record,
        )

    return quartic


def plain_aggregate(rows: np.ndarray) -> np.ndarray:
    """The formulas, worker by worker: the references of the tests."""
    return references.geometric_median(references.nnm(rows, F))


def rowwise_aggregate(rows: np.ndarray) -> np.ndarray:
    """The same as an experienced user of NumPy would write it."""
    gram = rows @ rows.T
    sizes = gram.diagonal()
    distances = sizes[:, None] + sizes[None, :] - 2 * gram
    np.fill_diagonal(distances, -np.inf)
    nearest = np.argpartition(distances, N - F - 1, axis=1)[:, : N - F]
    mixed = rows[nearest].mean(1)
    z = np.zeros(DIM)
    for _ in range(8):
        away = mixed - z
        weights = 1 / np.maximum(np.sqrt(np.einsum("ij,ij->i", away, away)), 0.1)
        z = weights @ mixed / weights.sum()
    return z


def numpy_run(
    task: byzjax.Task, seed: int, learning_rate: float, beta: float, rounds: int, *, rowwise: bool
) -> np.ndarray:
    """A lane in NumPy, float64: the parameters after ``rounds``."""
    rng = np.random.default_rng(seed)
    shifts, noise = np.asarray(task.data["shifts"], float), float(task.data["noise_scale"])
    x, momenta = np.ones(DIM), np.zeros((N, DIM))
    for k in range(1, rounds + 1):
        slopes = shifts + noise * rng.normal(size=(N, DIM))
        if rowwise:
            gradients = 4 * x * (x @ x) + slopes
            momenta = beta * momenta + (1 - beta) * gradients
            sent = momenta.copy()
            sent[N - F :] = -gradients[N - F :]
        else:
            gradients = np.stack([4 * x * np.dot(x, x) + slopes[i] for i in range(N)])
            for i in range(N):
                momenta[i] = beta * momenta[i] + (1 - beta) * gradients[i]
            sent = np.stack([momenta[i] if i < N - F else -gradients[i] for i in range(N)])
        v = rowwise_aggregate(sent) if rowwise else plain_aggregate(sent)
        length = np.linalg.norm(v)
        if length > 0:
            x = x - learning_rate / np.sqrt(k) * v / length
    return x


def agreement(rounds: int = 40) -> dict[str, float]:
    """Without noise the arms compute the same: the largest relative difference of the parameters."""
    task = tasks.quartic(N, F, dim=DIM, noise_scale=0.0)
    ours = np.asarray(runner(rounds, metrics.record(), task)(jnp.uint32(0), 0.05, 0.9).state.params, float)
    found = {name: numpy_run(task, 0, 0.05, 0.9, rounds, rowwise=name == ROWWISE) for name in (PLAIN, ROWWISE)}
    differences = {name: float(np.abs(x - ours).max() / np.abs(ours).max()) for name, x in found.items()}
    for name, difference in differences.items():
        if not difference < 1e-4:
            raise SystemExit(f"{name} is not the same algorithm: {difference}")
    return differences


def sweep_arm(rounds: int, record: metrics.Record, notes: dict[str, Any]) -> Callable[[], float]:
    """Seconds per lane-round of a whole sweep, compilation apart."""
    fn = runner(rounds, record)

    def run() -> float:
        dataset = byzjax.sweep(fn, grid=GRID, progress=False)
        notes.setdefault("compile_s", []).append(round(dataset.attrs["compile_seconds"], 2))
        notes["batch_size"] = json.loads(dataset.attrs["batch_size"])[""]
        notes["diverged"] = dataset.attrs["diverged"]
        return dataset.attrs["run_seconds"] / (LANES * rounds)

    return run


def single_arm(rounds: int, record: metrics.Record, lanes: int) -> Callable[[], float]:
    """The same lanes one after the other; some of them are enough."""
    fn = jax.jit(runner(rounds, record))
    grid = [np.asarray(values) for values in GRID.values()]
    draw = np.random.default_rng(0)
    points = [
        tuple(np.asarray(draw.choice(values), kind) for values, kind in zip(grid, ("u4", "f4", "f4"), strict=True))
        for _ in range(lanes)
    ]
    jax.block_until_ready(fn(*points[0]))

    def run() -> float:
        start = time.perf_counter()
        for point in points:
            jax.block_until_ready(fn(*point))
        return (time.perf_counter() - start) / (lanes * rounds)

    return run


def numpy_arm(rounds: int, *, rowwise: bool) -> Callable[[], float]:
    task = tasks.quartic(N, F, dim=DIM)

    def run() -> float:
        start = time.perf_counter()
        numpy_run(task, 0, 0.1, 0.9, rounds, rowwise=rowwise)
        return (time.perf_counter() - start) / rounds

    return run


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true", help="a smoke run: few rounds, nothing written")
    options.add_argument("--reps", type=int, help="repetitions (5; 1 with --quick)")
    options.add_argument("--rounds", type=int, help="rounds per lane (1000; 100 with --quick)")
    options.add_argument("--out", type=Path, help="write there, whatever the other options")
    args = options.parse_args()
    reps, rounds = args.reps or (1 if args.quick else 5), args.rounds or (100 if args.quick else 1000)

    report: dict[str, Any] = {
        "machine": machine(),
        "versions": {"byzjax": __version__, "jax": jax.__version__, "numpy": np.__version__},
        "settings": {
            "lanes": LANES, "rounds": rounds, "n": N, "f": F, "d": DIM, "rule": "nnm+rfa", "attack": "bit_flip",
            "method": "byz_nsgdm", "evaluations": 10, "repetitions": reps,
        },
        "agreement": agreement(),
    }  # fmt: skip
    notes: dict[str, dict[str, Any]] = {what: {} for what in RECORDS}
    arms: dict[str, Callable[[], float]] = {}
    for what, record in RECORDS.items():
        arms[f"{SWEEP}, {what}"] = sweep_arm(rounds, record, notes[what])
        arms[f"{SINGLE}, {what}"] = single_arm(rounds, record, lanes=20)
    arms[PLAIN] = numpy_arm(max(20, rounds // 10), rowwise=False)
    arms[ROWWISE] = numpy_arm(max(20, rounds // 2), rowwise=True)

    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for rep in range(reps):  # interleaved, forwards and backwards, as in _timing
        for name in list(arms) if rep % 2 == 0 else reversed(arms):
            seconds[name].append(arms[name]())
    timings = {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}

    report["sweeps"] = notes
    report["us_per_lane_round"] = {
        name: {part: round(1e6 * value, 3) for part, value in timing._asdict().items()}
        for name, timing in timings.items()
    }
    best = timings[f"{SWEEP}, evaluations only"].median
    report["ratios"] = {
        **{
            f"over single runs, {w}": timings[f"{SINGLE}, {w}"].median / timings[f"{SWEEP}, {w}"].median
            for w in RECORDS
        },
        **{f"over {name}": timings[name].median / best for name in (PLAIN, ROWWISE)},
    }
    report["ratios"] = {name: round(ratio, 2) for name, ratio in report["ratios"].items()}
    reached = {
        "us_per_lane_round": 1e6 * best,
        "over_single_runs": report["ratios"]["over single runs, evaluations only"],
        "over_numpy": report["ratios"][f"over {PLAIN}"],
    }
    report["goals"] = {
        name: {
            "goal": goal,
            "reached": round(reached[name], 2),
            "met": bool(reached[name] <= goal if name == "us_per_lane_round" else reached[name] >= goal),
        }
        for name, goal in GOALS.items()
    }
    text = render(report)
    print(text, json.dumps(report, indent=2), sep="\n")
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = f"sweep-{label(report['machine'])}"
        (out / f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
        (out / f"{stem}.md").write_text(text)


def render(report: dict[str, Any]) -> str:
    """The report for people."""
    first, settings = report["machine"], report["settings"]
    rows = [[name, t["median"], t["min"], t["max"]] for name, t in report["us_per_lane_round"].items()]
    goals = [[name, g["goal"], g["reached"], "yes" if g["met"] else "no"] for name, g in report["goals"].items()]
    compiling = {what: note["compile_s"] for what, note in report["sweeps"].items()}
    return "\n".join(
        [
            f"{first['cores']} cores, {first['cpu']}, {first['device']}; load before: {first['load_before']}",
            f"{settings['lanes']} lanes of {settings['rounds']} rounds, n = {N}, f = {F}, d = {DIM}\n",
            table(["microseconds per lane-round", "median", "least", "most"], rows),
            f"\nTracing and compiling a sweep, apart: {compiling} s\n",
            table(["ratio of medians", "times"], [[name, ratio] for name, ratio in report["ratios"].items()]),
            "",
            table(["goal", "wanted", "reached", "met"], goals),
            "",
        ]
    )


if __name__ == "__main__":
    main()
