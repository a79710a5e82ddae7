"""Rules that look at directions of spread: CAF and DnC."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byzjax import stacked
from byzjax.aggregators._builders import mean_of, weights_rule
from byzjax.base import Aggregator, Trust, Weights
from byzjax.checks import (
    check_f,
    check_integer,
    check_minority,
    check_number,
    nan_unless,
    num_workers_of,
)
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.rng import check_key
from byzjax.stacked import Geometry
from byzjax.stacked.control_flow import while_loop
from byzjax.stacked.eigen import eigh
from byzjax.stacked.order_statistics import lowest
from byzjax.types import Numeric, Stacked
from byzjax.values import value

_ROUNDED = 1e-5  # relative difference of two rows along a direction that may be rounding


@value
def caf(f: Numeric) -> Aggregator:
    """Covariance-bound agnostic filter: shrink the weights of rows that stick out until the spread is least.

    From weights c = 1: take ``μ = Σ c_i x_i / Σ c_i`` and the top eigenvector v of the weighted covariance, and set
    ``c_i ← c_i (1 − τ_i/τ_max)`` with ``τ_i = ⟨x_i − μ, v⟩²``, while ``Σ c_i > n − 2f``. The result is the μ of the
    smallest top eigenvalue seen. τ_max is the largest τ_i among rows that still have weight, so every step silences a
    row and there are at most 2f + 1. ByzFL and ByzPy take it among all rows: their result differs, and where a row
    without weight sticks out most, their loop need not end (after NNM it may not). Eigenpairs are exact, from an
    ``n × n`` matrix; they use power iterations. At f = 0, where ByzFL returns nothing, this is the mean.

    Args:
      f: number of Byzantine workers to tolerate; may be traced.

    Shapes: ``f32[n, d] -> f32[d]``. Rows with NaN or inf are among the f: NaN where there are more of them.

    Raises:
      ValueError: f < 0, or 2f ≥ n.

    Allouah, Guerraoui, Stephan. Towards trustworthy federated learning with untrusted participants. ICML 2025.

    >>> import byzjax
    >>> byzjax.aggregate(caf(f=1), jnp.array([[1.0], [2.0], [3.0], [99.0]])).round(1).tolist()
    [2.0]
    """
    f = check_f(f, "caf")

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n, dtype = geometry.num_workers, geometry.gram.dtype
        minority = check_minority(f, n, "caf")
        gram = geometry.rows
        finite = geometry.finite.astype(dtype)
        least = jnp.maximum(jnp.asarray(n - 2 * f, dtype), 0.0)  # a traced f that is too large must not loop forever

        def measure(c: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Mean weights, top eigenvalue, and rows projected on the top eigenvector, but for its length."""
            mean = c / c.sum()
            centred = _about(gram, mean)
            root = jnp.sqrt(c)
            values, vectors = eigh(root[:, None] * centred * root[None, :] / c.sum())
            along = (centred * (root * vectors[:, -1])[None, :]).sum(-1)
            return mean, values[-1], jnp.abs(along) * finite

        def step(state):
            c, _, best = state
            mean, value, along = measure(c)
            better = value < best[1]
            best = (jnp.where(better, mean, best[0]), jnp.where(better, value, best[1]))
            alive = jnp.where(c > 0, along, 0.0)
            largest = alive.max()
            share = jnp.square(along / jnp.where(largest > 0, largest, 1.0))  # τ_i/τ_max; τ itself may overflow
            # Compared, not divided: a quotient one rounding below 1, of this row or a copy, would leave it a little
            # weight, and with it the largest τ again.
            left = jnp.where(alive >= (1.0 - _ROUNDED) * largest, 0.0, c * jnp.maximum(1.0 - share, 0.0))
            c = jnp.where(largest > 0, left, 0.0)
            return c, c.sum() > least, best

        # Lost rows start without weight: they are among the f.
        start = (finite, finite.sum() > least, (mean_of(geometry.finite, dtype), jnp.asarray(jnp.inf, dtype)))
        _, _, (mean, _) = while_loop(lambda state: state[1], step, start)
        return mean * minority * nan_unless(geometry.finite.sum() >= n - f)

    return weights_rule(Weights(weights, affine=True))


@promises(stochastic=True, robust=False)
@value
def dnc(f: Numeric, *, num_iters: int = 1, sub_dim: int = 10_000, filter_frac: Numeric = 1.0) -> Aggregator:
    """Divide and conquer: drop the rows that stick out most along the main direction of spread.

    ``num_iters`` times: draw r random coordinates, centre the rows on their mean there, and score them by
    ``s_i = ⟨x_i − μ, v⟩²`` with v the top right singular vector; the ``n − ⌈c f⌉`` rows of lowest score are good.
    The result is the mean of the rows that were good every time, or, should there be none, most often. The singular
    vector comes exactly from an ``n × n`` matrix.

    Robust against attackers who pull together. One who pulls across the main direction has a low score, and since μ is
    the mean of all rows, far rows can give honest ones a higher score than their own.

    Args:
      f: number of Byzantine workers to tolerate; may be traced. f = 0 is the mean.
      num_iters: static; 1 in the paper and early Blades, 5 in Blades today and FLPoison. Both then average the rows
        that were good every time, and have nothing where there are none.
      sub_dim: r, static; all coordinates if there are no more. 10 000 in Blades; FLPoison takes a fifth of d.
      filter_frac: c ≥ 0, may be traced; 1 in the paper and the peers.

    Shapes: ``f32[n, d] -> f32[d]``. Needs a key.

    Raises:
      ValueError: f < 0, 2f ≥ n, num_iters or sub_dim < 1, c < 0, c f ≥ n, or no key.

    Shejwalkar, Houmansadr. Manipulating the Byzantine: optimizing model poisoning attacks and defenses for federated
    learning. NDSS 2021.

    >>> import byzjax
    >>> x = jnp.array([[1.0], [2.0], [3.0], [99.0]])
    >>> byzjax.aggregate(dnc(f=1), x, key=jax.random.key(0)).tolist()
    [2.0]
    """
    f = check_f(f, "dnc")
    num_iters = check_integer(num_iters, "num_iters", "dnc", least=1)
    sub_dim = check_integer(sub_dim, "sub_dim", "dnc", least=1)
    check_number(filter_frac, "filter_frac", "dnc", least=0)

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        n = num_workers_of(updates)
        minority = check_minority(f, n, "dnc")
        key = check_key(key, "dnc")
        dropped = jnp.ceil(jnp.asarray(filter_frac, jnp.float32) * jnp.asarray(f, jnp.float32)).astype(jnp.int32)
        _check_drops(filter_frac, f, n)

        def good(key: jax.Array) -> jax.Array:
            geometry, _ = stacked.measure(stacked.sample_coordinates(updates, sub_dim, key), origin=False)
            mean = mean_of(geometry.finite, geometry.gram.dtype)
            both_finite = geometry.finite[:, None] & geometry.finite[None, :]
            centred = jnp.where(both_finite, _about(geometry.rows, mean), 0.0)
            along = jnp.square(eigh(centred)[1][:, -1])
            return lowest(jnp.where(geometry.finite, along, jnp.inf), n - dropped)

        times = jax.lax.map(good, jax.random.split(key, num_iters)).sum(0)
        _, frame = stacked.measure(updates, origin=False)
        times = jnp.where(frame.finite, times, 0)
        weights = mean_of((times == times.max()) & frame.finite, frame.sizes.dtype) * minority
        weights = weights * nan_unless(frame.finite.sum() >= n - f)
        return stacked.combine(weights, updates, frame), state, Trust(weights)

    return Aggregator(optax.init_empty_state, update_with_trust=update_with_trust)


def _check_drops(filter_frac: Numeric, f: Numeric, n: int) -> None:
    share = concrete(filter_frac, lambda known: _check_drops(known, f, n))
    count = concrete(f, lambda known: _check_drops(filter_frac, known, n))
    if share is not None and count is not None and np.ceil(share * count) >= n:
        raise ValueError(f"dnc: filter_frac = {filter_frac} times f = {f} drops all n = {n} rows; use less.")


def _about(gram: jax.Array, mean: jax.Array) -> jax.Array:
    """Inner products about the point with coefficients ``mean`` (of sum 1), from those about another point."""
    towards = (gram * mean[None, :]).sum(-1)
    return gram - towards[:, None] - towards[None, :] + (towards * mean).sum()
