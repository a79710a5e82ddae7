"""Every experiment of the paper, in both semantics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from byzjax.experiments import ablation, mnist, quartic
from byzjax.experiments.experiment import VARIANTS, Experiment, Variant
from byzjax.specs import nearest

REGISTRY: dict[str, Callable[[Variant], Experiment]] = {
    "quartic": quartic.experiment,
    "mnist": mnist.experiment,
    "ablation": ablation.experiment,
}

# Small enough for two cores and some minutes, all experiments together.
QUICK: dict[tuple[str, Variant], dict[str, Any]] = {
    ("quartic", "paper"): {"num_rounds": 300, "num_seeds": 3, "learning_rates": (0.01, 0.1, 1.0)},
    ("quartic", "released"): {"num_rounds": 500, "num_seeds": 3, "learning_rates": (0.01, 0.02, 0.1)},
    ("mnist", "paper"): {
        "num_rounds": 60,
        "num_seeds": 1,
        "learning_rates": (0.1,),
        "attacks": ("BF",),
        "aggregators": ("RFA",),
    },
    ("ablation", "paper"): {"num_rounds": 60, "num_seeds": 1, "learning_rates": (0.1,)},
}


def experiments(name: str, variant: str) -> list[Experiment]:
    """Those of a name and a variant, where ``all`` and ``both`` are several.

    >>> [found.variant for found in experiments("quartic", "both")]
    ['paper', 'released']
    """
    names = REGISTRY if name == "all" else (name,)
    variants = VARIANTS if variant == "both" else (variant,)
    return [experiment(name, variant) for name in names for variant in variants]


def experiment(name: str, variant: str) -> Experiment:
    """An experiment of the paper.

    Args:
      name: a key of `REGISTRY`.
      variant: ``"paper"``, as the text says, or ``"released"``, as the authors' code runs.

    Raises:
      ValueError: an unknown name or variant.

    >>> experiment("quartic", "released").num_rounds
    3000
    """
    if name not in REGISTRY:
        raise ValueError(f"experiment = {name!r} is unknown; {nearest(name, REGISTRY)}.")
    if variant not in VARIANTS:
        raise ValueError(f"variant = {variant!r} must be one of {VARIANTS}.")
    return REGISTRY[name](variant)
