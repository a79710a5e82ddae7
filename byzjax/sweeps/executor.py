"""Computing the chunks of a sweep: several at once, shared with other processes, and never half of one."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from byzjax.storage.chunk_store import Arrays, ChunkStore
from byzjax.sweeps.grid import Points
from byzjax.sweeps.progress import SweepProgress

POLL = 0.2  # seconds between looks at what other processes have finished

Launch = Callable[[Points], Arrays]


class Chunk(NamedTuple):
    """Runs that are computed together."""

    key: str
    cell: str
    points: Points  # axis -> [batch size]; the last chunk repeats its last run
    count: int  # runs that are not repetitions
    launcher: Callable[[], Launch]  # gives the function that computes chunks of the cell; compiles it on first use
    storable: bool  # whether a store may hold them


def compute(
    chunks: list[Chunk],
    *,
    store: ChunkStore | None,
    display: SweepProgress,
    workers: int,
) -> dict[str, Arrays]:
    """The arrays of all chunks by their keys: read from the store where it holds them, computed otherwise.

    Args:
      chunks: what is wanted.
      store: where finished chunks go, each as soon as it is finished.
      display: is told of every chunk.
      workers: how many chunks are computed at once.

    Raises:
      KeyboardInterrupt: after the chunks in flight were finished and written.
      StoreError: the store cannot be written.
      ValueError: a chunk does not fit into memory.
    """
    missing = {chunk.key: chunk for chunk in chunks}
    finished: dict[str, Arrays] = {}
    running: dict[concurrent.futures.Future[Arrays], Chunk] = {}

    def accept(chunk: Chunk, arrays: Arrays, *, computed: bool) -> None:
        finished[chunk.key] = arrays
        missing.pop(chunk.key, None)
        display.finished(chunk.cell, chunk.count, int(arrays["diverged"].sum()), computed=computed)

    def read(some: list[Chunk]) -> None:
        for chunk in some:
            arrays = None if store is None or chunk.key not in store else store.read(chunk.key, display.say)
            if arrays is not None:
                accept(chunk, arrays, computed=False)

    def start(pool: concurrent.futures.Executor, chunk: Chunk) -> None:
        launch = chunk.launcher()
        display.began()
        running[pool.submit(_one, launch, chunk, store)] = chunk
        missing.pop(chunk.key)

    def collect() -> None:
        done, _ = concurrent.futures.wait(running, POLL, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            chunk = running.pop(future)
            if store is not None:
                store.leases.release(chunk.key)
            accept(chunk, future.result(), computed=True)

    read(chunks)
    if finished:
        display.say(f"{display.name}: {len(finished)} of {len(chunks)} chunks are in {store and store.path} already")
    if not missing:
        return finished
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="byzjax-chunk")
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        interrupted = stack.enter_context(_interruptible(display.say)) if store is not None else lambda: False
        if store is not None:
            stack.enter_context(store.leases)
        try:
            while missing or running:
                while missing and len(running) < workers and not interrupted():
                    chunk = _next(missing, store, read)
                    if chunk is None:
                        break
                    start(pool, chunk)
                if running:
                    collect()
                elif interrupted():
                    break
                elif missing:
                    display.note(f"waiting for {len(missing)} chunks of other processes")
                    time.sleep(POLL)
        except Exception:
            concurrent.futures.wait(running)  # what is in flight is finished and written
            raise
    if interrupted():
        stored = sum(chunk.storable and chunk.key in finished for chunk in chunks)
        raise KeyboardInterrupt(
            f"{stored} of {len(chunks)} chunks are kept in {store and store.path}; make the same call again to resume."
        )
    return finished


def _next(missing: dict[str, Chunk], store: ChunkStore | None, read: Callable[[list[Chunk]], None]) -> Chunk | None:
    """A chunk that nobody else computes, leased; rather of a cell where nobody else is at work."""
    free = next((chunk for chunk in missing.values() if store is None or not chunk.storable), None)
    if store is None or free is not None:
        return free
    others = store.leases.held_by_others()
    busy = Counter(missing[key].cell for key in others if key in missing)
    for chunk in sorted(missing.values(), key=lambda chunk: busy[chunk.cell]):
        if chunk.key in others:
            continue
        read([chunk])
        if chunk.key in missing and store.lease(chunk.key):
            read([chunk])  # it may have been finished between the look and the lease
            if chunk.key in missing:
                return chunk
            store.leases.release(chunk.key)
    return None


def _one(launch: Launch, chunk: Chunk, store: ChunkStore | None) -> Arrays:
    start = time.perf_counter()
    try:
        arrays = {name: np.asarray(values)[: chunk.count] for name, values in launch(chunk.points).items()}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = len(next(iter(chunk.points.values()), [0]))
        raise ValueError(
            f"batch_size: a chunk of {size} runs does not fit into memory; pass batch_size={max(1, size // 2)}."
        ) from error
    if store is not None and chunk.storable:
        store.write(chunk.key, arrays, cell=chunk.cell, seconds=time.perf_counter() - start)
    return arrays


@contextlib.contextmanager
def _interruptible(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the first only asks, the second interrupts. Signals belong to the main thread."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("interrupted: the chunks in flight are finished and written first (again to stop at once)")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
