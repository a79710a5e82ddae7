"""Byz-NSGDM on MNIST under bit flip with NNM and RFA, over momenta and learning rates (section 6.6, Figure 1)."""

from __future__ import annotations

import dataclasses

from byzjax.experiments.experiment import Experiment, Variant, reduced
from byzjax.experiments.paper import mnist
from byzjax.experiments.paper.recipes import OURS

BETAS = (0.0, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
LEARNING_RATES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5)


def experiment(variant: Variant) -> Experiment:
    """The ablation of section 6.6: its own grid on the MNIST task of the same variant.

    Args:
      variant: ``"paper"`` trains as long as in section 6.2, since the text says nothing else; ``"released"`` stops
        after 20 epochs, 600 rounds, and has seeds of its own.
    """
    part = reduced(
        mnist.experiment(variant), attacks=("BF",), aggregators=("RFA",), methods=(OURS,), learning_rates=LEARNING_RATES
    )
    part = dataclasses.replace(
        part, name="ablation", title="Ablation on MNIST", lanes={"beta": BETAS}, references=False
    )
    return part if variant == "paper" else dataclasses.replace(part, num_rounds=600, seeds=(0, 42, 256))
