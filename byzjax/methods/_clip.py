"""Clipped steps."""

from __future__ import annotations

from byzjax.base import Aggregator, Method
from byzjax.methods._momentum import momentum_method
from byzjax.methods._schedules import Schedule
from byzjax.transforms import clip_by_global_norm
from byzjax.transforms._momentum import Momentum
from byzjax.types import Numeric, Stacked
from byzjax.values import takes_as_argument, value


@takes_as_argument("learning_rate")
@value
def byz_clip(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    threshold: Numeric = 1.0,
    beta: Numeric | Schedule = 0.9,
    decay: bool = False,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Clipped momentum SGD with a robust rule.

    ``v_i ← β v_i + (1 − β) g_i``,  ``v = ARAgg(v_1, …, v_n)``,  ``x ← x − min(γ_k, λγ_k/‖v‖) v``: `momentum_sgd` where
    ‖v‖ ≤ λ, and `byz_nsgdm` with steps of length λγ_k where it is longer.

    Args:
      learning_rate: γ₀ > 0, may be traced; or an optax schedule of the round counted from 0, used as it is.
      aggregator: the rule.
      threshold: λ > 0, may be traced.
      beta, decay, momentum, initial_momentum: as in `momentum_sgd`.

    Raises:
      ValueError: as in `momentum_sgd`; λ ≤ 0.

    Zhang, Jin, Fang, Wang, Improved analysis of clipping algorithms for non-convex optimization, NeurIPS 2020, with
    ν = 1 of their ν v + (1 − ν) g; Koloskova, Hendrikx, Stich, Revisiting gradient clipping, ICML 2023.

    >>> from byzjax import aggregators as agg
    >>> byz_clip(0.1, aggregator=agg.median(), threshold=5.0)
    byz_clip(learning_rate=0.1, aggregator=median(), threshold=5.0)
    """
    links = [clip_by_global_norm(threshold)]
    return momentum_method("byz_clip", links, learning_rate, decay, aggregator, beta, momentum, initial_momentum)
