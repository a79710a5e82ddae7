"""What `byzjax.robust_pmean` costs beside `jax.lax.pmean` on 8 devices, in time and in memory, as d grows.

``python benchmarks/all_reduce.py`` prints a table and JSON, and writes them to ``benchmarks/results/all_reduce.*``;
``--quick`` is a smoke run. Eight virtual devices share the cores of a CPU and its memory: what is counted is copying
and arithmetic, not a network.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

DEVICES = 8
FLAG = f"--xla_force_host_platform_device_count={DEVICES}"
os.environ["XLA_FLAGS"] = f"{FLAG} {os.environ.get('XLA_FLAGS', '')}"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from _peers import versions  # noqa: E402
from _timing import Arm, Fixed, interleaved, label, machine, table  # noqa: E402

import byzjax  # noqa: E402
from byzjax import aggregators as agg  # noqa: E402

DIMS = (100_000, 1_000_000, 10_000_000)
LARGEST = 100_000_000  # compiled for its memory, not run
COLUMNS = ("median_ms", "min_ms", "max_ms", "ratio", "alone_ms")
P = jax.P


def rules() -> dict[str, Any]:
    return {
        "mean": agg.mean(),
        "median": agg.median(),
        "trimmed mean": agg.trimmed_mean(f=1),
        "krum": agg.krum(f=1),
        "NNM + RFA": byzjax.chain(agg.nnm(f=1), agg.geometric_median()),
        "centred clipping": agg.centered_clipping(),
    }


def reductions() -> dict[str, Any]:
    """Of one device's gradient; the state of a rule that remembers is its last result."""

    def robust(rule):
        def reduce(x):
            state = rule.init(jnp.zeros_like(x))
            if not jax.tree.leaves(state):
                return byzjax.robust_pmean(x, "data", rule)
            return byzjax.robust_pmean(x, "data", rule, state=state)[0]

        return reduce

    return {"pmean": lambda x: jax.lax.pmean(x, "data")} | {name: robust(rule) for name, rule in rules().items()}


def compiled(reduce, dim: int):
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    inside = jax.shard_map(lambda x: reduce(x[0]), mesh=mesh, in_specs=P("data"), out_specs=P())
    spread = jax.sharding.NamedSharding(mesh, P("data"))
    shape = jax.ShapeDtypeStruct((DEVICES, dim), jnp.float32, sharding=spread)
    return jax.jit(inside).lower(shape).compile(), spread


def memory(program, dim: int) -> dict[str, float]:
    """In gradients of 4 d bytes, on one device beside what it was handed."""
    found = program.memory_analysis()
    return {
        "temporary": round(found.temp_size_in_bytes / (4 * dim), 3),
        "result": round(found.output_size_in_bytes / (4 * dim), 3),
    }


def arm(program, x) -> Arm:
    return Arm(lambda: jax.block_until_ready(program(x)))


def alone(rule, x) -> Arm:
    """The rule on the whole stack, on one device that has all cores to itself: the arithmetic without the devices."""
    program = jax.jit(lambda x: rule.update(x, rule.init(x[0]))[0]).lower(x).compile()
    return arm(program, x)


def measure(dims: tuple[int, ...], largest: int, reps: int) -> list[dict[str, Any]]:
    rows = []
    for dim in dims:
        programs = {name: compiled(reduce, dim) for name, reduce in reductions().items()}
        spread = next(iter(programs.values()))[1]
        x = jax.random.normal(jax.random.key(0), (DEVICES, dim))
        placed = jax.device_put(x, spread)
        arms = {name: arm(program, placed) for name, (program, _) in programs.items()}
        times = interleaved(arms | {f"{name}, alone": alone(rule, x) for name, rule in rules().items()}, reps, often=5)
        del x, placed, arms  # before the next ones are drawn
        for name, (program, _) in programs.items():
            ratio = times[name].median / times["pmean"].median
            row = {"dim": dim, "rule": name, **times[name].milliseconds(), "ratio": round(ratio, 2)}
            if f"{name}, alone" in times:
                row["alone_ms"] = times[f"{name}, alone"].milliseconds()["median_ms"]
            rows.append(row | memory(program, dim))
    for name, reduce in reductions().items():
        rows.append({"dim": largest, "rule": name, **memory(compiled(reduce, largest)[0], largest)})
    return rows


def render(report: dict[str, Any]) -> str:
    about = report["machine"]
    lines = [
        "# robust_pmean beside pmean",
        "",
        f"{DEVICES} virtual devices on {about['cores']} cores of {about['cpu']}, load {about['load_before']} before; "
        f"JAX {report['versions']['jax']}, float32, f = 1. Milliseconds are medians (least to most); memory is what a "
        "device needs beside its gradient, in gradients; result included. Alone: the rule on the stack of all "
        "gradients, on one device that has all cores.",
    ]
    for dim in dict.fromkeys(row["dim"] for row in report["rows"]):
        found = [row for row in report["rows"] if row["dim"] == dim]
        timed = "median_ms" in found[0]
        header = ["rule", *(["ms", "from", "to", "× pmean", "alone"] if timed else []), "memory"]
        body = [
            [row["rule"]]
            + ([Fixed(row[k]) if k in row else "–" for k in COLUMNS] if timed else [])
            + [Fixed(row["temporary"] + row["result"])]
            for row in found
        ]
        lines += ["", f"d = {dim:,}" + ("" if timed else ", compiled, not run"), "", table(header, body)]
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    options.add_argument("--quick", action="store_true", help="a smoke run: small, nothing written")
    options.add_argument("--reps", type=int, default=5)
    args = options.parse_args()
    about = machine()
    dims, largest = ((10_000,), 100_000) if args.quick else (DIMS, LARGEST)
    report = {
        "machine": about,
        "versions": versions({}),
        "rows": measure(dims, largest, 1 if args.quick else args.reps),
    }
    text = render(report)
    print(text)
    if args.quick:
        return
    place = Path(__file__).parent / "results"
    (place / "all_reduce.json").write_text(json.dumps(report, indent=1) + "\n")
    (place / "all_reduce.md").write_text(text)
    print(f"Written: all_reduce.json and .md in {place.name}, on {label(about)}.")


if __name__ == "__main__":
    main()
