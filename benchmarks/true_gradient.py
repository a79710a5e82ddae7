"""MNIST's true gradient norm: every cell of Table 1 once more at the learning rate that it chose, with ``‖∇f_G‖``.

    python benchmarks/true_gradient.py benchmarks/results/paper reproduction-true
    byzjax report reproduction-true --out report-true

The gradient of the honest workers' objective over all of their 55,000 images costs as much as a hundred rounds, too
much for a whole grid of learning rates. Here it is evaluated in rounds 150, 300, …, 1500. Resumable; several processes
may share the work.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import byzjax.experiments.paper.mnist
from byzjax import tasks
from byzjax.experiments.experiment import reduced
from byzjax.experiments.paper import studies
from byzjax.experiments.reproduce import reproduce

N, B = byzjax.experiments.paper.mnist.N, byzjax.experiments.paper.mnist.B


def main() -> None:
    """All cells of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chosen", type=Path, help="a store whose mnist-paper.nc says which learning rates")
    parser.add_argument("store", type=Path)
    parser.add_argument("--method", action="append", help="only this one (repeatable)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one case, one seed, 150 rounds")
    args = parser.parse_args()
    study = next((study for study in studies.load(args.chosen) if study.key == "mnist-paper"), None)
    if study is None:
        parser.error(f"{args.chosen} has no mnist-paper.nc; run byzjax reproduce mnist --variant paper first")
    if unknown := set(args.method or ()) - set(study.methods):
        parser.error(f"--method {', '.join(sorted(unknown))} is unknown; it is one of {', '.join(study.methods)}")
    whole = dataclasses.replace(
        byzjax.experiments.paper.mnist.experiment("paper"),
        task=lambda: tasks.mnist(N, B, gradient_norm=True),
        eval_every=150,
        references=False,
    )
    rates = study.chosen["learning_rate"]
    for method in args.method or study.methods:
        for place in study.in_table[: 1 if args.quick else None]:
            attack, rule = study.cases[place]
            rate = float(rates.isel(case=place).sel(optimizer=method))
            part = reduced(
                whole,
                attacks=(attack,),
                aggregators=(rule,),
                methods=(method,),
                learning_rates=(rate,),
                num_seeds=1 if args.quick else None,
                num_rounds=150 if args.quick else None,
            )
            reproduce(part, args.store, batch_size=len(part.seeds))
            print(f"{attack} / {rule}, {method}: done at {rate:g}", flush=True)


if __name__ == "__main__":
    main()
