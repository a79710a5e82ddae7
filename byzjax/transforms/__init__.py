"""Ordinary optax links for stacked updates. `REGISTRY` maps every name to its factory."""

from byzjax.transforms._clip import clip_by_global_norm
from byzjax.transforms._compression import Compressor, natural_compression, random_k, top_k
from byzjax.transforms._devices import state_specs
from byzjax.transforms._fedopt import scale_by_fedopt
from byzjax.transforms._lmo import dual_norm, normalize_by_global_norm, scale_by_lmo
from byzjax.transforms._matrices import flax_layers, flax_matrices
from byzjax.transforms._method import as_transformation
from byzjax.transforms._momentum import momentum
from byzjax.transforms._normalize import global_norm, normalized
from byzjax.transforms._scion import scale_by_scion
from byzjax.transforms._workers import inject_attack, per_worker, robust_aggregate

REGISTRY = {
    "per_worker": per_worker,
    "robust_aggregate": robust_aggregate,
    "inject_attack": inject_attack,
    "momentum": momentum,
    "normalize_by_global_norm": normalize_by_global_norm,
    "top_k": top_k,
    "random_k": random_k,
    "natural_compression": natural_compression,
    "scale_by_lmo": scale_by_lmo,
    "scale_by_scion": scale_by_scion,
    "clip_by_global_norm": clip_by_global_norm,
    "scale_by_fedopt": scale_by_fedopt,
    "as_transformation": as_transformation,
}

__all__ = [
    "REGISTRY",
    "Compressor",
    "as_transformation",
    "clip_by_global_norm",
    "dual_norm",
    "flax_layers",
    "flax_matrices",
    "global_norm",
    "inject_attack",
    "momentum",
    "natural_compression",
    "normalize_by_global_norm",
    "normalized",
    "per_worker",
    "random_k",
    "robust_aggregate",
    "scale_by_fedopt",
    "scale_by_lmo",
    "scale_by_scion",
    "state_specs",
    "top_k",
]


def __dir__() -> list[str]:
    return __all__
