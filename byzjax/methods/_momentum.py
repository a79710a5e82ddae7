"""Momentum at every worker: the paper's baseline and Byz-NSGDM."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

import optax

from byzjax.base import Aggregator, Method, check_rule
from byzjax.checks import check_choice, check_number
from byzjax.methods._schedules import Schedule, schedule
from byzjax.transforms import momentum as momentum_link
from byzjax.transforms import normalize_by_global_norm
from byzjax.transforms._momentum import Momentum
from byzjax.types import Numeric, Stacked
from byzjax.values import takes_as_argument, value


@takes_as_argument("learning_rate")
@value
def momentum_sgd(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    beta: Numeric | Schedule = 0.9,
    decay: bool = False,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Momentum SGD with a robust rule: the paper's Baseline, and Baseline-Decay with ``decay=True``.

    ``v_i ← β v_i + (1 − β) g_i``,  ``x ← x − γ_k ARAgg(v_1, …, v_n)``, with γ_k = γ₀, or γ₀/√k for k = 1, 2, ….

    Args:
      learning_rate: γ₀ > 0, may be traced; or an optax schedule of the round counted from 0, used as it is.
      aggregator: the rule, e.g. ``byzjax.chain(nnm(f=3), geometric_median())``.
      beta: β = 1 − η in [0, 1), may be traced; or a schedule. The paper uses 0.9.
      decay: divide a number γ₀ by √k.
      momentum: ``"ema"`` is the formula above (the paper); ``"heavy_ball"`` is ``v ← β v + g`` (the released code),
        1/(1 − β) times as long.
      initial_momentum: v⁰, leaves ``[n, *p]`` or broadcastable to it; zero by default.

    Raises:
      ValueError: γ₀ not finite or not positive, β outside [0, 1), an unknown momentum, or no Aggregator.

    >>> from byzjax import aggregators as agg
    >>> momentum_sgd(0.1, aggregator=agg.median()).aggregator is not None
    True
    """
    return momentum_method("momentum_sgd", [], learning_rate, decay, aggregator, beta, momentum, initial_momentum)


@takes_as_argument("learning_rate")
@value
def byz_nsgdm(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    beta: Numeric | Schedule = 0.9,
    decay: bool = True,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Byz-NSGDM, Algorithm 1 of Bolatov, Horváth, Takáč, Gorbunov.

    ``v_i ← (1 − η) v_i + η g_i``,  ``v = ARAgg(v_1, …, v_n)``,  ``x ← x − γ_k v/‖v‖``: a step of length exactly γ_k,
    and none where v = 0. In their experiments γ_k = γ₀/√k; Theorem 1 takes a constant γ (``decay=False``).

    Args:
      learning_rate: γ₀ > 0, may be traced; or an optax schedule of the round counted from 0, used as it is.
      aggregator: the rule, e.g. ``byzjax.chain(nnm(f=3), geometric_median())``.
      beta: β = 1 − η in [0, 1), may be traced; or a schedule, such as `fixed_horizon_beta`. The paper uses 0.9.
      decay: divide a number γ₀ by √k, k = 1, 2, ….
      momentum: ``"ema"`` is Algorithm 1; ``"heavy_ball"`` is ``v ← β v + g``, as in the released code.
      initial_momentum: v⁰, leaves ``[n, *p]`` or broadcastable to it; zero by default.

    Raises:
      ValueError: γ₀ not finite or not positive, β outside [0, 1), an unknown momentum, or no Aggregator.

    >>> import byzjax
    >>> from byzjax import aggregators as agg
    >>> method = byz_nsgdm(0.1, aggregator=byzjax.chain(agg.nnm(f=1), agg.geometric_median()))
    """
    return momentum_method(
        "byz_nsgdm",
        [normalize_by_global_norm()],
        learning_rate,
        decay,
        aggregator,
        beta,
        momentum,
        initial_momentum,
    )


def momentum_method(
    where: str,
    links: Sequence[optax.GradientTransformation],
    learning_rate: Numeric | Schedule,
    decay: bool,
    aggregator: Aggregator,
    beta: Numeric | Schedule,
    momentum: str,
    initial_momentum: Stacked | None,
) -> Method:
    """Momentum at the workers, a rule, and at the server links before the learning rate."""
    if not callable(beta):
        check_number(beta, "beta", where, least=0, below=1)
    kind: Any = check_choice(momentum, typing.get_args(Momentum), "momentum", where)
    field = "ema" if kind == "ema" else "trace"
    rate = optax.scale_by_learning_rate(schedule(learning_rate, decay, where))
    return Method(
        momentum_link(beta, kind=kind),
        check_rule(aggregator, "aggregator", where),
        optax.chain(*links, rate) if links else rate,
        None if initial_momentum is None else {field: initial_momentum},
    )
