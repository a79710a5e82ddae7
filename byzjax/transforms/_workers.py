"""The optax door to worker space: links that carry a leading worker axis, and the link where it ends.

``optax.chain(per_worker(optax.ema(0.9, debias=False), n), robust_aggregate(rule), normalize_by_global_norm(),
optax.scale_by_learning_rate(0.1))`` is Byz-NSGDM, in anybody's training loop: feed it gradients of leaves ``[n, *p]``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byzjax.base import Aggregator, Attack, check_rule, unchanged_batch, unchanged_updates
from byzjax.checks import check_integer, check_kind, check_mask, num_workers_of, shown
from byzjax.checks.contracts import ONE_ROW_OF_ALL, check_like, check_pair, described, no_value_fn, only_masked
from byzjax.collectives import check_shareable, init_memory, robust_pmean
from byzjax.rng import check_key, drawable, worker_keys
from byzjax.stacked.coordinate_axis import AxisName
from byzjax.stacked.explicit_axes import on_auto_axes, typed
from byzjax.transforms._accumulating import accumulating, checked_transformation
from byzjax.transforms._devices import InjectAttackState, on_each_device
from byzjax.types import Params, Stacked


def per_worker(
    tx: optax.GradientTransformation,
    num_workers: int,
    *,
    initial: dict[str, Stacked] | None = None,
    accumulator_dtype: Any = jnp.float32,
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation for every worker, vectorised over the leading axis.

    Workers draw independently: every PRNG key in a worker's initial state, be it typed or raw, is
    ``fold_in(key, worker)`` of the transformation's own.

    Wrappers that keep a plain gradient (`optax.MultiSteps`, `optax.flatten`, `optax.apply_if_finite`) belong in here,
    or after `robust_aggregate`; around both they would meet a stack where they keep a gradient.

    Args:
      tx: any optax transformation of one worker's gradient, e.g. ``optax.ema(0.9, debias=False)``; or of one worker's
        per-example gradients ``[B, *p]``, as `optax.contrib.differentially_private_aggregate`.
      num_workers: n.
      initial: ``{field: leaves [n, *p]}`` replaces fields of the initial states, as ``{"ema": v0}`` for the initial
        momenta of Algorithm 1.
      accumulator_dtype: in which narrower floats are computed and remembered, since averages of 16 bits stall; None for
        the dtypes of the parameters. What a worker sends has the dtypes of its gradient.

    Returns:
      A transformation ``[n, *p] -> [n, *p]``; its state has a worker axis in every leaf. Of what else is passed to
      ``update``, ``value`` f32[n] and ``grad`` ``[n, *p]`` are each worker's own, and the rest is everybody's.

    Raises:
      ValueError: num_workers is no integer ≥ 1, ``tx`` no transformation, updates that are no stack of n gradients, or
        an ``initial`` that does not fit; a ``tx`` with a line search, unless ``update`` is passed ``value_fn=``.

    >>> tx = per_worker(optax.ema(0.5, debias=False), 2)
    >>> tx.update(jnp.array([[2.0], [4.0]]), tx.init(jnp.zeros(1)))[0].tolist()
    [[1.0], [2.0]]
    """
    n = check_integer(num_workers, "num_workers", "per_worker", least=1)
    tx = accumulating(checked_transformation(tx, "tx", "per_worker"), accumulator_dtype)

    def init(params: Params):
        state = jax.vmap(lambda worker: worker_keys(tx.init(params), worker))(jnp.arange(n))
        for field, value in (initial or {}).items():
            state = _replace_field(state, field, value)
        return state

    def update(updates: Stacked, state, params=None, **extra):
        shapes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(updates)}
        if not shapes:  # a group of `optax.partition` that no parameter is in
            step = jax.vmap(lambda _, s: tx.update(updates, s, params, **extra)[1])
            return updates, step(jnp.arange(n), state)
        if shapes != {(n,)}:
            raise ValueError(
                f"per_worker: updates have leading axes {sorted(shapes)}, not num_workers = {n}; {_ONE_PER_WORKER}"
            )
        if params is not None:
            _check_own(updates, params)
        extra.setdefault("value_fn", no_value_fn("per_worker: tx"))
        own = {name: value for name, value in extra.items() if _each_has_its_own(name, value, updates)}
        shared = {name: value for name, value in extra.items() if name not in own}
        return jax.vmap(lambda u, s, e: tx.update(u, s, params, **shared, **e))(updates, state, own)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


_ONE_PER_WORKER = (
    "take one gradient per worker, e.g. jax.vmap(jax.grad(loss), in_axes=(None, 0)), and put optax.MultiSteps, "
    "optax.flatten and their like inside per_worker(…), or after robust_aggregate(…)."
)


def _check_own(updates: Stacked, params: Params) -> None:
    """Reject what is no gradient per worker. Axes between may be of examples, as for differential privacy."""
    given, wanted = (
        {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (updates, params)
    )
    fits = given.keys() == wanted.keys() and all(
        len(given[path]) > len(shape) and given[path][len(given[path]) - len(shape) :] == shape
        for path, shape in wanted.items()
    )
    if not fits:
        _check_stack(updates, [described(params)], "per_worker")


def _check_stack(updates: Stacked, known: Collection[dict[str, str]], where: str) -> None:
    """Reject updates that are not parameters with a worker axis in front, as one gradient is."""
    if known and jax.tree.leaves(updates) and described(updates, rows=True) not in known:
        raise ValueError(
            f"{where}: updates have shapes {shown(described(updates))}, which are no rows for parameters of shapes "
            f"{shown(next(iter(known)))}; {_ONE_PER_WORKER}"
        )


def _each_has_its_own(name: str, value: Any, updates: Stacked) -> bool:
    if name == "value":
        return jnp.shape(value) == jnp.shape(jax.tree.leaves(updates)[0])[:1]
    return name == "grad" and described(value) == described(updates)


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


def robust_aggregate(
    rule: Aggregator,
    *,
    key: jax.Array | None = None,
    axis_name: AxisName | None = None,
    parameter_axes: AxisName = (),
) -> optax.GradientTransformationExtraArgs:
    """The link where the worker axis ends: ``[n, *p] -> [*p]`` by a robust rule.

    With an ``axis_name`` the workers are the devices along it, updates are each device's own, ``[*p]``, and the link is
    `byzjax.robust_pmean`. Its state is the same on all devices; but rules that remember every worker's gradient keep a
    share of it on each: `init` then belongs where `update` is, and `state_specs` says how it leaves.

    Args:
      rule: an `Aggregator`, e.g. ``byzjax.chain(nnm(f=3), geometric_median())``.
      key: for rules that draw (bucketing) in a loop without byzjax: update t uses ``fold_in(key, t)``. A ``key=…``
        passed to ``update`` is used instead, as `byzjax.simulate` does.
      axis_name, parameter_axes: as in `byzjax.robust_pmean`; None for stacks ``[n, *p]``.

    Raises:
      ValueError: ``rule`` is not an `Aggregator`; updates that are no stack of the parameters' gradients, such as an
        averaged one; a rule that returns other shapes than the parameters', which would broadcast; with an
        ``axis_name``, what `byzjax.robust_pmean` refuses.

    >>> from byzjax import aggregators as agg
    >>> tx = optax.chain(robust_aggregate(agg.median()), optax.scale(-1.0))
    >>> tx.update(jnp.array([[1.0], [2.0], [99.0]]), tx.init(jnp.zeros(1)))[0].tolist()
    [-2.0]
    """
    check_rule(rule, "rule", "robust_aggregate")
    if axis_name is not None:
        check_shareable(rule, "robust_aggregate")
    stored = key
    if key is not None:
        check_key(key, "robust_aggregate")
    seen: list[dict[str, str]] = []  # shapes of parameters, for updates without them; never more than a check

    def init(params: Params) -> RobustAggregateState:
        shapes = described(params)
        if shapes and shapes not in seen:
            seen.append(shapes)
        if axis_name is None:
            remembered = rule.init(params)
        else:
            remembered = init_memory(rule, params, axis_name, parameter_axes, "robust_aggregate")
        return RobustAggregateState(remembered, stored, jnp.zeros((), jnp.int32))

    def update(updates: Stacked, state: RobustAggregateState, params=None, *, key: jax.Array | None = None, **extra):
        if key is None and state.key is not None:
            key = jax.random.fold_in(drawable(state.key), state.count)
        if axis_name is not None:
            options = {"key": key, "state": state.rule, "params": params, "parameter_axes": parameter_axes}
            reduced, inner = robust_pmean(updates, axis_name, rule, **options)
            return reduced, RobustAggregateState(inner, state.key, state.count + 1)
        _check_stack(updates, seen if params is None else [described(params)], "robust_aggregate")
        answer = rule.update(updates, state.rule, params, key=key, **extra)
        aggregate, inner = check_pair(answer, "rule.update", wanted="(aggregate, state)")
        if described(aggregate) != described(updates, rows=True):
            check_like(aggregate, jax.tree.map(lambda u: u[0], updates), "the aggregate", "rule", fix=ONE_ROW_OF_ALL)
        return aggregate, RobustAggregateState(inner, state.key, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def inject_attack(
    attack: Attack,
    byzantine: jax.Array,
    *,
    key: jax.Array,
    aggregate: Any = None,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rewrite the rows of Byzantine workers, to test any optax chain under attack.

    Args:
      attack: an `Attack` on updates. What it poisons belongs to the data pipeline and is not applied here, so one that
        does nothing else, as `label_flip`, is refused: poison the batches with ``attack.poison``. Honest workers' rows
        pass as they are, whatever the attack returns.
      byzantine: bool[n].
      key: update t gives the attack ``fold_in(key, t)``.
      aggregate: the server's rule as a function of a stack, for attacks that query it.
      axis_name: the workers are the devices along it, updates are each device's own, ``[*p]``, and so is the state of
        an attack that remembers. Attacks that read what others sent have no place there, nor have those that byzjax
        has not made, which might.

    Raises:
      ValueError: no `Attack`, one that only poisons data, no mask, or no key; with an ``axis_name``, no such axis, one
        of another size, or an attack that reads what others sent or that byzjax has not made.

    An attack on raw gradients (``bit_flip(of="gradient")``) reads ``grads=…`` if it is passed to ``update``, else the
    updates that enter this link.

    >>> from byzjax import attacks
    >>> tx = inject_attack(attacks.sign_flip(), jnp.array([False, True]), key=jax.random.key(0))
    >>> tx.update(jnp.array([[1.0], [5.0]]), tx.init(jnp.zeros(1)))[0].tolist()
    [[1.0], [-1.0]]
    """
    check_kind(attack, Attack, "attack", "inject_attack", fix="call its factory, e.g. sign_flip().")
    if attack.update is unchanged_updates and attack.poison is not unchanged_batch:
        raise ValueError(
            "inject_attack: attack only poisons data, and would do nothing here; give its Byzantine workers "
            "attack.poison(batch, byzantine=…, key=…), or use byzjax.simulate."
        )
    num_workers = len(byzantine)
    byzantine = check_mask(byzantine, num_workers)
    check_key(key, "inject_attack")
    if axis_name is not None:
        return on_each_device(attack, byzantine, key, axis_name)

    def init(params: Params) -> InjectAttackState:
        return InjectAttackState(attack.init(params, num_workers), key, jnp.zeros((), jnp.int32))

    def attacked(updates: Stacked, state: Any, params: Params | None, *, byzantine: jax.Array, **extra):
        answer = attack.update(updates, state, params, byzantine=byzantine, aggregate=aggregate, **extra)
        rows, state = check_pair(answer, "Attack.update", wanted="(updates, state)")
        check_like(rows, updates, "the updates", "Attack.update", fix="return them with other rows.")
        return only_masked(rows, updates, byzantine), state

    def update(updates: Stacked, state: InjectAttackState, params=None, *, grads: Stacked | None = None, **extra):
        extra.pop("key", None)  # the rule's, not the attack's
        extra |= {
            "grads": updates if grads is None else grads,
            "key": jax.random.fold_in(drawable(state.key), state.count),
            "byzantine": byzantine,
        }
        inner = state.attack
        if jax.tree.leaves(updates):
            num_workers_of(updates)
            updates, inner = on_auto_axes(
                attacked,
                (updates, inner, params),
                extra,
                lambda sharding: (typed(updates, sharding), typed(inner, sharding)),
            )
        return updates, InjectAttackState(inner, state.key, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
