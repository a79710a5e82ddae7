"""Files and folders: as users name them, and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

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
    if not isinstance(path, str | os.PathLike):
        from byzjax.checks import check_kind  # not before: it loads JAX, which who reads data does not need

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


@contextlib.contextmanager
def writing(path: str | Path, *, replace: bool = True):
    """A temporary path beside ``path`` that takes its place when all went well, and vanishes otherwise.

    The file comes to be in one step: a reader, or a run that starts after a crash, sees the old one or the new one.

    Args:
      path: of the final file; its folder is created.
      replace: false to leave a file alone that is there by then.

    Raises:
      OSError: it cannot be written; with the path of the final file.
    """
    path = expanded(path, "writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{shortened(path.stem)}-", suffix=path.suffix)
    except OSError as error:
        raise named(error, path) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are private; results are to be shared like any other file
        if replace:
            temporary.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                _publish(temporary, path)
    except OSError as error:
        raise named(error, path) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_all(path_without_suffix: str | Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write one thing in several formats, every file whole or not at all.

    Args:
      path_without_suffix: ``"out/table"``.
      contents: suffix -> what the file with that suffix holds.

    Returns:
      The paths.

    Raises:
      OSError: see `writing`.
    """
    paths = {suffix: expanded(f"{path_without_suffix}{suffix}") for suffix in contents}
    for suffix, content in contents.items():
        with writing(paths[suffix]) as temporary:
            temporary.write_bytes(content)
    return list(paths.values())


def _publish(temporary: Path, path: Path) -> None:
    """Give a file its name, unless that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: who makes the empty file puts the whole one in its place
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        temporary.replace(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
