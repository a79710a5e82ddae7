"""A run: a scan over evaluations of a scan over rounds. `simulate` is pure, `run` is its host side."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from byzjax.base import Attack, Method
from byzjax.checks.contracts import check_measured, missing_unless
from byzjax.metrics import Record, default_record
from byzjax.rng import check_key
from byzjax.sharding import Layout
from byzjax.simulation.round import RoundState, init_state, make_round
from byzjax.task import Task


class Result(NamedTuple):
    """What a run gives.

    Attributes:
      state: the state after the last round; ``state.params`` is the model, and a run can go on from it.
      history: name -> [num_rounds], one entry per round.
      evals: name -> [num_rounds // eval_every, …], one entry per evaluation, the first after ``eval_every`` rounds.
      eval_rounds: [num_rounds // eval_every], the rounds after which those were made, counted from the very first one:
        a run that went on from a ``state`` goes on counting. None where nobody knows.
    """

    state: RoundState
    history: dict[str, jax.Array]
    evals: dict[str, jax.Array]
    eval_rounds: jax.Array | None = None


def simulate(
    task: Task,
    method: Method,
    attack: Attack,
    *,
    byzantine: jax.Array,
    key: jax.Array | None = None,
    num_rounds: int,
    eval_every: int = 0,
    record: Record = default_record,
    state: RoundState | None = None,
    mesh: Mesh | None = None,
) -> Result:
    """Run a method on a task under an attack. Pure: ``jit`` it, ``vmap`` it over keys and learning rates, lower it.

    Pass the task as an argument of the jitted function, so that its data are not compiled in:
    ``jax.jit(lambda task, key: simulate(task, method, attack, …, key=key))(task, key)``.

    Args:
      task, method, attack: the three choices.
      byzantine: bool[n], who lies; those whom the task was built for, which a traced mask is not asked. Not to be
        confused with the rule's f, what it tolerates.
      key: one key determines the run, unless ``state`` is given. Runs with the same key see the same minibatches,
        whatever the method.
      num_rounds: rounds to run, static.
      eval_every: evaluate after every so many rounds, static; 0 for never. Rounds after the last evaluation are run.
      record: what to record of every round: `metrics.record` or a function of a `RoundInfo`.
      state: go on from here instead of starting anew, with the key in it.
      mesh: spread the workers over its axis "workers", see `make_round`. Under ``vmap`` over the lanes of a sweep say
        ``spmd_axis_name="runs"``.

    Raises:
      ValueError: a bad mask or mesh, a mask of others than the task was built for, num_rounds < 1, eval_every < 0.

    >>> import byzjax
    >>> from byzjax import aggregators as agg, attacks, methods, tasks
    >>> method = methods.byz_nsgdm(0.1, aggregator=agg.median())
    >>> task = tasks.quartic(num_workers=5)
    >>> result = byzjax.simulate(task, method, attacks.none(), byzantine=jnp.zeros(5, bool), key=jax.random.key(0),
    ...                          num_rounds=20, eval_every=10)
    >>> result.evals["objective"].shape
    (2,)
    """
    num_rounds, eval_every = _check_lengths(num_rounds, eval_every)
    step = make_round(task, method, attack, byzantine=byzantine, record=record, mesh=mesh)
    if state is None:
        check_key(key, "simulate")
        state = init_state(task, method, attack, key=key)  # type: ignore[arg-type]

    def rounds(state: RoundState, length: int):
        return jax.lax.scan(lambda s, _: step(s), state, length=length)

    def evaluation(state: RoundState, _):
        state, history = rounds(state, eval_every)
        return state, (history, evaluate(task, state))

    num_evals, rest = divmod(num_rounds, eval_every) if eval_every else (0, num_rounds)
    eval_rounds = state.step + eval_every * jnp.arange(1, num_evals + 1, dtype=state.step.dtype)
    parts, evals = [], {}
    if num_evals:
        state, (history, evals) = jax.lax.scan(evaluation, state, length=num_evals)
        parts.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), history))
    if rest:
        state, history = rounds(state, rest)
        parts.append(history)
    history = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    layout = Layout(mesh, task.num_workers)
    return Result(layout.resting(state), *layout.everywhere((history, evals, eval_rounds)))


def evaluate(task: Task, state: RoundState) -> dict[str, jax.Array]:
    """The task's evaluation; NaN in every entry once a run has diverged, hence integers and flags as floats."""
    values = check_measured(task.evaluate(task.data, state.params), "Task.evaluate")
    return jax.tree.map(functools.partial(missing_unless, state.finite), values)


def _check_length(value: Any, argument: str, least: int) -> int:
    """Reject what is not an integer of Python or NumPy ≥ ``least``; 4.0 and True are none. Returns Python's."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < least:
        raise ValueError(f"{argument} = {value!r} must be an integer ≥ {least}.")
    return int(value)


def _check_lengths(num_rounds: int, eval_every: int) -> tuple[int, int]:
    return _check_length(num_rounds, "num_rounds", 1), _check_length(eval_every, "eval_every", 0)


__all__ = ["Result", "evaluate", "simulate"]
