"""Pre-aggregations that mix rows: nearest-neighbour mixing, bucketing, the guard against NaN and inf."""

from __future__ import annotations

import typing
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from byzjax import stacked
from byzjax.aggregators._builders import mean_of, mean_of_lowest, mixing_rule
from byzjax.base import Mixing, PreAggregator, Trust
from byzjax.checks import check_choice, check_f, check_integer, check_minority, nan_unless, num_workers_of
from byzjax.promises import promises
from byzjax.rng import check_key
from byzjax.stacked import Geometry
from byzjax.types import Numeric, Stacked
from byzjax.values import value

Replacement = Literal["mean", "zero"]


@value
def nnm(f: Numeric) -> PreAggregator:
    """Nearest-neighbour mixing: every row becomes the mean of its n − f nearest rows, itself included.

    ``y_i = (1/(n − f)) Σ_{j ∈ N_i} x_j`` with ``N_i`` the n − f rows nearest to ``x_i``; ties go to the lowest
    index. Followed by a (δ, κ)-robust rule it is (δ, κ')-robust with ``κ' = (8κ + 4) α C``, ``α ≤ f/(n − f)``
    (Lemma 12 of the Byz-NSGDM paper). On data sorted by label, where honest rows are far apart, it prefers f
    attackers in the middle to honest rows at the rim: look at an attack-free reference.

    Args:
      f: number of Byzantine workers to tolerate, 0 ≤ f < n/2; may be traced. f = 0 makes every row the mean.

    Shapes: ``f32[n, d] -> f32[n, d]``. A row with NaN or inf mixes into itself alone; rules after this one
    ignore it.

    Raises:
      ValueError: f < 0, or 2f ≥ n.

    Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan. Fixing by mixing: a recipe for optimal Byzantine ML under
    heterogeneity. AISTATS 2023. The same in ByzFL and in the Byz-NSGDM code.

    >>> import byzjax
    >>> x = jnp.array([[1.0], [2.0], [4.0]])
    >>> byzjax.aggregate(nnm(f=1), x).tolist()
    [[1.5], [1.5], [3.0]]
    """
    f = check_f(f, "nnm")

    def matrix(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        del key
        n = geometry.num_workers
        minority = check_minority(f, n, "nnm")
        itself_first = jnp.where(jnp.eye(n, dtype=bool), -1.0, geometry.distances)
        mixed = mean_of_lowest(itself_first, n - f) * minority
        return jnp.where(geometry.finite[:, None], mixed, jnp.eye(n, dtype=mixed.dtype))

    return mixing_rule(Mixing(matrix, affine=True))


@promises(permutation=False, stochastic=True, robust=False)
@value
def bucketing(bucket_size: int) -> PreAggregator:
    """Bucketing: shuffle the workers, then average them in buckets of s.

    ``y_b = (1/s) Σ_{i ∈ bucket b} x_i``, ``m = ⌈n/s⌉`` rows; the last bucket holds what is left. The rule after it
    sees n' = m workers. **f does not shrink**: each of the f Byzantine workers may spoil another bucket, so give the
    next rule the same f, and keep 2f < ⌈n/s⌉. Alone it does not remove hostile rows, it dilutes them.

    Args:
      bucket_size: s, static, 1 ≤ s. s = 1 only shuffles.

    Shapes: ``f32[n, d] -> f32[⌈n/s⌉, d]``. Needs a key. A bucket with a row of NaN or inf is lost.

    Raises:
      ValueError: s < 1, s > n, or no key.

    Karimireddy, He, Jaggi. Byzantine-robust learning on heterogeneous datasets via bucketing. ICLR 2022.

    >>> import byzjax
    >>> x = jnp.arange(6.0).reshape(6, 1)
    >>> byzjax.aggregate(bucketing(bucket_size=2), x, key=jax.random.key(0)).shape
    (3, 1)
    """
    bucket_size = check_integer(bucket_size, "bucket_size", "bucketing", least=1)

    def matrix(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        n = geometry.num_workers
        return bucket_matrix(shuffled(n, key), bucket_size, geometry.gram.dtype)

    def shuffled(n: int, key: jax.Array | None) -> jax.Array:
        if bucket_size > n:
            raise ValueError(f"bucketing: bucket_size = {bucket_size} exceeds n = {n} workers; use s ≤ {n}.")
        return jax.random.permutation(check_key(key, "bucketing"), n)

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        """Alone it needs no geometry."""
        del params, extra
        order = shuffled(num_workers_of(updates), key)
        buckets = stacked.mean_of_groups(order, bucket_size, updates)
        return buckets, state, Trust(mixing=bucket_matrix(order, bucket_size))

    return PreAggregator(
        optax.init_empty_state, update_with_trust=update_with_trust, kernel=Mixing(matrix, measures=False, affine=True)
    )


def bucket_matrix(order: jax.Array, bucket_size: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:  # type: ignore[assignment]
    """The mixing matrix of buckets of consecutive workers in a given order.

    Args:
      order: i32[n], a permutation; bucket b holds workers ``order[b s], …, order[b s + s − 1]``.
      bucket_size: s.
      dtype: of the matrix.

    Returns:
      f32[⌈n/s⌉, n], rows of sum 1.

    >>> bucket_matrix(jnp.array([2, 0, 1]), 2).tolist()
    [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    """
    n = order.shape[0]
    place = jnp.zeros((n,), jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))
    buckets = jnp.arange(-(-n // bucket_size), dtype=jnp.int32)
    member = (place[None, :] // bucket_size == buckets[:, None]).astype(dtype)
    return member / member.sum(1, keepdims=True)


@promises(robust=False)
@value
def finite_guard(replace: Replacement = "mean") -> PreAggregator:
    """Non-finite guard: a row with NaN or inf is replaced, so that rules which would pass it on survive it.

    ``y_i = x_i`` where all of x_i is finite, else the mean of the finite rows, or zero. It removes what cannot be
    averaged, not what is merely hostile: finite rows pass, however far. Every robust rule here does without it.

    Args:
      replace: by the ``"mean"`` of the finite rows, so that ``chain(finite_guard(), mean())`` is their mean; or by
        ``"zero"``, as code bases do that write 0 for NaN.

    Shapes: ``f32[n, d] -> f32[n, d]``. No paper.

    Raises:
      ValueError: ``replace`` is none of the two.

    >>> import byzjax
    >>> byzjax.aggregate(finite_guard(), jnp.array([[1.0], [jnp.nan], [3.0]])).tolist()
    [[1.0], [2.0], [3.0]]
    """
    check_choice(replace, typing.get_args(Replacement), "replace", "finite_guard")

    def update_with_trust(updates: Stacked, state, params=None, *, key: jax.Array | None = None, **extra):
        del params, key, extra
        num_workers_of(updates)
        largest = stacked.largest_coordinates(updates)  # not a geometry: there a lost majority takes all rows with it
        finite = jnp.isfinite(largest)
        instead, share = stacked.masked_mean(updates, finite), finite.astype(largest.dtype)
        if replace == "mean":
            known = nan_unless(finite.any())
            instead = jax.tree.map(lambda x: x * known.astype(x.dtype), instead)
            share = mean_of(finite, largest.dtype)
        else:
            instead, share = jax.tree.map(jnp.zeros_like, (instead, share))
        matrix = jnp.where(finite[:, None], jnp.eye(len(finite), dtype=share.dtype), share[None, :])
        return stacked.replace_rows(updates, ~finite, instead), state, Trust(mixing=matrix)

    return PreAggregator(optax.init_empty_state, update_with_trust=update_with_trust)
