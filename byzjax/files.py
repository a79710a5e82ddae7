"""Files and folders that a user names, or that labels name."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from byzjax.checks import check_kind

_MOST = 200  # bytes of a name: file systems allow 255, and suffixes and temporary files' letters come on top
_PROBE = 1 << 16


def expanded(path: str | os.PathLike[str], where: str = "path") -> Path:
    """A path with the home folder in place of ``~``, which a shell only expands where a word begins with it.

    Args:
      path: as a user wrote it.
      where: who wants it, for messages.

    Raises:
      ValueError: it is no path, or nobody knows that home folder.

    >>> expanded("results/~"), expanded("~").is_absolute()
    (PosixPath('results/~'), True)
    """
    check_kind(path, (str, os.PathLike), "path", where, fix="pass a text or a pathlib.Path.")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{where}: the home folder in {str(path)!r} is not known ($HOME is not set, or there is no such user); "
            "write the whole path."
        ) from None


def shortened(name: str) -> str:
    """A file name that file systems take: one that is too long ends with a digest of all of it.

    >>> shortened("run"), len(shortened("ä" * 300).encode())
    ('run', 200)
    """
    content = name.encode(errors="surrogateescape")
    if len(content) <= _MOST:
        return name
    digest = hashlib.sha256(content).hexdigest()[:15]
    return f"{content[: _MOST - 16].decode(errors='ignore')}-{digest}"


def check_room(folder: Path, num_bytes: int) -> None:
    """Make a folder, and see that so much can be written there: before hours of computing, not after them.

    Raises:
      ValueError: it is a file, or in one.
      OSError: it cannot be made or written, or has no room; with its name.
    """
    for place in (folder, *folder.parents):
        if place.is_file():
            raise ValueError(f"{place} is a file; name a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=folder) as file:  # quotas are seen by writing alone
            file.write(bytes(min(num_bytes, _PROBE)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise named(error, folder) from None


def named(error: OSError, path: Path) -> OSError:
    """An error that says which file it is about: the one that was wanted, and not a temporary one in its folder."""
    if error.errno and (error.filename is None or Path(str(error.filename)).parent in (path, path.parent)):
        error.filename = str(path)
    return error
