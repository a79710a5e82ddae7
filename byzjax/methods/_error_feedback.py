"""Error feedback: workers send compressed differences to what the server knows of them. Byz-EF21 and Byz-DM21."""

from __future__ import annotations

import typing
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.base import Aggregator, Method
from byzjax.checks import check_choice, check_kind, check_number
from byzjax.estimator import Estimator, Oracle
from byzjax.methods._estimators import estimating, no_memory
from byzjax.methods._schedules import Schedule
from byzjax.task import Task
from byzjax.transforms._compression import Compressor, as_compressor, check_contractive, compressed, top_k
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import takes_as_argument, value

Initial = Literal["gradient", "compressed"]


class ErrorFeedbackState(NamedTuple):
    """What `byz_ef21` and `byz_dm21` remember."""

    momenta: tuple[Stacked, ...]  # leaves [n, *p] each: none, v_i, or v_i and u_i
    sent: Stacked  # leaves [n, *p], g_i, which worker and server both know
    previous: Any  # leaves [*p], x of the round before, for variance reduction; else ()


@takes_as_argument("learning_rate")
@value
def byz_ef21(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    compressor: Compressor | float = 0.1,
    beta: Numeric | None = None,
    initial: Initial = "gradient",
    decay: bool = False,
) -> Method:
    """Byz-EF21: error feedback with full gradients; Byz-EF21-SGDM with momentum.

    ``g_i ← g_i + C(∇f_i(x) − g_i)``, ``x⁺ = x − γ A(g_1, …, g_n)``. With ``beta``
    ``v_i ← β v_i + (1 − β) ∇f_iB(x)``, ``g_i ← g_i + C(v_i − g_i)``, on the round's batches.

    Args:
      learning_rate: γ > 0, may be traced; or an optax schedule of the round counted from 0.
      aggregator: the rule.
      compressor: C, a contractive one of `byzjax.transforms`; a number is the fraction that `top_k` keeps.
      beta: β = 1 − η in [0, 1), may be traced; None for full gradients.
      initial: the first g_i is ``"gradient"``, what would be compressed in the first round, sent whole (a public
        implementation); or ``"compressed"``, C of it.
      decay: divide γ by √k, k = 1, 2, ….

    A Byzantine worker may send any difference, dense ones too: attacks rewrite g_i itself. Needs of a task: a finite
    sum, unless there is a β. Costs a full gradient a round, or one of a batch. State: n d numbers, 2 n d with β.

    Raises:
      ValueError: γ, β, the rule or the compressor are none, or this is known not to be contractive; when it runs
        without β, a task without a finite sum.

    Rammal, Gruntkowska, Fedin, Gorbunov, Richtárik. Communication compression for Byzantine robust learning: new
    efficient algorithms and improved rates. AISTATS 2024 (Byz-EF21). Liu, Li, Yi, Johansson. Byzantine-robust and
    communication-efficient distributed learning via compressed momentum filtering. 2024, arXiv 2409.08640 (with
    momentum). Of both the abstracts and public implementations could be read, not the algorithms in the text.

    >>> from byzjax import aggregators as agg
    >>> byz_ef21(0.1, aggregator=agg.median()).estimator.finite_sum
    True
    """
    check = "byz_ef21"
    if beta is not None:
        check_number(beta, "beta", check, least=0, below=1)
    estimator = _estimator(compressor, initial, check, beta=beta, momenta=0 if beta is None else 1)
    return estimating(estimator, learning_rate, aggregator, decay, check)


@takes_as_argument("learning_rate")
@value
def byz_dm21(
    learning_rate: Numeric | Schedule,
    *,
    aggregator: Aggregator,
    compressor: Compressor | float = 0.1,
    beta: Numeric = 0.9,
    variance_reduced: bool = False,
    initial: Initial = "gradient",
    decay: bool = False,
) -> Method:
    """Byz-DM21: error feedback with two momenta, one after the other; Byz-VR-DM21.

    ``v_i ← β v_i + (1 − β) ∇f_iB(x)``, ``u_i ← β u_i + (1 − β) v_i``, ``g_i ← g_i + C(u_i − g_i)``,
    ``x⁺ = x − γ A(g_1, …, g_n)``. Variance reduced: ``v_i ← ∇f_iB(x) + β (v_i − ∇f_iB(x⁻))`` on the same batch, with x⁻
    of the round before. In the first round v_i and u_i are the gradient.

    Args:
      learning_rate: γ > 0, may be traced; or an optax schedule of the round counted from 0.
      aggregator: the rule.
      compressor, initial: as in `byz_ef21`.
      beta: β = 1 − η in [0, 1), may be traced, of both momenta.
      variance_reduced: Byz-VR-DM21.
      decay: divide γ by √k, k = 1, 2, ….

    Needs nothing of a task. Costs one gradient of a batch a round, two if variance reduced. State: 3 n d numbers.
    Neither converges linearly with constant γ and β: what is left of the noise shrinks with 1 − β.

    Raises:
      ValueError: γ, β, the rule or the compressor are none, or this is known not to be contractive.

    Li, Liu, Yi. Accelerating Byzantine-robust distributed learning with compressed communication via double momentum
    and variance reduction. AISTATS 2026 (arXiv 2603.15144). Abstract and a public implementation could be read, not the
    text; that implementation takes ∇f_iB(x⁻) of the round before, on its own batch, where the two cancel nothing: here
    it is on the new batch, as in STORM (Cutkosky, Orabona, 2019).

    >>> from byzjax import aggregators as agg
    >>> byz_dm21(0.1, aggregator=agg.median(), compressor=0.5)
    byz_dm21(learning_rate=0.1, aggregator=median(), compressor=0.5)
    """
    check = "byz_dm21"
    check_number(beta, "beta", check, least=0, below=1)
    check_kind(variance_reduced, bool, "variance_reduced", check, fix="say True or False.")
    estimator = _estimator(compressor, initial, check, beta=beta, momenta=2, recursive=variance_reduced)
    return estimating(estimator, learning_rate, aggregator, decay, check)


def _estimator(
    compressor: Compressor | float,
    initial: Initial,
    where: str,
    *,
    beta: Numeric | None,
    momenta: int,
    recursive: bool = False,
) -> Estimator:
    """Full gradients, or those of batches after as many momenta, whose differences to what was sent are compressed."""
    squeeze = check_contractive(as_compressor(compressor, top_k, where), where)
    whole = check_choice(initial, typing.get_args(Initial), "initial", where) == "gradient"

    def init(task: Task, params: Params) -> ErrorFeedbackState:
        zeros = no_memory(params, task.num_workers)
        return ErrorFeedbackState((zeros,) * momenta, zeros, params if recursive else ())

    def estimate(oracle: Oracle, params: Params, state: ErrorFeedbackState, *, key: jax.Array):
        first = oracle.step == 0
        losses, fresh = oracle.batch(params) if momenta else oracle.full(params)
        target, followed = fresh, []
        for place, old in enumerate(state.momenta):
            if recursive and place == 0:
                _, there = oracle.batch(state.previous)
                now = jax.tree.map(lambda new, v, g: new + _as(beta, v) * (v - g), fresh, old, there)
            else:
                now = jax.tree.map(lambda new, v: _as(beta, v) * v + (1 - _as(beta, v)) * new, target, old)
            target = jax.tree.map(lambda start, later: jnp.where(first, start, later), fresh, now)
            followed.append(target)
        change = jax.tree.map(jnp.subtract, target, state.sent)
        sent = jax.tree.map(jnp.add, state.sent, compressed(squeeze, change, key))
        if whole:
            sent = jax.tree.map(lambda start, later: jnp.where(first, start, later), target, sent)
        kept, sent = oracle.workers((tuple(followed), sent))
        return losses, sent, ErrorFeedbackState(kept, sent, params if recursive else ())

    return Estimator(init, estimate, finite_sum=momenta == 0)


def _as(beta: Numeric | None, like: jax.Array) -> jax.Array:
    return jnp.asarray(beta, like.dtype)
