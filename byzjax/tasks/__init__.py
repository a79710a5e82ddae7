"""Distributed objectives. `REGISTRY` maps every name to its factory."""

from collections.abc import Callable

from byzjax.base import Task
from byzjax.tasks.classification import classification, mnist
from byzjax.tasks.quartic import quartic

REGISTRY: dict[str, Callable[..., Task]] = {
    "quartic": quartic,
    "mnist": mnist,
    "classification": classification,
}

__all__ = ["REGISTRY", "classification", "mnist", "quartic"]
