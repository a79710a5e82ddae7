"""Composition: pre-aggregations and one rule become one rule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import optax

from byzjax.aggregators._builders import mixed_coordinate_rule, mixing_rule, trusting_rule
from byzjax.base import Aggregator, Coordinatewise, Mixing, PreAggregator, Scaling, Trust, Weights
from byzjax.checks import num_workers_of
from byzjax.programs.captured import read_outside
from byzjax.programs.compiled import Compiled
from byzjax.rng import check_key
from byzjax.stacked import Geometry, matmul, num_coordinates
from byzjax.stacked.gram import is_kept_whole
from byzjax.types import Params, Stacked
from byzjax.values import plain, value

Link = Aggregator | PreAggregator

_MANY = 512  # workers from which on products of n × n matrices take longer than reading few coordinates again


@overload
def chain(rule: Aggregator, /) -> Aggregator: ...
@overload
def chain(first: PreAggregator, rule: Aggregator, /) -> Aggregator: ...
@overload
def chain(first: PreAggregator, second: PreAggregator, rule: Aggregator, /) -> Aggregator: ...
@overload
def chain(*links: PreAggregator) -> PreAggregator: ...
@overload
def chain(*links: Link) -> Any: ...
@value
def chain(*links: Link) -> Any:
    """Compose pre-aggregations, and at most one rule at the end, from left to right.

    Neighbouring links that only need the geometry of the rows are fused there: ``chain(nnm(f), krum(f))`` reads the
    data twice, once to measure and once to combine, and never forms the mixed stack; nor does ``chain(nnm(f),
    median())``, which mixes and reduces block by block.

    Args:
      *links: `PreAggregator` links; the last one may be an `Aggregator`.

    Returns:
      An `Aggregator` if the last link is one, else a `PreAggregator`. Link i of several draws from
      ``fold_in(key, i)``; a lone link is returned as it is, and a chain among the links counts as its links.

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
    links = tuple(part for link in links for part in link.links)
    stages = _stages(links)

    def init(params):
        return tuple(stage.init(params) for stage in stages)

    kind = Aggregator if isinstance(links[-1], Aggregator) else PreAggregator
    if len(stages) > 1:
        return kind(init, update_with_trust=_in_turn(stages), links=links)
    return kind(stages[0].init, update_with_trust=stages[0].update_with_trust, links=links)


def _in_turn(stages: Sequence[Link]) -> Callable[..., tuple[Any, Any, Trust]]:
    """The function of stages one after the other, with a tuple of their states."""

    def update_with_trust(updates, state, params=None, *, key=None, **extra):
        states, trust = [], Trust()
        for position, (stage, stage_state) in enumerate(zip(stages, state, strict=True)):
            updates, stage_state, own = stage.update_with_trust(updates, stage_state, params, key=key, **extra)
            states.append(stage_state)
            if not isinstance(stage, Aggregator) and own.mixing is None:
                own = None  # it mixes rows in a way that is no matrix
            trust = own if position == 0 else _compose(trust, own)
        return updates, tuple(states), trust or Trust()

    return update_with_trust


def _compose(before: Trust | None, step: Trust | None) -> Trust | None:
    """Whom a step trusts among the rows as they were before; None where that cannot be told."""
    if before is None or step is None:
        return None
    mixing = before.mixing if step.mixing is None else _after(step.mixing, before.mixing)
    return Trust(_after(step.weights, before.mixing), mixing)


@overload
def aggregate(
    rule: Link, updates: Stacked, *, key: jax.Array | None = None, return_weights: Literal[False] = False
) -> Any: ...
@overload
def aggregate(
    rule: Link, updates: Stacked, *, key: jax.Array | None = None, return_weights: Literal[True]
) -> tuple[Any, jax.Array]: ...
def aggregate(rule: Link, updates: Stacked, *, key: jax.Array | None = None, return_weights: bool = False) -> Any:
    """Apply a rule once, without state: the shortcut that everybody tries first.

    Compiled once per rule and shapes; a rule that is made anew of equal arguments is the same rule.

    Args:
      rule: an `Aggregator`, or a `PreAggregator` (then the result still has a worker axis).
      updates: leaves ``[n, *p]``, floating point; a bare ``[n, d]`` array will do.
      key: a PRNG key, for rules that draw.
      return_weights: also tell whom the rule trusted.

    Returns:
      leaves ``[*p]``, each in its own dtype; with ``return_weights`` a pair of them and the weights of the workers
      f32[n], or the mixing matrix f32[m, n] of a pre-aggregation. What weights lack to 1 lies on no worker: on the
      origin after clipping, on the last aggregate in centred clipping.

    Raises:
      ValueError: leaves without a common worker axis, or of integers; weights of a rule that has none, since it treats
        coordinates alone or adds noise; whatever the rule refuses.

    >>> from byzjax import aggregators as agg
    >>> aggregate(agg.median(), jnp.array([[1.0, 5.0], [2.0, 3.0], [10.0, 20.0]])).tolist()
    [2.0, 5.0]
    >>> aggregate(agg.krum(f=1), jnp.array([[1.0], [2.0], [2.5], [9.0]]), return_weights=True)[1].tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    if not isinstance(rule, Aggregator | PreAggregator):
        raise ValueError(f"aggregate: rule is {rule!r}, not an Aggregator or PreAggregator; call its factory first.")
    updates = jax.tree.map(jnp.asarray, updates)
    num_workers_of(updates)
    if rule._call is not None and rule._call.traced:  # a program that is kept would keep the trace alive
        result, trust = _aggregate.__wrapped__(updates, key, rule=rule)  # type: ignore[attr-defined]
    else:
        result, trust = _aggregate(updates, key, rule=rule, outside="" if plain(rule) else read_outside(rule))
    if not return_weights:
        return result
    weights = trust.weights if isinstance(rule, Aggregator) else trust.mixing
    if weights is None:
        raise ValueError(
            "aggregate: return_weights = True, but this rule has no weight per worker: it treats every coordinate "
            "alone, or it adds noise. Use a rule that weighs rows, e.g. krum, geometric_median or multi_krum."
        )
    return result, weights


@functools.partial(Compiled, most=256)
def _aggregate(updates: Stacked, key: jax.Array | None, *, rule: Link) -> tuple[Params, Trust]:
    """Compiled once per rule and shape: operation by operation, every call would compile the rule's loops again."""
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), updates)
    result, _, trust = rule.update_with_trust(updates, rule.init(params), params, key=key)
    return result, trust


def _after(step: jax.Array | None, before: jax.Array | None) -> jax.Array | None:
    """Weights or a matrix on rows that were mixed before, as weights on the rows themselves."""
    return step if step is None or before is None else matmul(step, before)


def _fold_in(key: jax.Array | None, position: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(check_key(key, "chain"), position)


def _stages(links: Sequence[Link]) -> list[Link]:
    """The links as stages that all take the chain's own key, runs of worker-space kernels fused into one stage."""
    stages: list[Link] = []
    waiting: list[tuple[int, Any]] = []  # mixings and scalings that may be fused with what follows

    def flush() -> None:
        if len(waiting) > 1:
            stages.append(_fused(waiting.copy(), links))
        else:
            stages.extend(_placed(position, links[position]) for position, _ in waiting)
        waiting.clear()

    for position, link in enumerate(links):
        measured = any(isinstance(kernel, Mixing) and kernel.measures for _, kernel in waiting)
        if isinstance(link.kernel, Mixing | Scaling | Weights):
            waiting.append((position, link.kernel))
        elif isinstance(link.kernel, Coordinatewise) and measured:
            stages.append(_fused([*waiting, (position, link.kernel)], links))
            waiting.clear()
        else:
            flush()
            stages.append(_placed(position, link))
    flush()
    return stages


def _placed(position: int, link: Link) -> Link:
    def update_with_trust(updates, state, params=None, *, key=None, **extra):
        return link.update_with_trust(updates, state, params, key=_fold_in(key, position), **extra)

    return type(link)(link.init, update_with_trust=update_with_trust)


def _fused(run: list[tuple[int, Any]], links: Sequence[Link]) -> Link:
    """Mixings, and possibly a rule after them, in worker space: the matrices multiply, the data wait.

    Not where there are more workers than coordinates, and many: products of n × n matrices would cost more than data.
    Nor where rows of a large stack are shortened: what is left of their distances would be lost against the rows' old
    lengths.
    """
    shortens = any(isinstance(kernel, Scaling) for _, kernel in run)
    fused = _in_worker_space(run)
    apart = _in_turn([_placed(position, links[position]) for position, _ in run])
    stateless = (optax.EmptyState(),) * (len(run) - 1)  # as all mixings are

    def update_with_trust(updates, state, params=None, **extra):
        n = num_workers_of(updates)
        size = n * num_coordinates(updates)
        if (n < _MANY or n * n < size) and not (shortens and not is_kept_whole(n, size // n)):
            return fused.update_with_trust(updates, state, params, **extra)
        result, states, trust = apart(updates, (*stateless, state), params, **extra)
        return result, states[-1], trust

    return type(fused)(fused.init, update_with_trust=update_with_trust)


def _in_worker_space(run: list[tuple[int, Any]]) -> Link:
    position, last = run[-1]
    mixings = run[:-1] if isinstance(last, Weights | Coordinatewise) else run

    def product(geometry: Geometry, key: jax.Array | None) -> jax.Array:
        total = None
        for position, kernel in mixings:
            own = _fold_in(key, position)
            if isinstance(kernel, Scaling):
                # A lost row keeps its weight on itself, which marks its mixture as lost.
                step = jnp.diag(jnp.where(geometry.finite, kernel.factors(geometry, own), 1.0))
            else:
                step = kernel.matrix(geometry, own)
            geometry = geometry.mix(step, isinstance(kernel, Mixing) and kernel.affine)
            total = step if total is None else matmul(step, total)
        assert total is not None
        return total

    mixing = Mixing(product, affine=all(isinstance(kernel, Mixing) and kernel.affine for _, kernel in mixings))
    if isinstance(last, Coordinatewise):
        return mixed_coordinate_rule(last, mixing)
    if not isinstance(last, Weights):
        return mixing_rule(mixing)
    return trusting_rule(
        last._replace(weights=lambda geometry, key: last.weights(geometry, _fold_in(key, position))), mixing
    )
