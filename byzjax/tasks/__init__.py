"""Distributed objectives. `REGISTRY` maps every name to its factory."""

from collections.abc import Callable

from byzjax.task import Task
from byzjax.tasks import models
from byzjax.tasks._classification import classification, mnist
from byzjax.tasks._language import language_model, shakespeare, tiny_shakespeare
from byzjax.tasks._logistic import logistic_regression
from byzjax.tasks._quartic import quartic

REGISTRY: dict[str, Callable[..., Task]] = {
    "quartic": quartic,
    "logistic_regression": logistic_regression,
    "mnist": mnist,
    "classification": classification,
    "shakespeare": shakespeare,
    "tiny_shakespeare": tiny_shakespeare,
}

__all__ = [
    "REGISTRY",
    "classification",
    "language_model",
    "logistic_regression",
    "mnist",
    "models",
    "quartic",
    "shakespeare",
    "tiny_shakespeare",
]


def __dir__() -> list[str]:
    return __all__
