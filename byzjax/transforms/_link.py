"""Links that are values: equal, hashable, readable and picklable by the call that made them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from byzjax.stacked.explicit_axes import on_auto_axes, typed
from byzjax.types import Params
from byzjax.values import Value


class Link(Value, optax.GradientTransformationExtraArgs):
    """An optax link of this package: ``init(params) -> state``, ``update(updates, state, params, **extra)``."""


def stateless(function: Callable[[Params], Params]) -> Link:
    """A link without state that gives ``function(updates)``, laid out as the updates are.

    A tree without leaves, which `optax.partition` makes of a group that no parameter is in, passes as it is.
    """

    def update(updates: Params, state: Any, params: Params | None = None, **extra):
        del params, extra
        if not jax.tree.leaves(updates):
            return updates, state
        return on_auto_axes(function, (updates,), {}, lambda sharding: typed(updates, sharding)), state

    return Link(optax.init_empty_state, update)
