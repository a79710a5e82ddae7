"""What this machine has, as one line of JSON: the device as JAX sees it, versions, and which peers could take part.

``gpu.py`` runs it in a process of its own: whoever asks JAX for the device takes most of its memory, and keeps it.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from importlib.util import find_spec
from typing import Any

import jax
from _timing import machine

VERSIONS = ("jax", "jaxlib", "optax", "flax", "numpy", "torch", "byzfl", "byzpy")


def describe() -> dict[str, Any]:
    """The machine, its devices, and the versions of what is installed."""
    return {
        **machine(),
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "memory_bytes": (jax.devices()[0].memory_stats() or {}).get("bytes_limit"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
        "torch_cuda": _torch_sees_cuda(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_sees_cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    print(json.dumps(describe()))
