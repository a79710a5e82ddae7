"""The libraries that byzjax is compared with, where they are installed: ByzFL and ByzPy, both on torch."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import jax


def load(*names: str) -> dict[str, ModuleType]:
    """``torch`` and those of the named modules that are installed; nothing without torch.

    ByzFL imports torchvision and plotting libraries at its top, for downloads and figures that rules do not need:
    where they are not installed, they are stubs during that import. On a machine with an accelerator peers take part
    only if torch sees it too: a GPU against a CPU would say nothing.
    """
    if find_spec("torch") is None:
        return {}
    wanted = ("torchvision", "seaborn", "matplotlib", "matplotlib.pyplot")
    missing = [name for name in wanted if find_spec(name.split(".")[0]) is None]
    sys.modules.update({name: MagicMock() for name in missing})
    try:
        found = {name: importlib.import_module(name) for name in names if find_spec(name.split(".")[0])}
        torch = importlib.import_module("torch")
    finally:
        for name in missing:
            sys.modules.pop(name, None)
    if not found or (jax.default_backend() != "cpu" and not torch.cuda.is_available()):
        return {}
    return {"torch": torch, **found}


def versions(peers: dict[str, ModuleType]) -> dict[str, Any]:
    """Of Python, of what byzjax runs on, and of the peers."""
    found: dict[str, Any] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("jax", "jaxlib", "optax", "numpy", *sorted({name.split(".")[0] for name in peers})):
        found[name] = importlib.metadata.version(name)
    if peers:
        found["torch_threads"] = peers["torch"].get_num_threads()
    return found


def byzpy_rule(path: str, *args: Any, **options: Any) -> Callable[[Any], Any]:
    """A rule or pre-aggregation of ByzPy as a function of a tensor ``[n, d]``.

    Args:
      path: ``module.Class`` below ``byzpy``.
      *args, **options: of the class.
    """
    module, _, name = path.rpartition(".")
    made = getattr(importlib.import_module(f"byzpy.{module}"), name)(*args, **options)
    call = made.pre_aggregate if hasattr(made, "pre_aggregate") else made.aggregate
    return lambda x: call(list(x))
