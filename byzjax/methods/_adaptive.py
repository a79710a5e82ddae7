"""Adaptive steps at the server: FedOpt's, on the robust aggregate."""

from __future__ import annotations

from byzjax.base import Aggregator, Method
from byzjax.methods._momentum import momentum_method
from byzjax.methods._schedules import Schedule
from byzjax.transforms import scale_by_fedopt
from byzjax.transforms._momentum import Momentum
from byzjax.types import Numeric, Stacked
from byzjax.values import takes_as_argument, value


@takes_as_argument("learning_rate")
@value
def byz_fedadam(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    beta_1: Numeric = 0.9,
    beta_2: Numeric = 0.99,
    tau: Numeric = 1e-3,
    initial: Numeric | None = None,
    bias_correction: bool = False,
    beta: Numeric | Schedule = 0.9,
    decay: bool = False,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Adam at the server, as FedAdam has it, on a robust aggregate.

    ``v_i ← β v_i + (1 − β) g_i``,  ``v = ARAgg(v_1, …, v_n)``,  ``m ← β₁ m + (1 − β₁) v``,
    ``s ← β₂ s + (1 − β₂) v²``,  ``x ← x − γ m/(√s + τ)``.

    Args:
      learning_rate: γ₀ > 0, may be traced; or an optax schedule of the round counted from 0, used as it is.
      aggregator: the rule.
      beta_1, beta_2, tau, initial, bias_correction: as in `byzjax.transforms.scale_by_fedopt`; all may be traced.
      beta: of the workers, as in `momentum_sgd`. FedOpt's workers have no momentum, ``beta=0.0``, and take local steps,
        which these do not.
      decay, momentum, initial_momentum: as in `momentum_sgd`.

    Raises:
      ValueError: as in `momentum_sgd` and `byzjax.transforms.scale_by_fedopt`.

    Reddi et al., Adaptive federated optimization, ICLR 2021.

    >>> from byzjax import aggregators as agg
    >>> byz_fedadam(0.01, aggregator=agg.median())
    byz_fedadam(learning_rate=0.01, aggregator=median())
    """
    link = scale_by_fedopt(
        "adam", beta_1=beta_1, beta_2=beta_2, tau=tau, initial=initial, bias_correction=bias_correction
    )
    return momentum_method("byz_fedadam", [link], learning_rate, decay, aggregator, beta, momentum, initial_momentum)


@takes_as_argument("learning_rate")
@value
def byz_fedyogi(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    beta_1: Numeric = 0.9,
    beta_2: Numeric = 0.99,
    tau: Numeric = 1e-3,
    initial: Numeric | None = None,
    bias_correction: bool = False,
    beta: Numeric | Schedule = 0.9,
    decay: bool = False,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Yogi at the server, as FedYogi has it, on a robust aggregate: `byz_fedadam` with a slower second moment.

    ``s ← s − (1 − β₂) v² sign(s − v²)``: what one aggregate adds does not depend on how long s is.

    Args:
      learning_rate, aggregator, beta_1, beta_2, tau, initial, bias_correction, beta: as in `byz_fedadam`.
      decay, momentum, initial_momentum: as in `momentum_sgd`.

    Raises:
      ValueError: as in `byz_fedadam`.

    Reddi et al., Adaptive federated optimization, ICLR 2021.

    >>> from byzjax import aggregators as agg
    >>> byz_fedyogi(0.01, aggregator=agg.median())
    byz_fedyogi(learning_rate=0.01, aggregator=median())
    """
    link = scale_by_fedopt(
        "yogi", beta_1=beta_1, beta_2=beta_2, tau=tau, initial=initial, bias_correction=bias_correction
    )
    return momentum_method("byz_fedyogi", [link], learning_rate, decay, aggregator, beta, momentum, initial_momentum)


@takes_as_argument("learning_rate")
@value
def byz_fedadagrad(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    beta_1: Numeric = 0.0,
    tau: Numeric = 1e-3,
    initial: Numeric | None = None,
    bias_correction: bool = False,
    beta: Numeric | Schedule = 0.9,
    decay: bool = False,
    momentum: Momentum = "ema",
    initial_momentum: Stacked | None = None,
) -> Method:
    """Adagrad at the server, as FedAdagrad has it, on a robust aggregate: `byz_fedadam` with ``s ← s + v²``.

    Args:
      learning_rate, aggregator, tau, initial, bias_correction, beta: as in `byz_fedadam`.
      beta_1: β₁; the paper's FedAdagrad has none, 0.
      decay, momentum, initial_momentum: as in `momentum_sgd`.

    Raises:
      ValueError: as in `byz_fedadam`.

    Reddi et al., Adaptive federated optimization, ICLR 2021.

    >>> from byzjax import aggregators as agg
    >>> byz_fedadagrad(0.1, aggregator=agg.median())
    byz_fedadagrad(learning_rate=0.1, aggregator=median())
    """
    link = scale_by_fedopt("adagrad", beta_1=beta_1, tau=tau, initial=initial, bias_correction=bias_correction)
    return momentum_method("byz_fedadagrad", [link], learning_rate, decay, aggregator, beta, momentum, initial_momentum)
