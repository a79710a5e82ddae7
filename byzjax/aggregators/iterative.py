"""Rules that iterate in worker space: the geometric median.

Pillutla, Kakade, Harchaoui. Robust aggregation for federated learning. IEEE Trans. Signal Processing 70, 2022 (RFA).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from byzjax.aggregators.kernels import weights_rule
from byzjax.base import Aggregator, Numeric, Weights, check_integer, check_number, promises
from byzjax.stacked import Geometry

Init = Literal["zero", "mean"]


@promises(translation=False, scale=False, fragile=("init=mean",))
def geometric_median(num_iters: int = 8, smoothing: Numeric = 0.1, init: Init = "zero") -> Aggregator:
    """The geometric median by the smoothed Weiszfeld iteration (RFA).

    ``z ← Σ_i w_i x_i / Σ_i w_i`` with ``w_i = 1 / max(‖x_i − z‖, ν)``, ``num_iters`` times. In the limit
    ``z = argmin Σ_i ‖x_i − z‖``, for which Definition 1 holds with ``κ = 2 (1 + f/(n − 2f))`` (Proposition 1 of the
    Byz-NSGDM paper).

    ν is an absolute length: once all rows lie within ν of z, the result is their plain mean. Choose it far below the
    spread of honest updates. The iteration runs on the Gram matrix and reads the data twice in all.

    Args:
      num_iters: Weiszfeld steps, static. 8 in the Byz-NSGDM code, 3 in ByzFL; the iteration converges linearly, so
        take 50 or more where the exact minimiser matters.
      smoothing: ν > 0, may be traced. 0.1 in the Byz-NSGDM code and ByzFL, 1e-6 in Pillutla et al.
      init: start at the origin (``"zero"``: the Byz-NSGDM code, ByzFL), or at the mean of all rows (``"mean"``:
        Pillutla et al.). Hostile rows can move that start as far as they like, and each step makes up for only a
        constant factor of it: with rows of 1e20 eight steps end at 1e6.

    Shapes: ``f32[n, d] -> f32[d]``. With few steps from zero, neither translations nor a change of units commute
    with the rule.

    Raises:
      ValueError: num_iters < 1, smoothing ≤ 0, or an unknown ``init``.

    >>> import byzjax
    >>> x = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    >>> byzjax.aggregate(geometric_median(num_iters=3), x).round(3).tolist()
    [3.7880001068115234, 4.788000106811523, 5.788000106811523]
    """
    num_iters = check_integer(num_iters, "num_iters", "geometric_median", least=1)
    check_number(smoothing, "smoothing", "geometric_median", least=0, open_below=True)
    if init not in ("zero", "mean"):
        raise ValueError(f"geometric_median: init = {init!r} must be 'zero' or 'mean'.")

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        gram, finite = geometry.gram, geometry.finite
        n = geometry.num_workers
        # Below 1e-18 units nothing is resolved anyway, and 1/ν must not overflow.
        nu = jnp.maximum(jnp.asarray(smoothing, gram.dtype) / geometry.unit, 1e-18)

        def step(_, point):
            weights = jnp.where(finite, 1.0 / jnp.maximum(distance_to(point, gram)[:n], nu), 0.0)
            return jnp.append(weights / weights.sum(), jnp.zeros((), gram.dtype))

        rows = jnp.append(finite.astype(gram.dtype), jnp.zeros((), gram.dtype))
        origin = jnp.zeros((n + 1,), gram.dtype).at[n].set(1.0)
        start = origin if init == "zero" else rows / rows.sum()
        return jax.lax.fori_loop(0, num_iters, step, start)[:n]

    return weights_rule(Weights(weights))


def distance_to(point: jax.Array, gram: jax.Array) -> jax.Array:
    """``‖p_i − Σ_j a_j p_j‖`` of every point i to a combination of points, from inner products.

    Args:
      point: f32[k], the coefficients a, of sum 1.
      gram: f32[k, k], inner products about any centre near the points that matter.

    >>> distance_to(jnp.array([0.5, 0.5]), jnp.array([[0.0, 0.0], [0.0, 4.0]])).tolist()
    [1.0, 1.0]
    """
    inner = (gram * point[None]).sum(-1)
    squared = jnp.diagonal(gram) - 2.0 * inner + (inner * point).sum()
    return jnp.sqrt(jnp.maximum(squared, 0.0))


rfa = geometric_median
