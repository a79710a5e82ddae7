"""Kill a sweep at random moments, resume it each time, and compare with one that nobody disturbed.

    python benchmarks/kill_resume.py --kills 20

A child process runs the sweep on a store and is killed with SIGKILL after a random time, again and again. Then it is
let finish. The data set must have the same bits as that of a child with a store of its own that was never killed.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RULES = ("geometric_median", "median", "mean")
TIMING = ("compile_seconds", "run_seconds")


def child(store: str, out: str, rounds: int, rules: int) -> None:
    """The sweep that is killed: some rules, 48 lanes each, four lanes a chunk."""
    import jax
    import jax.numpy as jnp

    import byzjax
    from byzjax import aggregators as agg
    from byzjax import attacks, methods, results, tasks

    task = tasks.quartic(num_workers=10, num_byzantine=2)

    def quartic(seed, learning_rate, rule):
        method = methods.byz_nsgdm(learning_rate, aggregator=byzjax.chain(agg.nnm(f=2), agg.REGISTRY[rule]()))
        return byzjax.simulate(
            task, method, attacks.bit_flip(), byzantine=jnp.arange(10) >= 8, key=jax.random.key(seed),
            num_rounds=rounds, eval_every=rounds,
        )  # fmt: skip

    dataset = byzjax.sweep(
        quartic,
        grid={"seed": range(16), "learning_rate": [0.01, 0.1, 1e30]},
        cells={"rule": RULES[:rules]},
        batch_size=4,
        store=store,
        config={"eval_every": rounds},
    )
    results.save(dataset, out)


def start(store: Path, options: list[str]) -> subprocess.Popen:
    """A child, with a cache of compiled programs so that it is killed at work and not while it compiles."""
    command = [sys.executable, __file__, "--child", str(store), f"{store}.nc", *options]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(store.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=cache | os.environ)


def chunks_in(store: Path) -> int:
    return len(list(store.glob("chunks/??/[!.]*.nc")))


def experiment(kills: int, rules: int, rounds: int, seed: int, say: Any = print) -> dict[str, Any]:
    """Kill, resume, compare.

    Returns:
      How many children were killed, how many chunks the store had each time, and whether the bits are the same.
    """
    import numpy as np

    from byzjax import results
    from byzjax.storage.chunk_store import ChunkStore, verify

    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, rough = Path(folder, "calm"), Path(folder, "rough")
        options = ["--rules", str(rules), "--rounds", str(rounds)]
        begun = time.perf_counter()
        if start(calm, options).wait() != 0:
            raise SystemExit("the undisturbed sweep failed")
        whole = time.perf_counter() - begun
        total = chunks_in(calm)
        say(f"undisturbed: {whole:.1f} s, {total} chunks")

        seen: list[int] = []
        while len(seen) < kills:
            process = start(rough, options)
            # Half of them at any time of the life of a whole sweep, half once chunks are being written.
            moment, before = draw.uniform(0, whole), chunks_in(rough)
            if draw.random() < 0.5:
                moment = draw.uniform(0, 0.5)
                while process.poll() is None and chunks_in(rough) == before:
                    time.sleep(0.005)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                seen.append(chunks_in(rough))
                say(f"kill {len(seen)}: {seen[-1]} of {total} chunks were there")
            else:  # it finished before: take away a few chunks at random, and go on killing
                if process.returncode != 0:
                    raise SystemExit(f"a resumed sweep failed with {process.returncode}")
                for path in draw.sample(sorted(rough.glob("chunks/??/[!.]*.nc")), k=max(1, total // 2)):
                    path.unlink()
        if start(rough, options).wait() != 0:
            raise SystemExit("the last resumed sweep failed")

        one, other = (results.load(Path(folder, f"{name}.nc")) for name in ("calm", "rough"))
        one.attrs = {name: value for name, value in one.attrs.items() if name not in TIMING}
        other.attrs = {name: value for name, value in other.attrs.items() if name not in TIMING}
        bits = all(
            np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in one.variables
        )  # NaN of a diverged lane has bits too
        report = verify(ChunkStore(rough))
        return {
            "kills": len(seen),
            "chunks": total,
            "chunks_at_kills": seen,
            "diverged_lanes": int(one.attrs["diverged"]),
            "identical": bool(bits and one.identical(other)),
            "damaged": len(report.damaged),
            "chunks_in_the_end": report.sound,
        }


def main() -> None:
    """Experiment, print, fail if a bit differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rules", type=int, default=3, choices=(1, 2, 3), help="cells of the sweep")
    parser.add_argument("--rounds", type=int, default=1500, help="rounds per lane: how long the sweep takes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--child", nargs=2, metavar=("STORE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child, args.rounds, args.rules)
        return
    report = experiment(args.kills, args.rules, args.rounds, args.seed)
    print(report)
    if not report["identical"] or report["damaged"] or report["chunks_in_the_end"] != report["chunks"]:
        raise SystemExit("NOT identical")


if __name__ == "__main__":
    main()
