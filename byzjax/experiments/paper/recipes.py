"""What several of the paper's experiments share: the three methods that it compares, and masks that never change."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax

from byzjax import aggregators as agg
from byzjax import methods
from byzjax.aggregators._chain import chain
from byzjax.aggregators._krum import Neighbors, Power
from byzjax.base import Aggregator, Method
from byzjax.experiments.experiment import Recipe
from byzjax.task import Task
from byzjax.types import Numeric

_MASKS = 0x6D61736B
BASE, DECAY, OURS = METHODS = ("Base", "Decay", "Byz-NSGDM")


def algorithm_1(
    learning_rates: tuple[float, ...] | dict[str, tuple[float, ...]],
    *,
    beta: Numeric = 0.9,
    momentum: Literal["ema", "heavy_ball"] = "ema",
) -> dict[str, Recipe]:
    """Baseline, Baseline-Decay and Byz-NSGDM with momentum at the workers, as in Algorithm 1.

    Args:
      learning_rates: of all three, or of each by its name.
      beta: β, where it is not an axis.
      momentum: see `byzjax.methods.byz_nsgdm`.
    """

    def recipe(name: str, make: Callable[..., Method]) -> Recipe:
        def build(learning_rate: Numeric, aggregator: Aggregator, *, beta: Numeric = beta) -> Method:
            return make(learning_rate, aggregator=aggregator, beta=beta, momentum=momentum)

        return Recipe(build, learning_rates[name] if isinstance(learning_rates, dict) else learning_rates)

    return {
        BASE: recipe(BASE, methods.momentum_sgd),
        DECAY: recipe(DECAY, functools.partial(methods.momentum_sgd, decay=True)),
        OURS: recipe(OURS, methods.byz_nsgdm),
    }


def rules(f: int, *, power: Power = 2, neighbors: Neighbors = "n-f-2") -> dict[str, Aggregator]:
    """The three rules of Table 1, each after NNM; the geometric median makes 8 steps from zero with smoothing 0.1.

    Args:
      f: how many liars they tolerate.
      power, neighbors: Krum's convention, see `byzjax.aggregators.krum`.
    """
    nnm = agg.nnm(f)
    return {
        "RFA": chain(nnm, agg.geometric_median(num_iters=8, smoothing=0.1, init="zero")),
        "Krum": chain(nnm, agg.krum(f, power=power, neighbors=neighbors)),
        "CM": chain(nnm, agg.median()),
    }


def frozen_masks(task: Task, seed: jax.Array) -> Task:
    """A task with frozen dropout, with the masks of one run."""
    key = jax.random.key_data(jax.random.fold_in(jax.random.key(seed), _MASKS))
    return dataclasses.replace(task, data={**task.data, "dropout_key": key})
