"""Arrays in a folder, each file named by the checksum of its content."""

from __future__ import annotations

import hashlib
import io
import os
import re
import uuid
from pathlib import Path

import numpy as np

from byzjax.storage.files import expanded

VARIABLE = "BYZJAX_DATA_DIR"
_ARRAYS = "byzjax-arrays"
_DIGITS = 16  # of the SHA-256 that are in a file's name


def folder(data_dir: str | Path | None = None) -> Path:
    """Where data sets are kept: ``data_dir``, else ``$BYZJAX_DATA_DIR``, else ``byzjax`` in the user's cache folder."""
    given = data_dir or os.environ.get(VARIABLE)
    if given:
        return expanded(given, f"data_dir or {VARIABLE}")
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", f"data cache (set {VARIABLE})") / "byzjax"


def read(root: Path, name: str, version: str | None, kind: str) -> dict[str, np.ndarray] | None:
    """The arrays that `write` put there, or None.

    Args:
      root: see `folder`.
      name: what the data set is called.
      version: of the data set; the newest if None.
      kind: what the arrays are.

    Raises:
      ValueError: the file is not what was written.
    """
    start = root / _ARRAYS
    paths = [*start.glob(f"{_slug(name)}@{version or '*'}.{kind}.*.npz")] if start.is_dir() else []
    if not paths:
        return None
    path = max(paths, key=lambda path: _numbers(path.name.split("@")[-1].split(f".{kind}.")[0]))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"data cache {path} cannot be read ({error.strerror}).") from error
    if _digest(content) != path.name.split(".")[-2]:
        raise ValueError(f"data cache {path} is corrupt: its SHA-256 is not the one in its name. Delete the file.")
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def write(root: Path, name: str, version: str, kind: str, arrays: dict[str, np.ndarray]) -> Path:
    """Put arrays into the cache, in one step: a reader sees all of them or nothing.

    Raises:
      OSError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getvalue()
    path = root / _ARRAYS / f"{_slug(name)}@{version}.{kind}.{_digest(content)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _slug(name: str) -> str:
    return name.replace("/", "+")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def newest(versions: list[Path]) -> Path:
    """The folder with the highest version for a name."""
    return max(versions, key=lambda path: _numbers(path.name))
