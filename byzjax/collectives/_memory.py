"""The state of a rule whose devices share the coordinates.

What is one vector of the parameters' shape, as the last result, is whole and the same on all devices. What is several,
as a gradient of every worker, stays in shares: a device keeps of each what it judges. All else is as the rule has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from byzjax.base import Aggregator
from byzjax.collectives._shares import Shares
from byzjax.stacked.device_axes import types_name_axes, varying_over
from byzjax.types import Params


@jax.tree_util.register_pytree_node_class
class _Vectors:
    """A tree of the parameters' structure, found again in what `init` makes of it."""

    def __init__(self, leaves: Any):
        self.leaves = leaves

    def tree_flatten(self):
        return (self.leaves,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Memory:
    """What a rule remembers of parameters like these.

    Args:
      rule: any.
      params: leaves ``[*p]``, or their shapes.
    """

    def __init__(self, rule: Aggregator, params: Params):
        self._rule = rule
        self._ndims = [leaf.ndim for leaf in jax.tree.leaves(params)]
        self._structure = jax.tree.structure(params)
        found = jax.eval_shape(rule.init, _Vectors(params))
        self._parts, self._outline = jax.tree.flatten(found, is_leaf=lambda part: isinstance(part, _Vectors))

    @property
    def nothing(self) -> bool:
        """Whether the rule has no state."""
        return not self._parts

    @property
    def in_shares(self) -> bool:
        """Whether a device keeps its own share of something."""
        return any(map(self._several, self._parts))

    def init(self, params: Params, shares: Shares | None, axes: tuple[str, ...]) -> Any:
        """The state before the first round; without shares if none are kept."""
        whole = self._outline.flatten_up_to(self._rule.init(params))
        if shares is None:
            return self._outline.unflatten(whole)
        with shares.one_of_several():
            own = self._outline.flatten_up_to(self._rule.init(shares.share(jax.tree.leaves(params))))

        def part(kind: Any, whole: Any, own: Any) -> Any:
            if not self._several(kind):
                return whole
            return varying_over(own, frozenset(axes)) if types_name_axes() else own

        return self._outline.unflatten(list(map(part, self._parts, whole, own)))

    def to_shares(self, state: Any, shares: Shares) -> Any:
        """The state as the rule sees it on a device."""

        def part(kind: Any, kept: Any) -> Any:
            return shares.share(jax.tree.leaves(kept)) if self._one(kind) else kept

        return self._outline.unflatten(list(map(part, self._parts, self._outline.flatten_up_to(state))))

    def from_shares(self, state: Any, before: Any, shares: Shares, agree: Callable[[Any], Any]) -> Any:
        """The state as it is kept; with what all devices computed alike as ``agree`` makes it."""

        def part(kind: Any, own: Any, kept: Any) -> Any:
            if self._one(kind):
                return jax.tree.unflatten(self._structure, shares.whole(own, jax.tree.leaves(kept)))
            return own if self._several(kind) else agree(own)

        parts = map(part, self._parts, *map(self._outline.flatten_up_to, (state, before)))
        return self._outline.unflatten(list(parts))

    def _one(self, part: Any) -> bool:
        return isinstance(part, _Vectors) and not self._several(part)

    def _several(self, part: Any) -> bool:
        return isinstance(part, _Vectors) and any(
            leaf.ndim > ndim for leaf, ndim in zip(jax.tree.leaves(part), self._ndims, strict=True)
        )
