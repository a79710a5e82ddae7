"""The robustness coefficient as a run shows it, in the norm that its step sees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from byzjax.metrics import Record, RoundInfo
from byzjax.transforms._accumulating import widened
from byzjax.types import Params


def kappa_of(step: optax.GradientTransformation, every: int) -> Record:
    """A recorder of ``kappa``: κ̂ of Definition 1 with the dual norm of a step's norm in place of ‖·‖₂.

    ``κ̂ = ‖v − v̄_G‖_* / ((1/G) Σ_{i ∈ G} ‖v_i − v̄_G‖_*)``, v the aggregate. What an aggregate is off by costs a step of
    the unit ball at most ``2 ‖v − v̄_G‖_*`` of its descent, so that this is the κ which a proof in that norm would need.
    NaN where all honest workers sent the same.

    Args:
      step: the exact LMO, a link without state such as `byzjax.transforms.scale_by_lmo`; ``‖v‖_* = ⟨v, step(v)⟩``.
      every: measured in rounds every, 2 every, …, and NaN in the others: a norm may take a singular value
        decomposition of every worker.
    """

    def dual(v: Params) -> jax.Array:
        u, _ = step.update(v, step.init(v))
        return optax.tree.vdot(v, u)  # type: ignore[return-value]

    def measured(info: RoundInfo) -> jax.Array:
        mean = info.honest_mean
        error = dual(jax.tree.map(jnp.subtract, widened(info.aggregate), mean))
        offsets = jax.tree.map(lambda rows, row: rows - row[None], widened(info.updates), mean)
        spread = jnp.where(info.byzantine, 0.0, jax.vmap(dual)(offsets)).sum()
        return error * (~info.byzantine).sum().astype(error.dtype) / spread

    def record(info: RoundInfo) -> dict[str, jax.Array]:
        due = (info.step + 1) % every == 0
        return {"kappa": jax.lax.cond(due, measured, lambda info: jnp.full((), jnp.nan, info.losses.dtype), info)}

    return record
