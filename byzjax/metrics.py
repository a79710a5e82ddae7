"""What to record of a round: small functions of a `RoundInfo`, chosen by the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.base import Params, Stacked
from byzjax.transforms.normalize import global_norm


class RoundInfo(NamedTuple):
    """What happened in a round, before the step was taken.

    Attributes:
      losses: f32[n], each worker's loss on its batch.
      updates: leaves [n, *p], what the server received.
      aggregate: leaves [*p], what the rule made of it.
      params: leaves [*p], where the gradients were taken.
      byzantine: bool[n].
      finite: bool[], whether the parameters are finite after the step.
    """

    losses: jax.Array
    updates: Stacked
    aggregate: Params
    params: Params
    byzantine: jax.Array
    finite: jax.Array


Record = Callable[[RoundInfo], dict[str, jax.Array]]


def loss(info: RoundInfo) -> jax.Array:
    """Mean loss of the honest workers on their batches."""
    honest = ~info.byzantine
    return jnp.where(honest, info.losses, 0.0).sum() / honest.sum().astype(info.losses.dtype)


def aggregate_norm(info: RoundInfo) -> jax.Array:
    """``‖v‖`` of the aggregate."""
    return global_norm(info.aggregate)


def aggregation_error(info: RoundInfo) -> jax.Array:
    """``‖v − v̄_G‖``, the distance of the aggregate from the honest mean: what the attack achieved."""
    honest = stacked.masked_mean(info.updates, ~info.byzantine)
    return global_norm(jax.tree.map(jnp.subtract, info.aggregate, honest))


def honest_spread(info: RoundInfo) -> jax.Array:
    """``(1/G) Σ_{i ∈ G} ‖v_i − v̄_G‖``, the right-hand side of Definition 1 without κ."""
    honest = ~info.byzantine
    norms = stacked.norms_about(info.updates, stacked.masked_mean(info.updates, honest))
    return jnp.where(honest, norms, 0.0).sum() / honest.sum().astype(norms.dtype)


def finite(info: RoundInfo) -> jax.Array:
    """Whether the parameters are finite after the step, bool[]."""
    return info.finite


REGISTRY: dict[str, Callable[[RoundInfo], jax.Array]] = {
    "loss": loss,
    "aggregate_norm": aggregate_norm,
    "aggregation_error": aggregation_error,
    "honest_spread": honest_spread,
    "finite": finite,
}


def record(*names: str) -> Record:
    """A recorder of the named metrics; ``record()`` records nothing.

    Raises:
      ValueError: an unknown name.

    >>> record("loss", "finite").__name__
    'record(loss, finite)'
    """
    unknown = [name for name in names if name not in REGISTRY]
    if unknown:
        raise ValueError(f"record: unknown metrics {unknown}; known are {sorted(REGISTRY)}, or pass your own function.")

    def recorder(info: RoundInfo) -> dict[str, jax.Array]:
        return {name: REGISTRY[name](info) for name in names}

    recorder.__name__ = f"record({', '.join(names)})"
    return recorder


default_record = record(*REGISTRY)
