"""Many different runs in one process: are memory maps and memory bounded?

    python benchmarks/long_lived.py --runs 10000 --out benchmarks/results/long_lived.json

Every run has a schedule of its own, so nothing is compiled twice; every tenth time a rule with a constant of its own
aggregates, every hundredth time a function of its own is swept. Linux allows a process 65,530 memory maps.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import byzjax
from byzjax import aggregators, attacks, methods, metrics, tasks

TASK = tasks.quartic(num_workers=5)
ROWS = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
OPTIONS = {"byzantine": jnp.zeros(5, bool), "num_rounds": 2, "record": metrics.record()}


def once(number: int) -> None:
    """The run of that number, and what comes with it."""
    rate = 0.1 * (1 + 1e-6 * number)
    method = methods.momentum_sgd(lambda count: rate, aggregator=aggregators.mean())
    byzjax.run(TASK, method, attacks.none(), key=jax.random.key(0), progress=False, **OPTIONS)
    if number % 10 == 0:
        byzjax.aggregate(aggregators.geometric_median(smoothing=rate), ROWS)
    if number % 100 == 0:
        byzjax.sweep(lambda x: {"value": rate * x}, grid={"x": [0.0, 1.0]}, progress=False)


def used() -> dict[str, float]:
    """What the process has of what a system has only so much of."""
    status = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]
    maps = len(Path("/proc/self/maps").read_text().splitlines())
    return {"maps": maps, "megabytes": int(status) / 1e3, "files": len(os.listdir("/proc/self/fd"))}


def main() -> None:
    """All runs, and a line for every hundredth part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    start, seen = time.perf_counter(), []
    for number in range(chosen.runs):
        once(number)
        if (number + 1) % max(1, chosen.runs // 100) == 0:
            seen.append({"runs": number + 1, "seconds": time.perf_counter() - start, **used()})
            print(", ".join(f"{value:.0f} {name}" for name, value in seen[-1].items()), flush=True)
            if chosen.out is not None:
                chosen.out.write_text(json.dumps({"jax": jax.__version__, "seen": seen}, indent=1) + "\n")


if __name__ == "__main__":
    main()
