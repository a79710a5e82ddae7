"""Composition: pre-aggregations and one rule become one rule."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byzjax.aggregators.kernels import mixing_rule, weights_rule
from byzjax.base import Aggregator, Mixing, Params, PreAggregator, Stacked, Weights, num_workers_of
from byzjax.stacked import Geometry

Link = Aggregator | PreAggregator


def chain(*links: Link) -> Any:
    """Compose pre-aggregations, and at most one rule at the end, from left to right.

    Neighbouring links that only need the geometry of the rows are fused there: ``chain(nnm(f), krum(f))`` reads the
    data twice, once to measure and once to combine, and never forms the mixed stack.

    Args:
      *links: `PreAggregator` links; the last one may be an `Aggregator`.

    Returns:
      An `Aggregator` if the last link is one, else a `PreAggregator`. Link i of several draws from
      ``fold_in(key, i)``; a lone link is returned as it is.

    Raises:
      ValueError: no links, a link of another type, or an aggregator before the end.

    >>> from byzjax import aggregators as agg
    >>> rule = chain(agg.nnm(f=1), agg.median())
    >>> aggregate(rule, jnp.array([[1.0], [2.0], [3.0], [1e9]])).tolist()
    [2.0]
    """
    if not links:
        raise ValueError("chain: needs at least one link, e.g. chain(nnm(f=1), median()).")
    for position, link in enumerate(links):
        if not isinstance(link, Aggregator | PreAggregator):
            raise ValueError(
                f"chain: link {position} is {link!r}, not an Aggregator or PreAggregator; "
                "call the factory, as in nnm(f=1), and use optax.chain for transformations of the aggregate."
            )
    for position, link in enumerate(links):
        if isinstance(link, Aggregator) and position < len(links) - 1:
            raise ValueError(
                f"chain: link {position} is an Aggregator, where the worker axis ends; only the last link may be one."
            )
    if len(links) == 1:
        return links[0]
    stages = _stages(links)
    if len(stages) == 1:
        return stages[0]

    def init(params):
        return tuple(stage.init(params) for stage in stages)

    def update(updates, state, params=None, *, key=None, **extra):
        states = []
        for stage, stage_state in zip(stages, state, strict=True):
            updates, stage_state = stage.update(updates, stage_state, params, key=key, **extra)
            states.append(stage_state)
        return updates, tuple(states)

    kind = Aggregator if isinstance(links[-1], Aggregator) else PreAggregator
    return kind(init, update)


def aggregate(rule: Link, updates: Stacked, *, key: jax.Array | None = None) -> Params:
    """Apply a rule once, without state: the shortcut that everybody tries first.

    Args:
      rule: an `Aggregator`, or a `PreAggregator` (then the result still has a worker axis).
      updates: leaves ``[n, *p]``, floating point; a bare ``[n, d]`` array will do.
      key: a PRNG key, for rules that draw.

    Returns:
      leaves ``[*p]``, each in its own dtype.

    Raises:
      ValueError: leaves without a common worker axis, or of integers; whatever the rule refuses.

    >>> from byzjax import aggregators as agg
    >>> aggregate(agg.median(), jnp.array([[1.0, 5.0], [2.0, 3.0], [10.0, 20.0]])).tolist()
    [2.0, 5.0]
    """
    if not isinstance(rule, Aggregator | PreAggregator):
        raise ValueError(f"aggregate: rule is {rule!r}, not an Aggregator or PreAggregator; call its factory first.")
    updates = jax.tree.map(jnp.asarray, updates)
    num_workers_of(updates)
    return _aggregate(rule, updates, key)


@functools.partial(jax.jit, static_argnames=("rule",))
def _aggregate(rule: Link, updates: Stacked, key: jax.Array | None) -> Params:
    """Compiled once per rule and shape: operation by operation, every call would compile the rule's loops again."""
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), updates)
    return rule.update(updates, rule.init(params), params, key=key)[0]


def _fold_in(key: jax.Array | None, position: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, position)


def _stages(links: Sequence[Link]) -> list[Link]:
    """The links as stages that all take the chain's own key, runs of worker-space kernels fused into one stage."""
    stages: list[Link] = []
    for fusable, run in itertools.groupby(enumerate(links), lambda pair: isinstance(pair[1].kernel, Mixing | Weights)):
        if fusable:
            stages.append(_fused([(position, link.kernel) for position, link in run]))
        else:
            stages.extend(_placed(position, link) for position, link in run)
    return stages


def _placed(position: int, link: Link) -> Link:
    def update(updates, state, params=None, *, key=None, **extra):
        return link.update(updates, state, params, key=_fold_in(key, position), **extra)

    return type(link)(link.init, update)


def _fused(run: list[tuple[int, Any]]) -> Link:
    """Mixings, and possibly a weights rule after them, as one kernel: the matrices multiply, the data wait."""

    def composite(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        total = None
        for position, kernel in run:
            if isinstance(kernel, Weights):
                step = kernel.weights(geometry, _fold_in(key, position))
            else:
                step = kernel.matrix(geometry, _fold_in(key, position))
                geometry = geometry.mix(step)
            total = step if total is None else jnp.matmul(step, total, precision=jax.lax.Precision.HIGHEST)
        assert total is not None
        return total

    if isinstance(run[-1][1], Weights):
        return weights_rule(Weights(composite))
    return mixing_rule(Mixing(composite))
