"""What one scan step is: sample, poison, differentiate, accumulate, attack, aggregate, step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from byzjax import stacked
from byzjax.base import Attack, Method, Params, Task, check_mask, concrete
from byzjax.checks import check_kind
from byzjax.keys import init_key, order_key, round_keys
from byzjax.metrics import Record, RoundInfo, default_record
from byzjax.sharding import Layout, check_mesh
from byzjax.transforms import per_worker


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


def init_state(task: Task, method: Method, attack: Attack, *, key: jax.Array) -> RoundState:
    """The state before the first round.

    Args:
      task: the objective; its ``init`` draws x⁰.
      method: its initial momenta are v⁰.
      attack: its ``init`` sees the parameters and n.
      key: the run's key.
    """
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
        server=method.server.init(params),
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
    and the metrics are NaN from there on.

    Args:
      task, method, attack: the three choices.
      byzantine: bool[n], who lies; may be traced.
      record: what to measure.
      mesh: spread the workers over its axis "workers", see `byzjax.sharding.make_mesh`. Gradients and momenta are
        computed where their workers are, rules and attacks see all rows of a part of the coordinates.

    Raises:
      ValueError: a mask that is not bool[n] or leaves nobody honest; batches without the worker axis; a mesh without
        the axis.
    """
    check_parts(task, method, attack)
    n = task.num_workers
    layout = Layout(None if mesh is None else check_mesh(mesh), n)
    byzantine = check_byzantine(byzantine, n)
    workers = per_worker(method.worker, n)
    server = optax.with_extra_args_support(method.server)
    value_and_grad = layout.map_workers(jax.value_and_grad(task.loss), task.worker_batch)

    def query(updates, state: RoundState, key: jax.Array):
        return method.aggregator.update(updates, state.aggregator, state.params, key=key)[0]

    def round_(state: RoundState) -> tuple[RoundState, dict[str, jax.Array]]:
        keys = round_keys(state.key, state.step)
        drawn = (order_key(state.key), state.step) if task.by_round else (keys.data,)
        batch = task.sample(task.data, *drawn)
        _check_batch(batch, n)
        batch = layout.workers(attack.poison(layout.workers(batch), byzantine=byzantine, key=keys.poison))
        losses, grads = layout.workers(value_and_grad(state.params, batch, jax.random.split(keys.model, n)))
        updates, worker_state = layout.workers(workers.update(grads, state.worker, state.params))
        updates, attack_state = attack.update(
            layout.exchanged(updates),
            state.attack,
            state.params,
            byzantine=byzantine,
            key=keys.attack,
            grads=grads,
            aggregate=lambda stack: query(stack, state, keys.aggregator),
        )
        aggregate, aggregator_state, trust = method.aggregator.weigh(
            updates, state.aggregator, state.params, key=keys.aggregator
        )
        step, server_state = server.update(layout.everywhere(aggregate), state.server, state.params)
        params = optax.apply_updates(state.params, step)

        finite = state.finite & _all_finite(params)
        # Compiled away if nobody records them.
        honest_mean, deviations = stacked.mean_and_deviations(updates, ~byzantine)
        losses = layout.everywhere(losses)
        info = RoundInfo(losses, updates, aggregate, state.params, honest_mean, deviations, byzantine, finite, trust)
        metrics = jax.tree.map(lambda value: _nan_unless(finite, value), record(info))
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
            ),
            metrics,
        )

    @jax.jit  # operation by operation, workers that do not divide evenly could not be spread
    def spread(state: RoundState) -> tuple[RoundState, dict[str, jax.Array]]:
        with layout.spread():
            return round_(state)

    return round_ if mesh is None else spread


def check_byzantine(byzantine: jax.Array, num_workers: int) -> jax.Array:
    """Reject a mask that is not bool[n], or that leaves nobody honest."""
    byzantine = check_mask(byzantine, num_workers)
    known = concrete(byzantine)
    if known is not None and known.all():
        raise ValueError("byzantine: all workers are Byzantine; at least one must be honest.")
    return byzantine


def check_parts(task: Task, method: Method, attack: Attack) -> None:
    """Reject a factory that was not called, or parts in the wrong order."""
    for name, part, kind in (("task", task, Task), ("method", method, Method), ("attack", attack, Attack)):
        check_kind(part, kind, name, "byzjax", fix="call its factory, and pass task, method, attack.")


def _check_batch(batch: Any, num_workers: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch):
        if jnp.shape(leaf)[:1] != (num_workers,):
            raise ValueError(
                f"task.sample: batch{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}; every leaf needs the "
                f"worker axis [{num_workers}, …] first."
            )


def _all_finite(tree: Params) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _nan_unless(finite: jax.Array, value: jax.Array) -> jax.Array:
    """NaN in place of a number measured after divergence; flags and counts have no NaN and stay."""
    return jnp.where(finite, value, jnp.nan) if jnp.issubdtype(value.dtype, jnp.floating) else value
