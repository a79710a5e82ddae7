"""What to record of a round: small functions of a `RoundInfo`, chosen by the caller."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from byzjax.base import Trust
from byzjax.checks import check_kind
from byzjax.transforms._accumulating import widened
from byzjax.transforms._normalize import global_norm
from byzjax.types import Params, Stacked


class RoundInfo(NamedTuple):
    """What happened in a round, before the step was taken.

    Attributes:
      losses: f32[n], each worker's loss on its batch.
      updates: leaves [n, *p], what the server received.
      aggregate: leaves [*p], what the rule made of it.
      params: leaves [*p], where the gradients were taken.
      honest_mean: leaves [*p], the mean of the honest updates, in at least float32.
      deviations: f32[n], the distance of every update from it.
      byzantine: bool[n].
      finite: bool[], whether the parameters are finite after the step.
      trust: whom the rule trusted, as far as it can tell.
      step: i32[], rounds done before this one; what is dear to measure need not be measured in all.
    """

    losses: jax.Array
    updates: Stacked
    aggregate: Params
    params: Params
    honest_mean: Params
    deviations: jax.Array
    byzantine: jax.Array
    finite: jax.Array
    trust: Trust = Trust()
    step: jax.Array | int = 0


# After divergence what is recorded is NaN, and so integers and flags become floating; but for `RoundInfo.finite`.
Record = Callable[[RoundInfo], dict[str, jax.Array]]


def loss(info: RoundInfo) -> jax.Array:
    """Mean loss of the honest workers on their batches."""
    return _honest_average(info.losses, info.byzantine)


def aggregate_norm(info: RoundInfo) -> jax.Array:
    """``‖v‖`` of the aggregate."""
    return global_norm(info.aggregate)


def honest_norm(info: RoundInfo) -> jax.Array:
    """``‖v̄_G‖`` of the honest mean: what the aggregate's norm would be without attack and without a rule."""
    return global_norm(info.honest_mean)


def aggregation_error(info: RoundInfo) -> jax.Array:
    """``‖v − v̄_G‖``, the distance of the aggregate from the honest mean: what the attack achieved."""
    return global_norm(jax.tree.map(jnp.subtract, widened(info.aggregate), widened(info.honest_mean)))


def honest_spread(info: RoundInfo) -> jax.Array:
    """``(1/G) Σ_{i ∈ G} ‖v_i − v̄_G‖``, the right-hand side of Definition 1 without κ."""
    return _honest_average(info.deviations, info.byzantine)


def finite(info: RoundInfo) -> jax.Array:
    """Whether the parameters are finite after the step, bool[]."""
    return info.finite


def attacker_weight(info: RoundInfo) -> jax.Array:
    """``Σ_{i Byzantine} |w_i| / Σ_i |w_i|``: the share of the aggregate that came from Byzantine workers.

    b/n is what the plain mean gives them.

    Raises:
      ValueError: a rule that has no weight per worker.
    """
    if info.trust.weights is None:
        raise ValueError(
            "record: attacker_weight needs a rule that weighs workers, e.g. krum or geometric_median; this one treats "
            "every coordinate alone, or adds noise."
        )
    weights = jnp.abs(info.trust.weights)
    return jnp.where(info.byzantine, weights, 0.0).sum() / weights.sum()


def attackers_kept(info: RoundInfo) -> jax.Array:
    """How many Byzantine workers a mixed row contains, averaged over the rows of honest workers.

    For NNM: how many of the b attackers are among the n − f nearest of an honest worker. It keeps all of them where
    they lie in the middle of scattered honest rows. Where rows are not workers, as after bucketing, the average is over
    all rows.

    Raises:
      ValueError: a rule without a pre-aggregation that mixes rows.
    """
    mixing = info.trust.mixing
    if mixing is None:
        raise ValueError("record: attackers_kept needs a pre-aggregation that mixes rows, e.g. chain(nnm(f), …).")
    kept = ((mixing != 0) & info.byzantine[None, :]).sum(1).astype(mixing.dtype)
    return _honest_average(kept, info.byzantine) if len(mixing) == len(info.byzantine) else kept.mean()


def worker_kept(info: RoundInfo) -> jax.Array:
    """In which share of the honest workers' mixed rows each worker is contained, f32[n]: whom NNM drops.

    Over all rows where rows are not workers.

    Raises:
      ValueError: a rule without a pre-aggregation that mixes rows.
    """
    mixing = info.trust.mixing
    if mixing is None:
        raise ValueError("record: worker_kept needs a pre-aggregation that mixes rows, e.g. chain(nnm(f), …).")
    kept = (mixing != 0).astype(mixing.dtype)
    if len(mixing) != len(info.byzantine):
        return kept.mean(0)
    return jnp.where(info.byzantine[:, None], 0.0, kept).sum(0) / (~info.byzantine).sum().astype(kept.dtype)


REGISTRY: dict[str, Callable[[RoundInfo], jax.Array]] = {
    "loss": loss,
    "aggregate_norm": aggregate_norm,
    "honest_norm": honest_norm,
    "aggregation_error": aggregation_error,
    "honest_spread": honest_spread,
    "finite": finite,
    "attacker_weight": attacker_weight,
    "attackers_kept": attackers_kept,
    "worker_kept": worker_kept,
}


def record(*names: str) -> Record:
    """A recorder of the named metrics; ``record()`` records nothing.

    Raises:
      ValueError: an unknown name.

    >>> record("loss", "finite").__name__
    'record(loss, finite)'
    """
    for name in names:
        check_kind(name, str, "name", "record", fix="name metrics one by one, or pass your own function.")
    unknown = [name for name in names if name not in REGISTRY]
    if unknown:
        raise ValueError(f"record: unknown metrics {unknown}; known are {sorted(REGISTRY)}, or pass your own function.")

    return _Recorder(names, tuple(REGISTRY[name] for name in names))


@dataclasses.dataclass(frozen=True)
class _Recorder:
    """Equal for the same metrics, so that runs which record them share a program."""

    names: tuple[str, ...]
    metrics: tuple[Callable[[RoundInfo], jax.Array], ...]

    def __call__(self, info: RoundInfo) -> dict[str, jax.Array]:
        return {name: metric(info) for name, metric in zip(self.names, self.metrics, strict=True)}

    @property
    def __name__(self) -> str:
        return f"record({', '.join(self.names)})"


# What every rule can tell; the others depend on the rule.
default_record = record("loss", "aggregate_norm", "aggregation_error", "honest_spread", "finite")


def _honest_average(values: jax.Array, byzantine: jax.Array) -> jax.Array:
    values = widened(values)
    return jnp.where(byzantine, 0.0, values).sum() / (~byzantine).sum().astype(values.dtype)
