"""What to record of a round: small functions of a `RoundInfo`, chosen by the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax.base import Params, Stacked
from byzjax.transforms.normalize import global_norm


class RoundInfo(NamedTuple):
    """What happened in a round, before the step was taken.

    Attributes:
      losses: f32[n], each worker's loss on its batch.
      updates: leaves [n, *p], what the server received.
      aggregate: leaves [*p], what the rule made of it.
      params: leaves [*p], where the gradients were taken.
      honest_mean: leaves [*p], the mean of the honest updates.
      deviations: f32[n], the distance of every update from it.
      byzantine: bool[n].
      finite: bool[], whether the parameters are finite after the step.
    """

    losses: jax.Array
    updates: Stacked
    aggregate: Params
    params: Params
    honest_mean: Params
    deviations: jax.Array
    byzantine: jax.Array
    finite: jax.Array


Record = Callable[[RoundInfo], dict[str, jax.Array]]


def loss(info: RoundInfo) -> jax.Array:
    """Mean loss of the honest workers on their batches."""
    return _honest_average(info.losses, info.byzantine)


def aggregate_norm(info: RoundInfo) -> jax.Array:
    """``‖v‖`` of the aggregate."""
    return global_norm(info.aggregate)


def aggregation_error(info: RoundInfo) -> jax.Array:
    """``‖v − v̄_G‖``, the distance of the aggregate from the honest mean: what the attack achieved."""
    return global_norm(jax.tree.map(jnp.subtract, info.aggregate, info.honest_mean))


def honest_spread(info: RoundInfo) -> jax.Array:
    """``(1/G) Σ_{i ∈ G} ‖v_i − v̄_G‖``, the right-hand side of Definition 1 without κ."""
    return _honest_average(info.deviations, info.byzantine)


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


def _honest_average(values: jax.Array, byzantine: jax.Array) -> jax.Array:
    return jnp.where(byzantine, 0.0, values).sum() / (~byzantine).sum().astype(values.dtype)
