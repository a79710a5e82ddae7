"""In which precision a transformation remembers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from byzjax.checks import check_kind
from byzjax.types import Params


def checked_transformation(tx: Any, argument: str, where: str) -> optax.GradientTransformationExtraArgs:
    """An optax transformation that takes whatever it is passed by name; `optax.MultiSteps` as one.

    Raises:
      ValueError: it is something else.

    >>> checked_transformation("sgd", "server", "Method")
    Traceback (most recent call last):
    ValueError: Method: server = 'sgd' is a str, not a GradientTransformation; pass one of optax, e.g. optax.sgd(0.1).
    """
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    fix = "pass one of optax, e.g. optax.sgd(0.1)."
    return optax.with_extra_args_support(check_kind(tx, optax.GradientTransformation, argument, where, fix=fix))


def accumulating(
    tx: optax.GradientTransformationExtraArgs, dtype: Any = jnp.float32
) -> optax.GradientTransformationExtraArgs:
    """A transformation that computes and remembers narrower floats in ``dtype``. What it gives has the updates' dtypes.

    An average of 16-bit numbers in 16 bits stalls: with β = 0.999 bfloat16 loses every term below a 256th of it.

    Args:
      tx: any; an ``accumulator_dtype`` of its own is kept.
      dtype: None for the dtypes of the parameters.

    >>> tx = accumulating(optax.ema(0.999, debias=False))
    >>> tx.init(jnp.zeros(2, jnp.bfloat16)).ema.dtype
    dtype('float32')
    """
    if dtype is None:
        return tx

    def init(params: Params):
        return tx.init(widened(params, dtype))

    def update(updates, state, params=None, **extra):
        given, state = tx.update(widened(updates, dtype), state, widened(params, dtype), **widened(extra, dtype))
        if widest(updates, dtype):
            return given, state
        return jax.tree.map(lambda new, old: new.astype(old.dtype), given, updates), state

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def widened(tree: Any, dtype: Any = jnp.float32) -> Any:
    """Floats narrower than ``dtype`` in it; everything else as it is.

    >>> widened(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if _narrower(leaf, dtype) else leaf, tree)


def widest(tree: Any, dtype: Any = jnp.float32) -> bool:
    """Whether no float is narrower."""
    return not any(_narrower(leaf, dtype) for leaf in jax.tree.leaves(tree))


def _narrower(leaf: Any, dtype: Any) -> bool:
    own = getattr(leaf, "dtype", None)
    return own is not None and jnp.issubdtype(own, jnp.floating) and jnp.finfo(own).bits < jnp.finfo(dtype).bits
