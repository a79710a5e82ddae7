"""Rules that judge every layer, a leaf of the parameters, by itself: whom they trust differs from leaf to leaf."""

from __future__ import annotations

import typing
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators._builders import mean_of
from byzjax.aggregators._norms import shortening
from byzjax.base import Aggregator
from byzjax.checks import check_choice, check_number, nan_unless, num_workers_of
from byzjax.promises import promises
from byzjax.stacked.coordinate_axis import total
from byzjax.stacked.order_statistics import median_of
from byzjax.types import Numeric, Stacked
from byzjax.values import value

Rows = Literal["dense", "sparse"]

_ROUNDED = 1e-5  # relative difference that may be rounding


@promises(translation=False, layerwise=True, lossy=("rows=sparse",))
@value
def lasa(
    *,
    sparsity: Numeric = 0.3,
    norm_bound: Numeric = 2.0,
    sign_bound: Numeric = 1.0,
    rows: Rows = "dense",
) -> Aggregator:
    """LASA: in every layer, the mean of the workers whose norm and signs are ordinary there; rows at the median length.

    Every row loses its share s of smallest coordinates, over all layers at once, which leaves the sparse row ``s_i``;
    equal ones stay together.
    With ``a_i = ‖s_i^l‖`` and ``ρ_i = Σ sign(s_i^l)/Σ |sign(s_i^l)|`` in layer l, a worker is in S^l if

    ``|a_i − med a| < λ_m std a`` and ``|ρ_i − med ρ| < λ_d std ρ``,

    and the layer is ``(1/|S^l|) Σ_{i ∈ S^l} x_i^l min(1, M/‖x_i‖)`` with M the median of the rows' norms. Where nobody
    is in S^l, all are. A worker at the median is ordinary even where the deviation is zero.

    Args:
      sparsity: s, 0 ≤ s < 1, may be traced.
      norm_bound: λ_m > 0, may be traced; 1 or 2 in the paper.
      sign_bound: λ_d > 0, may be traced.
      rows: ``"dense"`` as above, and in FLPoison. ``"sparse"`` shortens first, and judges and averages the shortened
        sparse rows ``s_i min(1, M/‖x_i‖)``, which is what the authors' released code does.

    Shapes: leaves ``[n, *p] -> [*p]``. A row with NaN or inf is left out everywhere. There is no one weight per worker.

    Raises:
      ValueError: an argument out of range.

    Xu, Zhang, Hu. Achieving Byzantine-resilient federated learning via layer-adaptive sparsified model aggregation.
    WACV 2025.

    >>> import byzjax
    >>> x = {"w": jnp.array([[1.0, 2.0], [1.0, 3.0], [-9.0, -9.0]]), "b": jnp.array([[0.5], [1.5], [1.0]])}
    >>> byzjax.aggregate(lasa(sparsity=0.0), x)["w"].round(3).tolist()
    [1.0, 2.5]
    """
    name = "lasa"
    check_number(sparsity, "sparsity", name, least=0, below=1)
    check_number(norm_bound, "norm_bound", name, least=0, open_below=True)
    check_number(sign_bound, "sign_bound", name, least=0, open_below=True)
    check_choice(rows, typing.get_args(Rows), "rows", name)
    sparse = rows == "sparse"

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        num_workers_of(updates)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        finite = lengths.finite
        middle = median_of(jnp.sqrt(lengths.squared_norms()), finite)
        factors = shortening(lengths, middle)
        shortened = stacked.scale_rows(factors, updates, frame)
        d = stacked.num_coordinates(updates)
        dropped = jnp.floor(jnp.asarray(sparsity, jnp.float32) * d).astype(jnp.int32)
        least = stacked.magnitude_of_rank(updates, d - dropped)
        largest = stacked.largest_coordinates(updates)
        most = jnp.where(finite, largest, 0.0).max()

        def layer(x: jax.Array, short: jax.Array) -> jax.Array:
            axes = tuple(range(1, x.ndim))
            x = x.astype(least.dtype)
            support = stacked.per_row(finite, x) & (jnp.abs(x) >= stacked.per_row(least, x)) & (x != 0)
            # Every row in its own unit, so that no square leaves the range of numbers, and then all in one.
            own = jnp.where(support, x / stacked.per_row(jnp.where(largest > 0, largest, 1.0), x), 0.0)
            norms = jnp.sqrt(total(jnp.square(own).sum(axes))) * (largest / jnp.where(most > 0, most, 1.0))
            norms = norms * factors * frame.reach if sparse else norms
            balance, count = total((jnp.where(support, jnp.sign(x), 0.0).sum(axes), support.sum(axes)))
            signs = balance / jnp.maximum(count.astype(x.dtype), 1.0)
            good = _ordinary(norms, norm_bound, finite) & _ordinary(signs, sign_bound, finite)
            good = jnp.where(good.any(), good, finite)
            share = stacked.per_row(mean_of(good, x.dtype), x)
            counted = stacked.per_row(good, x) & support if sparse else stacked.per_row(good, x)
            mean = jnp.where(counted, share * short.astype(x.dtype), 0.0).sum(0)
            return (mean * nan_unless(good.any())).astype(short.dtype)

        return jax.tree.map(layer, updates, shortened), state

    return Aggregator(optax.init_empty_state, update)


def _ordinary(values: jax.Array, bound: Numeric, present: jax.Array) -> jax.Array:
    """Who is less than so many standard deviations away from the median: bool[n]."""
    values = jnp.where(present, values, 0.0)
    count = jnp.maximum(present.sum().astype(values.dtype), 1.0)
    mean = values.sum() / count
    deviation = jnp.sqrt(jnp.where(present, jnp.square(values - mean), 0.0).sum() / count)
    middle = median_of(jnp.where(present, values, jnp.inf), present)
    away = jnp.abs(values - middle)
    # A balance of signs is often exactly at the bound, which is not below it, whichever way the deviation is rounded.
    limit = jnp.asarray(bound, values.dtype) * deviation * (1.0 - _ROUNDED)
    same = 16.0 * jnp.finfo(values.dtype).eps * jnp.abs(values).max()  # rows shortened to one length differ by rounding
    return present & ((away < limit) | (away <= same))
