"""Every experiment of the paper, in both semantics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from byzjax.configs.specs import nearest
from byzjax.experiments.experiment import VARIANTS, Experiment, Variant, reduced
from byzjax.experiments.paper import ablation, mnist, quartic, shakespeare
from byzjax.experiments.paper.recipes import BASE, OURS

REGISTRY: dict[str, Callable[[Variant], Experiment]] = {
    "quartic": quartic.experiment,
    "mnist": mnist.experiment,
    "shakespeare": shakespeare.experiment,
    "ablation": ablation.experiment,
}

# Small enough for two cores and some minutes, all experiments together.
_ONE = {"num_seeds": 1, "learning_rates": (0.1,), "attacks": ("BF",), "aggregators": ("RFA",)}
_QUICK: dict[tuple[str, Variant], dict[str, Any]] = {
    ("quartic", "paper"): {
        "num_rounds": 300,
        "num_seeds": 3,
        "learning_rates": (0.01, 0.1),
        "methods": (BASE, OURS),
        "aggregators": ("RFA", "CM"),
    },
    ("quartic", "released"): {"num_rounds": 500, "num_seeds": 3, "learning_rates": (0.01, 0.02), "attacks": ("BF",)},
    ("mnist", "paper"): {**_ONE, "num_rounds": 60},
    ("mnist", "released"): {**_ONE, "num_rounds": 30, "methods": (OURS,)},
    ("shakespeare", "paper"): {**_ONE, "num_rounds": 21, "methods": (OURS,)},
    ("shakespeare", "released"): {**_ONE, "num_rounds": 21, "methods": (OURS,)},
    ("ablation", "paper"): {"num_rounds": 60, "num_seeds": 1, "learning_rates": (0.1,)},
    ("ablation", "released"): {"num_rounds": 30, "num_seeds": 1, "learning_rates": (0.1,), "lanes": {"beta": (0.9,)}},
}
# The same references as in the other variant would take half of the time of these.
_WITHOUT_REFERENCES = {("mnist", "released"), ("shakespeare", "released")}


def quick(experiment: Experiment, **more: Any) -> Experiment:
    """A piece of an experiment that takes a minute or so; the language model is a small one on the embedded plays.

    Args:
      experiment: the whole.
      **more: what `reduced` takes, in place of the piece's own.
    """
    variant: Any = experiment.variant
    part = reduced(experiment, **{**_QUICK[experiment.name, variant], **more})
    references = part.references and (experiment.name, variant) not in _WITHOUT_REFERENCES
    part = dataclasses.replace(part, piece=True, references=references)
    if experiment.name != "shakespeare":
        return part
    return dataclasses.replace(part, task=functools.partial(shakespeare.small, variant))


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
