"""A store of finished chunks: content-addressed, atomic, append-only; several processes may share it.

- ``STORE/byzjax-store.json``: what this folder is;
- ``STORE/chunks/ab/abcd….nc``: one chunk, netCDF, named by a hash of everything that determines its numbers;
- ``STORE/sweeps/FINGERPRINT-KEYS.json``: one sweep, its configuration and the chunks that it is made of;
- ``STORE/batches/….json``: batch sizes that were found out, so that a resumed sweep is cut as before;
- ``STORE/claims/KEY.GENERATION``: leases, who is computing what;
- ``STORE/dataset.nc``: the data set of the sweep that finished last, and ``dataset-….nc`` of those before;
- ``STORE/aside/``: files that were damaged.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from byzjax.storage.digests import checksum, code_version, digest
from byzjax.storage.files import expanded, writing
from byzjax.storage.leases import TTL, Leases
from byzjax.storage.netcdf import save

if TYPE_CHECKING:
    import xarray

FORMAT = 1
MARKER = "byzjax-store.json"
DATASET = "dataset.nc"  # of the sweep that finished last
_PATIENCE = 50  # looks at a file that is being made
LITTER_AGE = 3600.0  # seconds after which an unfinished file has certainly no writer any more

Arrays = dict[str, np.ndarray]
Say = Callable[[str], None]


class StoreError(OSError):
    """A store that cannot be written or read; what is in it stays as it is."""


class ChunkStore:
    """A folder of chunks. Nothing is created in it until something is written.

    Args:
      path: of the folder.
      ttl: see `Leases`.

    Raises:
      ValueError: a file, a folder with other things in it, or a store of a later format.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = ChunkStore(folder)
    ...     store.write("ab12", {"loss": np.ones(3, np.float32)})
    ...     store.read("ab12")["loss"].tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, path: str | Path, *, ttl: float = TTL):
        self.path = expanded(path, "store")
        self._check()
        self.leases = Leases(self.path / "claims", ttl)

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"store: {self.path} is a file; name a folder.")
        # Looked at in this order: the marker is what a store holds first, so what is seen without it is not a store's.
        others = self.path.is_dir() and any(not path.name.startswith(".") for path in self.path.iterdir())
        marker = self.path / MARKER
        if not marker.exists():
            if others:
                raise ValueError(
                    f"store: {self.path} holds other things and no {MARKER}; name an empty or a new folder."
                )
            return
        try:
            version = json.loads(marker.read_text())["format"]
        except (ValueError, KeyError, TypeError):
            version = None
        if version != FORMAT:
            raise ValueError(f"store: {self.path} has format {version}, this byzjax reads format {FORMAT}.")

    def _prepare(self) -> None:
        if not (self.path / MARKER).exists():
            self._put(self.path / MARKER, json.dumps({"format": FORMAT}).encode())

    def path_of(self, key: str) -> Path:
        """Where a chunk is kept."""
        return self.path / "chunks" / key[:2] / f"{key}.nc"

    def __contains__(self, key: str) -> bool:
        return self.path_of(key).exists()

    def __iter__(self) -> Iterator[str]:
        for path in sorted((self.path / "chunks").glob("??/*.nc")):
            if not path.name.startswith("."):
                yield path.stem

    def write(self, key: str, arrays: Mapping[str, np.ndarray], **attributes: Any) -> None:
        """Add a chunk: all of it or nothing. Arrays share their first axis, the runs.

        Raises:
          StoreError: no space left, no permission, …
        """
        self._prepare()
        self._put(self.path_of(key), to_netcdf(key, arrays, attributes))

    def read(self, key: str, say: Say = lambda line: None) -> Arrays | None:
        """A chunk; None if there is none, or if it was damaged. A damaged file is set aside, never deleted.

        Args:
          key: of the chunk.
          say: is told what was set aside.

        Raises:
          StoreError: a damaged file that cannot be moved, or one that may not be read.
        """
        path = self.path_of(key)
        try:
            return from_netcdf(key, path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"store: {path} cannot be read ({error.strerror or error}).") from error
        except ValueError as error:
            aside = self._set_aside(path)
            say(f"store: {path.name[:12]}… is damaged ({error}); set aside as {aside}, computed again")
            return None

    def _set_aside(self, path: Path) -> Path:
        aside = self.path / "aside" / f"{path.stem}-{time.time_ns()}{path.suffix}"
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.rename(aside)
        except FileNotFoundError:  # another process was faster
            pass
        except OSError as error:
            raise StoreError(
                f"store: {path} is damaged and cannot be set aside ({error.strerror or error}); make it writable."
            ) from error
        return aside

    def lease(self, key: str) -> bool:
        """Take on a chunk; false if another process has. See `Leases`.

        Raises:
          StoreError: the store cannot be written.
        """
        self._prepare()
        try:
            return self.leases.acquire(key)
        except OSError as error:
            raise self._unwritable(error) from error

    def decide(self, name: str, value: Any) -> Any:
        """Agree on a value: the first process to say one decides, for ever."""
        self._prepare()
        path = self.path / "batches" / f"{name}.json"
        known = self.decided(name)
        if known is not None:
            return known
        self._put(path, json.dumps(value).encode(), replace=False)
        for _ in range(_PATIENCE):  # without hard links a file is empty for an instant
            known = self.decided(name)
            if known is not None:
                return known
            time.sleep(0.02)
        self._put(path, json.dumps(value).encode())  # … and for ever, where its maker died in that instant
        return value

    def decided(self, name: str) -> Any | None:
        """What was agreed on under a name, or None."""
        try:
            return json.loads((self.path / "batches" / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None

    def record(self, fingerprint: str, manifest: Mapping[str, Any]) -> None:
        """Note that a sweep was begun: what it is, and under ``"chunks"`` the keys of its chunks."""
        path = self.path / "sweeps" / f"{fingerprint}-{digest(manifest['chunks'])[:16]}.json"
        if not path.exists():
            self._prepare()
            self._put(path, json.dumps(manifest, indent=1).encode())

    def sweeps(self, fingerprint: str = "*") -> dict[Path, dict[str, Any]]:
        """The sweeps that were begun, oldest first; those of one fingerprint differ in what made them."""
        manifests = {}
        for path in (self.path / "sweeps").glob(f"{fingerprint}-*.json"):
            try:
                manifests[path] = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
        return dict(sorted(manifests.items(), key=lambda item: item[1].get("begun", 0)))

    def publish(self, dataset: xarray.Dataset) -> Path:
        """Put the data set of a finished sweep beside its chunks, as ``dataset.nc``.

        One of another sweep that is there is kept, as ``dataset-….nc`` with a hash of its configuration.

        Raises:
          StoreError: it cannot be written.
        """
        path = self.path / DATASET
        try:
            before = _config_of(path)
            if before is not None and before != dataset.attrs["config"]:
                path.rename(path.with_stem(f"{path.stem}-{digest(before)[:16]}"))
            return save(dataset, path)
        except OSError as error:
            raise self._unwritable(error) from error

    def _put(self, path: Path, content: bytes, *, replace: bool = True) -> None:
        try:
            with writing(path, replace=replace) as temporary, open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"store: {self.path} cannot be written ({error.strerror or error}); what is in it is kept. Make room or "
            "make it writable, and call again to resume."
        )


def _config_of(path: Path) -> str | None:
    """The configuration of a data set; a text of no use where the file is none, None where there is no file."""
    import h5netcdf

    try:
        with h5netcdf.File(io.BytesIO(path.read_bytes()), "r") as file:
            return str(file.attrs["config"])
    except FileNotFoundError:
        return None
    except Exception:  # h5py raises OSError, RuntimeError, KeyError, … for what is no data set
        return f"none of byzjax's, {time.time_ns()}"


class Report(NamedTuple):
    """What `verify` found."""

    sound: int
    damaged: list[str]


def verify(store: ChunkStore, say: Say = lambda line: None) -> Report:
    """Read every chunk and check it against its checksum. Damaged ones are set aside, to be computed again."""
    keys = list(store)
    damaged = [key for key in keys if store.read(key, say) is None]
    return Report(len(keys) - len(damaged), damaged)


def gc(store: ChunkStore, *, other_versions: bool = False, dry: bool = False) -> list[Path]:
    """Remove what nobody needs: files left by killed processes, void leases, damaged files, chunks of no sweep.

    Args:
      store: to clean; sweeps may be running on it.
      other_versions: also sweeps that another version of byzjax made, and the chunks that only they are made of.
      dry: remove nothing.

    Returns:
      What was removed.
    """
    old = [path for path, sweep in store.sweeps().items() if other_versions and sweep.get("code") != code_version()]
    needed = {key for path, sweep in store.sweeps().items() if path not in old for key in sweep["chunks"]}
    in_use = needed | store.leases.held_by_others()
    removed = [*store.leases.clear(dry=dry), *old, *(store.path / "aside").glob("*")]
    removed += [store.path_of(key) for key in store if key not in in_use]
    removed += [
        path
        for path in store.path.rglob(".*")
        if path.is_file() and time.time() - path.stat().st_mtime > LITTER_AGE
    ]  # fmt: skip
    for path in removed if not dry else ():
        path.unlink(missing_ok=True)
    return removed


def to_netcdf(key: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> bytes:
    """A chunk as a netCDF file in memory, so that a full disk cannot catch the HDF5 library half way."""
    import h5netcdf

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        for name, array in arrays.items():
            dims = "lane", *(f"{name}_axis{axis}" for axis in range(1, array.ndim))
            for dim, size in zip(dims, array.shape, strict=True):
                if dim not in file.dimensions:
                    file.dimensions[dim] = size
            stored = array.astype(np.int8) if array.dtype == bool else array
            variable = file.create_variable(name, dims, stored.dtype, data=stored)
            if array.dtype == bool:
                variable.attrs["dtype"] = "bool"  # as xarray writes it
        file.attrs.update({**attributes, "key": key, "format": FORMAT, "checksum": checksum(key, arrays)})
    return buffer.getvalue()


def from_netcdf(key: str, content: bytes) -> Arrays:
    """The arrays of a chunk.

    Raises:
      ValueError: not a whole chunk of this key.
    """
    import h5netcdf

    try:
        with h5netcdf.File(io.BytesIO(content), "r") as file:
            arrays = {}
            for name, variable in file.variables.items():
                array = np.asarray(variable[...])
                arrays[name] = array.astype(bool) if variable.attrs.get("dtype") == "bool" else array
            recorded_key, recorded_checksum = file.attrs["key"], file.attrs["checksum"]
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, … for damaged files
        raise ValueError(f"not readable as netCDF: {type(error).__name__}") from error
    if recorded_key != key or recorded_checksum != checksum(key, arrays):
        raise ValueError("its checksum is wrong")
    return arrays
