"""Rules that score workers by their distances: Krum and multi-Krum.

Blanchard, El Mhamdi, Guerraoui, Stainer. Machine learning with adversaries: Byzantine tolerant gradient descent.
NeurIPS 2017.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from byzjax.aggregators.kernels import weights_rule
from byzjax.base import Aggregator, Numeric, Weights, check_f, check_majority, concrete, nan_unless, nan_unless_minority
from byzjax.sorting import ranks
from byzjax.stacked import Geometry

Power = Literal[1, 2, 4]
Neighbors = Literal["n-f-2", "n-f-1"]


def krum(f: Numeric, *, power: Power = 2, neighbors: Neighbors = "n-f-2") -> Aggregator:
    """Krum: the row whose nearest neighbours are nearest.

    ``krum(x) = x_i`` with i the argmin of ``s_i = Σ_{j ∈ N_i} ‖x_i − x_j‖^power``, where ``N_i`` are the nearest
    other rows. Ties go to the lowest index.

    Args:
      f: number of Byzantine workers to tolerate; may be traced.
      power: 2 is Blanchard et al. (ByzFL, Flower); 4 is the MNIST code of Byz-NSGDM, which squares squared distances;
        1 is its quartic code.
      neighbors: size of ``N_i``: ``"n-f-2"`` in Blanchard et al., ``"n-f-1"`` in the quartic code of Byz-NSGDM and
        in ByzFL.

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: f < 0, 2f ≥ n, no neighbours left, or an unknown convention.

    >>> import byzjax
    >>> x = jnp.array([[0.0], [1.0], [2.0], [50.0], [-9.0]])
    >>> byzjax.aggregate(krum(f=1), x).tolist()
    [1.0]
    """
    return _krum(f, 1, power, neighbors, "krum")


def multi_krum(
    f: Numeric,
    *,
    m: Numeric | None = None,
    power: Power = 2,
    neighbors: Neighbors = "n-f-2",
) -> Aggregator:
    """Multi-Krum: the mean of the m rows with the best Krum scores.

    ``multi_krum(x) = (1/m) Σ_{i ∈ M} x_i`` with M the m rows of smallest ``s_i`` (see `krum`).

    Args:
      f: number of Byzantine workers to tolerate; may be traced.
      m: rows to average, 1 ≤ m ≤ n, may be traced. Blanchard et al. leave it open; the default n − f is ByzFL's,
        AggregaThor takes n − f − 2, Flower asks for ``num_nodes_to_select``, ByzPy for ``q``. m = 1 is Krum.
      power: see `krum`.
      neighbors: see `krum`.

    Shapes: ``f32[n, d] -> f32[d]``.

    Raises:
      ValueError: as `krum`, or m outside 1 … n.

    >>> import byzjax
    >>> x = jnp.array([[0.0], [2.0], [4.0], [2.0], [-9.0]])
    >>> byzjax.aggregate(multi_krum(f=1), x).tolist()
    [2.0]
    """
    return _krum(f, m, power, neighbors, "multi_krum")


def _krum(f: Numeric, m: Numeric | None, power: int, neighbors: str, name: str) -> Aggregator:
    check_f(f, name)
    if power not in (1, 2, 4):
        raise ValueError(f"{name}: power = {power!r} must be 1, 2 or 4.")
    if neighbors not in ("n-f-2", "n-f-1"):
        raise ValueError(f"{name}: neighbors = {neighbors!r} must be 'n-f-2' or 'n-f-1'.")
    less = 2 if neighbors == "n-f-2" else 1

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        check_majority(f, n, name)
        count = n - f - less
        declared = concrete(f)
        if declared is not None and n - declared - less < 1:
            raise ValueError(
                f"{name}: {neighbors} = {count} with n = {n} and f = {f}, but a score needs at least one neighbour; "
                f"use f ≤ {n - less - 1} or more workers."
            )
        selected = n - f if m is None else m
        chosen = concrete(selected)
        if chosen is not None and not 1 <= chosen <= n:
            raise ValueError(f"{name}: m = {selected} rows to average must be between 1 and n = {n}.")
        scores = krum_scores(geometry.distances, count, power)
        valid = nan_unless_minority(f, n)
        if declared is None or chosen is None:
            valid = valid * nan_unless((count >= 1) & (selected >= 1) & (selected <= n))
        return jnp.where(ranks(scores) < selected, 1.0, 0.0) / jnp.asarray(selected, scores.dtype) * valid

    return weights_rule(Weights(weights))


def krum_scores(distances: jax.Array, count: Numeric, power: int = 2) -> jax.Array:
    """``s_i``: the sum of the ``count`` smallest ``‖x_i − x_j‖^power``, j ≠ i.

    Args:
      distances: f32[n, n], squared distances.
      count: number of neighbours, may be traced.
      power: 1, 2 or 4.

    Returns:
      f32[n], +inf where too few rows are finite.

    >>> krum_scores(jnp.array([[0.0, 1.0, 9.0], [1.0, 0.0, 4.0], [9.0, 4.0, 0.0]]), 1).tolist()
    [1.0, 1.0, 4.0]
    """
    others = jnp.where(jnp.eye(distances.shape[0], dtype=bool), jnp.inf, distances)
    nearest = ranks(others) < count
    return jnp.where(nearest, others ** (power / 2) if power != 2 else others, 0.0).sum(-1)
