"""Distributed optimisers: a transformation per worker, a robust rule, a transformation at the server.

A method is data (`Method`). The same three parts, written as links of `byzjax.transforms` in an ``optax.chain``, are
the same algorithm bit for bit. Those that estimate gradients in another way than by one batch have a fourth part, an
`Estimator`. `REGISTRY` maps every name to its factory, but for two that no rule can be given to:
`learning_from_history`, which has its own, and `clipped_differences`, which wraps a method.
"""

from collections.abc import Callable

from byzjax.base import Method
from byzjax.methods._adaptive import byz_fedadagrad, byz_fedadam, byz_fedyogi
from byzjax.methods._clip import byz_clip
from byzjax.methods._clipped_differences import clipped_differences
from byzjax.methods._error_feedback import byz_dm21, byz_ef21
from byzjax.methods._history import learning_from_history
from byzjax.methods._lmo import byz_lmo, byz_muon, byz_scion, byz_sign
from byzjax.methods._lsvrg import byz_lsvrg
from byzjax.methods._marina import byz_vr_marina
from byzjax.methods._momentum import byz_nsgdm, momentum_sgd
from byzjax.methods._saga import byrd_saga
from byzjax.methods._schedules import doubling, doubling_beta, fixed_horizon, fixed_horizon_beta, sqrt_decay

REGISTRY: dict[str, Callable[..., Method]] = {
    "momentum_sgd": momentum_sgd,
    "byz_nsgdm": byz_nsgdm,
    "byz_vr_marina": byz_vr_marina,
    "byz_lsvrg": byz_lsvrg,
    "byrd_saga": byrd_saga,
    "byz_ef21": byz_ef21,
    "byz_dm21": byz_dm21,
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
    "byrd_saga",
    "byz_clip",
    "byz_dm21",
    "byz_ef21",
    "byz_fedadagrad",
    "byz_fedadam",
    "byz_fedyogi",
    "byz_lmo",
    "byz_lsvrg",
    "byz_muon",
    "byz_nsgdm",
    "byz_scion",
    "byz_sign",
    "byz_vr_marina",
    "clipped_differences",
    "doubling",
    "doubling_beta",
    "fixed_horizon",
    "fixed_horizon_beta",
    "learning_from_history",
    "momentum_sgd",
    "sqrt_decay",
]


def __dir__() -> list[str]:
    return __all__
