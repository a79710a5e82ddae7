"""What users wait for before the first round: compilation, cold and from the cache on disk.

    python benchmarks/startup.py [--quick] [--out FOLDER]

Every line is a process of its own, in which nothing is compiled yet: without a cache on disk, filling one, and with the
programs from it. Inside of a process: the same run again, another learning rate, another length. Then a sweep of eight
cells that differ in a number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _timing import label, machine, table

RUN = """
import json, sys, time
start = time.perf_counter()
import jax, jax.numpy as jnp, byzjax
from byzjax import aggregators as agg, attacks, methods, tasks
if {cached}:
    byzjax.enable_compilation_cache()
imported = time.perf_counter()
task, byzantine = tasks.{task}, jnp.arange(20) >= 17

def run(rate, num_rounds):
    start = time.perf_counter()
    rule = {rule}
    method = methods.byz_nsgdm(rate, aggregator=rule)
    result = byzjax.run(task, method, attacks.ipm(scale=10.0), byzantine=byzantine, key=jax.random.key(0),
                        num_rounds=num_rounds, eval_every=30, progress=False)
    jax.block_until_ready(result)
    return time.perf_counter() - start

made = time.perf_counter()
first = run(0.1, 30)
print(json.dumps({{"import": imported - start, "task": made - imported, "first 30 rounds": first,
                  "again": run(0.1, 30), "another rate": run(0.2, 30), "another length": run(0.1, 40)}}))
"""
SWEEP = """
import json, time
import jax, jax.numpy as jnp, byzjax
from byzjax import aggregators as agg, attacks, methods, tasks
task, byzantine = tasks.quartic(20, 3), jnp.arange(20) >= 17

def run(attack, seed):
    rule = byzjax.chain(agg.nnm(f=3), agg.geometric_median())
    method = methods.byz_nsgdm(0.1, aggregator=rule)
    return byzjax.simulate(task, method, attack, byzantine=byzantine, key=jax.random.key(seed), num_rounds=100)

cells = {str(scale): attacks.ipm(scale) for scale in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)}
start = time.perf_counter()
swept = byzjax.sweep(run, grid={"seed": range(16)}, cells={"attack": cells}, progress=False)
print(json.dumps({"all": time.perf_counter() - start, "of it tracing and compiling": swept.attrs["compile_seconds"]}))
"""
RULES = {"mean": "agg.mean()", "NNM + RFA": "byzjax.chain(agg.nnm(f=3), agg.geometric_median())"}
TASKS = {"quartic": "quartic(20, 3)", "MNIST": "mnist(20, 3)"}


def seconds_of(code: str, folder: str) -> dict[str, float]:
    """What a process measures, and how long it lives."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    start = time.perf_counter()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**env, "BYZJAX_CACHE_DIR": folder}, capture_output=True, text=True, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - start}


def main() -> None:
    """All processes, one after the other."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a smoke run: the quartic alone, nothing written")
    options.add_argument("--out", type=Path, help="write there, whatever the other options")
    args = options.parse_args()
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    lines: dict[str, dict[str, float]] = {}
    for task in ["quartic"] if args.quick else TASKS:
        for rule, made in RULES.items():
            with tempfile.TemporaryDirectory() as folder:
                parts = {"task": TASKS[task], "rule": made}
                for kind, cached in (("no cache", False), ("fills the cache", True), ("from the cache", True)):
                    name = f"{task}, {rule}, {kind}"
                    lines[name] = seconds_of(RUN.format(**parts, cached=cached), folder)
                    print(name, {key: round(value, 2) for key, value in lines[name].items()}, flush=True)
    swept = seconds_of(SWEEP, "")
    print("sweep of 8 cells", {key: round(value, 2) for key, value in swept.items()}, flush=True)
    if out is None:
        return
    where: dict[str, Any] = machine()
    report = {"machine": where, "runs": lines, "sweep of 8 cells": swept}
    (out / f"startup-{label(where)}.json").write_text(json.dumps(report, indent=1) + "\n")
    names = list(next(iter(lines.values())))
    rows = [(name, *(f"{found[key]:.2f}" for key in names)) for name, found in lines.items()]
    text = [
        "# Before the first round",
        "Seconds. 20 workers, 3 of them lie (`ipm(scale=10)`), Byz-NSGDM, all metrics, an evaluation after 30 rounds; "
        "`python benchmarks/startup.py`.",
        table(("process", *names), rows),
        f"A sweep of 8 cells that differ in the attack's scale, 16 seeds each, takes {swept['all']:.1f} s, "
        f"{swept['of it tracing and compiling']:.1f} s of it tracing and compiling one program.",
        f"On {where['device']}, {where['cpu']}.",
    ]
    (out / f"startup-{label(where)}.md").write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
