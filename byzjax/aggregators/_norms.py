"""Rules and pre-aggregations that look at norms alone: CGE, static and adaptive clipping."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from byzjax.aggregators._builders import mean_of_lowest, scaling_rule, weights_rule
from byzjax.base import Aggregator, PreAggregator, Scaling, Weights
from byzjax.checks import check_f, check_minority, check_number
from byzjax.promises import promises
from byzjax.stacked import Geometry, Lengths
from byzjax.stacked.order_statistics import ranks
from byzjax.types import Numeric
from byzjax.values import value


@promises(translation=False)
@value
def cge(f: Numeric) -> Aggregator:
    """Comparative gradient elimination: the mean of the n − f rows of smallest norm.

    ``cge(x) = (1/(n − f)) Σ_{i ∈ S} x_i`` with S the n − f rows of smallest ``‖x_i‖``; ties go to the lowest index.
    Gupta, Liu and Vaidya sum the rows, which is n − f times as long; ByzPy averages.

    Args:
      f: number of Byzantine workers to tolerate; may be traced. f = 0 is the mean.

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: f < 0, or 2f ≥ n.

    Gupta, Liu, Vaidya. Byzantine fault-tolerant distributed machine learning using stochastic gradient descent and
    norm-based comparative gradient elimination (CGE). 2020.

    >>> import byzjax
    >>> byzjax.aggregate(cge(f=1), jnp.array([[1.0], [3.0], [-9.0]])).tolist()
    [2.0]
    """
    f = check_f(f, "cge")

    def weights(geometry: Geometry | Lengths, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        minority = check_minority(f, n, "cge")
        return mean_of_lowest(geometry.norms(), n - f) * minority

    return weights_rule(Weights(weights, about="origin"))


@promises(translation=False, scale=False, averaging=False, robust=False)
@value
def clipping(max_norm: Numeric = 2.0) -> PreAggregator:
    """Static clipping: every row longer than C is shortened to C.

    ``y_i = x_i · min(1, C/‖x_i‖)``. Alone it bounds what a hostile row can do, it does not remove it.

    Args:
      max_norm: C > 0, may be traced; 2 as in ByzFL (its ``c``).

    Shapes: ``f32[n, d] -> f32[n, d]``. A row with NaN or inf is lost.

    Raises:
      ValueError: C not finite or not positive.

    Static clipping in Allouah et al. 2025, whose own is `arc`; the same in ByzFL and ByzPy.

    >>> import byzjax
    >>> byzjax.aggregate(clipping(max_norm=5.0), jnp.array([[6.0, 8.0], [0.0, 1.0]])).tolist()
    [[3.0, 4.0], [0.0, 1.0]]
    """
    check_number(max_norm, "max_norm", "clipping", least=0, open_below=True)

    def factors(geometry: Geometry | Lengths, key: jax.Array | None) -> jax.Array:
        del key
        return shortening(geometry, jnp.asarray(max_norm, geometry.unit.dtype) / geometry.unit)

    return scaling_rule(Scaling(factors))


@promises(translation=False, averaging=False, robust=False)
@value
def arc(f: Numeric) -> PreAggregator:
    """Adaptive robust clipping: the k longest rows are shortened to the length of the next one.

    ``k = ⌊2 (f/n) (n − f)⌋``; ``y_i = x_i · min(1, C/‖x_i‖)`` with C the norm of the (k + 1)-th longest row.

    Args:
      f: number of Byzantine workers to tolerate, 0 ≤ f < n/2; may be traced. f = 0 changes nothing.

    Shapes: ``f32[n, d] -> f32[n, d]``. A row with NaN or inf is lost, and counts among the longest.

    Raises:
      ValueError: f < 0, or 2f ≥ n.

    Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan. Adaptive gradient clipping for robust federated learning. ICLR
    2025. The same in ByzFL and ByzPy.

    >>> import byzjax
    >>> byzjax.aggregate(arc(f=1), jnp.array([[1.0], [2.0], [-9.0]])).tolist()
    [[1.0], [2.0], [-2.0]]
    """
    f = check_f(f, "arc")

    def factors(geometry: Geometry | Lengths, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        minority = check_minority(f, n, "arc")
        norms = geometry.norms()
        clipped = 2 * f * (n - f) // n
        longest_kept = jnp.where(ranks(norms) == n - 1 - clipped, norms, 0.0).sum()
        return shortening(geometry, longest_kept * minority)

    return scaling_rule(Scaling(factors))


def shortening(geometry: Geometry | Lengths, bound: jax.Array) -> jax.Array:
    """``min(1, bound/‖x_i‖)``, f32[n], with the bound in units of the geometry; 1 for a row of zeros."""
    norms = geometry.norms()
    return jnp.where(norms > 0, jnp.minimum(1.0, bound / jnp.where(norms > 0, norms, 1.0)), 1.0)
