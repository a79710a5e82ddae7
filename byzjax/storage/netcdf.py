"""netCDF files: what they can hold, said when a data set is made and not when hours of computing are to be saved."""

from __future__ import annotations

import io
import numbers
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from byzjax.checks import check_dataset, shown, with_article
from byzjax.storage.files import expanded, writing

if TYPE_CHECKING:
    import xarray

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


def save(dataset: xarray.Dataset, path: str | Path) -> Path:
    """Write a data set to a netCDF file: all of it, or nothing at all if the process dies.

    Args:
      dataset: what `to_dataset` made.
      path: of the file; its folder is created.

    Returns:
      The path.

    Raises:
      ValueError: it is no data set, or holds what netCDF cannot hold.
      OSError: it cannot be written.
    """
    check_dataset(dataset, "save")
    check_names((name for name in dataset.variables if name not in dataset.dims), "save")
    for part in (dataset, *dataset.variables.values()):
        check_attributes(part.attrs, "save")
    path = expanded(path, "save")
    content = _netcdf(dataset)
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return path


def save_or_rescue(dataset: xarray.Dataset, path: Path) -> str | None:
    """`save` what may have taken a night; where that fails, in a temporary folder. Returns what to say then."""
    try:
        save(dataset, path)
    except OSError as error:
        try:
            elsewhere = save(dataset, Path(tempfile.mkdtemp(prefix="byzjax-")) / path.name)
        except OSError:
            return f"{path} cannot be written ({error.strerror or error}), and no temporary folder either."
        return f"{path} cannot be written ({error.strerror or error}); the result is in {elsewhere}."
    return None


def _netcdf(dataset: xarray.Dataset) -> memoryview:
    """A data set as a netCDF file in memory: on a full disk the HDF5 library ends the process, numbers and all."""
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file))
    return buffer.getbuffer()


def load(path: str | Path) -> xarray.Dataset:
    """Read a file that `save` wrote, into memory.

    The dimension ``method`` of older files is ``optimizer``: xarray's ``sel`` has an argument of the old name.

    Args:
      path: of the file.

    Raises:
      OSError: there is no such file, or it may not be read.
      ValueError: it is not a result of byzjax.
    """
    import xarray

    path = expanded(path, "load")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a netCDF file, e.g. {path / 'run.nc'}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    path.open("rb").close()  # what may not be read is not damaged
    try:
        dataset = xarray.load_dataset(path, engine="h5netcdf")
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, … for damaged files
        name = type(error).__name__
        raise ValueError(f"{path} cannot be read as netCDF ({name}): it is damaged, or something else.") from error
    if "config" not in dataset.attrs:
        raise ValueError(f"{path} is netCDF, but not a result of byzjax: it holds no configuration.")
    return dataset.rename({"method": "optimizer"}) if "method" in dataset.coords else dataset
