"""Sums over workers and over coordinates, in full precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from byzjax.stacked.blocks import LANE, map_blocks
from byzjax.stacked.control_flow import in_turn, only_if

UNROLL = 64  # rows that are summed one by one
_WIDE = 1 << 14  # coordinates from which on a product over few workers is worth its call
HIGHEST = jax.lax.Precision.HIGHEST  # the default float32 product on accelerators is TF32


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in full precision on every backend."""
    return jnp.matmul(a, b, precision=HIGHEST)


def add(rows: list[jax.Array]) -> jax.Array:
    """The sum of equal arrays, pairwise, so that rounding grows with log n."""
    while len(rows) > 1:
        pairs = [a + b for a, b in zip(rows[::2], rows[1::2], strict=False)]
        rows = pairs + ([rows[-1]] if len(rows) % 2 else [])
    return rows[0]


def as_product(x: jax.Array, dtype: jnp.dtype) -> bool:
    """Whether sums over the worker axis of ``x`` (``[n, d]``) are faster as a matrix product, on a CPU by a third.

    A product needs the stack in memory as it is, and cannot skip a row of NaN.
    """
    floating = jnp.issubdtype(dtype, jnp.floating)
    return jax.default_backend() == "cpu" and floating and x.dtype == dtype and x.shape[1] >= _WIDE


@jax.custom_jvp
def product(weights: jax.Array, x: jax.Array) -> jax.Array:
    """``Σ_i w_i x_i`` as a matrix product where it is one stack, row by row where ``vmap`` makes it many.

    A batch of products of a vector with a matrix runs at a quarter of the speed of one on a CPU.
    """
    return _product(weights, x)


@product.defjvp
def _product_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (weights, x), (d_weights, d_x) = primals, tangents  # vmap rules of one's own cannot be transposed
    return product(weights, x), matmul(d_weights, x) + matmul(weights, d_x)


@jax.custom_batching.custom_vmap
def _product(weights: jax.Array, x: jax.Array) -> jax.Array:
    return matmul(weights, x)


@_product.def_vmap
def _product_batching_rule(size: int, batched: list[bool], weights: jax.Array, x: jax.Array) -> tuple[jax.Array, bool]:
    del size
    by_rows = x.shape[-2] <= UNROLL
    one = (lambda w, x: add([w[i] * x[i] for i in range(len(w))])) if by_rows else matmul
    return jax.vmap(one, tuple(0 if b else None for b in batched))(weights, x), True


def weighted_sum(weights: jax.Array, x: jax.Array) -> jax.Array:
    """``Σ_i w_i x_i``, in the dtype of the weights, where a weight of 0 removes its row, be it NaN."""
    n = x.shape[0]

    def skipping(weights: jax.Array, x: jax.Array) -> jax.Array:
        if n <= UNROLL:
            return add([jnp.where(weights[i] != 0, weights[i] * x[i].astype(weights.dtype), 0.0) for i in range(n)])
        kept = (weights != 0)[:, None]
        return map_blocks(lambda block: matmul(weights, jnp.where(kept, block, 0.0)), x, weights.dtype)

    if not as_product(x, weights.dtype):
        return skipping(weights, x)

    def multiplied(weights: jax.Array, x: jax.Array) -> jax.Array:
        sums = product(weights, x)
        return only_if(~jnp.isfinite(sums).all(), lambda _: skipping(weights, x), sums)

    return in_turn(multiplied, skipping)(weights, x)


def picked(weights: jax.Array, x: jax.Array) -> jax.Array:
    """`weighted_sum` where at most one weight is not 0."""
    i = jnp.argmax(weights != 0)
    return jnp.where(weights[i] != 0, weights[i] * x[i].astype(weights.dtype), 0.0)


def partial_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b.T`` of two blocks ``[·, w]`` as a sum of products over lanes of coordinates.

    One product of few rows with many columns runs on one core of a CPU, a batch of small ones on all of them; and
    the sum of partial sums rounds less.
    """
    rows, width = a.shape
    lane = max(LANE, rows) if jax.default_backend() == "cpu" else 1 << 14
    lanes = width // lane
    if lanes <= 1:
        return matmul(a, b.T)
    cut = lanes * lane

    def batch(x: jax.Array) -> jax.Array:
        return x[:, :cut].reshape(x.shape[0], lanes, lane).transpose(1, 0, 2)

    whole = jnp.einsum("lik,ljk->lij", batch(a), batch(b), precision=HIGHEST).sum(0)
    return whole if cut == width else whole + matmul(a[:, cut:], b[:, cut:].T)
