"""Distributed optimisers: a transformation per worker, a robust rule, a transformation at the server.

A method is data (`Method`). The same three parts, written as links of `byzjax.transforms` in an ``optax.chain``, are
the same algorithm bit for bit. `REGISTRY` maps every name to its factory.
"""

from collections.abc import Callable

from byzjax.base import Method
from byzjax.methods._adaptive import byz_fedadagrad, byz_fedadam, byz_fedyogi
from byzjax.methods._clip import byz_clip
from byzjax.methods._lmo import byz_lmo, byz_muon, byz_scion, byz_sign
from byzjax.methods._momentum import byz_nsgdm, momentum_sgd
from byzjax.methods._schedules import doubling, doubling_beta, fixed_horizon, fixed_horizon_beta, sqrt_decay

REGISTRY: dict[str, Callable[..., Method]] = {
    "momentum_sgd": momentum_sgd,
    "byz_nsgdm": byz_nsgdm,
    "byz_lmo": byz_lmo,
    "byz_sign": byz_sign,
    "byz_muon": byz_muon,
    "byz_scion": byz_scion,
    "byz_clip": byz_clip,
    "byz_fedadam": byz_fedadam,
    "byz_fedyogi": byz_fedyogi,
    "byz_fedadagrad": byz_fedadagrad,
}

__all__ = [
    "REGISTRY",
    "byz_clip",
    "byz_fedadagrad",
    "byz_fedadam",
    "byz_fedyogi",
    "byz_lmo",
    "byz_muon",
    "byz_nsgdm",
    "byz_scion",
    "byz_sign",
    "doubling",
    "doubling_beta",
    "fixed_horizon",
    "fixed_horizon_beta",
    "momentum_sgd",
    "sqrt_decay",
]


def __dir__() -> list[str]:
    return __all__
