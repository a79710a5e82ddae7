"""The synthetic (L₀, L₁)-smooth task of section 6.2: the quartic ``f(x) = ‖x‖⁴``."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from byzjax.checks import check_integer, check_number
from byzjax.checks.arrays import as_array
from byzjax.checks.masks import Liars
from byzjax.checks.traced import concrete
from byzjax.rng import check_key
from byzjax.task import Task
from byzjax.tasks._workers import who_lies
from byzjax.transforms._normalize import global_norm
from byzjax.types import Numeric
from byzjax.values import value

PAPER_NOISE_SCALE = math.sqrt(1e-5)
PAPER_SHIFT_SCALE = math.sqrt(1e-3)


@value
def quartic(
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    dim: int = 10,
    noise_scale: Numeric = PAPER_NOISE_SCALE,
    shift_scale: Numeric = PAPER_SHIFT_SCALE,
    shift_key: jax.Array | None = None,
    shifts: jax.Array | None = None,
    radius: Numeric | None = None,
) -> Task:
    """``f(x) = ‖x‖⁴`` in R^d from x⁰ = (1, …, 1), with noisy, shifted worker gradients.

    Worker i's stochastic gradient is ``4 x ‖x‖² + ξ + s_i`` with ξ ~ N(0, noise_scale² I) drawn anew and s_i ~ N(0,
    shift_scale² I) fixed, where the shifts of the honest workers sum to zero: they are the gradients of
    ``‖x‖⁴ + ⟨ξ + s_i, x⟩``, so the honest objective is f and its heterogeneity is the shifts.

    Args:
      num_workers: n.
      num_byzantine: b; the first n − b workers are honest and have shifts, the others have none.
      byzantine: who lies, instead of the last b: a mask bool[n], or the numbers of those who do.
      dim: d.
      noise_scale: standard deviation of ξ; may be traced. The paper's N(0, 10⁻⁵ I) is the default √10⁻⁵; the
        released code draws with standard deviation 1e-5.
      shift_scale: standard deviation of the shifts; may be traced. The paper's N(0, 10⁻³ I) is the default √10⁻³;
        the released code uses 1e-6 for all honest workers but the last, which balances the others. Here the mean is
        subtracted from all, so that no worker is special.
      shift_key: draws the shifts, which are part of the task and not of a run; ``jax.random.key(0)`` by default.
      shifts: ``[n − b, d]``, in place of drawn ones; not scaled, and not centred.
      radius: beyond ``‖x‖ = radius`` f grows like a quadratic, with the gradient ``4 x radius²``, so that the gradient
        is ``4 x min(‖x‖, radius)²`` everywhere; may be traced. The released code has 100; by default it never ends.

    Finite sum: of one example, ``f_i(x) = ‖x‖⁴ + ⟨s_i, x⟩`` without noise.

    Evaluation: the *true* ``gradient_norm`` 4‖x‖³, ``objective`` ‖x‖⁴ and ``distance`` ‖x‖ to the optimum.

    Raises:
      ValueError: no honest worker, dim < 1, a scale that is negative or not finite, a radius that is not positive,
        shifts of another shape or not finite, or a key that is none.

    >>> task = quartic(num_workers=5, num_byzantine=1)
    >>> float(task.evaluate(task.data, jnp.ones(10))["objective"])
    100.0
    """
    liars = who_lies(num_workers, num_byzantine, byzantine, where="quartic")
    num_workers, honest = len(liars), np.flatnonzero(~liars)
    dim = check_integer(dim, "dim", "quartic", least=1)
    check_number(noise_scale, "noise_scale", "quartic", least=0)
    check_number(shift_scale, "shift_scale", "quartic", least=0)
    if radius is not None:
        check_number(radius, "radius", "quartic", least=0, open_below=True)
        radius = radius if concrete(radius) is None else float(radius)

    if shifts is None:
        key = check_key(jax.random.key(0) if shift_key is None else shift_key, "quartic: shift_key")
        own = jax.random.normal(key, (len(honest), dim))
        own = (own - own.mean(0, keepdims=True)) * jnp.asarray(shift_scale, own.dtype)
    else:
        own = _checked(shifts, (len(honest), dim))
    data = {"shifts": jnp.zeros((num_workers, dim), own.dtype).at[honest].set(own)}
    data["noise_scale"] = jnp.array(noise_scale, own.dtype)

    def init(key: jax.Array) -> jax.Array:
        del key
        return jnp.ones((dim,))

    def sample(data: dict, key: jax.Array) -> dict:
        noise = jax.random.normal(key, (num_workers, dim))
        return {"slope": data["noise_scale"] * noise + data["shifts"]}

    def examples(data: dict, index: jax.Array) -> dict:
        return {"slope": jnp.broadcast_to(data["shifts"][:, None], (*index.shape, dim))}

    def loss(x: jax.Array, batch: dict, key: jax.Array) -> jax.Array:
        del key
        return objective(jnp.vdot(x, x)) + jnp.vdot(batch["slope"], x)

    def objective(square: jax.Array) -> jax.Array:
        if radius is None:
            return jnp.square(square)
        edge = jnp.square(jnp.asarray(radius, square.dtype))
        return jnp.where(square <= edge, jnp.square(square), (2 * square - edge) * edge)

    def evaluate(data: dict, x: jax.Array) -> dict[str, jax.Array]:
        del data
        distance = global_norm(x)
        if radius is None:
            return {"gradient_norm": 4 * distance**3, "objective": distance**4, "distance": distance}
        norm = 4 * distance * jnp.square(jnp.minimum(distance, jnp.asarray(radius, distance.dtype)))
        return {"gradient_norm": norm, "objective": objective(jnp.square(distance)), "distance": distance}

    sums = {"examples": examples, "num_examples": (1,) * num_workers}
    return Task(data, init, sample, loss, evaluate, num_workers, "quartic", byzantine=liars, **sums)


def _checked(shifts: Any, shape: tuple[int, int]) -> jax.Array:
    """Shifts that were handed in; they may be traced."""
    traced = isinstance(shifts, jax.core.Tracer)
    if not traced and not np.isfinite(as_array(shifts, "shifts", "quartic")).all():
        raise ValueError("quartic: shifts must be finite; a shift is a constant part of a worker's gradient.")
    if jnp.shape(shifts) != shape:
        raise ValueError(f"quartic: shifts have shape {jnp.shape(shifts)}; one per honest worker is {shape}.")
    return jnp.asarray(shifts, jnp.result_type(float))
