"""Results as named arrays on disk: an `xarray.Dataset` with units and the whole configuration, in netCDF."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from byzjax.simulate import Result

if TYPE_CHECKING:
    import xarray

# name -> (long_name, units): what axes and readers of a file are told. Anything else goes by its own name.
DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "aggregate_norm": ("norm of the aggregate", "1"),
    "aggregation_error": ("distance of the aggregate from the honest mean", "1"),
    "honest_spread": ("mean distance of honest updates from their mean", "1"),
    "loss": ("mean loss of the honest workers on their batches", "1"),
    "finite": ("parameters are finite after the round", "1"),
    "test_accuracy": ("test accuracy", "1"),
    "test_loss": ("test loss", "nats"),
    "test_accuracy_per_class": ("test accuracy per class", "1"),
    "val_accuracy": ("validation accuracy", "1"),
    "val_loss": ("validation loss", "nats"),
    "val_accuracy_per_class": ("validation accuracy per class", "1"),
    "gradient_norm": ("true gradient norm", "1"),
    "objective": ("objective", "1"),
    "distance": ("distance to the optimum", "1"),
}


def to_dataset(result: Result, config: Mapping[str, Any], **attributes: Any) -> xarray.Dataset:
    """The history and the evaluations of one run as a labelled data set. The parameters are not part of it.

    Args:
      result: of `byzjax.run` or `byzjax.simulate`, of one run (without axes of a vmap).
      config: everything that determines the run, JSON-able; ``seed`` and ``eval_every`` are read from it.
      **attributes: more of the data set's attributes, e.g. how long the run took.

    Returns:
      Dimensions ``round`` (1, 2, …), ``eval`` (the round after which it was made) and, for what is reported per
      class, ``class`` (0, 1, …). Its attributes hold the configuration as JSON, versions and the device kind.

    Raises:
      ValueError: a configuration that is not JSON.

    >>> import jax.numpy as jnp
    >>> result = Result(None, {"loss": jnp.zeros(4)}, {"test_accuracy": jnp.array([0.5, 0.6])})
    >>> to_dataset(result, {"eval_every": 2, "seed": 0}).test_accuracy.coords["eval"].values.tolist()
    [2, 4]
    """
    import xarray

    import byzjax

    device = jax.devices()[0]
    dataset = xarray.Dataset(
        attrs={
            "config": encode(config),
            **({"seed": config["seed"]} if "seed" in config else {}),
            "byzjax_version": byzjax.__version__,
            "jax_version": jax.__version__,
            "platform": device.platform,
            "device_kind": device.device_kind,
            **attributes,
        }
    )
    order = list(DESCRIPTIONS)  # jit sorts by name; here what belongs together stands together
    for leading, values in (("round", result.history), ("eval", result.evals)):
        for name, value in sorted(values.items(), key=lambda item: order.index(item[0]) if item[0] in order else 99):
            array = np.asarray(value)
            long_name, units = DESCRIPTIONS.get(name, (name.replace("_", " "), "1"))
            dataset[name] = (_dims(name, array, leading), array, {"long_name": long_name, "units": units})
    every = int(config.get("eval_every", 1))
    steps = {"round": 1, "eval": every, "class": 1}
    described = {
        "round": ("round, counted from 1", "1"),
        "eval": ("round after which the model was evaluated", "1"),
        "class": ("class", "1"),
    }
    for name, (long_name, units) in described.items():
        if name in dataset.sizes:
            first = 0 if name == "class" else steps[name]
            values = first + steps[name] * np.arange(dataset.sizes[name], dtype=np.int32)
            dataset = dataset.assign_coords({name: (name, values, {"long_name": long_name, "units": units})})
    return dataset


def _dims(name: str, array: np.ndarray, leading: str) -> tuple[str, ...]:
    if array.ndim == 2 and name.endswith("_per_class"):
        return leading, "class"
    return leading, *(f"{name}_axis{axis}" for axis in range(1, array.ndim))


def encode(config: Mapping[str, Any]) -> str:
    """A configuration as JSON with sorted keys: equal text means equal configurations.

    Raises:
      ValueError: it holds something that JSON cannot say.
    """
    try:
        return json.dumps(config, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: only what JSON can say may be in a configuration ({error}).") from error


def config_of(dataset: xarray.Dataset) -> dict[str, Any]:
    """The configuration that a data set was made with."""
    return json.loads(dataset.attrs["config"])


def empirical_kappa(dataset: xarray.Dataset) -> xarray.DataArray:
    """``‖v − v̄_G‖ / ((1/G) Σ_{i ∈ G} ‖v_i − v̄_G‖)`` of every round: the κ that Definition 1 would have needed.

    Args:
      dataset: with the history's ``aggregation_error`` and ``honest_spread``.
    """
    import xarray

    spread = dataset["honest_spread"]
    ratio = xarray.where(spread > 0, dataset["aggregation_error"] / spread.where(spread > 0), np.nan)
    ratio.attrs = {"long_name": "empirical κ: aggregation error / honest spread", "units": "1"}
    return ratio


def diverged_at(dataset: xarray.Dataset) -> int | None:
    """The first round after which the parameters were no longer finite, or None."""
    if "finite" not in dataset or bool(dataset["finite"].all()):
        return None
    return int(dataset["round"][int(np.argmin(np.asarray(dataset["finite"], bool)))])


def save(dataset: xarray.Dataset, path: str | Path) -> Path:
    """Write a data set to a netCDF file: all of it, or nothing at all if the process dies.

    Args:
      dataset: what `to_dataset` made.
      path: of the file; its folder is created.

    Returns:
      The path.
    """
    with writing(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")
    return Path(path)


def load(path: str | Path) -> xarray.Dataset:
    """Read a file that `save` wrote, into memory.

    Args:
      path: of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a result of byzjax.
    """
    import xarray

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        dataset = xarray.load_dataset(path, engine="h5netcdf")
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, … for damaged files
        raise ValueError(f"{path} cannot be read as netCDF ({type(error).__name__}); remove it to go on.") from error
    if "config" not in dataset.attrs:
        raise ValueError(f"{path} is netCDF, but not a result of byzjax: it holds no configuration.")
    return dataset


@contextlib.contextmanager
def writing(path: str | Path):
    """A temporary path beside ``path`` that takes its place when all went well, and vanishes otherwise.

    The file comes to be in one step: a reader, or a run that starts after a crash, sees the old one or the new one.

    Args:
      path: of the final file; its folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are private; results are to be shared like any other file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
