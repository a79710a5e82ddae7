"""Rules that group the workers, by direction or by signs, and trust the largest group."""

from __future__ import annotations

import typing
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators._builders import mean_of, weights_rule
from byzjax.aggregators._cluster_algorithms import (
    densest_cluster,
    larger_cluster,
    larger_of_two_means,
    majority_cluster,
)
from byzjax.aggregators._norms import shortening
from byzjax.base import Aggregator, Trust, Weights
from byzjax.checks import check_choice, check_number, num_workers_of
from byzjax.checks.traced import concrete
from byzjax.promises import promises
from byzjax.rng import check_key
from byzjax.stacked.cosines import cosine_distances
from byzjax.stacked.geometry import Geometry
from byzjax.stacked.noise import add_noise
from byzjax.stacked.order_statistics import median_of
from byzjax.types import Numeric, Stacked
from byzjax.values import value

Linkage = Literal["average", "single", "complete"]


@promises(translation=False, scale=False, robust=False)
@value
def clipped_clustering(max_norm: Numeric | None = 1e5, *, linkage: Linkage = "average") -> Aggregator:
    """Clipped clustering: shorten rows to the median norm, then average the larger of two clusters of directions.

    ``y_i = x_i min(1, τ/‖x_i‖)`` with τ the median of the norms, at most C; agglomerative clustering of the cosine
    distances ``1 − ⟨x_i, x_j⟩/(‖x_i‖ ‖x_j‖)`` down to two clusters; the mean of the y of the larger one, of two of the
    same size that with the first worker. A row of zeros has cosine distance 1 to all.

    Blades takes the median over the norms of all rounds so far, a state without end; this rule over those of this
    round, the same in the first one.

    Args:
      max_norm: C > 0, may be traced; 1e5 in Blades (``max_tau``). None clips nothing: with ``linkage="complete"`` the
        rule of Sattler, Müller, Wiegand, Samek (ICASSP 2020), Blades 0.1.0's ``Clustering``.
      linkage: how far apart two clusters are: the ``"average"`` of their pairs (Blades), the least (``"single"``) or
        the largest (``"complete"``).

    Shapes: ``f32[n, d] -> f32[d]``. A row with NaN or inf is in no cluster.

    Raises:
      ValueError: C ≤ 0, or an unknown linkage.

    Li, Ngai, Voigt. An experimental study of Byzantine-robust aggregation schemes in federated learning. IEEE Trans.
    Big Data, 2023.

    >>> import byzjax
    >>> byzjax.aggregate(clipped_clustering(), jnp.array([[2.0, 0.0], [4.0, 0.0], [-9.0, 0.0]])).tolist()
    [3.0, 0.0]
    """
    if max_norm is not None:
        check_number(max_norm, "max_norm", "clipped_clustering", least=0, open_below=True)
    check_choice(linkage, typing.get_args(Linkage), "linkage", "clipped_clustering")

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        num_workers_of(updates)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        norms, finite = jnp.sqrt(lengths.squares), lengths.finite
        members = larger_cluster(cosine_distances(updates), finite, linkage)
        factors = members.astype(norms.dtype)
        if max_norm is not None:
            bound = jnp.minimum(median_of(norms, finite), jnp.asarray(max_norm, norms.dtype) / lengths.unit)
            factors = factors * shortening(lengths, bound)
        weights = factors / members.sum().astype(norms.dtype)
        return stacked.combine(weights, updates, frame), state, Trust(weights)

    return Aggregator(optax.init_empty_state, update_with_trust=update_with_trust)


@promises(translation=False, robust=False)
@value
def signguard(*, lower: Numeric = 0.1, upper: Numeric = 3.0) -> Aggregator:
    """SignGuard: among rows of ordinary length, those whose signs are like most others'; shortened, then averaged.

    ``S = {i : L ≤ ‖x_i‖/M ≤ R} ∩ C`` with M the median of the norms and C the larger of two clusters of the points
    ``(p_i, z_i, q_i)``, the shares of positive, zero and negative coordinates of ``x_i``; of two of the same size that
    with the first worker. Then ``signguard(x) = (1/|S|) Σ_{i ∈ S} x_i min(1, M/‖x_i‖)``. If S is empty, the cluster is
    left out of account.

    The clusters are those of 2-means, the best of n runs of Lloyd's algorithm: from each point and the one farthest
    from it. The paper uses mean shift, and shares of a random tenth of the coordinates: here all are counted, which
    costs less than choosing.

    Args:
      lower: L, 0 ≤ L ≤ 1, may be traced; 0.1 in the paper.
      upper: R ≥ 1, may be traced; 3 in the paper.

    Shapes: ``f32[n, d] -> f32[d]``. A row with NaN or inf is in no cluster.

    Raises:
      ValueError: L or R out of range.

    Xu, Huang, Song, Lan. Byzantine-robust federated learning through collaborative malicious gradient filtering. ICDCS
    2022.

    >>> import byzjax
    >>> x = jnp.array([[1.0, 2.0, 2.0], [2.0, 2.0, 1.0], [2.0, 1.0, 2.0], [-2.0, -2.0, -1.0], [90.0, 90.0, 90.0]])
    >>> byzjax.aggregate(signguard(), x).round(2).tolist()
    [1.6699999570846558, 1.6699999570846558, 1.6699999570846558]
    """
    check_number(lower, "lower", "signguard", least=0)
    check_number(upper, "upper", "signguard", least=1)
    if (known := concrete(lower, lambda value: signguard(lower=value))) is not None and known > 1:
        raise ValueError(f"signguard: lower = {lower} must be at most 1: the median row is of ordinary length.")

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        num_workers_of(updates)
        lengths, frame = stacked.measure_lengths(updates, "origin")
        norms, finite = jnp.sqrt(lengths.squared_norms()), lengths.finite
        middle = median_of(norms, finite)
        d = max(stacked.num_coordinates(updates), 1)
        up, down = (count.astype(norms.dtype) / d for count in stacked.sign_counts(updates))
        alike = larger_of_two_means(jnp.stack([up, 1.0 - up - down, down], axis=1), finite)
        ordinary = finite & (norms >= lower * middle) & (norms <= upper * middle)
        good = jnp.where((ordinary & alike).any(), ordinary & alike, jnp.where(ordinary.any(), ordinary, finite))
        weights = jnp.where(good, shortening(lengths, middle), 0.0) / good.sum().astype(norms.dtype)
        return stacked.combine(weights, updates, frame), state, Trust(weights)

    return Aggregator(optax.init_empty_state, update_with_trust=update_with_trust)


@promises(translation=False)
@value
def flame(*, noise_factor: Numeric = 0.0) -> Aggregator:
    """FLAME: the mean of the tightest majority of directions, shortened to the median norm, plus noise if wanted.

    ``flame(x) = (1/|S|) Σ_{i ∈ S} x_i min(1, M/‖x_i‖) + N(0, (λM)² I)`` with M the median of all norms and S the first
    cluster with more than half of all workers, when clusters are merged by the least cosine distance of a pair. This is
    what HDBSCAN finds with clusters of at least ⌊n/2⌋ + 1 members, one sample, and a single cluster allowed: of two
    parts only one can be so large, so that its one cluster shrinks until the next cut leaves no majority.

    Args:
      noise_factor: λ ≥ 0, may be traced. In the paper ``√(2 ln(1.25/δ))/ε``, 0.001 in its experiments.

    Shapes: ``f32[n, d] -> f32[d]``. Needs a key if λ is not 0; then it has no weight per worker to show. A row with NaN
    or inf is in no cluster; a row of zeros has cosine distance 1 to all. NaN if no majority is finite.

    Raises:
      ValueError: λ < 0, or noise without a key.

    Nguyen et al. FLAME: taming backdoors in federated learning. USENIX Security 2022. There cosines are those of the
    workers' models; here of their updates.

    >>> import byzjax
    >>> x = jnp.array([[1.0, 0.0], [4.0, 0.0], [8.0, 0.0], [0.0, 4.0]])
    >>> byzjax.aggregate(flame(), x).tolist()
    [3.0, 0.0]
    """
    check_number(noise_factor, "noise_factor", "flame", least=0)

    def measure(updates: Stacked) -> tuple[jax.Array, jax.Array, jax.Array, stacked.Frame]:
        """Each worker's weight, the median norm in its unit, the unit, and the frame in which weights apply."""
        lengths, frame = stacked.measure_lengths(updates, "origin")
        middle = median_of(jnp.sqrt(lengths.squared_norms()), lengths.finite)
        members = majority_cluster(cosine_distances(updates), lengths.finite)
        weights = mean_of(members, middle.dtype) * shortening(lengths, middle)
        return weights, middle, lengths.unit, frame

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        num_workers_of(updates)
        weights, _, _, frame = measure(updates)
        return stacked.combine(weights, updates, frame), state, Trust(weights)

    if concrete(noise_factor) == 0:
        return Aggregator(optax.init_empty_state, update_with_trust=update_with_trust)

    def update(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        num_workers_of(updates)
        key = check_key(key, "flame")
        weights, middle, unit, frame = measure(updates)
        return add_noise(stacked.combine(weights, updates, frame), (noise_factor * middle) * unit, key), state

    return Aggregator(optax.init_empty_state, update)


@promises(scale=False, robust=False)
@value
def simple_clustering(eps: Numeric, *, min_samples: Numeric = 3) -> Aggregator:
    """Simple clustering: the mean of the largest cluster that DBSCAN finds.

    Rows with at least m rows within ε, their own among them, are cores. Cores within ε of each other are in one
    cluster, and so are the rows within ε of them; a row within ε of several clusters is in that with the first core. Of
    clusters of the same size the one with the first core counts. All rows count if there is no cluster.

    Args:
      eps: ε ≥ 0, a length in the units of the updates; may be traced. 0.05 in FLPoison: it depends on the model, so it
        has no default here.
      min_samples: m ≥ 1, may be traced.

    Shapes: ``f32[n, d] -> f32[d]``. A row with NaN or inf is in no cluster, one beyond 2⁴⁶ times the median row's size
    is near no other. The order of the workers decides between equal clusters, and for a row within ε of two.

    Raises:
      ValueError: ε < 0 or m < 1.

    FLPoison's ``SimpleClustering``, which names no paper; DBSCAN: Ester, Kriegel, Sander, Xu. A density-based algorithm
    for discovering clusters. KDD 1996.

    >>> import byzjax
    >>> x = jnp.array([[0.0], [1.0], [2.0], [9.0], [9.0], [5.0]])
    >>> byzjax.aggregate(simple_clustering(1.0), x).tolist()
    [1.0]
    """
    check_number(eps, "eps", "simple_clustering", least=0)
    check_number(min_samples, "min_samples", "simple_clustering", least=1)

    def weights(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        finite, placed = geometry.finite, geometry.finite & ~geometry.far
        near = jnp.sqrt(geometry.distances) <= jnp.asarray(eps, geometry.unit.dtype) / geometry.unit
        near = jnp.where(jnp.eye(len(finite), dtype=bool), finite[:, None], near & placed[:, None] & placed[None, :])
        dense = densest_cluster(near, min_samples)
        return mean_of(jnp.where(dense.any(), dense, finite), geometry.unit.dtype)

    return weights_rule(Weights(weights))
