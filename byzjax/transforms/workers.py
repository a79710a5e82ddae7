"""The optax door to worker space: links that carry a leading worker axis, and the link where it ends.

``optax.chain(per_worker(optax.ema(0.9, debias=False), n), robust_aggregate(rule), normalize_by_global_norm(),
optax.scale_by_learning_rate(0.1))`` is Byz-NSGDM, in anybody's training loop: feed it gradients of leaves ``[n, *p]``.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax.base import Aggregator, Attack, Params, Stacked, check_mask, num_workers_of
from byzjax.explicit_axes import on_auto_axes, typed


def per_worker(
    tx: optax.GradientTransformation, num_workers: int, *, initial: dict[str, Stacked] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation for every worker, vectorised over the leading axis.

    Args:
      tx: any optax transformation of one worker's gradient, e.g. ``optax.ema(0.9, debias=False)``.
      num_workers: n.
      initial: ``{field: leaves [n, *p]}`` replaces fields of the initial states, as ``{"ema": v0}`` for the initial
        momenta of Algorithm 1.

    Returns:
      A transformation ``[n, *p] -> [n, *p]``; its state has a worker axis in every leaf.

    Raises:
      ValueError: num_workers < 1, updates with another number of workers, or an ``initial`` that does not fit.

    >>> tx = per_worker(optax.ema(0.5, debias=False), 2)
    >>> tx.update(jnp.array([[2.0], [4.0]]), tx.init(jnp.zeros(1)))[0].tolist()
    [[1.0], [2.0]]
    """
    if num_workers < 1:
        raise ValueError(f"per_worker: num_workers = {num_workers} must be at least 1.")
    tx = optax.with_extra_args_support(tx)

    def init(params: Params):
        state = jax.vmap(lambda _: tx.init(params))(jnp.arange(num_workers))
        for field, value in (initial or {}).items():
            state = _replace_field(state, field, value)
        return state

    def update(updates: Stacked, state, params=None, **extra):
        shapes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(updates)}
        if not shapes:  # a group of `optax.partition` that no parameter is in
            step = jax.vmap(lambda _, s: tx.update(updates, s, params, **extra)[1])
            return updates, step(jnp.arange(num_workers), state)
        if shapes != {(num_workers,)}:
            raise ValueError(
                f"per_worker: updates have leading axes {sorted(shapes)}, not num_workers = {num_workers}; "
                "take one gradient per worker, e.g. jax.vmap(jax.grad(loss), in_axes=(None, 0))."
            )
        return jax.vmap(lambda u, s: tx.update(u, s, params, **extra))(updates, state)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def _replace_field(state: Any, field: str, value: Stacked) -> Any:
    try:
        old = optax.tree.get(state, field)
        if old is None:
            raise KeyError(field)
        new = jax.tree.map(lambda v, o: jnp.broadcast_to(jnp.asarray(v, o.dtype), o.shape), value, old)
        return optax.tree.set(state, **{field: new})
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"per_worker: initial[{field!r}] does not fit the worker state {jax.tree.map(jnp.shape, state)}; "
            "name one of its fields and give leaves [n, *p]."
        ) from error


class RobustAggregateState(NamedTuple):
    """The rule's own state, and what a stand-alone link needs to draw keys."""

    rule: Any
    key: jax.Array | None
    count: jax.Array  # i32[]


def robust_aggregate(rule: Aggregator, *, key: jax.Array | None = None) -> optax.GradientTransformationExtraArgs:
    """The link where the worker axis ends: ``[n, *p] -> [*p]`` by a robust rule.

    Args:
      rule: an `Aggregator`, e.g. ``byzjax.chain(nnm(f=3), geometric_median())``.
      key: for rules that draw (bucketing) in a loop without byzjax: update t uses ``fold_in(key, t)``. A ``key=…``
        passed to ``update`` is used instead, as `byzjax.simulate` does.

    Raises:
      ValueError: ``rule`` is not an `Aggregator`.

    >>> from byzjax import aggregators as agg
    >>> tx = optax.chain(robust_aggregate(agg.median()), optax.scale(-1.0))
    >>> tx.update(jnp.array([[1.0], [2.0], [99.0]]), tx.init(jnp.zeros(1)))[0].tolist()
    [-2.0]
    """
    if not isinstance(rule, Aggregator):
        raise ValueError(
            f"robust_aggregate: rule = {rule!r} is not an Aggregator; end the chain with one, e.g. median()."
        )
    stored = key

    def init(params: Params) -> RobustAggregateState:
        return RobustAggregateState(rule.init(params), stored, jnp.zeros((), jnp.int32))

    def update(updates: Stacked, state: RobustAggregateState, params=None, *, key: jax.Array | None = None, **extra):
        if key is None and state.key is not None:
            key = jax.random.fold_in(state.key, state.count)
        aggregate, inner = rule.update(updates, state.rule, params, key=key, **extra)
        return aggregate, RobustAggregateState(inner, state.key, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


class InjectAttackState(NamedTuple):
    """The attack's own state, and what it needs to draw keys."""

    attack: Any
    key: jax.Array
    count: jax.Array  # i32[]


def inject_attack(
    attack: Attack, byzantine: jax.Array, *, key: jax.Array, aggregate: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Rewrite the rows of Byzantine workers, to test any optax chain under attack.

    Args:
      attack: an `Attack`. Its data-level part belongs to the data pipeline and is not applied here.
      byzantine: bool[n].
      key: update t gives the attack ``fold_in(key, t)``.
      aggregate: the server's rule as a function of a stack, for attacks that query it.

    An attack on raw gradients (``bit_flip(of="gradient")``) reads ``grads=…`` if it is passed to ``update``, else the
    updates that enter this link.

    >>> from byzjax import attacks
    >>> tx = inject_attack(attacks.sign_flip(), jnp.array([False, True]), key=jax.random.key(0))
    >>> tx.update(jnp.array([[1.0], [5.0]]), tx.init(jnp.zeros(1)))[0].tolist()
    [[1.0], [-1.0]]
    """
    num_workers = len(byzantine)
    byzantine = check_mask(byzantine, num_workers)

    def init(params: Params) -> InjectAttackState:
        return InjectAttackState(attack.init(params, num_workers), key, jnp.zeros((), jnp.int32))

    def update(updates: Stacked, state: InjectAttackState, params=None, *, grads: Stacked | None = None, **extra):
        extra.pop("key", None)  # the rule's, not the attack's
        extra |= {
            "grads": updates if grads is None else grads,
            "key": jax.random.fold_in(state.key, state.count),
            "byzantine": byzantine,
        }
        inner = state.attack
        if jax.tree.leaves(updates):
            num_workers_of(updates)
            updates, inner = on_auto_axes(
                functools.partial(attack.update, aggregate=aggregate),
                (updates, inner, params),
                extra,
                lambda sharding: (typed(updates, sharding), typed(inner, sharding)),
            )
        return updates, InjectAttackState(inner, state.key, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
