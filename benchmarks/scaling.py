"""What a rule costs as n and d grow, in copies of the stack, and how much memory it needs beside it.

``python benchmarks/scaling.py`` prints a table and JSON, and writes them with a figure to ``benchmarks/results``;
``--quick`` is a smoke run, ``--draw FILE`` makes table and figure again. Stacks are drawn on the device, one at a time.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from _peers import versions
from _timing import Fixed, label, machine, table

import byzjax
from byzjax import aggregators as agg

WORKERS = (8, 16, 32, 64, 128, 256, 512, 1024)
DIMS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
N, DIM = 20, 100_000  # what is kept where the other one grows
LARGEST = {"cpu": 8.1e9, "gpu": 2.0e10}  # bytes of a stack
SECONDS = 3.0  # of repetitions per point
GOALS = {(20, 100_000_000): 0.1, (1_000, 100_000): 0.1}  # memory beside the stack, in stacks


def rules(n: int) -> dict[str, Any]:
    f = max(1, 3 * n // 20)
    return {
        "mean": agg.mean(),
        "median": agg.median(),
        "trimmed_mean": agg.trimmed_mean(f),
        "krum": agg.krum(f),
        "cge": agg.cge(f),
        "nnm + geometric_median": byzjax.chain(agg.nnm(f), agg.geometric_median()),
        "nnm + median": byzjax.chain(agg.nnm(f), agg.median()),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--quick", action="store_true", help="a smoke run: small shapes, nothing written")
    options.add_argument("--out", type=Path, help="write there, whatever the other options")
    options.add_argument("--draw", type=Path, help="measure nothing: table and figure of this JSON, beside it")
    args = options.parse_args()
    if args.draw:
        report = json.loads(args.draw.read_text())
        args.draw.with_suffix(".md").write_text(render(report))
        figure(report, args.draw.with_suffix(".png"))
        return
    platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
    most = 4e6 if args.quick else LARGEST[platform]
    shapes = [(n, DIM) for n in WORKERS] + [(N, d) for d in DIMS if d != DIM] + [(N, DIM), (1_000, DIM)]
    shapes = [(n, d) for n, d in dict.fromkeys(shapes) if 4 * n * d <= most]

    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    report: dict[str, Any] = {"machine": machine(), "versions": versions({}), "points": []}
    for n, d in shapes:
        for point in measure(n, d):
            report["points"].append(point)
            print(json.dumps(point), flush=True)
    text = render(report)
    print(text)
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = f"scaling-{label(report['machine'])}"
        (out / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
        (out / f"{stem}.md").write_text(text)
        figure(report, out / f"{stem}.png")


@functools.partial(jax.jit, static_argnames=("n", "d"))
def draw(n: int, d: int) -> jax.Array:
    """Uniform numbers, row by row, so that drawing needs no second stack."""
    rows = jnp.zeros((n, d), jnp.float32)

    def row(i: jax.Array, x: jax.Array) -> jax.Array:
        return x.at[i].set(jax.random.uniform(jax.random.key(i), (d,), minval=-1.0))

    return jax.lax.fori_loop(0, n, row, rows)


def measure(n: int, d: int) -> list[dict[str, Any]]:
    """All rules at one shape, each beside the copy: medians over about as many repetitions as fit the time."""
    x = draw(n, d).block_until_ready()
    copy, _ = best_of(jax.jit(jnp.copy).lower(x).compile(), x)
    points = []
    for name, rule in rules(n).items():
        start = time.perf_counter()
        compiled = jax.jit(functools.partial(byzjax.aggregate, rule)).lower(x).compile()
        compiling = time.perf_counter() - start
        stats = compiled.memory_analysis()
        seconds, repetitions = best_of(compiled, x)
        points.append(
            {
                "rule": name,
                "n": n,
                "d": d,
                "ms": float(f"{1e3 * seconds:.4g}"),
                "copies": float(f"{seconds / copy:.3g}"),
                "copy_ms": float(f"{1e3 * copy:.4g}"),
                "repetitions": repetitions,
                "compile_s": round(compiling, 2),
                "memory": None
                if stats is None
                else round((stats.temp_size_in_bytes + stats.output_size_in_bytes) / x.nbytes, 4),
            }
        )
    return points


def best_of(compiled: Any, x: jax.Array) -> tuple[float, int]:
    """The median time of a call after an untimed one, and of how many; three at least, 31 at most."""
    jax.block_until_ready(compiled(x))
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < SECONDS and len(seconds) < 31):
        start = time.perf_counter()
        jax.block_until_ready(compiled(x))
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2], len(seconds)


def render(report: dict[str, Any]) -> str:
    m, points = report["machine"], report["points"]

    def shown(some: list[dict[str, Any]], grows: str) -> str:
        values = sorted({p[grows] for p in some})
        names = list(dict.fromkeys(p["rule"] for p in some))
        found = {(p["rule"], p[grows]): p for p in some}
        header = ("ms (copies)", *(f"{grows} = {value:,}" for value in values))
        rows = [
            (name, *(f"{found[name, v]['ms']:.3g} ({found[name, v]['copies']:.2g})" for v in values)) for name in names
        ]
        return table(header, [("copy", *(f"{found[names[0], v]['copy_ms']:.3g}" for v in values)), *rows])

    memory = [
        (f"n = {p['n']:,}, d = {p['d']:,}", p["rule"], Fixed(100 * p["memory"]), f"{p['compile_s']} s")
        for p in points
        if (p["n"], p["d"]) in GOALS and p["memory"] is not None
    ]
    parts = [
        "# Rules as n and d grow",
        f"{m['cores']} cores, {m['cpu']}, on {m['device']}; load of the machine before the run: {m['load_before']}. "
        "float32, f = 3n/20; medians.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".",
        f"d = {DIM:,}:",
        shown([p for p in points if p["d"] == DIM], "n"),
        f"n = {N}:",
        shown([p for p in points if p["n"] == N], "d"),
    ]
    if memory:
        parts += [
            "Memory beside the stack, the result included, as XLA states it:",
            table(("shape", "rule", "% of the stack", "compilation"), memory),
        ]
    return "\n\n".join(parts) + "\n"


def figure(report: dict[str, Any], path: Path) -> None:
    """Time per number of the stack against n and against d, with the copy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for ax, grows, kept in zip(axes, ("n", "d"), (("d", DIM), ("n", N)), strict=True):
        some = [p for p in report["points"] if p[kept[0]] == kept[1]]
        for name in dict.fromkeys(p["rule"] for p in some):
            line = sorted((p[grows], 1e6 * p["ms"] / p["n"] / p["d"]) for p in some if p["rule"] == name)
            ax.plot(*zip(*line, strict=True), "o-", markersize=4, linewidth=1.2, label=name)
        copy = sorted({(p[grows], 1e6 * p["copy_ms"] / p["n"] / p["d"]) for p in some})
        ax.plot(*zip(*copy, strict=True), "--", color="black", linewidth=1.0, label="copy of the stack")
        ax.set(xscale="log", yscale="log", xlabel=grows, title=f"{kept[0]} = {kept[1]:,}")
        ax.grid(which="both", alpha=0.2)
    axes[0].set_ylabel("nanoseconds per number of the stack")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    fig.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
