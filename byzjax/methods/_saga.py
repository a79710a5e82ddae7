"""Byrd-SAGA: a table of every example's last gradient at every worker."""

from __future__ import annotations

import math
import typing
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.base import Aggregator, Method
from byzjax.checks import check_choice, check_integer
from byzjax.estimator import Estimator, Oracle
from byzjax.methods._estimators import estimating, no_memory
from byzjax.methods._schedules import Schedule
from byzjax.stacked import per_row
from byzjax.task import Task
from byzjax.transforms._accumulating import widened
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import takes_as_argument, value

Initial = Literal["gradients", "zero"]


class SagaState(NamedTuple):
    """What `byrd_saga` remembers."""

    table: Stacked  # leaves [n, N, *p], the last gradient of every example; 0 beyond N_i
    mean: Stacked  # leaves [n, *p], its mean over a worker's examples


@takes_as_argument("learning_rate")
@value
def byrd_saga(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    batch_size: int = 1,
    initial: Initial = "gradients",
    max_bytes: int = 1 << 31,
    decay: bool = False,
) -> Method:
    """Byrd-SAGA: SAGA at every worker, and a robust rule (the geometric median in the paper).

    Worker i draws j uniformly of its N_i examples:
    ``g_i = ∇f_ij(x) − t_ij + (1/N_i) Σ_l t_il``, then ``t_ij ← ∇f_ij(x)``; ``x⁺ = x − γ A(g_1, …, g_n)``.

    Args:
      learning_rate: γ > 0, may be traced; or an optax schedule of the round counted from 0.
      aggregator: the rule.
      batch_size: m examples a round, independent draws, the mean of their ``∇f_ij(x) − t_ij``; 1 in the paper. They are
        not those of the round's batch, which does not say which examples it holds.
      initial: ``"gradients"``: ``t_ij = ∇f_ij(x⁰)`` (the released code); ``"zero"`` (a later implementation).
      max_bytes: the largest table that is allowed, 2 GiB by default. A run takes about two tables more while it
        works (measured on a CPU).
      decay: divide γ by √k, k = 1, 2, ….

    Needs of a task: a finite sum of more than one example. State: ``n (max_i N_i + 1) d`` numbers, n times the memory
    of SAGA, and about twice as much again for what is under way: for small models and few examples.

    Raises:
      ValueError: γ, the rule, m or the table's beginning are none; when it runs, a task without a finite sum, one with
        a single example per worker, from which nothing can be drawn, or a table beyond ``max_bytes``.

    Wu, Ling, Chen, Giannakis. Federated variance-reduced stochastic gradient descent with robustness to Byzantine
    attacks. IEEE Transactions on Signal Processing, 2020.

    >>> from byzjax import aggregators as agg
    >>> byrd_saga(0.1, aggregator=agg.geometric_median()).estimator.finite_sum
    True
    """
    check = "byrd_saga"
    m = check_integer(batch_size, "batch_size", check, least=1)
    max_bytes = check_integer(max_bytes, "max_bytes", check, least=1)
    fills = check_choice(initial, typing.get_args(Initial), "initial", check) == "gradients"

    def init(task: Task, params: Params) -> SagaState:
        n, most = task.num_workers, max(task.num_examples)
        _check_table(n, most, params, max_bytes, task.name)
        table = jax.tree.map(lambda p: jnp.zeros((n, most, *p.shape), p.dtype), widened(params))
        return SagaState(table, no_memory(params, n))

    def estimate(oracle: Oracle, params: Params, state: SagaState, *, key: jax.Array):
        sizes = jnp.asarray(oracle.num_examples, jnp.int32)

        def filled() -> SagaState:
            place = jnp.arange(max(oracle.num_examples), dtype=jnp.int32)[None]
            there = place < sizes[:, None]
            _, gradients = oracle.examples(params, jnp.minimum(place, sizes[:, None] - 1))
            table = jax.tree.map(lambda g: jnp.where(_spread(there, g), g, 0.0), gradients)
            return oracle.workers(SagaState(table, _over(_sum(table), sizes)))

        if fills:
            state = jax.lax.cond(oracle.step == 0, filled, lambda: state)
        index = jax.random.randint(key, (oracle.num_workers, m), 0, sizes[:, None], jnp.int32)
        losses, new = oracle.examples(params, index)
        old = jax.tree.map(jax.vmap(lambda rows, chosen: rows[chosen]), state.table, _for_each(index, state.table))
        change = jax.tree.map(jnp.subtract, new, old)
        estimates = jax.tree.map(lambda c, mean: c.mean(1) + mean, change, state.mean)
        # An example that is drawn twice changes the table once.
        again = jnp.tril(index[:, :, None] == index[:, None, :], -1).any(2)
        once = jax.tree.map(lambda c: jnp.where(_spread(again, c), 0.0, c), change)
        mean = jax.tree.map(jnp.add, state.mean, _over(_sum(once), sizes))
        write = jax.vmap(lambda rows, chosen, gradients: rows.at[chosen].set(gradients))
        table = jax.tree.map(write, state.table, _for_each(index, state.table), new)
        return losses.mean(1), estimates, oracle.workers(SagaState(table, mean))

    return estimating(Estimator(init, estimate, finite_sum=True), learning_rate, aggregator, decay, check)


def _spread(flags: jax.Array, like: jax.Array) -> jax.Array:
    """bool[n, m] with as many axes as an array ``[n, m, …]``."""
    return flags.reshape(*flags.shape, *[1] * (like.ndim - 2))


def _for_each(index: jax.Array, tree: Stacked) -> Stacked:
    return jax.tree.map(lambda _: index, tree)


def _sum(tree: Stacked) -> Stacked:
    return jax.tree.map(lambda leaf: leaf.sum(1), tree)


def _over(tree: Stacked, sizes: jax.Array) -> Stacked:
    return jax.tree.map(lambda leaf: leaf / per_row(sizes.astype(leaf.dtype), leaf), tree)


def _check_table(num_workers: int, most: int, params: Params, max_bytes: int, task: str) -> None:
    if most == 1:
        raise ValueError(
            f"byrd_saga: {task} has one example per worker, and from that nothing can be drawn; use momentum_sgd, or a "
            "task with more examples, e.g. logistic_regression."
        )
    leaves = jax.tree.leaves(widened(params))
    needed = num_workers * most * sum(math.prod(p.shape) * p.dtype.itemsize for p in leaves)
    if needed > max_bytes:
        raise ValueError(
            f"byrd_saga: a table of {num_workers} workers × {most} examples × {sum(p.size for p in leaves)} parameters "
            f"takes {needed / 2**30:.3g} GiB, and max_bytes = {max_bytes}; take byz_lsvrg, which has no table, or "
            "fewer examples."
        )
