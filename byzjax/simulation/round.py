"""What one scan step is: sample, poison, differentiate, accumulate, attack, aggregate, step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from byzjax import stacked
from byzjax.base import Attack, Method, check_rule
from byzjax.checks import check_kind, check_mask
from byzjax.checks.contracts import (
    ONE_ROW_OF_ALL,
    check_like,
    check_measured,
    check_pair,
    missing_unless,
    no_value_fn,
    only_masked,
)
from byzjax.checks.masks import check_built_for
from byzjax.checks.traced import concrete
from byzjax.metrics import Record, RoundInfo, default_record, loss
from byzjax.rng import estimator_key, init_key, order_key, round_keys
from byzjax.sharding import Layout, check_mesh
from byzjax.simulation.oracle import RoundOracle, check_estimator
from byzjax.task import Task
from byzjax.transforms import per_worker
from byzjax.transforms._accumulating import accumulating, checked_transformation, widened
from byzjax.types import Params

_SAME_STATE = "a state looks alike in all rounds, as init makes it."
_WORKER, _SERVER = "Method: the worker's transformation", "Method: the server's transformation"


class RoundState(NamedTuple):
    """Everything that a run is; the whole checkpoint, nothing else."""

    step: jax.Array  # i32[], rounds done
    key: jax.Array  # key[], never advances
    params: Params  # leaves [*p]
    finite: jax.Array  # bool[], false from the round on in which the parameters would stop being finite
    worker: Any  # leaves [n, …]
    attack: Any
    aggregator: Any
    server: Any
    estimator: Any = ()  # () without one


def init_state(task: Task, method: Method, attack: Attack, *, key: jax.Array) -> RoundState:
    """The state before the first round.

    Args:
      task: the objective; its ``init`` draws x⁰.
      method: its initial momenta are v⁰.
      attack: its ``init`` sees the parameters and n.
      key: the run's key.
    """
    check_estimator(task, method)
    params = task.init(init_key(key))
    workers = per_worker(method.worker, task.num_workers, initial=method.initial)
    return RoundState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        finite=jnp.ones((), bool),
        worker=workers.init(params),
        attack=attack.init(params, task.num_workers),
        aggregator=method.aggregator.init(params),
        server=_server(method).init(params),
        estimator=() if method.estimator is None else method.estimator.init(task, params),
    )


def make_round(
    task: Task,
    method: Method,
    attack: Attack,
    *,
    byzantine: jax.Array,
    record: Record = default_record,
    mesh: Mesh | None = None,
) -> Callable[[RoundState], tuple[RoundState, dict[str, jax.Array]]]:
    """The function that one round is: ``state -> (state, metrics)``. Pure; put it into `jax.lax.scan`.

    A round whose step would make the parameters non-finite is not taken: ``finite`` turns false, the parameters stay,
    and the metrics are NaN from there on. So recorded integers and flags are floating; ``info.finite`` itself is not.

    Whatever an attack returns, only Byzantine workers' batches and updates are changed. The server's transformation is
    given ``value=``, the honest workers' mean loss on their batches, and ``grad=``, the aggregate; a worker's its own
    loss and gradient. Transformations remember floats of 16 bits in float32, see `per_worker`.

    Args:
      task, method, attack: the three choices.
      byzantine: bool[n], who lies; may be traced.
      record: what to measure.
      mesh: spread the workers over its axis "workers", see `byzjax.sharding.make_mesh`. Gradients and momenta are
        computed where their workers are, rules and attacks see all rows of a part of the coordinates.

    Raises:
      ValueError: a mask that is not bool[n], leaves nobody honest, or marks others than the task was built for; batches
        without the worker axis; a mesh without the axis; a part of the wrong kind, or one that returns something else
        than it promises.
    """
    check_parts(task, method, attack, record)
    n = task.num_workers
    layout = Layout(None if mesh is None else check_mesh(mesh), n)
    byzantine = check_byzantine(byzantine, task)
    workers = per_worker(method.worker, n)
    server = _server(method)
    value_and_grad = layout.map_workers(jax.value_and_grad(task.loss), task.worker_batch)

    def estimated(state: RoundState, batch: Any, keys: jax.Array, poison: Callable[[Any], Any]):
        """What workers estimate their gradients by: losses, gradients, and what they remember."""
        if method.estimator is None:
            return *layout.workers(value_and_grad(state.params, batch, keys)), ()
        oracle = RoundOracle(task, layout, state.step, batch, poison, keys)
        key = estimator_key(state.key, state.step)
        answer = method.estimator.estimate(oracle, state.params, state.estimator, key=key)
        losses, grads, estimator_state = _three(answer)
        _check_estimates(losses, grads, state.params, n)
        check_like(estimator_state, state.estimator, "the state", "Estimator.estimate", fix=_SAME_STATE)
        grads = jax.tree.map(lambda estimate, p: estimate.astype(p.dtype), grads, state.params)
        return *layout.workers((losses, grads)), estimator_state

    def query(updates, state: RoundState, key: jax.Array, said: dict[str, Any]):
        return method.aggregator.update(updates, state.aggregator, state.params, key=key, **said)[0]

    def round_(state: RoundState) -> tuple[RoundState, dict[str, jax.Array]]:
        keys = round_keys(state.key, state.step)
        drawn = (order_key(state.key), state.step) if task.by_round else (keys.data,)
        batch = task.sample(task.data, *drawn)
        _check_batch(batch, n)
        poison = functools.partial(
            _poisoned, attack, byzantine=byzantine, key=keys.poison, num_classes=task.num_classes
        )
        batch = layout.workers(poison(layout.workers(batch)))
        losses, grads, estimator_state = estimated(state, batch, jax.random.split(keys.model, n), poison)
        updates, worker_state = layout.workers(
            workers.update(grads, state.worker, state.params, value=losses, grad=grads, value_fn=no_value_fn(_WORKER))
        )
        said = {} if method.estimator is None else {"estimator": estimator_state}
        sent = layout.exchanged(updates)
        updates, attack_state = _attacked(
            attack,
            sent,
            state,
            byzantine=byzantine,
            key=keys.attack,
            grads=grads,
            aggregate=lambda stack: query(stack, state, keys.aggregator, said),
        )
        aggregate, aggregator_state, trust = method.aggregator.update_with_trust(
            updates, state.aggregator, state.params, key=keys.aggregator, **said
        )
        check_like(aggregate, state.params, "the aggregate", "aggregator", fix=ONE_ROW_OF_ALL)
        check_like(aggregator_state, state.aggregator, "the state", "aggregator", fix=_SAME_STATE)
        aggregate, losses = layout.everywhere(aggregate), layout.everywhere(losses)
        if method.estimator is not None:
            estimator_state = method.estimator.observe(estimator_state, aggregate)
            check_like(estimator_state, state.estimator, "the state", "Estimator.observe", fix=_SAME_STATE)
        # Compiled away if nobody records them.
        honest_mean, deviations = stacked.mean_and_deviations(widened(updates), ~byzantine)
        info = RoundInfo(
            losses,
            updates,
            aggregate,
            state.params,
            honest_mean,
            deviations,
            byzantine,
            state.finite,
            trust,
            state.step,
        )
        step, server_state = server.update(
            aggregate, state.server, state.params, value=loss(info), grad=aggregate, value_fn=no_value_fn(_SERVER)
        )
        check_like(step, state.params, "the step", "Method: server", fix="return updates like the parameters.")
        params = optax.apply_updates(state.params, step)

        finite = state.finite & _all_finite(params)
        info = info._replace(finite=finite)
        measured = check_measured(record(info), "record")
        metrics = jax.tree.map(lambda value: value if value is finite else missing_unless(finite, value), measured)
        return (
            RoundState(
                step=state.step + 1,
                key=state.key,
                params=jax.tree.map(lambda new, old: jnp.where(finite, new, old), params, state.params),
                finite=finite,
                worker=worker_state,
                attack=attack_state,
                aggregator=aggregator_state,
                server=server_state,
                estimator=estimator_state,
            ),
            metrics,
        )

    @jax.jit  # operation by operation, workers that do not divide evenly could not be spread
    def spread(state: RoundState) -> tuple[RoundState, dict[str, jax.Array]]:
        with layout.spread():
            return round_(state)

    return round_ if mesh is None else spread


def check_byzantine(byzantine: jax.Array, task: Task) -> jax.Array:
    """Reject a mask that is not bool[n], leaves nobody honest, or marks others than the task was built for."""
    # Before it is put on a device, which inside a traced function makes it a tracer.
    known = concrete(byzantine, lambda mask: check_byzantine(mask, task))
    byzantine = check_mask(byzantine, task.num_workers)
    if known is not None and known.all():
        raise ValueError("byzantine: all workers are Byzantine; at least one must be honest.")
    check_built_for(task.byzantine, byzantine if known is None else known)
    return byzantine


def check_parts(task: Task, method: Method, attack: Attack, record: Record = default_record) -> None:
    """Reject a factory that was not called, parts in the wrong order, and parts of parts that are something else."""
    for name, part, kind in (("task", task, Task), ("method", method, Method), ("attack", attack, Attack)):
        check_kind(part, kind, name, "a run", fix="call its factory, and pass task, method, attack.")
    for name in ("worker", "server"):
        checked_transformation(getattr(method, name), name, "Method")
    check_rule(method.aggregator, "aggregator", "Method")
    check_estimator(task, method)
    for name, function in (*attack._asdict().items(), ("record", record)):
        fix = "pass a function, e.g. byzjax.metrics.record('loss')." if name == "record" else "pass a function."
        check_kind(function, Callable, name, "a run" if name == "record" else "Attack", fix=fix)  # type: ignore[arg-type]


def _server(method: Method) -> optax.GradientTransformationExtraArgs:
    return accumulating(checked_transformation(method.server, "server", "Method"))


def _three(answer: Any) -> tuple[Any, Any, Any]:
    wanted = "return (losses, estimates, state)."
    check_kind(answer, tuple, "what it returns", "Estimator.estimate", fix=wanted)
    if len(answer) != 3:
        raise ValueError(f"Estimator.estimate: what it returns has {len(answer)} parts; {wanted}")
    return answer


def _check_estimates(losses: Any, estimates: Any, params: Params, num_workers: int) -> None:
    stack = jax.tree.map(lambda p: jax.ShapeDtypeStruct((num_workers, *jnp.shape(p)), jnp.result_type(p)), params)
    fix = "every worker has a loss, and an estimate like the parameters."
    check_like(losses, jax.ShapeDtypeStruct((num_workers,), jnp.float32), "the losses", "Estimator.estimate", fix=fix)
    check_like(estimates, stack, "the estimates", "Estimator.estimate", fix=fix)


def _poisoned(attack: Attack, batch: Any, *, byzantine: jax.Array, key: jax.Array, num_classes: int | None) -> Any:
    poisoned = attack.poisoned(batch, byzantine=byzantine, key=key, num_classes=num_classes)
    check_like(poisoned, batch, "the batch", "Attack.poison", fix="return the batch with other numbers.", dtypes=True)
    return only_masked(poisoned, batch, byzantine)


def _attacked(attack: Attack, sent: Any, state: RoundState, *, byzantine: jax.Array, **given: Any) -> tuple[Any, Any]:
    """What the server receives: honest rows are what they were, whatever the attack returns."""
    answer = attack.update(sent, state.attack, state.params, byzantine=byzantine, **given)
    updates, attack_state = check_pair(answer, "Attack.update", wanted="(updates, state)")
    check_like(updates, sent, "the updates", "Attack.update", fix="return them with other rows.")
    check_like(attack_state, state.attack, "the state", "Attack.update", fix=_SAME_STATE)
    if all(new is old for new, old in zip(jax.tree.leaves(updates), jax.tree.leaves(sent), strict=True)):
        return updates, attack_state
    return stacked.replace_rows(sent, byzantine, updates), attack_state


def _check_batch(batch: Any, num_workers: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch):
        if jnp.shape(leaf)[:1] != (num_workers,):
            raise ValueError(
                f"task.sample: batch{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}; every leaf needs the "
                f"worker axis [{num_workers}, …] first."
            )


def _all_finite(tree: Params) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
