"""Ordinary optax links for stacked updates. `REGISTRY` maps every name to its factory."""

from byzjax.transforms._compression import Compressor, natural_compression, random_k, top_k
from byzjax.transforms._normalize import global_norm, normalize_by_global_norm, normalized
from byzjax.transforms._workers import inject_attack, per_worker, robust_aggregate

REGISTRY = {
    "per_worker": per_worker,
    "robust_aggregate": robust_aggregate,
    "inject_attack": inject_attack,
    "normalize_by_global_norm": normalize_by_global_norm,
    "top_k": top_k,
    "random_k": random_k,
    "natural_compression": natural_compression,
}

__all__ = [
    "REGISTRY",
    "Compressor",
    "global_norm",
    "inject_attack",
    "natural_compression",
    "normalize_by_global_norm",
    "normalized",
    "per_worker",
    "random_k",
    "robust_aggregate",
    "top_k",
]


def __dir__() -> list[str]:
    return __all__
