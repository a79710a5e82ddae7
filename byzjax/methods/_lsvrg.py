"""Byz-LSVRG: loopless SVRG at every worker."""

from __future__ import annotations

import typing
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.base import Aggregator, Method
from byzjax.checks import check_choice
from byzjax.estimator import Estimator, Oracle
from byzjax.methods._estimators import check_probability, estimating, no_memory, of_every_worker
from byzjax.methods._schedules import Schedule
from byzjax.task import Task
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import takes_as_argument, value

Coin = Literal["own", "shared"]


class LsvrgState(NamedTuple):
    """What `byz_lsvrg` remembers."""

    anchors: Stacked  # leaves [n, *p], w_i
    full: Stacked  # leaves [n, *p], ∇f_i(w_i), unless stale
    stale: jax.Array  # bool[n], whether w_i is newer


@takes_as_argument("learning_rate")
@value
def byz_lsvrg(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    p: Numeric = 0.1,
    coin: Coin = "own",
    decay: bool = False,
) -> Method:
    """Byz-LSVRG (BR-LSVRG): loopless SVRG at every worker, and a robust rule.

    ``g_i = ∇f_iB(x) − ∇f_iB(w_i) + ∇f_i(w_i)``, ``x⁺ = x − γ A(g_1, …, g_n)``; then ``w_i ← x``, where g_i was taken,
    with probability p. Before the first round ``w_i = x⁰``.

    Args:
      learning_rate: γ > 0, may be traced; or an optax schedule of the round counted from 0.
      aggregator: the rule.
      p: in (0, 1], may be traced. B/N is usual.
      coin: ``"own"``, every worker throws its own (a public implementation beside Byrd-SAGA and Byz-VR-MARINA, which
        seems to be the paper's); ``"shared"``, one for all, as in Byz-VR-MARINA: then full gradients are taken in a
        share p of the rounds, and not in 1 − (1 − p)^n of them.
      decay: divide γ by √k, k = 1, 2, ….

    Needs of a task: a finite sum. Costs two gradients of a batch a round, and full ones of all workers where a coin of
    one says so; under ``vmap`` of several runs in every round. State: 2 n d numbers.

    Raises:
      ValueError: γ, p, the rule or the coin are none; when it runs, a task without a finite sum.

    Fedin, Gorbunov. Byzantine-robust loopless stochastic variance-reduced gradient. MOTOR 2023 (arXiv 2303.04560). The
    text could not be had: the definition is that of code, and of L-SVRG (Kovalev, Horváth, Richtárik, 2020).

    >>> from byzjax import aggregators as agg
    >>> byz_lsvrg(0.1, aggregator=agg.median(), coin="shared")
    byz_lsvrg(learning_rate=0.1, aggregator=median(), coin='shared')
    """
    check = "byz_lsvrg"
    check_probability(p, check)
    shared = check_choice(coin, typing.get_args(Coin), "coin", check) == "shared"

    def init(task: Task, params: Params) -> LsvrgState:
        n = task.num_workers
        return LsvrgState(of_every_worker(params, n), no_memory(params, n), jnp.ones(n, bool))

    def estimate(oracle: Oracle, params: Params, state: LsvrgState, *, key: jax.Array):
        anchors, n = state.anchors, oracle.num_workers

        def refreshed() -> Stacked:
            return stacked.replace_rows(state.full, state.stale, oracle.full(anchors, own=True)[1])

        full = jax.lax.cond(state.stale.any(), refreshed, lambda: state.full)
        losses, here = oracle.batch(params)
        _, there = oracle.batch(anchors, own=True)
        estimates = jax.tree.map(lambda a, b, c: a - b + c, here, there, full)
        coins = jnp.broadcast_to(jax.random.bernoulli(key, p, () if shared else (n,)), (n,))
        moved = oracle.workers(stacked.replace_rows(anchors, coins, params))
        return losses, estimates, LsvrgState(moved, full, coins)

    return estimating(Estimator(init, estimate, finite_sum=True), learning_rate, aggregator, decay, check)
