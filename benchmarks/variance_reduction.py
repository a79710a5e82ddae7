"""True gradient norms of methods with variance reduction or error feedback, beside momentum SGD, under attack.

    python benchmarks/variance_reduction.py

ℓ2-regularised logistic regression, 20 workers of which 3 lie, all with the same 100 examples in R^10, λ = 0.1, batches
of one, NNM and the geometric median, constant step 0.3, 1,000 rounds, float32, medians over 5 seeds.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from _timing import machine, table

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, metrics, tasks, transforms
from byzjax import methods as m
from byzjax.base import Method

N, B, EXAMPLES, P, RATE, EVERY, SEEDS, GOAL = 20, 3, 100, 0.1, 0.3, 20, 5, 1e-5
RESULTS = Path(__file__).parent / "results"
ATTACKS = {"none": attacks.none(), "bit flip": attacks.bit_flip(), "ALIE": attacks.alie(1.0)}


def marina_pp(rate: float, *, aggregator: Any, scale: float, full: Literal["whole", "clipped"] = "whole") -> Method:
    """Byz-VR-MARINA with clipped differences."""
    return m.clipped_differences(m.byz_vr_marina(rate, aggregator=aggregator, p=P), scale=scale, full=full)


# And the gradients of single examples that a worker computes in a round, on average.
MARINA_COST = P * EXAMPLES + 2 * (1 - P)
MARINA, FEEDBACK = functools.partial(m.byz_vr_marina, p=P), {"compressor": 0.25}
METHODS: dict[str, tuple[Callable[..., Method], float]] = {
    "momentum SGD": (m.momentum_sgd, 1),
    "Byz-VR-MARINA": (MARINA, MARINA_COST),
    "Byz-VR-MARINA, own base": (functools.partial(MARINA, base="own"), MARINA_COST),
    "Byz-VR-MARINA, random 25 %": (functools.partial(MARINA, compressor=0.25), MARINA_COST),
    "Byz-VR-MARINA, natural": (functools.partial(MARINA, compressor=transforms.natural_compression()), MARINA_COST),
    "Byz-LSVRG": (functools.partial(m.byz_lsvrg, p=P), 2 + (1 - (1 - P) ** N) * EXAMPLES),
    "Byz-LSVRG, shared coin": (functools.partial(m.byz_lsvrg, p=P, coin="shared"), 2 + P * EXAMPLES),
    "Byrd-SAGA": (m.byrd_saga, 1),
    "Byrd-SAGA, 10 examples": (functools.partial(m.byrd_saga, batch_size=10), 10),
    "Byz-EF21, top 25 %": (functools.partial(m.byz_ef21, **FEEDBACK), EXAMPLES),
    "Byz-EF21-SGDM, top 25 %": (functools.partial(m.byz_ef21, beta=0.9, **FEEDBACK), 1),
    "Byz-DM21, top 25 %": (functools.partial(m.byz_dm21, **FEEDBACK), 1),
    "Byz-VR-DM21, top 25 %": (functools.partial(m.byz_dm21, variance_reduced=True, **FEEDBACK), 2),
    "Byz-VR-MARINA-PP, λ = 1": (functools.partial(marina_pp, scale=1.0), MARINA_COST),
    "… full gradients clipped, too": (functools.partial(marina_pp, scale=1.0, full="clipped"), MARINA_COST),
    "… and λ = 20": (functools.partial(marina_pp, scale=20.0, full="clipped"), MARINA_COST),
}


def norms(make: Callable[..., Method], attack: Any, rounds: int, seeds: int) -> np.ndarray:
    """True gradient norms [seed, evaluation]."""
    task = tasks.logistic_regression(N, B, num_examples=EXAMPLES, dim=10, l2=0.1)
    rule = byzjax.chain(agg.nnm(B), agg.geometric_median())

    def one(task: Any, seed: jax.Array) -> jax.Array:
        return byzjax.simulate(
            task,
            make(RATE, aggregator=rule),
            attack,
            byzantine=jnp.asarray(task.byzantine),
            key=jax.random.key(seed),
            num_rounds=rounds,
            eval_every=EVERY,
            record=metrics.record(),
        ).evals["gradient_norm"]

    return np.asarray(jax.jit(jax.vmap(one, in_axes=(None, 0)))(task, jnp.arange(seeds)))


def main() -> None:
    """All methods under all attacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: 40 rounds, one seed; writes nothing")
    args = parser.parse_args()
    rounds, seeds = (2 * EVERY, 1) if args.quick else (1000, SEEDS)
    rows, found = [], {}
    for name, (make, cost) in METHODS.items():
        row, found[name] = [name, f"{cost:.3g}"], {"gradients_a_round": cost}
        for label, attack in ATTACKS.items():
            seen = norms(make, attack, rounds, seeds)
            last, there = float(np.median(seen[:, -1])), np.median(seen, 0) <= GOAL
            first = EVERY * (int(there.argmax()) + 1) if there.any() else None
            found[name][label] = {"gradient_norm": last, "rounds_to_1e-5": first}
            row += [f"{last:.1e}", "–" if first is None else str(first)]
        rows.append(row)
        print(*row, sep=" | ", flush=True)
    head = ["method", "gradients a round", *(text for label in ATTACKS for text in (label, "rounds to 1e-5"))]
    if not args.quick:
        whole = {"machine": machine(), "rounds": rounds, "seeds": seeds, "methods": found}
        (RESULTS / "variance_reduction.json").write_text(json.dumps(whole, indent=1) + "\n")
        (RESULTS / "variance_reduction.md").write_text(f"# Variance reduction\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
