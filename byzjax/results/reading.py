"""Data sets as their readers take them: with missing values missing in every type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray

_FLAGS = ("finite", "diverged", "tried", "ran")  # of a run, which are known whatever became of it


def believed(dataset: xarray.Dataset) -> xarray.Dataset:
    """The data set with NaN in place of integers and flags that a run did not give, since it had diverged by then.

    Integers and flags have no NaN: in files of older versions a count of a diverged run is −2147483648 and a flag is
    true. Of runs that recorded ``finite``, what was seen or evaluated while they were is kept; of others nothing is.

    Args:
      dataset: of a run or a sweep.

    >>> import xarray
    >>> lanes = {"reached": ("rate", [True, True]), "diverged": ("rate", [False, True])}
    >>> believed(xarray.Dataset(lanes)).reached.values.tolist()
    [1.0, nan]
    """
    doubtful = [name for name in dataset.data_vars if dataset[name].dtype.kind in "iub" and name not in _FLAGS]
    masked = {}
    for name in doubtful:
        known = _known(dataset, dataset[name])
        if known is not None and not bool(known.all()):
            values = dataset[name].astype(float).where(known).transpose(*dataset[name].dims)
            masked[name] = values.assign_attrs(dataset[name].attrs)
    return dataset.assign(masked) if masked else dataset


def _known(dataset: xarray.Dataset, values: xarray.DataArray) -> xarray.DataArray | None:
    """Where the run was finite, as far as the data set says."""
    finite = dataset.data_vars.get("finite")
    if finite is not None and finite.dtype == bool and "round" in finite.dims:
        if "round" in values.dims:
            return finite
        if "eval" in values.dims and _says_rounds(dataset):
            return finite.sel(round=dataset["eval"].values).rename(round="eval").assign_coords(eval=dataset["eval"])
        return finite.isel(round=-1, drop=True)
    diverged = dataset.data_vars.get("diverged")
    if diverged is None or diverged.dtype != bool or not set(diverged.dims) <= set(values.dims):
        return None
    return ~diverged


def _says_rounds(dataset: xarray.Dataset) -> bool:
    """Whether evaluations are labelled by their rounds, and not counted, as where nobody said ``eval_every``."""
    said = '"eval_every"' in str(dataset.attrs.get("config", ""))
    return said and bool(np.isin(dataset["eval"], dataset["round"]).all())
