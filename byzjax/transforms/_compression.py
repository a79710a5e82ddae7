"""Compression of what workers send, as optax links: `top_k`, `random_k`, `natural_compression`.

A contractive compressor has ``E‖C(x) − x‖² ≤ (1 − α)‖x‖²`` for an α in (0, 1]; an unbiased one ``E Q(x) = x`` and
``E‖Q(x) − x‖² ≤ ω‖x‖²``. Every leaf is compressed by itself, as layers are in the code of Byz-VR-MARINA; a model of one
leaf is what papers write of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax.checks import check_kind, check_number
from byzjax.checks.traced import concrete
from byzjax.rng import check_key, drawable
from byzjax.types import Params
from byzjax.values import Value, value


class CompressorState(NamedTuple):
    """What a stand-alone compressor needs to draw keys."""

    key: jax.Array | None
    count: jax.Array  # i32[]


class Compressor(Value, optax.GradientTransformationExtraArgs):
    """A compressor of one worker's vector; ``update`` takes ``key=`` in place of its own.

    Attributes:
      unbiased: whether ``E Q(x) = x``; None where nobody has said so.
      contractive: whether ``E‖C(x) − x‖² ≤ (1 − α)‖x‖²`` for an α > 0; None likewise.
    """

    unbiased: bool | None = None
    contractive: bool | None = None

    def __new__(
        cls, init: Callable, update: Callable, *, unbiased: bool | None = None, contractive: bool | None = None
    ):
        self = super().__new__(cls, init, update)
        self.unbiased, self.contractive = unbiased, contractive
        return self


@value
def top_k(fraction: float) -> Compressor:
    """The k coordinates of largest magnitude; all others become 0. Contractive, α = k/d.

    ``k = ⌈fraction · d⌉`` in every leaf of d numbers; ties go to the lowest index.

    Args:
      fraction: in (0, 1], not traced.

    Raises:
      ValueError: a fraction outside (0, 1].

    Aji, Heafield. Sparse communication for distributed gradient descent. EMNLP 2017.

    >>> tx = top_k(0.5)
    >>> tx.update(jnp.array([1.0, -3.0, 2.0, 0.5]), tx.init(jnp.zeros(4)))[0].tolist()
    [0.0, -3.0, 2.0, 0.0]
    """
    fraction = _checked(fraction, "top_k")

    def compress(x: jax.Array, key: jax.Array | None) -> jax.Array:
        del key
        _, kept = jax.lax.top_k(jnp.abs(x), math.ceil(fraction * x.size))
        return jnp.zeros_like(x).at[kept].set(x[kept])

    def update(updates: Params, state: Any, params: Params | None = None, **extra):
        del params, extra
        return _on(updates, compress), state

    return Compressor(optax.init_empty_state, update, unbiased=fraction == 1, contractive=True)


@value
def random_k(fraction: float, *, scaled: bool = True, key: jax.Array | None = None) -> Compressor:
    """Some k coordinates, drawn anew, uniformly without replacement; all others become 0.

    ``Q(x) = (d/k) x`` on the k that are drawn: unbiased, ω = d/k − 1. With ``scaled=False`` ``C(x) = x`` there:
    contractive, α = k/d. ``k = ⌈fraction · d⌉`` in every leaf of d numbers. The code of Byz-VR-MARINA means this, but
    zeroes ⌈fraction · d⌉ coordinates and keeps the others, times d/⌈fraction · d⌉, which is unbiased at 1/2 alone.

    Args:
      fraction: in (0, 1], not traced.
      scaled: by d/k.
      key: for loops without byzjax: update t draws from ``fold_in(key, t)``, in `per_worker` every worker from a key of
        its own. A ``key=…`` passed to ``update`` is used instead, as methods do.

    Raises:
      ValueError: a fraction outside (0, 1]; no key when it draws.

    Stich, Cordonnier, Jaggi. Sparsified SGD with memory. NeurIPS 2018.

    >>> tx = random_k(0.5, key=jax.random.key(0))
    >>> sorted(tx.update(jnp.ones(4), tx.init(jnp.zeros(4)))[0].tolist())
    [0.0, 0.0, 2.0, 2.0]
    """
    fraction = _checked(fraction, "random_k")
    check_kind(scaled, bool, "scaled", "random_k", fix="say True or False.")

    def compress(x: jax.Array, key: jax.Array) -> jax.Array:
        k = math.ceil(fraction * x.size)
        _, kept = jax.lax.top_k(jax.random.bits(key, (x.size,)), k)
        return jnp.zeros_like(x).at[kept].set(x[kept] * (x.size / k if scaled else 1.0))

    # Scaled, its α is 2 − d/k.
    kinds = {"unbiased": scaled or fraction == 1, "contractive": not scaled or fraction > 0.5}
    return _drawing(compress, key, "random_k", **kinds)


@value
def natural_compression(*, key: jax.Array | None = None) -> Compressor:
    """Every number becomes one of the two powers of two around it, at random so that it is right on average.

    ``Q(x) = sign(x) 2^{e+1}`` with probability ``|x|/2^e − 1`` and else ``sign(x) 2^e``, where 2^e ≤ |x| < 2^{e+1}:
    a number's sign and exponent are sent alone. Unbiased, ω = 1/8; and contractive, α = 7/8. From 2^127 up float32 (and
    bfloat16) has no power of two above, and what is rounded up is infinite; float16 has none from 2^15 up.

    Args:
      key: as in `random_k`.

    Raises:
      ValueError: no key when it draws.

    Horváth, Ho, Horváth, Sahu, Canini, Richtárik. Natural compression for distributed deep learning. MSML 2022.

    >>> tx = natural_compression(key=jax.random.key(0))
    >>> tx.update(jnp.array([4.0, -0.5, 0.0]), tx.init(jnp.zeros(3)))[0].tolist()
    [4.0, -0.5, 0.0]
    """

    def compress(x: jax.Array, key: jax.Array) -> jax.Array:
        fraction, exponent = jnp.frexp(jnp.abs(x))  # |x| = fraction · 2^exponent, 1/2 ≤ fraction < 1
        up = jax.random.uniform(key, x.shape, x.dtype) < 2 * fraction - 1
        power = jnp.ldexp(jnp.ones_like(x), jnp.where(up, exponent, exponent - 1))
        return jnp.where((x == 0) | ~jnp.isfinite(x), x, jnp.sign(x) * power)

    return _drawing(compress, key, "natural_compression", unbiased=True, contractive=True)


def as_compressor(compressor: Any, draw: Callable[[float], Compressor], where: str) -> Compressor:
    """A compressor; or of a number, the fraction of coordinates that is kept, the one that ``draw`` makes.

    Raises:
      ValueError: it is neither.
    """
    if isinstance(compressor, int | float) and not isinstance(compressor, bool):
        return draw(compressor)
    fix = "pass a fraction, or call a factory, e.g. byzjax.transforms.top_k(0.1)."
    return check_kind(compressor, Compressor, "compressor", where, fix=fix)


def check_contractive(compressor: Compressor, where: str) -> Compressor:
    """Reject what is known not to be contractive: error feedback diverges with it."""
    if compressor.contractive is False:
        raise ValueError(
            f"{where}: compressor = {compressor!r} is not contractive, and error feedback would diverge; pass "
            "random_k(…, scaled=False) or top_k(…)."
        )
    return compressor


def check_unbiased(compressor: Compressor, where: str) -> Compressor:
    """Reject what is known to be biased: an error in a difference is never corrected."""
    if compressor.unbiased is False:
        raise ValueError(
            f"{where}: compressor = {compressor!r} is biased, and what it leaves out of differences would be lost; "
            "pass random_k(…) or natural_compression()."
        )
    return compressor


def compressed(compressor: Compressor, stack: Any, key: jax.Array) -> Any:
    """Every worker's row, leaves ``[n, …]``, compressed by itself, with draws of its own."""
    n = jax.tree.leaves(stack)[0].shape[0]
    one = lambda row, key: compressor.update(row, compressor.init(row), key=key)[0]  # noqa: E731
    return jax.vmap(one)(stack, jax.random.split(key, n))


def _checked(fraction: float, where: str) -> float:
    check_number(fraction, "fraction", where, least=0, open_below=True)
    if concrete(fraction) is None or fraction > 1:
        raise ValueError(f"{where}: fraction = {fraction} must be in (0, 1], and not traced; it is what is kept.")
    return float(fraction)


def _drawing(
    compress: Callable[[jax.Array, jax.Array], jax.Array], stored: jax.Array | None, where: str, **kinds: bool
) -> Compressor:
    if stored is not None:
        check_key(stored, where)

    def init(params: Params) -> CompressorState:
        del params
        return CompressorState(stored, jnp.zeros((), jnp.int32))

    def update(updates: Params, state: CompressorState, params=None, *, key: jax.Array | None = None, **extra):
        del params, extra
        if key is None and state.key is not None:
            key = jax.random.fold_in(drawable(state.key), state.count)
        updates = _on(updates, compress, check_key(key, where))
        return updates, CompressorState(state.key, state.count + 1)

    return Compressor(init, update, **kinds)


def _on(updates: Params, compress: Callable[..., jax.Array], key: jax.Array | None = None) -> Params:
    """Every leaf as a vector, with a key of its own."""
    leaves, structure = jax.tree.flatten(updates)
    keys = [None] * len(leaves) if key is None else jax.random.split(key, len(leaves))
    done = [compress(x.ravel(), own).reshape(x.shape) if x.size else x for x, own in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, done)
