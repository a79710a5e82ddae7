"""A sweep: one function of named scalars over a grid, as one data set. Traced axes are vmapped, cells compiled apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax

from byzjax.progress import Progress

if TYPE_CHECKING:
    import xarray


def sweep(
    fn: Callable[..., Any],
    *,
    grid: Mapping[str, Sequence[float]],
    cells: Mapping[str, Sequence[Any] | Mapping[str, Any]] | None = None,
    batch_size: int | Literal["auto"] = "auto",
    mesh: jax.sharding.Mesh | None = None,
    store: str | Path | None = None,
    progress: bool | Progress = True,
    config: Mapping[str, Any] | None = None,
    name: str | None = None,
    code_version: str | None = None,
) -> xarray.Dataset:
    """Evaluate ``fn(**point)`` at every point of ``grid × cells``.

    Args:
      fn: a pure function of keyword arguments, one per axis. Grid axes arrive as traced scalars, cell axes as the
        Python values given. It returns a `Result`, whose state is dropped, or a flat dict of arrays.
      grid: axis -> numbers. ``seed`` arrives as uint32, other integers as int32, floats as float32; arrays keep
        their dtype.
      cells: axis -> values, or label -> value; compiled once each.
      batch_size: lanes per chunk.
      mesh: with an axis ``"runs"``, over which lanes are sharded.
      store: a folder; finished chunks are kept in it and never computed again.
      progress: show a progress bar; or a `Progress`.
      config: JSON-able; what else determines the sweep, for the attributes of the data set.
      name: what the bar and the store call this sweep.
      code_version: in place of a hash of byzjax's source.

    Returns:
      Dimensions: cell axes, grid axes, then ``round``, ``eval``, ``class``, ….
    """
    raise NotImplementedError
