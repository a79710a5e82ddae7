"""Choose the learning rates of `byzjax demo` on validation accuracy, and print what every candidate gave.

    python benchmarks/tune_demo.py --out benchmarks/results/tune_demo.json

Every combination of method, rule and attack of the demo gets its own rate from one grid, as in the paper; the test
set is not looked at. A candidate's score is the mean validation accuracy of its last three evaluations, and 0 if it
diverged. One seed, which is not the demo's, and fewer rounds than the demo.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import byzjax
from byzjax import attacks, methods, tasks
from byzjax.configs import specs

GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ROBUST, MEAN = "nnm,rfa", "mean"
BIT_FLIP, IPM = "bit_flip", "ipm(scale=10.0)"
CELLS = (
    ("byz_nsgdm", MEAN, "none"),
    ("byz_nsgdm", ROBUST, "none"),
    *(
        (method, ROBUST, attack)
        for attack in (BIT_FLIP, IPM)
        for method in ("momentum_sgd", "momentum_sgd(decay=True)", "byz_nsgdm")
    ),
    ("byz_nsgdm", MEAN, BIT_FLIP),
    ("byz_nsgdm", MEAN, IPM),
)


def tune(seed: int, num_rounds: int, num_workers: int = 20, num_byzantine: int = 3) -> list[dict]:
    """Every cell at every rate; one compiled program per cell, in which the rate is traced.

    Args:
      seed: of the runs.
      num_rounds: per candidate; 10 evaluations.
      num_workers: as in the demo.
      num_byzantine: as in the demo.
    """
    task = tasks.mnist(num_workers=num_workers, num_byzantine=num_byzantine)
    byzantine = jnp.arange(num_workers) >= num_workers - num_byzantine
    rows = []
    for method, rule, attack in CELLS:
        aggregator = specs.build_rule(specs.bind_rule(rule, f=num_byzantine))
        adversary = specs.bind(specs.parse(attack), attacks.REGISTRY, "attack").build()
        chosen = specs.parse(method)

        @jax.jit
        def accuracies(task, rate, chosen=chosen, aggregator=aggregator, adversary=adversary):
            options = {"learning_rate": rate, "aggregator": aggregator}
            return byzjax.simulate(
                task,
                specs.bind(chosen, methods.REGISTRY, "method", options=options).build(),
                adversary,
                byzantine=byzantine,
                key=jax.random.key(seed),
                num_rounds=num_rounds,
                eval_every=num_rounds // 10,
                record=byzjax.metrics.record(),
            ).evals["val_accuracy"]

        for rate in GRID:
            start = time.perf_counter()
            values = np.asarray(accuracies(task, rate))
            finite = bool(np.isfinite(values).all())
            score = float(values[-3:].mean()) if finite else 0.0
            rows.append(
                {
                    "method": method,
                    "aggregator": rule,
                    "attack": attack,
                    "learning_rate": rate,
                    "score": score,
                    "finite": finite,
                }
            )
            seconds = time.perf_counter() - start
            print(f"{method:26}{rule:9}{attack:17}{rate:<7}{100 * score:6.2f} %  {seconds:3.0f} s", flush=True)
    return rows


def choose(rows: list[dict]) -> list[dict]:
    """The best row of every cell; of equals the one with the smaller rate."""
    best: dict[tuple, dict] = {}
    for row in rows:
        cell = row["method"], row["aggregator"], row["attack"]
        if cell not in best or row["score"] > best[cell]["score"]:
            best[cell] = row
    return list(best.values())


def main() -> None:
    """Tune, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--num-rounds", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tune_demo.json"))
    args = parser.parse_args()
    if args.num_rounds < 10:
        parser.error("--num-rounds must be at least 10: there are ten evaluations")
    rows = tune(args.seed, args.num_rounds)
    content = {"seed": args.seed, "num_rounds": args.num_rounds, "grid": GRID, "chosen": choose(rows), "runs": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    print("\nchosen:")
    for row in content["chosen"]:
        cell = f"{row['method']:26}{row['aggregator']:9}{row['attack']:17}"
        print(f"{cell}{row['learning_rate']:<7}{100 * row['score']:6.2f} %")


if __name__ == "__main__":
    main()
