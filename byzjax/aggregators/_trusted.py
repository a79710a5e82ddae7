"""Rules that trust one worker: one's own row among peers, or that of a server with data of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators._builders import mean_of_lowest, weights_rule
from byzjax.base import Aggregator, Trust, Weights
from byzjax.checks import check_f, check_minority, nan_unless, num_workers_of
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.stacked import Geometry, Lengths
from byzjax.stacked.cosines import directions
from byzjax.types import Numeric, Stacked
from byzjax.values import value


@promises(permutation=False, robust=False)
@value
def monna(f: Numeric, *, reference: Numeric = 0) -> Aggregator:
    """MoNNA: the mean of the n − f rows nearest to a trusted worker's, itself included.

    ``monna(x) = (1/(n − f)) Σ_{j ∈ N} x_j`` with N the n − f rows nearest to ``x_reference``; ties go to the lowest
    index. Robust as long as the reference is honest, as in a peer-to-peer network where it is one's own row. ByzFL
    calls it ``idx``, ByzPy ``reference_index``.

    Args:
      f: number of Byzantine workers to tolerate; may be traced.
      reference: the trusted worker, may be traced.

    Shapes: ``f32[n, d] -> f32[d]``. NaN if the reference's row has NaN or inf.

    Raises:
      ValueError: f < 0, 2f ≥ n, or a reference outside 0 … n − 1.

    Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan. Robust collaborative learning with linear gradient overhead.
    ICML 2023.

    >>> import byzjax
    >>> byzjax.aggregate(monna(f=1), jnp.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])).tolist()
    [5.0, 0.0]
    """
    f = check_f(f, "monna")

    def weights(geometry: Geometry | Lengths, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        minority = check_minority(f, n, "monna")
        _check_reference(reference, n, "monna")
        itself_first = jnp.where(jnp.arange(n) == reference, -1.0, geometry.squared_norms(reference))
        return mean_of_lowest(itself_first, n - f) * minority

    return weights_rule(Weights(weights, about=reference))


@promises(permutation=False, translation=False, robust=False)
@value
def fltrust(*, reference: Numeric = 0) -> Aggregator:
    """FLTrust: the others' rows at the length of a trusted one, weighted by how far they point its way.

    ``fltrust(x) = Σ_{i ≠ r} t_i (‖x_r‖/‖x_i‖) x_i / Σ_{i ≠ r} t_i`` with ``t_i = max(cos(x_i, x_r), 0)``. Zero, which
    means no step, where nobody points the way of ``x_r``. A row of zeros has no direction and no weight.

    Args:
      reference: r, the trusted worker; may be traced. In the paper it is the server, with a small clean data set: give
        such a worker the data. It has no weight of its own.

    Shapes: ``f32[n, d] -> f32[d]``. NaN if the reference's row has NaN or inf. Hostile workers may be in the majority,
    but the rule is as robust as the reference is representative: on heterogeneous data cosines with one worker say
    little.

    Raises:
      ValueError: a reference outside 0 … n − 1, or n = 1.

    Cao, Fang, Liu, Gong. FLTrust: Byzantine-robust federated learning via trust bootstrapping. NDSS 2021.

    >>> import byzjax
    >>> x = jnp.array([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0], [-9.0, 0.0]])
    >>> byzjax.aggregate(fltrust(reference=0), x).tolist()
    [1.0, 0.0]
    """

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        n = num_workers_of(updates)
        _check_reference(reference, n, "fltrust")
        if n == 1:
            raise ValueError("fltrust: n = 1, but beside the reference there must be a worker to trust.")
        unit = directions(updates)
        trusted = jax.tree.map(lambda u: u[reference], unit.rows)
        others = unit.has_direction & (jnp.arange(n) != reference)
        trust = jnp.where(others, jnp.clip(stacked.inner(unit.rows, trusted), 0.0, 1.0), 0.0)
        total = trust.sum()
        share = trust / jnp.where(total > 0, total, 1.0) * nan_unless(unit.finite[reference])
        # Directions are averaged, not rows: lengths of hostile rows may be out of all proportion.
        _, frame = stacked.measure_lengths(unit.rows, "origin")
        mean = stacked.combine(share, unit.rows, frame)
        length, scale = unit.norms[reference], unit.units[reference]
        aggregate = jax.tree.map(lambda m, x: (m * length * scale).astype(x.dtype), mean, updates)
        stretch = (scale / unit.units) * (length / jnp.where(others, unit.norms, 1.0))
        return aggregate, state, Trust(jnp.where(share == 0, 0.0, share * stretch))

    return Aggregator(optax.init_empty_state, update_with_trust=update_with_trust)


def _check_reference(reference: Numeric, num_workers: int, name: str) -> None:
    index = concrete(reference, lambda known: _check_reference(known, num_workers, name))
    if index is not None and not 0 <= index < num_workers:
        raise ValueError(f"{name}: reference = {reference} must be the index of a worker, 0 to {num_workers - 1}.")
