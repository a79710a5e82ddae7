"""Digests: of values, of the arrays of a chunk, of byzjax's own source."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


def digest(value: Any) -> str:
    """SHA-256 of an array, of bytes, or of anything that JSON can say."""
    if isinstance(value, np.ndarray):
        content: Any = np.ascontiguousarray(value).data
        if value.dtype.kind not in "biufc":
            content = value.tobytes()
    else:
        content = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, allow_nan=False).encode()
    return hashlib.sha256(content).hexdigest()


def plain(value: Any) -> Any:
    """Numbers and flags of NumPy and JAX, in dicts and lists, as those of Python, which JSON can say.

    >>> plain({"rate": np.float64(0.5), "seeds": [np.int64(1), 2]})
    {'rate': 0.5, 'seeds': [1, 2]}
    """
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0 else value


def checksum(key: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Of names, types, shapes and every bit."""
    parts = [[name, array.dtype.str, array.shape, digest(array)] for name, array in sorted(arrays.items())]
    return digest([key, parts])


@functools.cache
def code_version() -> str:
    """A hash of byzjax's own source, all of it: what is cheap to compute again is not worth a wrong number."""
    root = Path(__file__).parents[1]
    sources = sorted(root.rglob("*.py"))
    return digest([[str(path.relative_to(root)), digest(path.read_bytes())] for path in sources])[:16]
