"""Clipped differences: what workers send is clipped around the last aggregate, as far as the model has moved."""

from __future__ import annotations

import typing
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from byzjax.base import Aggregator, Method, Trust
from byzjax.checks import check_choice, check_kind, check_number
from byzjax.stacked import per_row
from byzjax.transforms import global_norm
from byzjax.transforms._accumulating import widened
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import value

Full = Literal["whole", "clipped"]


class ClippedDifferencesState(NamedTuple):
    """What the rule of `clipped_differences` remembers."""

    rule: Any
    aggregate: Params  # leaves [*p], in at least float32
    params: Params  # leaves [*p], where it was made
    begun: jax.Array  # bool[]


@value
def clipped_differences(method: Method, *, scale: Numeric = 1.0, full: Full = "whole") -> Method:
    """Any method, with its rule on clipped differences to the last aggregate.

    ``g = g⁻ + A(clip_τ(g_1 − g⁻), …, clip_τ(g_n − g⁻))`` with ``τ = λ‖x − x⁻‖`` and ``clip_τ(v) = v min(1, τ/‖v‖)``;
    g⁻ and x⁻ are the aggregate and the model of the round before. In the first round ``g = A(g_1, …, g_n)``.

    Where differences are clipped, no worker's is longer than λ times the model's last step, however many lie, and a row
    with NaN or infinities counts as g⁻. In rounds taken whole, the first one among them, the rule is alone with what
    was sent: choose one that bears it. Around `byz_vr_marina` this is the paper's Algorithm 1, Byz-VR-MARINA-PP, with
    all workers in every round; around others its heuristic, equation (10). Sampling some of the workers, for which the
    paper needs clipping, is no part of byzjax.

    Args:
      method: its rule is replaced. A factory with its arguments, e.g. ``byz_vr_marina(0.1, aggregator=median())``.
      scale: λ > 0, may be traced. The theory of Byz-VR-MARINA-PP has 2 L for L-smooth losses.
      full: where the method's estimator says that all sent full gradients, ``"whole"`` takes ``g = A(g_1, …, g_n)``
        (Algorithm 1); ``"clipped"`` clips their differences, too (the letter of equation (10)), and may stop the model
        for good: as g shrinks so does the step, and with it how far g may turn.

    State: the rule's own, and 2 d numbers.

    Raises:
      ValueError: no method, a λ that is not > 0, or an unknown ``full``.

    Malinovsky, Richtárik, Horváth, Gorbunov. Byzantine robustness and partial participation can be achieved at once:
    just clip gradient differences. NeurIPS 2024.

    >>> from byzjax import aggregators as agg, methods
    >>> clipped_differences(methods.momentum_sgd(0.1, aggregator=agg.median()), scale=2.0).server is not None
    True
    """
    check = "clipped_differences"
    check_kind(method, Method, "method", check, fix="call its factory, e.g. momentum_sgd(0.1, aggregator=median()).")
    check_number(scale, "scale", check, least=0, open_below=True)
    whole = check_choice(full, typing.get_args(Full), "full", check) == "whole"
    return method._replace(aggregator=_clipping(method.aggregator, scale, whole))


def _clipping(rule: Aggregator, scale: Numeric, leave_whole: bool) -> Aggregator:
    def init(params: Params) -> ClippedDifferencesState:
        zero = jax.tree.map(jnp.zeros_like, widened(params))
        return ClippedDifferencesState(rule.init(params), zero, params, jnp.zeros((), bool))

    def update_with_trust(updates: Stacked, state: ClippedDifferencesState, params: Params | None = None, **extra):
        if params is None:
            raise ValueError(
                "clipped_differences: needs params, by which it clips; call update(updates, state, params)."
            )
        moved = global_norm(jax.tree.map(jnp.subtract, widened(params), widened(state.params)))
        as_sent = ~state.begun
        if leave_whole:
            as_sent |= getattr(extra.get("estimator"), "whole", False)
        bound = jnp.where(as_sent, jnp.inf, jnp.asarray(scale, moved.dtype) * moved)
        last = jax.tree.map(lambda g: jnp.where(as_sent, 0.0, g), state.aggregate)
        apart = jax.tree.map(lambda row, g: row - g[None], widened(updates), last)
        lengths = jax.vmap(global_norm)(apart)
        counts = as_sent | _finite(apart)
        factors = jnp.where(lengths > bound, bound / jnp.where(lengths > 0, lengths, 1.0), 1.0)
        factors = jnp.where(counts, factors, 0.0)
        # NaN times nothing is NaN.
        clipped = jax.tree.map(
            lambda row: jnp.where(per_row(counts, row), row * per_row(factors.astype(row.dtype), row), 0.0), apart
        )
        step, inner, trust = rule.update_with_trust(clipped, state.rule, params, **extra)
        aggregate = jax.tree.map(jnp.add, last, step)
        state = ClippedDifferencesState(inner, aggregate, params, jnp.ones((), bool))
        return jax.tree.map(lambda g, row: g.astype(row.dtype), aggregate, updates), state, _of_rows(trust, factors)

    return Aggregator(init, update_with_trust=update_with_trust)


def _finite(rows: Stacked) -> jax.Array:
    """Which rows are finite in every coordinate, bool[n]."""
    flags = [jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(1) for leaf in jax.tree.leaves(rows)]
    return jnp.stack(flags).all(0)


def _of_rows(trust: Trust, factors: jax.Array) -> Trust:
    """Weights of clipped differences as weights of what was sent."""
    return Trust(*(None if part is None else part * jnp.broadcast_to(factors, part.shape) for part in trust))
