"""Byz-VR-MARINA: differences of gradients at neighbouring points, and now and then full gradients."""

from __future__ import annotations

import typing
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.base import Aggregator, Method
from byzjax.checks import check_choice
from byzjax.estimator import Estimator, Oracle, unchanged_state
from byzjax.methods._estimators import check_probability, estimating, no_memory
from byzjax.methods._schedules import Schedule
from byzjax.task import Task
from byzjax.transforms._accumulating import widened
from byzjax.transforms._compression import Compressor, as_compressor, check_unbiased, compressed, random_k
from byzjax.types import Numeric, Params
from byzjax.values import takes_as_argument, value

Base = Literal["aggregate", "own"]


class MarinaState(NamedTuple):
    """What `byz_vr_marina` remembers."""

    params: Params  # leaves [*p], x of the round before
    base: Any  # what differences are added to: leaves [*p], or [n, *p] where it is each worker's own
    whole: jax.Array  # bool[], whether the estimates are full gradients


@takes_as_argument("learning_rate")
@value
def byz_vr_marina(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    p: Numeric = 0.1,
    base: Base = "aggregate",
    compressor: Compressor | float | None = None,
    decay: bool = False,
) -> Method:
    """Byz-VR-MARINA: recursive variance reduction with a robust rule.

    One coin c for all workers, 1 with probability p and in the first round:
    ``g_i = ∇f_i(x)`` if c = 1, else ``g_i = g⁻ + Q(∇f_iB(x) − ∇f_iB(x⁻))``; ``g = A(g_1, …, g_n)``, ``x⁺ = x − γ g``,
    with x⁻ and g⁻ of the round before and f_iB the loss on the round's batch, at both points the same.

    Args:
      learning_rate: γ > 0, may be traced; or an optax schedule of the round counted from 0.
      aggregator: the rule.
      p: in (0, 1], may be traced. B/N balances the costs of both cases.
      base: g⁻ is ``"aggregate"``, what the server broadcast (the paper), or ``"own"``, worker i's estimate of the round
        before (the released code, which adds differences to a buffer of each worker's own).
      compressor: Q of the differences, an unbiased one of `byzjax.transforms`, with draws of each worker's own; a
        number is the fraction of coordinates that `random_k` keeps. None by default.
      decay: divide γ by √k, k = 1, 2, ….

    Needs of a task: a finite sum. Costs two gradients of a batch a round, or a full one; under ``vmap`` of several runs
    all of it, since their coins differ. State: x⁻, and d numbers or n d of them.

    Raises:
      ValueError: γ, p, the rule, the base or the compressor are none, or this is known to be biased; when it runs, a
        task without a finite sum.

    Gorbunov, Horváth, Richtárik, Gidel. Variance reduction is an antidote to Byzantine workers: better rates, weaker
    assumptions and communication compression as a cherry on the top. ICLR 2023; Algorithm 1. There g⁰ is ∇f(x⁰), which
    no server knows: here it is the rule's of the full gradients.

    >>> from byzjax import aggregators as agg
    >>> byz_vr_marina(0.1, aggregator=agg.median(), p=0.5)
    byz_vr_marina(learning_rate=0.1, aggregator=median(), p=0.5)
    """
    check = "byz_vr_marina"
    check_probability(p, check)
    own = check_choice(base, typing.get_args(Base), "base", check) == "own"
    squeeze = None if compressor is None else check_unbiased(as_compressor(compressor, random_k, check), check)

    def init(task: Task, params: Params) -> MarinaState:
        zeros = jax.tree.map(jnp.zeros_like, widened(params))
        return MarinaState(params, no_memory(params, task.num_workers) if own else zeros, jnp.zeros((), bool))

    def estimate(oracle: Oracle, params: Params, state: MarinaState, *, key: jax.Array):
        coin, draw = jax.random.split(key)

        def difference():
            losses, here = oracle.batch(params)
            _, there = oracle.batch(state.params)
            step = jax.tree.map(jnp.subtract, here, there)
            step = step if squeeze is None else compressed(squeeze, step, draw)
            return losses, jax.tree.map(lambda g, d: (g if own else g[None]) + d, state.base, step)

        whole = jax.random.bernoulli(coin, p) | (oracle.step == 0)
        losses, estimates = jax.lax.cond(whole, lambda: oracle.full(params), difference)
        return losses, estimates, MarinaState(params, estimates if own else state.base, whole)

    def observe(state: MarinaState, aggregate: Params) -> MarinaState:
        return state._replace(base=widened(aggregate))

    estimator = Estimator(init, estimate, unchanged_state if own else observe, finite_sum=True)
    return estimating(estimator, learning_rate, aggregator, decay, check)
