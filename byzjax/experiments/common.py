"""What several of the paper's experiments share: the three methods that it compares."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from byzjax import methods
from byzjax.base import Aggregator, Method, Numeric
from byzjax.experiments.experiment import Recipe

BASE, DECAY, OURS = "Base", "Decay", "Byz-NSGDM"


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
