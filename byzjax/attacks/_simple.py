"""Attacks without memory: none, bit flip, sign flip, inner-product manipulation, ALIE."""

from __future__ import annotations

import typing
from typing import Literal

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.base import Attack, unchanged_updates
from byzjax.checks import check_choice, check_number
from byzjax.promises import promises
from byzjax.types import Numeric, Params, Stacked
from byzjax.values import takes_as_argument, value

Source = Literal["gradient", "momentum"]
Sign = Literal[1, -1]
Ddof = Literal[0, 1]


def no_state(params: Params, num_workers: int) -> tuple:
    """The state of an attack that remembers nothing."""
    del params, num_workers
    return ()


@value
def none() -> Attack:
    """No attack: Byzantine workers follow the protocol. The attack-free reference.

    >>> attack = none()
    >>> updates, _ = attack.update(jnp.ones((2, 1)), (), None, byzantine=jnp.array([False, True]))
    >>> updates.tolist()
    [[1.0], [1.0]]
    """
    return Attack(no_state, unchanged_updates)


@value
def bit_flip(of: Source = "gradient") -> Attack:
    """Bit flip: each Byzantine worker sends minus what it computed.

    ``v_i = −∇f_i(x)`` with ``of="gradient"`` (the text of the Byz-NSGDM paper and its MNIST code: no momentum), or
    ``v_i = −(worker i's momentum)`` with ``of="momentum"`` (its language-model code).

    Args:
      of: which of the worker's own vectors is negated.

    Raises:
      ValueError: ``of`` is none of the two.

    >>> attack = bit_flip(of="momentum")
    >>> updates, _ = attack.update(jnp.array([[1.0], [2.0]]), (), None, byzantine=jnp.array([False, True]))
    >>> updates.tolist()
    [[1.0], [-2.0]]
    """
    check_choice(of, typing.get_args(Source), "of", "bit_flip")

    def update(updates: Stacked, state, params=None, *, byzantine: jax.Array, grads: Stacked | None = None, **extra):
        del params, extra
        if of == "gradient" and grads is None:
            raise ValueError("bit_flip: of='gradient' needs grads=…; use of='momentum' to negate the updates.")
        own = grads if of == "gradient" else updates
        return stacked.replace_rows(updates, byzantine, jax.tree.map(jnp.negative, own)), state

    return Attack(no_state, update)


@promises(adaptive=True)
@takes_as_argument("scale")
@value
def sign_flip(scale: Numeric = 1.0) -> Attack:
    """Sign flip: all Byzantine workers send minus the honest mean, scaled.

    ``v_b = −scale · (1/G) Σ_{i honest} v_i`` (ByzFL's SignFlipping with scale 1). Minus a worker's *own* vector, the
    other meaning of the name, is `bit_flip`.

    Args:
      scale: may be traced.

    >>> attack = sign_flip()
    >>> updates, _ = attack.update(jnp.array([[1.0], [3.0], [9.0]]), (), None, byzantine=jnp.arange(3) == 2)
    >>> updates.tolist()
    [[1.0], [3.0], [-2.0]]
    """
    return _minus_honest_mean(scale, "sign_flip")


@promises(adaptive=True)
@takes_as_argument("scale")
@value
def ipm(scale: Numeric = 0.5) -> Attack:
    """Inner-product manipulation: minus the honest mean times ε, so that the aggregate points uphill.

    ``v_b = −ε · (1/G) Σ_{i honest} v_i``. ε < 1 hides among honest rows, ε ≫ 1 breaks whatever averages.

    Args:
      scale: ε, may be traced. Xie et al. use 0.5 and 100, ByzFL's default is 2 (its ``tau``), ByzPy's Empire attack
        takes −ε as its scale.

    Xie, Koyejo, Gupta. Fall of empires: breaking Byzantine-tolerant SGD by inner product manipulation. UAI 2019.

    >>> attack = ipm(scale=10.0)
    >>> updates, _ = attack.update(jnp.array([[1.0], [3.0], [9.0]]), (), None, byzantine=jnp.arange(3) == 2)
    >>> updates.tolist()
    [[1.0], [3.0], [-20.0]]
    """
    return _minus_honest_mean(scale, "ipm")


def _minus_honest_mean(scale: Numeric, name: str) -> Attack:
    check_number(scale, "scale", name)

    def update(updates: Stacked, state, params=None, *, byzantine: jax.Array, **extra):
        del params, extra
        honest = stacked.masked_mean(updates, ~byzantine)
        forged = jax.tree.map(lambda m: -jnp.asarray(scale, m.dtype) * m, honest)
        return stacked.replace_rows(updates, byzantine, forged), state

    return Attack(no_state, update)


@promises(adaptive=True)
@takes_as_argument("z")
@value
def alie(z: Numeric | Literal["auto"] = 1.0, *, sign: Sign = 1, ddof: Ddof = 0) -> Attack:
    """A little is enough: the honest mean, moved by z standard deviations in every coordinate.

    ``v_b = μ + sign · z · σ`` with μ and σ the coordinate-wise mean and standard deviation of the honest rows.

    Args:
      z: how far; may be traced. 1 in the Byz-NSGDM paper, 1.5 in ByzFL. ``"auto"`` is the largest z that the formula of
        Baruch et al. hides: ``Φ(z) = (n − b − s)/(n − b)`` with ``s = ⌊n/2 + 1⌋ − b`` and b Byzantine workers.
      sign: +1 is the text of the Byz-NSGDM paper and ByzFL; −1 is Baruch et al.'s code and the Byz-NSGDM code.
      ddof: 0 is NumPy's deviation (the quartic code of Byz-NSGDM), 1 is PyTorch's (its language-model code, ByzFL).

    Raises:
      ValueError: z not finite, or an unknown sign or ddof.

    Baruch, Baruch, Goldberg. A little is enough: circumventing defenses for distributed learning. NeurIPS 2019.

    >>> attack = alie(z=1.5, ddof=1)
    >>> x = jnp.array([[1.0], [4.0], [7.0], [0.0]])
    >>> attack.update(x, (), None, byzantine=jnp.arange(4) == 3)[0].tolist()
    [[1.0], [4.0], [7.0], [8.5]]
    """
    if isinstance(z, str) and z != "auto":
        raise ValueError(f"alie: z = {z!r} must be a number or 'auto'.")
    if not isinstance(z, str):
        check_number(z, "z", "alie")
    check_choice(sign, typing.get_args(Sign), "sign", "alie")
    check_choice(ddof, typing.get_args(Ddof), "ddof", "alie")

    def update(updates: Stacked, state, params=None, *, byzantine: jax.Array, **extra):
        del params, extra
        mean = stacked.masked_mean(updates, ~byzantine)
        std = stacked.masked_std(updates, ~byzantine, ddof)
        reach = sign * (auto_z(byzantine) if isinstance(z, str) else z)
        forged = jax.tree.map(lambda m, s: m + jnp.asarray(reach, m.dtype) * s, mean, std)
        return stacked.replace_rows(updates, byzantine, forged), state

    return Attack(no_state, update)


def auto_z(byzantine: jax.Array) -> jax.Array:
    """Baruch et al.'s z: ``Φ⁻¹((n − b − s)/(n − b))``, ``s = ⌊n/2 + 1⌋ − b``.

    Args:
      byzantine: bool[n]; may be traced.

    Returns:
      f32[], 0 where the formula gives less (then a majority would not be fooled) or no Byzantine worker exists.

    >>> round(float(auto_z(jnp.arange(50) >= 38)), 3)
    0.336
    """
    n = byzantine.shape[0]
    b = byzantine.sum().astype(jnp.float32)
    supporters = n // 2 + 1 - b
    quantile = (n - b - supporters) / jnp.maximum(n - b, 1.0)
    z = jax.scipy.stats.norm.ppf(jnp.clip(quantile, 1e-6, 1.0 - 1e-6))
    return jnp.where(b > 0, jnp.maximum(z, 0.0), 0.0)
