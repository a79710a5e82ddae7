"""Eigenvalues and solutions of small symmetric systems that cannot hang."""

from __future__ import annotations

import jax
import jax.numpy as jnp


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


def _vectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def _values(matrix: jax.Array) -> jax.Array:
    return jnp.linalg.eigvalsh(matrix)


def _solution(matrix: jax.Array, right: jax.Array) -> jax.Array:
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix, lower=True), right)


_vectors_in_turn = jax.custom_batching.sequential_vmap(_vectors)
_values_in_turn = jax.custom_batching.sequential_vmap(_values)
_solution_in_turn = jax.custom_batching.sequential_vmap(_solution)
