"""The axes of a sweep: what may be said of them, and all of their points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from byzjax.storage import netcdf

Points = dict[str, np.ndarray]  # axis -> its value in every run
Options = dict[str, list[tuple[Any, Any]]]  # axis -> pairs of a label and a value

RESERVED = ("round", "eval", "class", "diverged")
_OF_SEL = ("method", "tolerance", "drop", "indexers", "missing_dims")  # arguments of xarray's sel and isel


def grid_values(grid: Mapping[str, Sequence[Any]]) -> Points:
    """The axes as one-dimensional arrays of the dtypes that runs get.

    Raises:
      ValueError: an axis that is empty, not a list of numbers, or says a value twice.

    >>> {name: str(values.dtype) for name, values in grid_values({"seed": [0, 1], "beta": [0.5, 0.9]}).items()}
    {'seed': 'uint32', 'beta': 'float32'}
    """
    return {name: _axis(name, values) for name, values in grid.items()}


def _axis(name: str, values: Sequence[Any]) -> np.ndarray:
    if isinstance(values, str | bytes | Mapping) or not np.iterable(values):
        raise ValueError(f"grid: {name} = {values!r} must be a list of numbers.")
    try:
        array = np.asarray(values if isinstance(values, np.ndarray | jax.Array) else list(values))
    except ValueError:
        array = np.asarray(None)
    if array.ndim == 1 and len(array) == 0:
        raise ValueError(f"grid: {name} has length 0, so there is nothing to run; give it at least one value.")
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"grid: {name} = {values!r} must be a list of numbers; what is not a number, or decides shapes, is a cell."
        )
    given = array.tolist()
    dtype = np.dtype(np.uint32) if name == "seed" else jax.dtypes.canonicalize_dtype(array.dtype)
    if name == "seed" and (array.dtype.kind not in "iu" or min(given) < 0 or max(given) >= 2**32):
        raise ValueError(f"grid: seed = {given} must be integers between 0 and 2³² − 1.")
    cast = array.astype(dtype)
    if array.dtype.kind in "iu" and cast.tolist() != given:
        raise ValueError(f"grid: {name} = {given} does not fit into {dtype}.")
    if len(set(cast.tolist())) < len(cast):
        raise ValueError(f"grid: {name} = {given} holds a value twice (as {dtype}); leave one out.")
    return cast


def grid_points(axes: Points) -> Points:
    """All points of the product, the first axis slowest.

    >>> {name: values.tolist() for name, values in grid_points({"a": np.array([1, 2]), "b": np.array([3, 4])}).items()}
    {'a': [1, 1, 2, 2], 'b': [3, 4, 3, 4]}
    """
    if not axes:
        return {}
    values = np.meshgrid(*axes.values(), indexing="ij")
    return {axis: each.reshape(-1) for axis, each in zip(axes, values, strict=True)}


def cell_labels(cells: Mapping[str, Any]) -> Options:
    """Axis -> the pairs of a label and its value; no dict, whose keys 0 and False are one.

    Raises:
      ValueError: an axis that is empty, a value that is not its own label, or a label twice.

    >>> cell_labels({"f": [0, False], "rule": {"mine": "median"}})
    {'f': [(0, 0), (False, False)], 'rule': [('mine', 'median')]}
    """
    labelled: Options = {}
    for axis, values in cells.items():
        if isinstance(values, str | bytes) or not np.iterable(values):
            raise ValueError(f"cells: {axis} = {values!r} must be a list of values, or a dict from labels to values.")
        pairs = list(values.items()) if isinstance(values, Mapping) else [(value, value) for value in values]
        if not pairs:
            raise ValueError(f"cells: {axis} has length 0, so there is nothing to run; give it at least one value.")
        for label, _ in pairs:
            if not isinstance(label, str | int | float | bool | np.generic | None):
                raise ValueError(
                    f"cells: {axis} holds {label!r}, which is not its own label; write {{'a label': value, …}}."
                )
        labels = [label for label, _ in pairs]
        if min(len(set(map(str, labels))), len(set(coordinate(labels).tolist()))) < len(pairs):
            raise ValueError(f"cells: {axis} = {labels} holds a value twice; leave one out.")
        labelled[axis] = pairs
    return labelled


def coordinate(labels: list[Any]) -> np.ndarray:
    """Numbers as numbers, all else as text."""
    numbers = all(isinstance(label, int | float | np.number) and not isinstance(label, bool) for label in labels)
    return np.asarray(labels) if numbers else np.asarray([str(label) for label in labels])


def as_json(values: Sequence[Any]) -> list[Any]:
    """An axis as JSON can say it."""
    return [v if not isinstance(v, float) or math.isfinite(v) else str(v) for v in np.asarray(values).tolist()]


def check_names(axes: Points, options: Mapping[str, Any]) -> None:
    """Reject names that mean two things."""
    both = sorted(set(axes) & set(options))
    if both:
        raise ValueError(f"sweep: {both} are axes of the grid and of the cells; keep each in one of them.")
    for axis in (*axes, *options):
        if axis in RESERVED:
            raise ValueError(f"sweep: {axis!r} is a name of the data set's own; call the axis something else.")
        if axis in _OF_SEL:
            raise ValueError(
                f"sweep: {axis!r} is an argument of xarray's sel, so that dataset.sel({axis}=…) cannot reach the axis; "
                f"call it something else{', e.g. optimizer' * (axis == 'method')}."
            )
    netcdf.check_names((axis for axis in (*axes, *options) if axis not in netcdf.DIMENSIONS), "sweep")
