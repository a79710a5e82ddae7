"""What methods with an estimator have in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from byzjax.base import Aggregator, Method, check_rule
from byzjax.checks import check_number
from byzjax.checks.traced import concrete
from byzjax.estimator import Estimator
from byzjax.methods._schedules import Schedule, schedule
from byzjax.transforms._accumulating import widened
from byzjax.types import Numeric, Params, Stacked


def estimating(
    estimator: Estimator, learning_rate: Numeric | Schedule, aggregator: Aggregator, decay: bool, where: str
) -> Method:
    """``x ← x − γ_k A(g_1, …, g_n)`` with the estimates g_i as they are."""
    server = optax.scale_by_learning_rate(schedule(learning_rate, decay, where))
    return Method(optax.identity(), check_rule(aggregator, "aggregator", where), server, estimator=estimator)


def of_every_worker(params: Params, num_workers: int) -> Stacked:
    """The same row for all: leaves ``[n, *p]``."""
    return jax.tree.map(lambda p: jnp.broadcast_to(p, (num_workers, *p.shape)), params)


def no_memory(params: Params, num_workers: int) -> Stacked:
    """Zeros ``[n, *p]`` in at least float32."""
    return jax.tree.map(lambda p: jnp.zeros((num_workers, *p.shape), p.dtype), widened(params))


def check_probability(p: Numeric, where: str) -> None:
    """Reject what is no probability > 0."""
    check_number(p, "p", where, least=0, open_below=True)
    known = concrete(p, lambda known: check_probability(known, where))
    if known is not None and known > 1:
        raise ValueError(f"{where}: p = {p} must be at most 1; it is a probability.")
