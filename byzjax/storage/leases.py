"""Who computes what, said in files: the only thing that processes sharing a store have to agree on.

A lease is a file ``KEY.GENERATION``. It is created exclusively, so one of several takers gets it, and kept fresh by its
holder. A lease that went stale is not removed but outbid by the next generation, again created exclusively: so two
processes that see the same stale lease cannot both take it over.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Any

TTL = 60.0  # seconds without a sign of life after which a lease of another machine is void


class Leases:
    """Leases in a folder. A context manager: inside, held leases are kept fresh; at its end they are released.

    Args:
      folder: of the leases; created when the first is made.
      ttl: seconds after which a lease that nobody freshens is void. Holders freshen theirs four times as often. The
        lease of a process of this machine that is gone is void at once.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Leases(folder) as mine, Leases(folder) as theirs:
    ...     mine.acquire("chunk"), theirs.acquire("chunk")
    (True, False)
    """

    def __init__(self, folder: str | Path, ttl: float = TTL):
        self.folder, self.ttl = Path(folder), ttl
        self._token = uuid.uuid4().hex
        self._held: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Leases:
        self._stop.clear()
        self._thread = threading.Thread(target=self._freshen, name="byzjax-leases", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for key in list(self._held):
            self.release(key)

    def acquire(self, key: str) -> bool:
        """Take a lease that nobody holds, or whose holder is gone; false if somebody does.

        Raises:
          OSError: the folder cannot be written.
        """
        rival = self._last(key)
        if rival is not None and not self._void(rival):
            return False
        before = _read(rival) if rival is not None else None
        path = self.folder / f"{key}.{0 if rival is None else _generation(rival) + 1}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w") as file:
                json.dump({**_process(), "token": self._token}, file)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._held[key] = path
        # The rival may have let go meanwhile, and a third process taken the lease as if it had been free.
        overtaken = self._last(key) != path or (rival is not None and rival.exists() and _read(rival) != before)
        if overtaken:
            self.release(key, older=False)
        return not overtaken

    def release(self, key: str, *, older: bool = True) -> None:
        """Let go of a held lease, and clear away the void ones that it outbid."""
        with self._lock:
            path = self._held.pop(key, None)
        if path is None:
            return
        for other in self._all(key) if older else []:
            if _generation(other) < _generation(path):
                other.unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def holds(self, key: str) -> bool:
        """Whether a lease that was taken is still this object's: one that went stale may have been outbid."""
        return key in self._held and self._last(key) == self._held[key]

    def is_near(self, key: str) -> bool:
        """Whether the holder of a lease is a process of this machine, so that its end is known at once."""
        path = self._last(key)
        return path is not None and _read(path).get("machine") == _machine()

    def holder(self, key: str) -> str:
        """Who holds a lease, for a message."""
        holder = {} if (path := self._last(key)) is None else _read(path)
        machine = str(holder.get("machine", "another machine")).partition("/")[0]
        return f"process {holder.get('pid', 'unknown')} on {machine}"

    def held_by_others(self) -> set[str]:
        """Keys with a lease that is not void and not of this object."""
        last: dict[str, Path] = {}
        for path in self.folder.glob("*.*") if self.folder.is_dir() else ():
            key, _, generation = path.name.rpartition(".")
            if generation.isdigit() and (key not in last or _generation(last[key]) < int(generation)):
                last[key] = path
        return {key for key, path in last.items() if self._held.get(key) != path and not self._void(path)}

    def clear(self, *, dry: bool = False) -> list[Path]:
        """Remove void leases; returns them."""
        paths = [path for path in sorted(self.folder.glob("*.*")) if _generation(path) >= 0 and self._void(path)]
        for path in paths if not dry else ():
            path.unlink(missing_ok=True)
        return paths

    def _all(self, key: str) -> list[Path]:
        paths = [path for path in self.folder.glob(f"{key}.*") if _generation(path) >= 0]
        return sorted(paths, key=_generation)

    def _last(self, key: str) -> Path | None:
        generations = self._all(key)
        return generations[-1] if generations else None

    def _void(self, path: Path) -> bool:
        try:
            modified = path.stat().st_mtime
        except FileNotFoundError:
            return True
        holder = _read(path)
        here = holder.get("machine") == _machine()
        if here and not _alive(holder):
            return True
        return (time.time() if here else self._now()) - modified > self.ttl

    def _now(self) -> float:
        """The time by the clock of whoever keeps the files, which may not be this machine's."""
        probe = self.folder / f".now-{self._token}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            probe.unlink(missing_ok=True)

    def _freshen(self) -> None:
        while not self._stop.wait(self.ttl / 4):
            with self._lock:
                paths = list(self._held.values())
            for path in paths:
                try:
                    os.utime(path)
                except OSError:  # removed by hand, or a file server that is away: the worst case is double work
                    continue


def _generation(path: Path) -> int:
    tail = path.name.rpartition(".")[2]
    return int(tail) if tail.isdigit() else -1


def _read(path: Path) -> dict[str, Any]:
    """What a lease says; nothing where its holder is only just writing it."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@functools.cache
def _machine() -> str:
    """This machine since it was started, and the namespace in which its process numbers mean something."""
    parts = [platform.node()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(), _pid_namespace):
        try:
            parts.append(read())
        except OSError:
            parts.append("?")
    return "/".join(parts)


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _process() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _started(pid: int) -> str | None:
    """When a process was started, in the system's own words: numbers of processes are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _alive(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return holder.get("started") in (None, _started(pid))
