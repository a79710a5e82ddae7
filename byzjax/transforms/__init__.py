"""Ordinary optax links for stacked updates. `REGISTRY` maps every name to its factory."""

from byzjax.transforms._devices import state_specs
from byzjax.transforms._normalize import global_norm, normalize_by_global_norm, normalized
from byzjax.transforms._workers import inject_attack, per_worker, robust_aggregate

REGISTRY = {
    "per_worker": per_worker,
    "robust_aggregate": robust_aggregate,
    "inject_attack": inject_attack,
    "normalize_by_global_norm": normalize_by_global_norm,
}

__all__ = [
    "REGISTRY",
    "global_norm",
    "inject_attack",
    "normalize_by_global_norm",
    "normalized",
    "per_worker",
    "robust_aggregate",
    "state_specs",
]


def __dir__() -> list[str]:
    return __all__
