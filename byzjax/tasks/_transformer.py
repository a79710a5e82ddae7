"""A decoder-only transformer (GPT) over characters, the language model of section 6.2."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from byzjax.checks import check_integer, check_number
from byzjax.tasks.models import Model, functional


def gpt(
    num_layers: int = 4,
    width: int = 128,
    num_heads: int = 4,
    block_size: int = 128,
    vocab_size: int = 65,
    dropout: float = 0.1,
    compute_dtype: DTypeLike | None = None,
) -> Model:
    """A pre-LN GPT whose head is its token embedding; 818 048 parameters as it stands.

    ``x = dropout(E[tokens] + P)``, then per layer ``x += attention(LN(x))`` and ``x += W₂ GELU(W₁ LN(x))``, and logits
    ``LN(x) Eᵀ``. Dropout acts on the embedding, the attention weights, and what attention and the MLP add. Learned
    positions, exact GELU, ε = 1e-5 in LayerNorm, N(0, 0.02²) for all weights and embeddings, zero biases.

    Args:
      num_layers: L.
      width: D, a multiple of ``num_heads``.
      num_heads: H.
      block_size: the longest input T.
      vocab_size: V.
      dropout: the rate, in [0, 1); without a key nothing is dropped.
      compute_dtype: of the layers, e.g. ``"bfloat16"``. Parameters, what layers add up to, softmax, normalisation and
        logits keep the dtype of the parameters, float32. By default all is of that dtype.

    Returns:
      A stochastic `Model`: ``apply(params, i[B, T], key=None) -> f32[B, T, V]``.

    Raises:
      ValueError: a size < 1, heads that do not divide the width, a rate outside [0, 1), a dtype that is not floating.

    >>> model = gpt(num_layers=1, width=8, num_heads=2, block_size=4, vocab_size=5)
    >>> model.apply(model.init(jax.random.key(0)), jnp.zeros((3, 4), jnp.uint8)).shape
    (3, 4, 5)
    """
    sizes = {"num_layers": num_layers, "width": width, "num_heads": num_heads, "block_size": block_size}
    for name, value in (sizes | {"vocab_size": vocab_size}).items():
        check_integer(value, name, "gpt", least=1)
    if width % num_heads:
        raise ValueError(f"gpt: width = {width} must be a multiple of num_heads = {num_heads}.")
    check_number(dropout, "dropout", "gpt", least=0, below=1)
    build = functools.partial(_GPT, **sizes, vocab_size=vocab_size, rate=dropout, dtype=_floating(compute_dtype))
    return functional(lambda rngs: build(rngs=rngs), stochastic=True)


class _GPT(nnx.Module):
    def __init__(self, *, num_layers, width, num_heads, block_size, vocab_size, rate, dtype, rngs: nnx.Rngs):
        self.num_layers = num_layers
        self.token = _Embedding(vocab_size, width, rngs)
        self.position = _Embedding(block_size, width, rngs)
        self.dropout = nnx.Dropout(rate)
        for layer in range(num_layers):
            setattr(self, f"block{layer}", _Block(width, num_heads, rate, dtype, rngs))
        self.norm = _norm(width, rngs)

    def __call__(self, tokens: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.token(tokens.astype(jnp.int32)) + self.position(jnp.arange(tokens.shape[-1]))[None]
        x = _drop(self.dropout, x, rngs)
        for layer in range(self.num_layers):
            x = getattr(self, f"block{layer}")(x, rngs)
        return self.token.attend(self.norm(x))


class _Embedding(nnx.Module):
    """As `nnx.Embed`, which computes in float32 whatever its parameters are."""

    def __init__(self, rows: int, width: int, rngs: nnx.Rngs):
        self.embedding = nnx.Param(_NORMAL(rngs.params(), (rows, width)))

    def __call__(self, rows: jax.Array) -> jax.Array:
        return self.embedding[...][rows]

    def attend(self, x: jax.Array) -> jax.Array:
        return x @ self.embedding[...].T


class _Block(nnx.Module):
    def __init__(self, width: int, num_heads: int, rate: float, dtype: Any, rngs: nnx.Rngs):
        self.norm1 = _norm(width, rngs)
        self.attention = _Attention(width, num_heads, rate, dtype, rngs)
        self.norm2 = _norm(width, rngs)
        self.widen = _linear(width, 4 * width, dtype, rngs)
        self.narrow = _linear(4 * width, width, dtype, rngs)
        self.dropout = nnx.Dropout(rate)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        x = x + self.attention(self.norm1(x), rngs).astype(x.dtype)
        hidden = jax.nn.gelu(self.widen(self.norm2(x)), approximate=False)
        return x + _drop(self.dropout, self.narrow(hidden), rngs).astype(x.dtype)


class _Attention(nnx.Module):
    def __init__(self, width: int, num_heads: int, rate: float, dtype: Any, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.project = _linear(width, 3 * width, dtype, rngs)
        self.output = _linear(width, width, dtype, rngs)
        self.dropout = nnx.Dropout(rate)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        batch, length, width = x.shape
        size = width // self.num_heads
        query, key, value = (
            part.reshape(batch, length, self.num_heads, size) for part in jnp.split(self.project(x), 3, axis=-1)
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(size)
        earlier = jnp.tril(jnp.ones((1, 1, length, length), bool))
        weights = jax.nn.softmax(jnp.where(earlier, scores.astype(x.dtype), -jnp.inf))
        weights = _drop(self.dropout, weights, rngs).astype(value.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return _drop(self.dropout, self.output(mixed.reshape(x.shape)), rngs)


def _drop(layer: nnx.Dropout, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    return layer(x, deterministic=rngs is None, rngs=rngs)


def _linear(rows: int, columns: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(rows, columns, dtype=dtype, kernel_init=_NORMAL, rngs=rngs)


def _norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)


def _floating(dtype: DTypeLike | None) -> Any:
    if dtype is None:
        return None
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise ValueError(f"gpt: compute_dtype = {dtype!r} must be a floating dtype, e.g. 'bfloat16'.")
    return known


_NORMAL = nnx.initializers.normal(0.02)
