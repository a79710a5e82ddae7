"""Rules that look at directions of spread: CAF."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from byzjax.aggregators.kernels import weights_rule
from byzjax.base import Aggregator, Numeric, Weights, check_f, check_majority, nan_unless_minority
from byzjax.stacked import Geometry


def caf(f: Numeric) -> Aggregator:
    """Covariance-bound agnostic filter: shrink the weights of rows that stick out until the spread is least.

    From weights c = 1: take ``μ = Σ c_i x_i / Σ c_i`` and the top eigenvector v of the weighted covariance, and set
    ``c_i ← c_i (1 − τ_i/τ_max)`` with ``τ_i = ⟨x_i − μ, v⟩²``, while ``Σ c_i > n − 2f``. The result is the μ of the
    smallest top eigenvalue seen. Every step silences a row, so there are at most 2f + 1. Eigenpairs are exact, from an
    ``n × n`` matrix; ByzFL and ByzPy use power iterations from a random vector. At f = 0, where their loop never
    starts, this is the mean.

    Args:
      f: number of Byzantine workers to tolerate; may be traced.

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: f < 0, or 2f ≥ n.

    Allouah, Guerraoui, Stephan. Towards trustworthy federated learning with untrusted participants. ICML 2025.

    >>> import byzjax
    >>> byzjax.aggregate(caf(f=1), jnp.array([[1.0], [2.0], [3.0], [99.0]])).round(1).tolist()
    [2.0]
    """
    check_f(f, "caf")

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n, dtype = geometry.num_workers, geometry.gram.dtype
        check_majority(f, n, "caf")
        gram = geometry.gram[:n, :n]
        finite = geometry.finite.astype(dtype)
        least = jnp.maximum(jnp.asarray(n - 2 * f, dtype), 0.0)  # a traced f that is too large must not loop forever

        def measure(c: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Mean weights, top eigenvalue, and rows projected on the top eigenvector, but for its length."""
            mean = c / c.sum()
            centred = _about(gram, mean)
            root = jnp.sqrt(c)
            values, vectors = jnp.linalg.eigh(root[:, None] * centred * root[None, :] / c.sum())
            along = (centred * (root * vectors[:, -1])[None, :]).sum(-1)
            return mean, values[-1], jnp.abs(along) * finite

        def step(state):
            c, _, best = state
            mean, value, along = measure(c)
            better = value < best[1]
            best = (jnp.where(better, mean, best[0]), jnp.where(better, value, best[1]))
            largest = jnp.where(c > 0, along, 0.0).max()
            share = jnp.square(along / jnp.where(largest > 0, largest, 1.0))  # τ_i/τ_max; τ itself may overflow
            c = jnp.where(largest > 0, c * jnp.maximum(1.0 - share, 0.0), 0.0)
            return c, c.sum() > least, best

        # Lost rows start without weight: they are among the f.
        start = (finite, finite.sum() > least, (finite / finite.sum(), jnp.asarray(jnp.inf, dtype)))
        _, _, (mean, _) = jax.lax.while_loop(lambda state: state[1], step, start)
        return mean * nan_unless_minority(f, n)

    return weights_rule(Weights(weights))


def _about(gram: jax.Array, mean: jax.Array) -> jax.Array:
    """Inner products about the point with coefficients ``mean`` (of sum 1), from those about another point."""
    towards = (gram * mean[None, :]).sum(-1)
    return gram - towards[:, None] - towards[None, :] + (towards * mean).sum()
