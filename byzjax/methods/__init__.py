"""Distributed optimisers: a transformation per worker, a robust rule, a transformation at the server.

A method is data (`Method`). The same three parts, written as links of `byzjax.transforms` in an ``optax.chain``, are
the same algorithm bit for bit. `REGISTRY` maps every name to its factory.
"""

from collections.abc import Callable

from byzjax.base import Method
from byzjax.methods._momentum import byz_nsgdm, momentum_sgd
from byzjax.methods._schedules import sqrt_decay

REGISTRY: dict[str, Callable[..., Method]] = {"momentum_sgd": momentum_sgd, "byz_nsgdm": byz_nsgdm}

__all__ = ["REGISTRY", "byz_nsgdm", "momentum_sgd", "sqrt_decay"]


def __dir__() -> list[str]:
    return __all__
