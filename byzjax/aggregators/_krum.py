"""Rules that score workers by their distances: Krum, multi-Krum and Bulyan.

Blanchard, El Mhamdi, Guerraoui, Stainer. Machine learning with adversaries: Byzantine tolerant gradient descent.
NeurIPS 2017.

El Mhamdi, Guerraoui, Rouault. The hidden vulnerability of distributed learning in Byzantium. ICML 2018 (Bulyan).
"""

from __future__ import annotations

import typing
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators._builders import mean_of_lowest, weights_rule
from byzjax.aggregators._coordinate import mean_around_median
from byzjax.base import Aggregator, Weights
from byzjax.checks import check_choice, check_f, check_minority, nan_unless, num_workers_of
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.stacked import Geometry
from byzjax.stacked.control_flow import fori_loop
from byzjax.stacked.order_statistics import lowest
from byzjax.types import Numeric, Stacked
from byzjax.values import value

Power = Literal[1, 2, 4]
Neighbors = Literal["n-f-2", "n-f-1"]


@value
def krum(f: Numeric, *, power: Power = 2, neighbors: Neighbors = "n-f-2") -> Aggregator:
    """Krum: the row whose nearest neighbours are nearest.

    ``krum(x) = x_i`` with i the argmin of ``s_i = Σ_{j ∈ N_i} ‖x_i − x_j‖^power``, where ``N_i`` are the nearest
    other rows. Ties go to the lowest index.

    Args:
      f: number of Byzantine workers to tolerate; may be traced. Blanchard et al. need n ≥ 2f + 3: below, f equal lies
        are each other's nearest neighbours and can win.
      power: 2 is Blanchard et al. (ByzFL, Flower); 4 is the MNIST code of Byz-NSGDM, which squares squared distances;
        1 is its quartic code.
      neighbors: size of ``N_i``: ``"n-f-2"`` in Blanchard et al., ``"n-f-1"`` in the quartic code of Byz-NSGDM and
        in ByzFL.

    Shapes: ``f32[n, d] -> f32[d]``. NaN where so many rows have NaN or inf that a score lacks neighbours.

    Raises:
      ValueError: f < 0, 2f ≥ n, no neighbours left, or an unknown convention.

    >>> import byzjax
    >>> x = jnp.array([[0.0], [1.0], [2.0], [50.0], [-9.0]])
    >>> byzjax.aggregate(krum(f=1), x).tolist()
    [1.0]
    """
    return _krum(f, 1, power, neighbors, "krum")


@value
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

    Shapes: ``f32[n, d] -> f32[d]``. NaN as `krum`, or where fewer than m rows are finite.

    Raises:
      ValueError: as `krum`, or m outside 1 … n.

    >>> import byzjax
    >>> x = jnp.array([[0.0], [2.0], [4.0], [2.0], [-9.0]])
    >>> byzjax.aggregate(multi_krum(f=1), x).tolist()
    [2.0]
    """
    return _krum(f, m, power, neighbors, "multi_krum")


@promises(workers_needed=(4, 3))
@value
def bulyan(f: Numeric, *, power: Power = 2, neighbors: Neighbors = "n-f-2") -> Aggregator:
    """Bulyan: Krum selects n − 2f rows one by one, then each coordinate is averaged around its median.

    Selection: θ = n − 2f times, the row of best Krum score among those that are left moves to S, without replacement;
    with n' rows left a score sums over n' − f − 2 neighbours, and over one where that is none (the last choices for
    f = 1, which the paper leaves open). Of equal scores the row nearest to all that are left wins: with one neighbour,
    two rows that are each other's nearest always tie. Then ``bulyan(x)_k`` is the mean of the β = θ − 2f values of S
    nearest to the median of S in coordinate k.

    Args:
      f: number of Byzantine workers to tolerate, n ≥ 4f + 3; may be traced. f = 0 is the mean.
      power: see `krum`.
      neighbors: see `krum`, with n' for n. FLPoison takes n' − f − 1 and unsquared distances (``power=1``), and its
        β = n − 2f keeps all of S, which leaves out the second half of the rule.

    Shapes: ``f32[n, d] -> f32[d]``. It has no weight per worker: the second half treats coordinates alone.

    Raises:
      ValueError: f < 0, n < 4f + 3, or an unknown convention.

    El Mhamdi, Guerraoui, Rouault. The hidden vulnerability of distributed learning in Byzantium. ICML 2018.

    >>> import byzjax
    >>> x = jnp.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [1e9]])
    >>> byzjax.aggregate(bulyan(f=1), x).tolist()
    [2.0]
    """
    f, less = _check_scores(f, power, neighbors, "bulyan")

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        n = num_workers_of(updates)
        _check_bulyan(f, n)
        geometry, frame = stacked.measure(updates, origin=False)
        selected = _select_by_krum(geometry.distances, f, n - 2 * f, power, less)
        valid = nan_unless(~jnp.any(selected & ~frame.finite))
        if concrete(f) is None:
            valid = valid * nan_unless((f >= 0) & (4 * f + 3 <= n))

        def reduce(x: jax.Array) -> jax.Array:
            inside = jnp.where(selected[:, None], x, jnp.nan)
            return mean_around_median(inside, n - 2 * f, n - 4 * f) * valid.astype(x.dtype)

        return stacked.coordinatewise(reduce, updates), state

    return Aggregator(optax.init_empty_state, update)


def _select_by_krum(distances: jax.Array, f: Numeric, count: Numeric, power: int, less: int) -> jax.Array:
    """``count`` rows, each the best by Krum among those that are left: bool[n]."""
    n = distances.shape[0]
    others = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, distances)
    largest = jnp.finfo(distances.dtype).max

    def select(k: jax.Array, left: jax.Array) -> jax.Array:
        among = jnp.where(left[None, :] & left[:, None], others, jnp.inf)
        scores = krum_scores(among, jnp.maximum(n - k - f - less, 1), power)
        # With one neighbour, two rows that are each other's nearest always tie: the more central of them goes first.
        total = jnp.where(jnp.isfinite(among), among, 0.0).sum(1)
        total = jnp.where(jnp.isfinite(among).any(1), total, largest)
        # A lost row, or one too far for its score, is still chosen before one that is gone.
        scores = jnp.where(left, jnp.minimum(scores, largest), jnp.inf)
        chosen = jnp.argmin(jnp.where(left & (scores == scores.min()), jnp.minimum(total, largest), jnp.inf))
        return jnp.where(k < count, left & (jnp.arange(n) != chosen), left)

    most = n if concrete(count) is None else int(count)
    return ~fori_loop(0, most, select, jnp.ones((n,), bool))


def _krum(f: Numeric, m: Numeric | None, power: int, neighbors: str, name: str) -> Aggregator:
    f, less = _check_scores(f, power, neighbors, name)

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        minority = check_minority(f, n, name)
        count = n - f - less
        _check_neighbors(f, n, neighbors, less, name)
        selected = n - f if m is None else m
        _check_selected(selected, n, name)
        scores = krum_scores(geometry.distances, count, power)
        # A far row's score may overflow, and must still come before that of a lost row.
        scores = jnp.where(geometry.finite, jnp.minimum(scores, jnp.finfo(scores.dtype).max), jnp.inf)
        valid = minority * nan_unless(geometry.finite.sum() > count)
        if concrete(f) is None or concrete(selected) is None:
            valid = valid * nan_unless((count >= 1) & (selected >= 1) & (selected <= n))
        return mean_of_lowest(scores, selected) * valid

    return weights_rule(Weights(weights, affine=True, picks=m is not None and concrete(m) == 1))


def _check_bulyan(f: Numeric, n: int) -> None:
    known = concrete(f, lambda value: _check_bulyan(value, n))
    if known is not None and n < 4 * known + 3:
        raise ValueError(
            f"bulyan: f = {f} of n = {n} workers needs n ≥ 4f + 3; use f ≤ {max((n - 3) // 4, 0)} or more workers."
        )


def _check_neighbors(f: Numeric, n: int, neighbors: str, less: int, name: str) -> None:
    known = concrete(f, lambda value: _check_neighbors(value, n, neighbors, less, name))
    if known is not None and n - known - less < 1:
        raise ValueError(
            f"{name}: {neighbors} = {n - known - less} with n = {n} and f = {f}, but a score needs at least one "
            f"neighbour; use f ≤ {n - less - 1} or more workers."
        )


def _check_selected(m: Numeric, n: int, name: str) -> None:
    known = concrete(m, lambda value: _check_selected(value, n, name))
    if known is not None and not 1 <= known <= n:
        raise ValueError(f"{name}: m = {m} rows to average must be between 1 and n = {n}.")


def _check_scores(f: Numeric, power: int, neighbors: str, name: str) -> tuple[Numeric, int]:
    """f, and how many workers beside them a score leaves out."""
    f = check_f(f, name)
    check_choice(power, typing.get_args(Power), "power", name)
    check_choice(neighbors, typing.get_args(Neighbors), "neighbors", name)
    return f, 2 if neighbors == "n-f-2" else 1


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
    nearest = lowest(others, count)
    return jnp.where(nearest, others ** (power / 2) if power != 2 else others, 0.0).sum(-1)
