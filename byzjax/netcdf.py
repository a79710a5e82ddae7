"""What a netCDF file can hold: said when a data set is made, and not when hours of computing are to be saved."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from byzjax.checks import shown, with_article

DIMENSIONS = ("round", "eval", "class", "worker")


def check_names(names: Iterable[Any], where: str) -> None:
    """Reject names of variables that a file cannot hold, or that are a data set's own.

    Raises:
      ValueError: there is one.
    """
    for name in names:
        if not isinstance(name, str) or not name or name == "." or "/" in name or "\0" in name:
            raise ValueError(
                f"{where}: {shown(name)} cannot be the name of a variable in netCDF; record it under another, e.g. "
                f"'{'_'.join(filter(None, str(name).replace(chr(0), '/').split('/'))).strip('.') or 'metric'}'."
            )
        if name in DIMENSIONS:
            raise ValueError(f"{where}: {name!r} is a dimension of a data set; record it under another name.")


def check_attributes(attributes: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    """Reject attributes that a file cannot hold; returns them.

    Raises:
      ValueError: what is neither a text nor a number, nor a list of texts or of numbers.

    >>> check_attributes({"tags": {"mine"}}, "save")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: save: attribute tags = {'mine'} is a set, which netCDF cannot hold; pass a text, a number, or a list ...
    """
    for name, value in attributes.items():
        if not _is_attribute(value):
            raise ValueError(
                f"{where}: attribute {name} = {shown(value)} is {with_article(type(value).__name__)}, which netCDF "
                "cannot hold; pass a text, a number, or a list of either, or put it into the configuration."
            )
    return dict(attributes)


def _is_attribute(value: Any) -> bool:
    if isinstance(value, bytes):
        return b"\0" not in value
    if isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)):
        return "\0" not in "".join(value)
    if not isinstance(value, numbers.Number | np.generic | np.ndarray | list | tuple) or isinstance(value, bool):
        return False
    try:
        return np.asarray(value).dtype.kind in "iufc"
    except ValueError:  # ragged
        return False


def storable(name: str, values: Any, where: str) -> np.ndarray:
    """Numbers and flags as an array that a file can hold: what is narrower than float32 becomes float32.

    Raises:
      ValueError: of another type.

    >>> storable("loss", jnp.ones(2, jnp.bfloat16), "to_dataset").dtype
    dtype('float32')
    """
    dtype = getattr(values, "dtype", None)
    if dtype is None:
        values = np.asarray(values)
        dtype = values.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        return np.asarray(values.astype(jnp.float32) if dtype.itemsize < 4 else values)
    if jnp.issubdtype(dtype, jnp.integer):
        return np.asarray(values if dtype.kind in "iu" else values.astype(jnp.int8))  # int4
    if dtype != jnp.bool_:
        raise ValueError(f"{where}: {name!r} is of dtype {dtype}; a data set holds numbers and flags.")
    return np.asarray(values)
