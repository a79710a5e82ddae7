"""Links that are values: equal, hashable, readable and picklable by the call that made them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from byzjax.stacked.explicit_axes import on_auto_axes, typed
from byzjax.types import Params
from byzjax.values import Value


class Link(Value, optax.GradientTransformationExtraArgs):
    """An optax link of this package: ``init(params) -> state``, ``update(updates, state, params, **extra)``."""


def floating(updates: Params, where: str) -> Params:
    """The same as arrays.

    Raises:
      ValueError: a leaf of integers or flags, to which a step would be rounded.

    >>> floating({"w": jnp.arange(3)}, "momentum")
    Traceback (most recent call last):
    ValueError: momentum: leaf ['w'] is int32; updates must be floating point, e.g. float32.
    """

    def one(path: Any, leaf: Any) -> jax.Array:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            name = jax.tree_util.keystr(path) or "x"
            raise ValueError(
                f"{where}: leaf {name} is {jnp.result_type(leaf)}; updates must be floating point, e.g. float32."
            )
        return jnp.asarray(leaf)

    return jax.tree_util.tree_map_with_path(one, updates)


def stateless(function: Callable[[Params], Params], where: str) -> Link:
    """A link without state that gives ``function(updates)``, laid out as the updates are.

    Messages begin with ``where``. A tree without leaves, which `optax.partition` makes of a group that no parameter is
    in, passes as it is.
    """

    def update(updates: Params, state: Any, params: Params | None = None, **extra):
        del params, extra
        if not jax.tree.leaves(updates):
            return updates, state
        updates = floating(updates, where)
        return on_auto_axes(function, (updates,), {}, lambda sharding: typed(updates, sharding)), state

    return Link(optax.init_empty_state, update)
