"""Results as named arrays on disk: an `xarray.Dataset` with units and the whole configuration, in netCDF."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from byzjax._version import __version__
from byzjax.checks import check_dataset, check_kind, shown, with_article
from byzjax.results.timeline import timeline
from byzjax.simulation.simulate import Result
from byzjax.storage import netcdf

if TYPE_CHECKING:
    import xarray

# name -> (long_name, units): what axes and readers of a file are told. Anything else goes by its own name.
DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "aggregate_norm": ("norm of the aggregate", "1"),
    "worker_kept": ("share of the honest workers' mixed rows that contain a worker", "1"),
    "honest_norm": ("norm of the honest mean", "1"),
    "aggregation_error": ("distance of the aggregate from the honest mean", "1"),
    "honest_spread": ("mean distance of honest updates from their mean", "1"),
    "loss": ("mean loss of the honest workers on their batches", "1"),
    "finite": ("parameters are finite after the round", "1"),
    "test_accuracy": ("test accuracy", "1"),
    "test_loss": ("test loss", "nats"),
    "test_accuracy_per_class": ("test accuracy per class", "1"),
    "test_perplexity": ("test perplexity", "1"),
    "val_accuracy": ("validation accuracy", "1"),
    "val_loss": ("validation loss", "nats"),
    "val_accuracy_per_class": ("validation accuracy per class", "1"),
    "val_perplexity": ("validation perplexity", "1"),
    "gradient_norm": ("true gradient norm", "1"),
    "objective": ("objective", "1"),
    "distance": ("distance to the optimum", "1"),
    "diverged": ("the parameters stopped being finite", "1"),
    "seed": ("seed", "1"),
    "learning_rate": ("learning rate γ₀", "1"),
    "beta": ("momentum β", "1"),
}


def to_dataset(result: Result, config: Mapping[str, Any] | None = None, **attributes: Any) -> xarray.Dataset:
    """The history and the evaluations of one run as a labelled data set. The parameters are not part of it.

    Args:
      result: of `byzjax.run` or `byzjax.simulate`, of one run (without axes of a vmap).
      config: everything that determines the run, JSON-able; ``seed`` is read from it, and ``eval_every`` where the
        result does not know when it was evaluated.
      **attributes: more of the data set's attributes, e.g. how long the run took.

    Returns:
      Dimensions ``round`` (1, 2, …, or on from the ``state`` that the run went on from), ``eval`` (the round after
      which it was made) and, for what is reported per class, ``class`` (0, 1, …). Its attributes hold the configuration
      as JSON, versions and the device kind.

    Raises:
      ValueError: a configuration that is not JSON, or says another ``eval_every``; several runs; a name that is
        recorded and evaluated; names, attributes and types that netCDF cannot hold.

    >>> import jax.numpy as jnp
    >>> result = Result(None, {"loss": jnp.zeros(4)}, {"test_accuracy": jnp.array([0.5, 0.6])})
    >>> to_dataset(result, {"eval_every": 2, "seed": 0}).test_accuracy.coords["eval"].values.tolist()
    [2, 4]
    """
    import xarray

    where = "to_dataset"
    check_kind(result, Result, "result", where, fix="pass what byzjax.run or byzjax.simulate gave.")
    settings: Mapping[str, Any] = check_kind(
        config or {}, Mapping, "config", where, fix="pass a dict of what determines the run."
    )
    both = sorted(set(result.history) & set(result.evals))
    if both:
        raise ValueError(f"{where}: {both} are recorded in every round and evaluated too; rename one.")
    netcdf.check_names((*result.history, *result.evals), where)
    after, evaluated = timeline(result, settings.get("eval_every"), where)
    dataset = xarray.Dataset(attrs=netcdf.check_attributes({**provenance(settings), **attributes}, where))
    for leading, values in (("round", result.history), ("eval", result.evals)):
        for name in in_order(values):
            array = netcdf.storable(name, values[name], where)
            dataset[name] = (dims_of(name, array.ndim, leading), array, described(name))
    return with_coordinates(dataset, evaluated, after=after)


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a data set that say what made it: the configuration, versions, the device.

    Raises:
      ValueError: a configuration that is not JSON.
    """
    device = jax.local_devices()[0]
    return {
        "config": encode(config),
        **({"seed": config["seed"]} if config.get("seed") is not None else {}),
        "byzjax_version": __version__,
        "jax_version": jax.__version__,
        "platform": device.platform,
        "device_kind": device.device_kind,
    }


def described(name: str) -> dict[str, str]:
    """The attributes of a variable that say what it is."""
    long_name, units = DESCRIPTIONS.get(name, (name.replace("_", " "), "1"))
    return {"long_name": long_name, "units": units}


def in_order(names: Iterable[str]) -> list[str]:
    """What belongs together together: jit sorts by name."""
    order = list(DESCRIPTIONS)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def with_coordinates(dataset: xarray.Dataset, evaluated: int | np.ndarray | None, *, after: int = 0) -> xarray.Dataset:
    """Number the dimensions ``round``, ``eval`` and ``class``, where there are any.

    Args:
      dataset: that has them.
      evaluated: the rounds of the evaluations, or how many there are between them; None where that is not known.
      after: rounds that were made before.
    """
    sizes = {name: np.arange(dataset.sizes.get(name, 0)) for name in ("round", "eval", "class")}
    if evaluated is None:
        evals = 1 + sizes["eval"], "evaluation, counted from 1"
    else:
        rounds = after + evaluated * (1 + sizes["eval"]) if isinstance(evaluated, int) else evaluated
        evals = rounds, "round after which the model was evaluated"
    numbered = {
        "round": (after + 1 + sizes["round"], "round, counted from 1"),
        "eval": evals,
        "class": (sizes["class"], "class"),
    }
    for name, (values, long_name) in numbered.items():
        if name in dataset.sizes:
            said = {"long_name": long_name, "units": "1"}
            dataset = dataset.assign_coords({name: (name, values.astype(np.int32), said)})
    return dataset


def dims_of(name: str, ndim: int, leading: str | None) -> tuple[str, ...]:
    """The dimensions of a variable with ``ndim`` axes, of which the first is ``leading`` if that is not None."""
    if ndim == 2 and leading is not None and name.endswith("_per_class"):
        return leading, "class"
    if ndim == 2 and leading is not None and name.startswith("worker_"):
        return leading, "worker"
    named = () if leading is None else (leading,)
    return *named, *(f"{name}_axis{axis}" for axis in range(len(named), ndim))


def encode(config: Mapping[str, Any]) -> str:
    """A configuration as JSON with sorted keys: equal text means equal configurations.

    Raises:
      ValueError: it holds something that JSON cannot say.

    >>> encode({"learning_rate": np.float32(0.5), "seed": np.int64(3)})
    '{"learning_rate": 0.5, "seed": 3}'
    """
    try:
        return json.dumps(config, sort_keys=True, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: only what JSON can say may be in a configuration ({error}).") from error


def _plain(value: Any) -> Any:
    """A number or flag of NumPy's or JAX's as one of Python's."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0:
        return np.asarray(value).item()
    raise TypeError(f"{shown(value)} is {with_article(type(value).__name__)}")


def config_of(dataset: xarray.Dataset) -> dict[str, Any]:
    """The configuration that a data set was made with; empty where nobody said."""
    return json.loads(check_dataset(dataset, "config_of").attrs.get("config", "{}"))


def empirical_kappa(dataset: xarray.Dataset) -> xarray.DataArray:
    """``‖v − v̄_G‖ / ((1/G) Σ_{i ∈ G} ‖v_i − v̄_G‖)`` of every round: the κ that Definition 1 would have needed.

    Args:
      dataset: with the history's ``aggregation_error`` and ``honest_spread``.
    """
    import xarray

    spread = check_dataset(dataset, "empirical_kappa")["honest_spread"]
    ratio = xarray.where(spread > 0, dataset["aggregation_error"] / spread.where(spread > 0), np.nan)
    ratio.attrs = {"long_name": "empirical κ: aggregation error / honest spread", "units": "1"}
    return ratio


def diverged_at(dataset: xarray.Dataset) -> int | None:
    """The first round after which the parameters were no longer finite, or None."""
    if "finite" not in check_dataset(dataset, "diverged_at") or bool(dataset["finite"].all()):
        return None
    return int(dataset["round"][int(np.argmin(np.asarray(dataset["finite"], bool)))])
