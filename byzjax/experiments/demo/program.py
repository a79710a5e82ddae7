"""One compiled program for several runs, which differ in the learning rate, the attack and the seed alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byzjax.base import Attack, Method
from byzjax.programs.compiled import quick_options
from byzjax.simulation.progress import Progress
from byzjax.simulation.round import init_state
from byzjax.simulation.simulate import Result, simulate
from byzjax.task import Task


def either(attacks: Sequence[Attack], which: jax.Array) -> Attack:
    """The attack number ``which``, where ``which`` may be traced. Each keeps its own state.

    Args:
      attacks: to choose from.
      which: i32[], an index of ``attacks``.

    >>> from byzjax import attacks
    >>> attack = either([attacks.none(), attacks.sign_flip()], jnp.int32(1))
    >>> state = attack.init(jnp.zeros(1), 2)
    >>> attack.update(jnp.array([[1.0], [5.0]]), state, None, byzantine=jnp.array([False, True]))[0].tolist()
    [[1.0], [-1.0]]
    """

    def init(params, num_workers: int) -> tuple:
        return tuple(attack.init(params, num_workers) for attack in attacks)

    def update(updates, state: tuple, params=None, **extra):
        def branch(index: int) -> Callable:
            def apply(updates, state):
                updates, new = attacks[index].update(updates, state[index], params, **extra)
                return updates, (*state[:index], new, *state[index + 1 :])

            return apply

        return jax.lax.switch(which, [branch(index) for index in range(len(attacks))], updates, state)

    def poison(batch, *, num_classes: int | None = None, **extra):
        extra["num_classes"] = num_classes
        if len({attack.poison for attack in attacks}) == 1:
            return attacks[0].poisoned(batch, **extra)
        return jax.lax.switch(which, [functools.partial(attack.poisoned, **extra) for attack in attacks], batch)

    return Attack(init, update, poison)


class Program:
    """`byzjax.run` for one method and rule, compiled once for all learning rates, attacks and seeds.

    Args:
      task: shared by all runs.
      method: ``(learning_rate) -> Method``; the rate is traced.
      attacks: name -> attack; a run chooses one.
      byzantine: bool[n].
      eval_every: rounds per evaluation.
    """

    def __init__(
        self,
        task: Task,
        method: Callable[[Any], Method],
        attacks: dict[str, Attack],
        *,
        byzantine: jax.Array,
        eval_every: int,
    ):
        self._task, self._names, self._every = task, list(attacks), eval_every
        several = list(attacks.values())

        def begin(task: Task, rate, which, key):
            return init_state(task, method(rate), either(several, which), key=key)

        def go_on(task: Task, rate, which, state, *, length: int, evaluated: bool):
            return simulate(
                task,
                method(rate),
                either(several, which),
                byzantine=byzantine,
                key=state.key,
                num_rounds=length,
                eval_every=length if evaluated else 0,
                state=state,
            )

        options = quick_options()
        self._begin = jax.jit(begin, compiler_options=options)
        self._go_on = jax.jit(go_on, static_argnames=("length", "evaluated"), compiler_options=options)

    def run(
        self, *, attack: str, learning_rate: float, seed: int, num_rounds: int, progress: Progress, name: str
    ) -> Result:
        """One run.

        Args:
          attack: a name of the program's attacks.
          learning_rate: γ₀.
          seed: of the run.
          num_rounds: how many; rounds after the last evaluation need a second compilation.
          progress: what is shown.
          name: what it calls this run.
        """
        numbers = jnp.asarray(learning_rate, jnp.float32), jnp.asarray(self._names.index(attack), jnp.int32)
        state = self._begin(self._task, *numbers, jax.random.key(seed))
        whole, rest = divmod(num_rounds, self._every)
        histories, evals = [], []
        with progress.task(name, num_rounds) as advance:
            for length, evaluated in [(self._every, True)] * whole + [(rest, False)] * bool(rest):
                part = self._go_on(self._task, *numbers, state, length=length, evaluated=evaluated)
                state = jax.block_until_ready(part.state)
                histories.append(part.history)
                if evaluated:
                    evals.append(part.evals)
                advance(length, {key: value[0] for key, value in part.evals.items()})
        eval_rounds = self._every * jnp.arange(1, whole + 1)
        return Result(state, _joined(histories), _joined(evals) if evals else {}, eval_rounds)


def _joined(parts: Sequence[dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """Parts of a record, one after the other."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
