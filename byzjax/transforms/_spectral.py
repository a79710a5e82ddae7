"""Norms of a matrix by its singular values, and ways to make all of those 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax.checks import check_choice, check_integer, check_kind, shown
from byzjax.stacked import eigen
from byzjax.transforms._normalize import near_one

Method = Literal["svd", "polar", "newton_schulz"]
Coefficients = Literal["classic", "dion", "polar_express"] | Sequence[float] | Sequence[Sequence[float]]

Triple = tuple[float, float, float]

_ROUNDING = 4  # ε, of the largest singular value

_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
# Quintic steps X ← a X + b (XXᵀ)X + c (XXᵀ)²X, from ‖X‖_F = 1.
COEFFICIENTS: dict[str, tuple[Triple, ...]] = {
    "classic": 5 * ((3.4445, -4.7750, 2.0315),),  # Jordan et al., Muon, 2024
    # Amsel, Persson, Musco, Gower, The Polar Express, arXiv 2505.16932, for singular values from 0.001 to 1: shrunk by
    # their safety factor 1.01, and the step that they converge to.
    "polar_express": (*((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _POLAR_EXPRESS), (1.875, -1.25, 0.375)),
    "dion": (  # Ahn et al., Dion, arXiv 2504.05295
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}


class Orthogonalisation(NamedTuple):
    """How singular values are made 1.

    Attributes:
      method: see `byzjax.transforms.scale_by_lmo`.
      coefficients: of the steps of Newton and Schulz, one triple each.
    """

    method: Method = "svd"
    coefficients: tuple[Triple, ...] = COEFFICIENTS["classic"]


def orthogonalisation(
    method: str, coefficients: Coefficients | None, steps: int | None, where: str
) -> Orthogonalisation:
    """The same of what a user says.

    Args:
      method: a name.
      coefficients: of Newton and Schulz: a name, one triple for all steps, or one for each; None for the classic ones.
      steps: how many of one triple, 5 by default; of several, each is one step.
      where: the function that got it.

    Raises:
      ValueError: an unknown name, no triples of numbers, another number of steps than of triples, or coefficients or
        steps of another method, which has none.
    """
    check_choice(method, ("svd", "polar", "newton_schulz"), "method", where)
    for argument, given in (("coefficients", coefficients), ("steps", steps)):
        if given is not None and method != "newton_schulz":
            raise ValueError(
                f"{where}: {argument} = {shown(given)} is for method='newton_schulz', and method = {method!r} has no "
                "use for it; leave it out, or pass that method."
            )
    coefficients = "classic" if coefficients is None else coefficients
    if isinstance(coefficients, str):
        check_choice(coefficients, tuple(COEFFICIENTS), "coefficients", where)
        several = COEFFICIENTS[coefficients]
        repeated = coefficients == "classic"
    else:
        fix = "pass 'classic', 'dion', 'polar_express', a triple (a, b, c), or a list of triples."
        check_kind(coefficients, (tuple, list), "coefficients", where, fix=fix)
        repeated = bool(coefficients) and not any(isinstance(one, tuple | list) for one in coefficients)
        several: Any = (tuple(coefficients),) if repeated else coefficients
        if not several or not all(map(_is_triple, several)):
            raise ValueError(f"{where}: coefficients = {coefficients!r} are no triples of numbers; {fix}")
    if steps is not None:
        steps = check_integer(steps, "steps", where, least=1)
    if repeated:
        several = (5 if steps is None else steps) * tuple(several[:1])
    elif steps is not None and steps != len(several):
        raise ValueError(
            f"{where}: steps = {steps}, but coefficients = {shown(coefficients)} are of {len(several)} steps; omit it."
        )
    return Orthogonalisation(method, tuple(map(tuple, several)))  # type: ignore[arg-type]


def _is_triple(one: Any) -> bool:
    return isinstance(one, tuple | list) and len(one) == 3 and all(isinstance(c, int | float) for c in one)


def orthogonal(x: jax.Array, how: Orthogonalisation) -> jax.Array:
    """``U Vᵀ`` of matrices ``U Σ Vᵀ``, ``[b, m, n] -> [b, m, n]``; 0 of 0."""
    _, x = near_one(x, (1, 2))
    with jax.default_matmul_precision("highest"):
        return _METHODS[how.method](x, how)


def _by_svd(x: jax.Array, how: Orthogonalisation) -> jax.Array:
    del how
    u, values, vt = jax.vmap(eigen.svd)(x)
    # Vectors of less than that are arbitrary. A bound for all matrices would grow with their size, and leave out
    # directions that singular vectors tell well.
    kept = values > _ROUNDING * float(jnp.finfo(x.dtype).eps) * values[:, :1]
    return _without_dead_units((u * kept[:, None, :].astype(u.dtype)) @ vt, x)


def _by_polar(x: jax.Array, how: Orthogonalisation) -> jax.Array:
    del how
    wide = x.shape[1] < x.shape[2]
    tall = x.transpose(0, 2, 1) if wide else x
    # It divides by the norm; of a matrix of zeros any other will do.
    safe = jnp.where((tall != 0).any((1, 2), keepdims=True), tall, jnp.eye(*tall.shape[1:], dtype=x.dtype)[None])
    factor = _without_dead_units(jax.vmap(eigen.polar_factor)(safe), tall)
    return factor.transpose(0, 2, 1) if wide else factor


def _without_dead_units(factor: jax.Array, x: jax.Array) -> jax.Array:
    """``U Vᵀ`` is 0 in rows and columns of zeros, which rounding fills."""
    rows, columns = ((x != 0).any(axis, keepdims=True) for axis in (2, 1))
    return jnp.where(rows & columns, factor, 0.0)


def _by_newton_schulz(x: jax.Array, how: Orthogonalisation) -> jax.Array:
    coefficients = tuple(how.coefficients)
    muon = optax.contrib.scale_by_muon(coefficients, len(coefficients), beta=0.0, nesterov=False)  # type: ignore[arg-type]
    with jax.numpy_dtype_promotion("standard"):  # its count is an integer
        return jax.vmap(lambda one: muon.update(one, muon.init(one))[0])(x)  # type: ignore[return-value]


_METHODS: dict[str, Callable[[jax.Array, Orthogonalisation], jax.Array]] = {
    "svd": _by_svd,
    "polar": _by_polar,
    "newton_schulz": _by_newton_schulz,
}


def singular_values(x: jax.Array) -> jax.Array:
    """``[b, m, n] -> [b, min(m, n)]``, the largest first."""
    power, x = near_one(x, (1, 2))
    return jax.vmap(eigen.singular_values)(x) / power[:, :, 0]


def largest_direction(x: jax.Array) -> jax.Array:
    """``u₁ v₁ᵀ`` of the matrix with the largest singular value, of several the first; 0 elsewhere. ``[b, m, n]``."""
    _, x = near_one(x)
    u, values, vt = jax.vmap(eigen.svd)(x)
    best = (jnp.arange(x.shape[0]) == jnp.argmax(values[:, 0])) & (values[:, 0] > 0)
    return jnp.where(best[:, None, None], u[:, :, :1] * vt[:, :1, :], 0.0)
