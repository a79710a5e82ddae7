"""A run on the host: chunks of a compiled simulation, a progress bar, checkpoints."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from byzjax.base import Attack, Method
from byzjax.metrics import Record, default_record
from byzjax.programs.captured import hashable, read_outside
from byzjax.programs.compiled import Compiled
from byzjax.rng import check_key
from byzjax.sharding import Layout, place_task
from byzjax.simulation.checkpoint import Checkpoint, Saved, Store
from byzjax.simulation.fingerprint import identify
from byzjax.simulation.progress import Progress
from byzjax.simulation.round import RoundState, check_byzantine, check_parts, init_state, make_round
from byzjax.simulation.simulate import Result, _check_lengths, evaluate
from byzjax.task import Task
from byzjax.values import Template, lifted, plain


def run(
    task: Task,
    method: Method,
    attack: Attack,
    *,
    byzantine: jax.Array,
    key: jax.Array,
    num_rounds: int,
    eval_every: int = 0,
    record: Record = default_record,
    progress: bool | Progress = True,
    name: str | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    mesh: Mesh | None = None,
) -> Result:
    """`simulate` from the host: compiled chunk by chunk, with a progress bar and an ETA. The same numbers.

    Programs are kept for later calls with the same functions: the 192 used last, fewer where they hold too many memory
    maps. The code of functions, and numbers, texts and small arrays, that these read by name from their module, a
    closure, an object or its class are compared in every call: where one has changed, the program is compiled anew.
    What is read in another way (a file, the environment, an array of more than 1 MiB, a container of more than 10,000
    elements) is not seen to change: pass it as an argument of a factory, or put it into ``Task.data``.

    With a checkpoint, a run that was interrupted goes on where it was saved last, and gives the same bits as if nothing
    had happened; one that was finished is read, or made longer.

    Args:
      task, method, attack, byzantine, key, num_rounds, eval_every, record: as in `simulate`.
      progress: show a progress bar; or a `Progress` that several runs share.
      name: what the bar calls this run; the task's name by default.
      checkpoint: a folder, or a `byzjax.Checkpoint` that says how often. Where the folder holds a checkpoint of this
        run, it goes on from there; ``num_rounds`` may have grown.
      mesh: spread the workers over its axis "workers", see `make_round`; the task is placed there. A checkpoint goes on
        on another mesh, too, though not to the same bits. With several processes each calls ``run`` alike.

    Raises:
      ValueError: as `simulate`; a checkpoint of another run, of more rounds than ``num_rounds``, or in a folder where
        another process is at work.

    >>> from byzjax import aggregators as agg, attacks, methods, tasks
    >>> method = methods.momentum_sgd(0.01, aggregator=agg.median())
    >>> result = run(tasks.quartic(num_workers=5), method, attacks.none(), byzantine=jnp.zeros(5, bool),
    ...              key=jax.random.key(0), num_rounds=20, progress=False)
    >>> result.history["loss"].shape
    (20,)
    """
    num_rounds, eval_every = _check_lengths(num_rounds, eval_every)
    check_parts(task, method, attack, record)
    check_key(key, "run")
    byzantine = check_byzantine(byzantine, task)
    layout = Layout(mesh, task.num_workers)
    if mesh is not None:
        task, (key, byzantine) = place_task(task, mesh), layout.put_everywhere((key, byzantine))
    bar = progress if isinstance(progress, Progress) else Progress(shown=progress and jax.process_index() == 0)

    parts, numbers = _without_numbers(method, attack)
    outside = read_outside(task.init, task.sample, task.loss, task.evaluate, task.examples, record, *parts.readers())
    if method.initial is None:
        state = _init_state(task, key, numbers, parts=parts, mesh=mesh, outside=outside)
    else:  # arrays in the method: not a static argument
        state = layout.put(init_state(task, method, attack, key=key))
    state = jax.tree.map(jnp.copy, state)  # donated below: neither the caller's key nor a buffer twice
    done, recorded = 0, _Recorded()
    with contextlib.ExitStack() as stack:
        store = None
        if checkpoint is not None:
            store = _open(checkpoint, task, method, attack, state, byzantine, eval_every, record)
            saved = stack.enter_context(store.held()).restore(state)
            if saved is not None:
                state, done = saved.state, int(saved.state.step)
                recorded.append(saved.history, saved.evals)
            bar.say(f"{name or task.name}: {_resumed(store, done, num_rounds)}")
        chunks = _chunks(done, num_rounds, eval_every)
        static = {"parts": parts, "record": hashable(record), "mesh": mesh, "outside": outside}
        static |= {"most": _most(num_rounds, eval_every), "evaluates": any(evaluated for _, evaluated in chunks)}
        advance = stack.enter_context(bar.task(name or task.name, num_rounds, done))
        for count, (length, evaluated) in enumerate(chunks, 1):
            state, history, evaluation = _chunk(task, state, byzantine, numbers, length, **static)
            jax.block_until_ready(state)
            evaluation = evaluation if evaluated else {}
            recorded.append(
                jax.tree.map(lambda leaf: leaf[:length], history),  # noqa: B023  # called at once
                jax.tree.map(lambda leaf: leaf[None], evaluation),
            )
            advance(length, evaluation)
            if store is not None and (count % store.every == 0 or count == len(chunks)):
                store.save(Saved(state, *recorded.on_host()))
    eval_rounds = eval_every * jnp.arange(1, (num_rounds // eval_every if eval_every else 0) + 1)
    return Result(state, *recorded.joined(), eval_rounds)


class _Recorded:
    """What was recorded of a run so far, chunk by chunk."""

    def __init__(self):
        self._histories: list[Any] = []  # leaves [rounds, …]
        self._evals: list[Any] = []  # leaves [evaluations, …]

    def append(self, history: Any, evals: Any) -> None:
        """That of some more rounds; ``evals`` is empty where there was no evaluation."""
        self._histories.append(history)
        if evals:
            self._evals.append(evals)

    def on_host(self) -> tuple[Any, Any]:
        """As `joined`, in NumPy, in which it is kept from now on."""
        self._histories, self._evals = (
            [_joined(parts, np)] if parts else [] for parts in (self._histories, self._evals)
        )
        return self._histories[0], self._evals[0] if self._evals else {}

    def joined(self) -> tuple[Any, Any]:
        """The history and the evaluations of all rounds."""
        return _joined(self._histories, jnp), _joined(self._evals, jnp) if self._evals else {}


def _joined(parts: list[Any], numpy: Any) -> Any:
    if len(parts) == 1:
        return jax.tree.map(numpy.asarray, parts[0])
    return jax.tree.map(lambda *leaves: numpy.concatenate([numpy.asarray(leaf) for leaf in leaves]), *parts)


class _Parts(NamedTuple):
    """What a run's program is compiled for: a method and an attack, without their numbers if they are values."""

    method: Any
    attack: Any

    def filled(self, numbers: tuple[list[Any], list[Any]]) -> tuple[Method, Attack]:
        """With their numbers."""
        method, attack = (
            part.filled(own) if isinstance(part, Template) else part for part, own in zip(self, numbers, strict=True)
        )
        return method, attack

    def readers(self) -> list[Any]:
        """What of them may read something outside."""
        parts = [one for part in self for one in (part.parts() if isinstance(part, Template) else [part])]
        return [part for part in parts if not plain(part)]


def _without_numbers(method: Method, attack: Attack) -> tuple[_Parts, tuple[list[float], list[float]]]:
    if method.initial is not None:
        method = method._replace(initial=None)
    (own_method, of_method), (own_attack, of_attack) = lifted(method), lifted(attack)
    return _Parts(hashable(own_method), hashable(own_attack)), (of_method, of_attack)


def _some_rounds(
    task: Task,
    state: RoundState,
    byzantine: jax.Array,
    numbers: tuple[list[Any], list[Any]],
    count: Any,
    *,
    parts: _Parts,
    record: Record,
    mesh: Mesh | None,
    most: int,
    evaluates: bool,
) -> tuple[RoundState, dict[str, jax.Array], dict[str, jax.Array]]:
    """``count`` rounds, ``most`` at most, and an evaluation: one program for all chunks of a run, the last one too."""
    method, attack = parts.filled(numbers)
    # Jitted, it is traced once, for its shapes and for the loop.
    step = jax.jit(make_round(task, method, attack, byzantine=byzantine, record=record, mesh=mesh))
    layout = Layout(mesh, task.num_workers)

    def body(i: jax.Array, carry: tuple[RoundState, Any]) -> tuple[RoundState, Any]:
        state, history = carry
        state, metrics = step(state)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), history, metrics)

    shapes = jax.eval_shape(step, state)[1]
    history = jax.tree.map(lambda row: jnp.zeros((most, *row.shape), row.dtype), shapes)
    state, history = jax.lax.fori_loop(0, count, body, (state, history))
    return layout.resting(state), *layout.everywhere((history, evaluate(task, state) if evaluates else {}))


# Compiled once for the same parts, and what these read outside, whatever the numbers, the key, the mask or the data.
_chunk = Compiled(_some_rounds, most=192, donate=("state",), quick=True)


def _open(
    checkpoint: str | Path | Checkpoint,
    task: Task,
    method: Method,
    attack: Attack,
    state: RoundState,
    byzantine: jax.Array,
    eval_every: int,
    record: Record,
) -> Store:
    def begin(task: Task, key: jax.Array) -> RoundState:
        return init_state(task, method, attack, key=key)

    def go_on(task: Task, state: RoundState, byzantine: jax.Array):
        step = make_round(task, method, attack, byzantine=byzantine, record=record)
        state, metrics = step(state)
        return metrics, evaluate(task, state) if eval_every else {}

    known = identify(task, begin, go_on, state=state, byzantine=byzantine, eval_every=eval_every)
    return Store(checkpoint, known)


def _resumed(store: Store, done: int, num_rounds: int) -> str:
    """What happened, in one line."""
    if done > num_rounds:
        raise ValueError(
            f"num_rounds = {num_rounds}, but {store.folder} holds a checkpoint after {done} rounds; ask for at least "
            "as many, or use another folder."
        )
    if done == num_rounds:
        return f"all {done} rounds were done before, see {store.folder}"
    return f"goes on after round {done} of {num_rounds} from {store.folder}" if done else f"begins in {store.folder}"


@functools.partial(Compiled, most=192, quick=True)
def _init_state(
    task: Task, key: jax.Array, numbers: tuple[list[Any], list[Any]], *, parts: _Parts, mesh: Mesh | None
) -> RoundState:
    method, attack = parts.filled(numbers)
    return Layout(mesh, task.num_workers).resting(init_state(task, method, attack, key=key))


def _per_chunk(num_rounds: int) -> int:
    """Rounds per chunk of a run that is never evaluated: a fiftieth part of it."""
    return max(1, -(-num_rounds // 50))


def _most(num_rounds: int, eval_every: int) -> int:
    """Rounds that a program has room for: where nothing is evaluated, the same for runs of many lengths."""
    if eval_every:
        return min(eval_every, num_rounds)
    return max(64, 1 << (_per_chunk(num_rounds) - 1).bit_length())


def _chunks(done: int, num_rounds: int, eval_every: int) -> list[tuple[int, bool]]:
    """Lengths of the chunks that are left, and whether each ends with an evaluation.

    They end at the same rounds wherever one goes on from.
    """
    length = eval_every or _per_chunk(num_rounds)
    ends = [*range((done // length + 1) * length, num_rounds, length), num_rounds] if done < num_rounds else []
    starts = [done, *ends[:-1]]
    return [(end - start, eval_every > 0 and end % length == 0) for start, end in zip(starts, ends, strict=False)]
