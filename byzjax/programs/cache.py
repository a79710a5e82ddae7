"""Compiled programs on disk, so that the second start of a command does not compile what the first one did."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path

import jax
import jaxlib.version

from byzjax.storage.files import expanded

VARIABLE = "BYZJAX_CACHE_DIR"
_MOST_BYTES = 2 << 30  # that are kept


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs in a folder, and take them from there: JAX's own cache, for all programs of this process.

    Call it before anything is compiled. The command line does, unless told otherwise; a folder that was given to JAX
    before (``JAX_COMPILATION_CACHE_DIR``) stays. Programs are kept apart by JAX's version and by the processor, since
    they are made for it; of more than 2 GiB those that were not used for longest go.

    Args:
      folder: in place of ``$BYZJAX_CACHE_DIR``, else ``~/.cache/byzjax/xla``.

    Returns:
      Where they are kept; None where the variable is set to nothing, or where the folder cannot be made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept = enable_compilation_cache(folder)
    ...     jax.config.update("jax_compilation_cache_dir", None)
    """
    if folder is None and (known := jax.config.values.get("jax_compilation_cache_dir")):
        return Path(known)
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = os.environ.get(VARIABLE, f"{home}/byzjax/xla")
        if not folder:
            return None
    try:
        path = expanded(folder, "enable_compilation_cache") / _compiler()
        path.mkdir(parents=True, exist_ok=True)
        drop_oldest(path.parent, _MOST_BYTES)  # JAX would want filelock for a bound of its own
    except (OSError, ValueError):  # no home, no room: compile, as without a cache
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    # A start compiles a hundred programs of a few milliseconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path


def _compiler() -> str:
    """Who compiles, and for which processor."""
    features = [platform.machine()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    digest = hashlib.sha256("".join(features).encode()).hexdigest()[:8]
    return f"jaxlib-{jaxlib.version.__version__}-{digest}"


def drop_oldest(path: Path, most_bytes: int) -> None:
    """Keep so many bytes of the files in a folder; those that were not read for longest go. Others may do so, too."""
    files = []
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):
            if file.is_file():
                files.append((file.stat().st_atime, file.stat().st_size, file))
    size = 0
    for _, num_bytes, file in sorted(files, reverse=True):
        size += num_bytes
        if size > most_bytes:
            file.unlink(missing_ok=True)
