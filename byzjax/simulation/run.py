"""A run on the host: chunks of a compiled simulation, a progress bar, checkpoints."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from byzjax.base import Attack, Method, Task
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

    own = hashable(method._replace(initial=None)), hashable(attack)
    outside = read_outside(task.init, task.sample, task.loss, task.evaluate, *own, record)
    if method.initial is None:
        state = _init_state(task, key, method=own[0], attack=own[1], mesh=mesh, outside=outside)
    else:  # arrays in the method: not a static argument
        state = layout.put(init_state(task, method, attack, key=key))
    state = jax.tree.map(jnp.copy, state)  # donated below: neither the caller's key nor a buffer twice
    parts = {"method": own[0], "attack": own[1], "record": hashable(record), "mesh": mesh, "outside": outside}
    done, histories, evals = 0, [], []
    with contextlib.ExitStack() as stack:
        store = None
        if checkpoint is not None:
            store = _open(checkpoint, task, method, attack, state, byzantine, eval_every, record)
            saved = stack.enter_context(store.held()).restore(state)
            if saved is not None:
                state, done = saved.state, int(saved.state.step)
                histories, evals = [saved.history], [saved.evals] if saved.evals else []
            bar.say(f"{name or task.name}: {_resumed(store, done, num_rounds)}")
        chunks = _chunks(done, num_rounds, eval_every)
        advance = stack.enter_context(bar.task(name or task.name, num_rounds, done))
        for count, (length, evaluated) in enumerate(chunks, 1):
            state, history, evaluation = _chunk(task, state, byzantine, **parts, length=length, evaluated=evaluated)
            jax.block_until_ready(state)
            histories.append(history)
            if evaluated:
                evals.append(jax.tree.map(lambda leaf: leaf[None], evaluation))
            advance(length, evaluation)
            if store is not None and (count % store.every == 0 or count == len(chunks)):
                histories, evals = _on_host(histories), _on_host(evals)
                store.save(Saved(state, histories[0], evals[0] if evals else {}))
    join: Any = functools.partial(jax.tree.map, lambda *leaves: jnp.concatenate(leaves))
    eval_rounds = eval_every * jnp.arange(1, (num_rounds // eval_every if eval_every else 0) + 1)
    return Result(state, join(*histories), join(*evals) if evals else {}, eval_rounds)


def _some_rounds(
    task: Task,
    state: RoundState,
    byzantine: jax.Array,
    *,
    method: Method,
    attack: Attack,
    record: Record,
    mesh: Mesh | None,
    outside: str = "",
    length: int,
    evaluated: bool,
) -> tuple[RoundState, dict[str, jax.Array], dict[str, jax.Array]]:
    """Rounds, and an evaluation."""
    del outside
    step = make_round(task, method, attack, byzantine=byzantine, record=record, mesh=mesh)
    layout = Layout(mesh, task.num_workers)
    state, history = jax.lax.scan(lambda s, _: step(s), state, length=length)
    return layout.resting(state), *layout.everywhere((history, evaluate(task, state) if evaluated else {}))


# Compiled once for the same parts, and the same numbers outside of them, whatever the key, the mask or the data.
_chunk = Compiled(_some_rounds, most=192, donate=("state",))


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


def _on_host(parts: list[Any]) -> list[Any]:
    """Arrays of several chunks joined, in NumPy."""
    return (
        [jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *parts)] if parts else []
    )


@functools.partial(Compiled, most=192)
def _init_state(
    task: Task, key: jax.Array, *, method: Method, attack: Attack, mesh: Mesh | None, outside: str
) -> RoundState:
    del outside
    return Layout(mesh, task.num_workers).resting(init_state(task, method, attack, key=key))


def _chunks(done: int, num_rounds: int, eval_every: int) -> list[tuple[int, bool]]:
    """Lengths of the chunks that are left, and whether each ends with an evaluation.

    They end at the same rounds wherever one goes on from. At most three distinct lengths, hence as many compilations.
    """
    length = eval_every or max(1, -(-num_rounds // 50))
    ends = [*range((done // length + 1) * length, num_rounds, length), num_rounds] if done < num_rounds else []
    starts = [done, *ends[:-1]]
    return [(end - start, eval_every > 0 and end % length == 0) for start, end in zip(starts, ends, strict=False)]
