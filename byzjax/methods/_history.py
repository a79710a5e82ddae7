"""Learning from history: momentum at the workers, centred clipping at the server."""

from __future__ import annotations

from byzjax.aggregators._geometric_median import centered_clipping
from byzjax.base import Method
from byzjax.methods._momentum import Momentum, momentum_sgd
from byzjax.methods._schedules import Schedule
from byzjax.types import Numeric
from byzjax.values import takes_as_argument, value


@takes_as_argument("learning_rate")
@value
def learning_from_history(
    learning_rate: Numeric | Schedule,
    *,
    tau: Numeric = 10.0,
    num_iters: int = 1,
    beta: Numeric = 0.9,
    decay: bool = False,
    momentum: Momentum = "ema",
) -> Method:
    """Learning from history: `momentum_sgd` with centred clipping, which starts from the last aggregate.

    ``m_i ← β m_i + (1 − β) g_i``; ``v ← v + (1/n) Σ_i (m_i − v) min(1, τ/‖m_i − v‖)``, ``num_iters`` times, from the v
    of the round before; ``x ← x − γ v``. The rule is a part of the method, so it takes none; the command line says it
    as ``--method momentum_sgd --aggregator 'centered_clipping(tau=10)'``.

    Args:
      learning_rate: γ > 0, may be traced; or an optax schedule of the round counted from 0.
      tau, num_iters: of `byzjax.aggregators.centered_clipping`.
      beta, decay, momentum: of `momentum_sgd`.

    Raises:
      ValueError: as these.

    Karimireddy, He, Jaggi. Learning from history for Byzantine robust optimization. ICML 2021. From m_i = 0; that the
    paper's first m_i is the first gradient could not be verified.

    >>> learning_from_history(0.1, tau=1.0).aggregator
    centered_clipping(tau=1.0)
    """
    rule = centered_clipping(tau, num_iters=num_iters)
    return momentum_sgd(learning_rate, aggregator=rule, beta=beta, decay=decay, momentum=momentum)
