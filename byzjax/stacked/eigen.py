"""Eigenvalues, singular values and solutions of small systems that cannot hang."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg

from byzjax.stacked.control_flow import fori_loop, one_by_one, scan

_HALVINGS = 20  # of an interval no longer than a few eigenvalues


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues, ascending, and eigenvectors: `jax.numpy.linalg.eigh`, safe under vmap on CPUs.

    JAX before 0.11 spreads a batch of matrices over XLA's thread pool and waits for it inside of it. When every thread
    of the pool does so at once, as with several devices or several programs side by side, none is left to do the work,
    and the process hangs. So on a CPU a batch is computed one after the other.

    Args:
      matrix: ``f32[n, n]``, symmetric.

    >>> eigh(jnp.diag(jnp.array([3.0, 1.0])))[0].tolist()
    [1.0, 3.0]
    """
    return jax.lax.platform_dependent(matrix, cpu=_vectors_in_turn, default=_vectors)


def eigvalsh(matrix: jax.Array) -> jax.Array:
    """The eigenvalues alone, which are cheaper; see `eigh`.

    >>> eigvalsh(jnp.diag(jnp.array([3.0, 1.0]))).tolist()
    [1.0, 3.0]
    """
    return jax.lax.platform_dependent(matrix, cpu=_values_in_turn, default=_values)


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """``matrix⁻¹ right`` for a positive definite matrix, by Cholesky; on CPUs one after the other, see `eigh`.

    Args:
      matrix: ``f32[n, n]``.
      right: ``f32[n, m]``.

    >>> solve(jnp.diag(jnp.array([4.0, 16.0])), jnp.ones((2, 1)))[:, 0].tolist()
    [0.25, 0.0625]
    """
    return jax.lax.platform_dependent(matrix, right, cpu=_solution_in_turn, default=_solution)


def svd(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``U``, the singular values, the largest first, and ``Vᵀ``, reduced; on CPUs one after the other, see `eigh`.

    Args:
      matrix: ``f32[m, n]``.

    >>> svd(jnp.array([[0.0, 2.0], [3.0, 0.0]]))[1].tolist()
    [3.0, 2.0]
    """
    return jax.lax.platform_dependent(matrix, cpu=_svd_in_turn, default=_svd)


def singular_values(matrix: jax.Array) -> jax.Array:
    """The singular values alone, which are cheaper; see `svd`.

    >>> singular_values(jnp.array([[0.0, 2.0], [3.0, 0.0]])).tolist()
    [3.0, 2.0]
    """
    return jax.lax.platform_dependent(matrix, cpu=_singular_values_in_turn, default=_singular_values)


def polar_factor(matrix: jax.Array) -> jax.Array:
    """``U Vᵀ`` of ``U Σ Vᵀ`` with m ≥ n, by `jax.scipy.linalg.polar`; on CPUs one after the other, see `eigh`.

    >>> polar_factor(jnp.diag(jnp.array([4.0, 16.0]))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return jax.lax.platform_dependent(matrix, cpu=_polar_in_turn, default=_polar_factor)


def largest_ritz_value(apply: Callable[[jax.Array], jax.Array], start: jax.Array, steps: int) -> jax.Array:
    """Nearly the largest eigenvalue of symmetric matrices, and but for rounding not above it, by Lanczos' method.

    Vectors are not orthogonalised again: that would only spare finding the same value twice.

    Args:
      apply: multiplies a batch of vectors, ``f32[n, c] -> f32[n, c]``, each with its own matrix, in such units that
        squares of its eigenvalues are in range.
      start: ``f32[n, c]``, likewise.
      steps: of which n are enough, 1 gives the Rayleigh quotient of ``start``.

    Returns:
      f32[c].

    Lanczos. An iteration method for the solution of the eigenvalue problem of linear differential and integral
    operators. Journal of Research of the National Bureau of Standards 45, 1950.

    >>> matrix = jnp.diag(jnp.array([3.0, 1.0, 2.0]))
    >>> largest_ritz_value(lambda v: jnp.matmul(matrix, v), jnp.ones((3, 1)), 3).round(4).tolist()
    [3.0]
    """

    def unit(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        length = jnp.sqrt(jnp.square(v).sum(0))
        return v / jnp.maximum(length, jnp.finfo(v.dtype).tiny)[None], length

    def step(carry, _):
        v, before, link = carry
        w = apply(v) - link[None] * before
        here = (v * w).sum(0)
        after, beyond = unit(w - here[None] * v)
        return (after, v, beyond), (here, beyond)

    v, _ = unit(start)
    _, (diagonal, links) = scan(step, (v, jnp.zeros_like(v), jnp.zeros_like(v[0])), length=steps)
    return _largest_of_tridiagonal(diagonal, links[:-1])


def _largest_of_tridiagonal(diagonal: jax.Array, links: jax.Array) -> jax.Array:
    """The largest eigenvalues of symmetric matrices ``f32[k, c]``, ``f32[k − 1, c]``, from below.

    By bisection: a number is above all eigenvalues where all pivots of its difference from the matrix are positive.
    """
    squares = jnp.square(links)

    def halve(_, interval):
        low, high = interval
        middle = 0.5 * (low + high)
        pivot = middle - diagonal[0]
        above = pivot > 0
        for own, link in zip(diagonal[1:], squares, strict=True):
            pivot = middle - own - link / jnp.where(above, pivot, 1.0)
            above &= pivot > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    around = jnp.pad(links, ((1, 0), (0, 0))) + jnp.pad(links, ((0, 1), (0, 0)))
    low, _ = fori_loop(0, _HALVINGS, halve, (diagonal.max(0), (diagonal + around).max(0)))
    return low


def _vectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def _values(matrix: jax.Array) -> jax.Array:
    return jnp.linalg.eigvalsh(matrix)


def _solution(matrix: jax.Array, right: jax.Array) -> jax.Array:
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix, lower=True), right)


_vectors_in_turn = one_by_one(_vectors)
_values_in_turn = one_by_one(_values)
_solution_in_turn = one_by_one(_solution)


def _svd(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    u, values, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return u, values, vt


def _singular_values(matrix: jax.Array) -> jax.Array:
    return jnp.linalg.svd(matrix, compute_uv=False)  # type: ignore[return-value]


def _polar_factor(matrix: jax.Array) -> jax.Array:
    return jax.scipy.linalg.polar(matrix)[0]


_svd_in_turn = one_by_one(_svd)
_singular_values_in_turn = one_by_one(_singular_values)
_polar_in_turn = one_by_one(_polar_factor)
