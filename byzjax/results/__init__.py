"""Results as named arrays on disk: an `xarray.Dataset` with units and the whole configuration, in netCDF."""

from byzjax.results.dataset import (
    DESCRIPTIONS,
    config_of,
    described,
    dims_of,
    diverged_at,
    empirical_kappa,
    encode,
    in_order,
    provenance,
    to_dataset,
    with_coordinates,
)
from byzjax.storage.netcdf import load, save, save_or_rescue

__all__ = [
    "DESCRIPTIONS",
    "config_of",
    "described",
    "dims_of",
    "diverged_at",
    "empirical_kappa",
    "encode",
    "in_order",
    "load",
    "provenance",
    "save",
    "save_or_rescue",
    "to_dataset",
    "with_coordinates",
]
