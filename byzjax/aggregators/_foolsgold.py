"""Rules that weigh workers by how they compare with each other over all rounds."""

from __future__ import annotations

import typing
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from byzjax import stacked
from byzjax.base import Aggregator, Trust
from byzjax.checks import check_choice, check_integer, nan_unless, num_workers_of
from byzjax.promises import promises
from byzjax.stacked.cosines import cosine_distances
from byzjax.types import Params, Stacked
from byzjax.values import value

Reduce = Literal["mean", "sum"]

_NOT_ZERO = 1e-30  # a divisor in place of 0, where the quotient is dropped: nobody is pardoned beside such a row


class FoolsGoldState(NamedTuple):
    """What `foolsgold` remembers."""

    total: Stacked  # leaves [n, *p], H_i = Σ_t g_i


@promises(translation=False, averaging=False, robust=False)
@value
def foolsgold(num_workers: int, *, reduce: Reduce = "mean") -> Aggregator:
    """FoolsGold: workers that keep pointing the same way as another lose their weight, as copies of one liar do.

    With ``H_i = Σ_t g_i`` over all rounds, ``c_ij = cos(H_i, H_j)`` for i ≠ j, and ``v_i = max(0, max_j c_ij)``: where
    ``v_j > v_i``, ``c_ij`` is pardoned to ``c_ij v_i/v_j``. Then ``a_i = 1 − max(0, max_j c_ij)``, divided by the
    largest; the weight is ``α_i = ln(a_i/(1 − a_i)) + ½``, cut to [0, 1], and the result ``Σ_i α_i g_i/Σ_i α_i``: zero,
    which means no step, where all workers are copies of each other.

    It is made for workers with unlike data, and against liars with a common aim: on IID data it drops the honest ones.

    Args:
      num_workers: n, static.
      reduce: ``"sum"`` is ``Σ_i α_i g_i``, as in the paper, whose step grows with the number of workers.

    Shapes: ``f32[n, d] -> f32[d]``. State: n × d numbers. A row with NaN or inf has no weight and is not remembered;
    nor is one with which its sum would leave the range of float32. NaN where no row is finite.

    Raises:
      ValueError: updates with another n, or an unknown ``reduce``.

    Fung, Yoon, Beschastnikh. The limitations of federated learning in Sybil settings. RAID 2020.

    >>> import byzjax
    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-9.0, -9.0], [-9.0, -9.0]])
    >>> byzjax.aggregate(foolsgold(4), x).tolist()
    [0.5, 0.5]
    """
    num_workers = check_integer(num_workers, "num_workers", "foolsgold", least=1)
    check_choice(reduce, typing.get_args(Reduce), "reduce", "foolsgold")

    def init(params: Params) -> FoolsGoldState:
        dtype = stacked.wide_dtype(jax.tree.leaves(params))  # sums over many rounds need more than 16 bits
        return FoolsGoldState(jax.tree.map(lambda p: jnp.zeros((num_workers, *p.shape), dtype), params))

    def update_with_trust(
        updates: Stacked, state: FoolsGoldState, params=None, *, key: jax.Array | None = None, **extra
    ):
        del params, key, extra
        n = num_workers_of(updates)
        if n != num_workers:
            raise ValueError(f"foolsgold: num_workers = {num_workers}, but the updates have {n} rows; make them agree.")
        lengths, frame = stacked.measure_lengths(updates, "origin")
        summed = jax.tree.map(lambda h, x: h + x.astype(h.dtype), state.total, updates)
        # A sum that leaves the range of numbers would have no direction, and nobody who is like it.
        sound = jnp.isfinite(stacked.largest_coordinates(summed))
        total = stacked.replace_rows(summed, ~sound, state.total)
        alpha = jnp.where(lengths.finite, _unlike(cosine_distances(total)), 0.0)
        if reduce == "mean":
            alpha = alpha / jnp.where(alpha.sum() > 0, alpha.sum(), 1.0)
        alpha = alpha * nan_unless(lengths.finite.any())
        return stacked.combine(alpha, updates, frame), FoolsGoldState(total), Trust(alpha)

    return Aggregator(init, update_with_trust=update_with_trust)


def _unlike(distances: jax.Array) -> jax.Array:
    """FoolsGold's weights from cosine distances f32[n, n]: f32[n].

    Cosines of rows that point nearly the same way are all 1 in float32; how far they are from 1 is what tells copies
    from rows that are merely alike, so that nothing here is ever subtracted from 1 and back.
    """
    apart = jnp.where(jnp.eye(len(distances), dtype=bool), 1.0, jnp.minimum(distances, 1.0))
    nearest = apart.min(1)  # 1 − v
    # 1 − c_ij v_i/v_j, both terms of which are positive
    away = jnp.where(jnp.eye(len(distances), dtype=bool), 1.0, distances)
    alike = jnp.maximum(1.0 - nearest, _NOT_ZERO)  # v
    pardoned = (away - nearest[None, :] + nearest[:, None] * (1.0 - away)) / alike[None, :]
    unlike = jnp.clip(jnp.where(nearest[None, :] < nearest[:, None], pardoned, away).min(1), 0.0, 1.0)
    share = unlike / jnp.where(unlike.max() > 0, unlike.max(), 1.0)
    logit = jnp.log(share / jnp.maximum(1.0 - share, 1e-6)) + 0.5  # -inf for copies
    return jnp.clip(logit, 0.0, 1.0)
