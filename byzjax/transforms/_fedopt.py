"""Adaptive steps of a server, with the conventions of FedOpt."""

from __future__ import annotations

import typing
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax.checks import check_choice, number_or_nan
from byzjax.transforms._accumulating import widened
from byzjax.transforms._link import Link, floating
from byzjax.types import Numeric, Params
from byzjax.values import value

SecondMoment = Literal["adam", "yogi", "adagrad"]


class FedOptState(NamedTuple):
    """Averages of aggregates and of their squares."""

    count: jax.Array  # i32[]
    mu: Params  # leaves [*p], m; of float32 at least
    nu: Params  # leaves [*p], s; likewise


@value
def scale_by_fedopt(
    second_moment: SecondMoment = "adam",
    *,
    beta_1: Numeric = 0.9,
    beta_2: Numeric = 0.99,
    tau: Numeric = 1e-3,
    initial: Numeric | None = None,
    bias_correction: bool = False,
) -> Link:
    """An optax link: ``u ← m/(√s + τ)``, coordinate by coordinate; FedAdam, FedYogi and FedAdagrad of the aggregate v.

    ``m ← β₁ m + (1 − β₁) v`` from 0, and from s = τ²

    ======= =================================================
    adam    ``s ← β₂ s + (1 − β₂) v²``
    yogi    ``s ← s − (1 − β₂) v² sign(s − v²)``
    adagrad ``s ← s + v²``
    ======= =================================================

    optax differs, so that these are no links of it: `optax.scale_by_adam` corrects the bias of both, starts from s = 0,
    and has 10⁻⁸ for τ; `optax.scale_by_yogi` does so too, from 10⁻⁶ in m as well; `optax.scale_by_rss` has no m, starts
    from 0.1, and its ε is inside the root. Flower starts from s = 0. Moments of 16 bits, which would stall, are kept in
    float32; what is given has the updates' dtypes.

    Args:
      second_moment: one of the three.
      beta_1: β₁ in [0, 1), may be traced, as all numbers; all is NaN where one is out of its range then. The paper
        takes 0.9, and 0 for FedAdagrad.
      beta_2: β₂ in [0, 1); FedAdagrad has none. The paper's 0.99.
      tau: τ > 0, how little adaptive it is. The paper's 10⁻³.
      initial: of s, at least τ² in the paper; τ² by default.
      bias_correction: divide m by 1 − β₁ᵏ and, but for adagrad, s by 1 − β₂ᵏ. From ``initial=0.0`` adam is then Adam.

    Raises:
      ValueError: an unknown second moment, a number out of its range, or leaves of integers.

    Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, Adaptive federated optimization, ICLR 2021.

    >>> tx = scale_by_fedopt("adagrad", beta_1=0.0, tau=1.0, initial=0.0)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [0.75]
    """
    where = "scale_by_fedopt"
    check_choice(second_moment, typing.get_args(SecondMoment), "second_moment", where)
    b_1 = number_or_nan(beta_1, "beta_1", where, least=0, below=1)
    b_2 = number_or_nan(beta_2, "beta_2", where, least=0, below=1)
    little = number_or_nan(tau, "tau", where, least=0, open_below=True)
    check_choice(bias_correction, (False, True), "bias_correction", where)
    start = little * little if initial is None else number_or_nan(initial, "initial", where, least=0)

    def init(params: Params) -> FedOptState:
        zeros = optax.tree.zeros_like(widened(params))
        full = jax.tree.map(lambda x: x + jnp.asarray(start, x.dtype), zeros)
        return FedOptState(jnp.zeros((), jnp.int32), zeros, full)

    def second(v: jax.Array, s: jax.Array) -> jax.Array:
        square, b = jnp.square(v), jnp.asarray(b_2, s.dtype)
        if second_moment == "adagrad":
            return s + square
        return b * s + (1 - b) * square if second_moment == "adam" else s - (1 - b) * jnp.sign(s - square) * square

    def update(updates: Params, state: FedOptState, params: Params | None = None, **extra):
        del params, extra
        updates = floating(updates, where)
        given = jax.tree.map(lambda v, m: v.astype(m.dtype), updates, state.mu)
        count = jnp.asarray(optax.safe_increment(state.count))
        mu = jax.tree.map(
            lambda v, m: jnp.asarray(b_1, m.dtype) * m + (1 - jnp.asarray(b_1, m.dtype)) * v, given, state.mu
        )
        nu = jax.tree.map(second, given, state.nu)

        def step(m: jax.Array, s: jax.Array) -> jax.Array:
            if bias_correction:
                k = count.astype(m.dtype)
                m = m / (1 - jnp.asarray(b_1, m.dtype) ** k)
                s = s if second_moment == "adagrad" else s / (1 - jnp.asarray(b_2, m.dtype) ** k)
            return m / (jnp.sqrt(s) + jnp.asarray(little, m.dtype))

        steps = jax.tree.map(lambda m, s, v: step(m, s).astype(v.dtype), mu, nu, updates)
        return steps, FedOptState(count, mu, nu)

    return Link(init, update)  # type: ignore[arg-type]
