"""Checkpoints of a run: its state and all that was recorded so far, saved whole or not at all.

A folder holds one subfolder per checkpoint, ``round_000000500``, with the arrays as orbax writes them and
``about.json``, which is written last: whose run it is, and the size and checksum of every file. One without it, or with
a file that is not as it says, is torn. Beside them lies ``lease.0`` while a run is at work there, see `Leases`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.checks import check_integer
from byzjax.rng import implementation, is_key, key_data, of_implementation
from byzjax.simulation.fingerprint import Fingerprint
from byzjax.simulation.round import RoundState
from byzjax.storage.files import check_room, expanded
from byzjax.storage.leases import Leases

_ABOUT, _ARRAYS = "about.json", "arrays"
_LEASE = "lease"  # of whoever writes here
_LEAST_ROOM = 1 << 20  # bytes of a checkpoint beside its arrays
_NAME = re.compile(r"round_(\d{9,})")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where and how often `byzjax.run` saves itself, and goes on from when it is called again.

    Attributes:
      folder: of this run alone; made if need be. With several processes, one that all of them see.
      every: evaluations between two checkpoints; where a run is never evaluated, fiftieth parts of it.
      keep: how many of the latest are kept. From two on there is one to fall back to.
      config: what else tells this run from others, JSON-able; a folder with another one is refused. A run that calls
        back into Python needs one: no program shows what such code computes.

    Raises:
      ValueError: every < 1 or keep < 1.

    >>> Checkpoint("a folder that does not exist").latest() is None
    True
    """

    folder: str | Path
    every: int = 1
    keep: int = 2
    config: Mapping[str, Any] | None = None

    def __post_init__(self):
        check_integer(self.every, "every", "Checkpoint", least=1)
        check_integer(self.keep, "keep", "Checkpoint", least=1)

    def latest(self) -> int | None:
        """The number of rounds after which the last complete checkpoint was made, or None."""
        return max(
            (number for number, path in _saved_in(expanded(self.folder, "checkpoint")) if (path / _ABOUT).is_file()),
            default=None,
        )

    def clear(self) -> None:
        """Remove all that is saved.

        Raises:
          ValueError: a run is going on there.
        """
        folder = Path(self.folder)
        if not folder.is_dir():
            return
        leases = Leases(folder)
        if _LEASE in leases.held_by_others():
            raise ValueError(f"checkpoint: {folder} is in use by {leases.holder(_LEASE)}; wait until that run ends.")
        shutil.rmtree(folder, ignore_errors=True)


class Saved(NamedTuple):
    """What a checkpoint holds: the state after some rounds, and what was recorded of them."""

    state: RoundState
    history: Any  # leaves [rounds, …]
    evals: Any  # leaves [evaluations, …]


class Store:
    """The checkpoints of one run.

    Args:
      checkpoint: a `Checkpoint`, or its folder.
      fingerprint: from `identify`.
    """

    def __init__(self, checkpoint: str | Path | Checkpoint, fingerprint: Fingerprint):
        chosen = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
        self.every, self.keep = chosen.every, chosen.keep
        self.folder = expanded(chosen.folder, "checkpoint").resolve()
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"checkpoint: {self.folder} is a file; name a folder.")
        if fingerprint.calls_back and chosen.config is None:
            raise ValueError(
                "checkpoint: the run calls back into Python (jax.pure_callback), and what that computes cannot be read "
                "from its program; say it in Checkpoint(folder, config={…}), or run without a checkpoint."
            )
        self._fingerprint = fingerprint.named(chosen.config)
        self._torn: list[Path] = []
        self._leases = Leases(self.folder)
        self._leased = False

    @contextlib.contextmanager
    def held(self) -> Iterator[Store]:
        """Inside, no other process reads or writes the folder. All processes of a run must enter it.

        Raises:
          ValueError: another run does.
        """
        with self._leases if jax.process_index() == 0 else contextlib.nullcontext():
            if not _agree(int(jax.process_index() != 0 or self._lease())):
                raise ValueError(
                    f"checkpoint: {self.folder} is in use by {self._leases.holder(_LEASE)}; wait until that run ends, "
                    "or use another folder."
                )
            yield self

    def _lease(self) -> bool:
        """Whether the folder is free; a machine that is gone, as before a requeued job, is waited for."""
        until = time.monotonic() + 1.25 * self._leases.ttl
        try:
            while not (acquired := self._leases.acquire(_LEASE)):
                if self._leases.is_near(_LEASE) or time.monotonic() > until:
                    break
                time.sleep(self._leases.ttl / 60)
        except OSError:  # a folder that cannot be written can still be read
            return True
        self._leased = acquired
        return acquired

    def _check_lease(self) -> None:
        if self._leased and not self._leases.holds(_LEASE) and not self._leases.acquire(_LEASE):
            raise OSError(
                f"checkpoint: {self.folder} was taken over by {self._leases.holder(_LEASE)}, since this process stood "
                f"still for more than {self._leases.ttl:g} s; that one goes on with the run."
            )

    def save(self, saved: Saved) -> None:
        """Write a checkpoint, then remove those that are too old. All processes must call it.

        Raises:
          OSError: it cannot be written, or another process has taken the folder over.
        """
        import orbax.checkpoint as ocp

        arrays, keys = _arrays(saved)
        path = self._path(int(saved.state.step))
        if jax.process_index() == 0:
            self._check_lease()
            check_room(self.folder, _LEAST_ROOM + 2 * sum(array.nbytes for array in arrays.values()))
            _remove(path)
            self._torn = [torn for torn in self._torn if torn != path]
            path.mkdir(parents=True)
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            writer.save(path / _ARRAYS, args=ocp.args.StandardSave(arrays))
        if jax.process_index() == 0:
            self._finish(path, keys)
            for torn in self._torn:
                _remove(torn)
            self._torn = []
            for _, old in sorted(_saved_in(self.folder))[: -self.keep]:
                _remove(old)

    def restore(self, state: RoundState) -> Saved | None:
        """The latest checkpoint that is whole; None, if there is none. Torn ones are told of in warnings.

        Args:
          state: of a run that begins: structure, dtypes, and where arrays are placed.

        Raises:
          ValueError: the checkpoint is of another run.
        """
        number = _agree(self._latest_whole() if jax.process_index() == 0 else -1)
        if number < 0:
            return None
        path = self._path(number)
        about = json.loads((path / _ABOUT).read_text())
        wrong, doubtful = self._fingerprint.compare(about)
        if wrong:
            raise ValueError(
                f"checkpoint: {self.folder} holds another run, which differs in {wrong}. Use another folder, or remove "
                "this one."
            )
        if doubtful:
            warnings.warn(f"checkpoint: {self.folder} {doubtful}", stacklevel=3)
        import orbax.checkpoint as ocp

        like = Saved(state, *self._fingerprint.recorded(number))
        target = jax.tree.map(_abstract, _arrays(like)[0])
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            arrays = reader.restore(path / _ARRAYS, args=ocp.args.StandardRestore(target))
        return _rebuilt(like, arrays, about["keys"])

    def _path(self, number: int) -> Path:
        return self.folder / f"round_{number:09d}"

    def _finish(self, path: Path, keys: dict[str, str]) -> None:
        from byzjax.storage.files import writing

        about = {**self._fingerprint.as_json(), "keys": keys, "files": _files(path / _ARRAYS)}
        with writing(path / _ABOUT) as temporary:
            temporary.write_text(json.dumps(about, indent=1))

    def _latest_whole(self) -> int:
        for number, path in sorted(_saved_in(self.folder), reverse=True):
            wrong = _whats_wrong(path)
            if wrong is None:
                return number
            warnings.warn(f"checkpoint: {path} is torn ({wrong}) and passed over.", stacklevel=4)
            self._torn.append(path)
        return -1


def _arrays(saved: Saved) -> tuple[dict[str, Any], dict[str, str]]:
    """The leaves under numbers, keys as their data; and the implementation of each key. orbax takes no empty array."""
    leaves = {f"{number:05d}": leaf for number, leaf in enumerate(jax.tree.leaves(saved)) if leaf.size}
    return (
        {name: key_data(leaf) for name, leaf in leaves.items()},
        {name: implementation(leaf) for name, leaf in leaves.items() if is_key(leaf)},
    )


def _rebuilt(like: Saved, arrays: dict[str, Any], keys: dict[str, str]) -> Saved:
    leaves, structure = jax.tree.flatten(like)
    for number, leaf in enumerate(leaves):
        value = arrays.get(f"{number:05d}")
        if value is None:
            continue
        if isinstance(leaf, jax.Array):
            value = jnp.asarray(value)
        kind = keys.get(f"{number:05d}")
        leaves[number] = value if kind is None else of_implementation(value, kind)
    return jax.tree.unflatten(structure, leaves)


def _abstract(leaf: Any) -> Any:
    """What orbax is to make: an array where it lies already, or NumPy's where it is committed to no place."""
    if isinstance(leaf, jax.Array) and leaf.committed:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.empty(leaf.shape, leaf.dtype)


def _saved_in(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("round_*"):
        if match := _NAME.fullmatch(path.name):
            yield int(match[1]), path


def _files(folder: Path) -> dict[str, list[int]]:
    """The size and checksum of every file below a folder."""
    contents = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: [len(data), zlib.crc32(data)] for name, data in contents.items()}


def _whats_wrong(path: Path) -> str | None:
    """Why a checkpoint cannot be used, if it cannot."""
    try:
        about = json.loads((path / _ABOUT).read_text())
        expected, _ = about["files"], [about[part] for part in ("same", "exact", "made_with", "keys")]
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_ABOUT} cannot be read"
    actual = _files(path / _ARRAYS)
    damaged = [name for name, known in expected.items() if actual.get(name) != known]
    return f"{damaged[0]} is damaged or missing" if damaged else None


def _remove(path: Path) -> None:
    (path / _ABOUT).unlink(missing_ok=True)  # first: what is half removed is no checkpoint
    shutil.rmtree(path, ignore_errors=True)


def _agree(number: int) -> int:
    """The first process's number, in all of them."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


__all__ = ["Checkpoint", "Saved", "Store"]
