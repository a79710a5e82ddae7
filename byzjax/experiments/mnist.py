"""Heterogeneous MNIST under three attacks, three rules after NNM, three methods (section 6.3)."""

from __future__ import annotations

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, tasks
from byzjax.experiments.common import algorithm_1
from byzjax.experiments.experiment import Experiment, Metric, Tuning, Variant

N, B = 20, 3
RECORD = ("loss", "aggregate_norm", "honest_norm", "aggregation_error", "attackers_kept")


def experiment(variant: Variant) -> Experiment:
    """MNIST of section 6.2.

    Args:
      variant: ``"paper"`` is the text: the MLP, labels shifted by five, mimic that reverses after 50 rounds, and one
        grid of learning rates for all, chosen on held-out images.
    """
    if variant != "paper":
        raise NotImplementedError
    nnm = agg.nnm(B)
    return Experiment(
        name="mnist",
        variant="paper",
        title="MNIST",
        task=lambda: tasks.mnist(N, B),
        attacks={
            "BF": lambda seed: attacks.bit_flip(),
            "LF": lambda seed: attacks.label_flip("shift", shift=5),
            "Mimic": lambda seed: attacks.mimic("reverse", warmup=50),
        },
        aggregators={
            "RFA": byzjax.chain(nnm, agg.geometric_median()),
            "Krum": byzjax.chain(nnm, agg.krum(B)),
            "CM": byzjax.chain(nnm, agg.median()),
        },
        methods=algorithm_1((0.01, 0.03, 0.1, 0.3, 1.0)),
        num_byzantine=B,
        seeds=(0, 1, 2),
        num_rounds=1500,
        eval_every=30,
        record=RECORD,
        metric=Metric("test_accuracy", "test accuracy, %", "max", factor=100.0),
        tuning=Tuning("val_accuracy", "max"),
        notes=("The honest workers share the whole training set; attackers hold an IID draw of it.",),
    )
