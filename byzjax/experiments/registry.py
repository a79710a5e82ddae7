"""Every experiment that the command line knows: those of the paper, and byzjax's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from byzjax.configs.specs import nearest
from byzjax.experiments import lmo
from byzjax.experiments.experiment import Experiment, reduced
from byzjax.experiments.paper import registry as paper

# Of byzjax itself: all parts of each.
OWN: dict[str, Callable[[], list[Experiment]]] = {"lmo": lmo.experiments}
NAMES = (*paper.REGISTRY, *OWN)


def experiments(name: str, variant: str) -> list[Experiment]:
    """Those of a name and a variant, where ``all`` and ``both`` are several of the paper's.

    Raises:
      ValueError: an unknown name or variant.

    >>> [found.variant for found in experiments("lmo", "paper")]
    ['mnist', 'shakespeare']
    """
    if name in OWN:
        return OWN[name]()
    if name != "all" and name not in paper.REGISTRY:
        raise ValueError(f"experiment = {name!r} is unknown; {nearest(name, NAMES)}.")
    return paper.experiments(name, variant)


def quick(experiment: Experiment, **more: Any) -> Experiment:
    """A piece of an experiment that takes a minute or so.

    Args:
      experiment: the whole.
      **more: what `reduced` takes, in place of the piece's own.
    """
    if experiment.name not in OWN:
        return paper.quick(experiment, **more)
    return dataclasses.replace(reduced(experiment, **{**lmo.QUICK, **more}), piece=True)
