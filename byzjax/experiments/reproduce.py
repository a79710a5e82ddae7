"""An experiment, run: one resumable sweep per method, and one data set of everything."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import byzjax
from byzjax import aggregators, attacks, metrics, results
from byzjax.base import Task
from byzjax.experiments.experiment import MEAN, NONE, Experiment
from byzjax.simulate import Result, simulate

if TYPE_CHECKING:
    import xarray


def reproduce(
    experiment: Experiment,
    store: str | Path,
    *,
    progress: bool = True,
    batch_size: Any = "auto",
    code_version: str | None = None,
) -> xarray.Dataset:
    """Run all of an experiment; what the store holds already is not run again.

    Args:
      experiment: what to run.
      store: a folder, see `byzjax.sweep`. The data set is put there as ``NAME-VARIANT.nc``.
      progress: show a bar.
      batch_size, code_version: see `byzjax.sweep`.

    Returns:
      A data set with the dimensions ``method``, ``case`` (with the coordinates ``attack`` and ``aggregator``),
      ``learning_rate``, ``seed``, and ``eval``. A method is NaN at learning rates that it was not tried at; ``tried``
      says so.

    Raises:
      ValueError, OSError, KeyboardInterrupt: see `byzjax.sweep`.
    """
    with precision(experiment.precision):
        task = experiment.task()
        parts = [
            byzjax.sweep(
                lane(experiment, task, method),
                grid={
                    "learning_rate": recipe.learning_rates,
                    **experiment.lanes,
                    "seed": experiment.seeds,
                },
                cells={"case": {f"{attack} / {rule}": (attack, rule) for attack, rule in experiment.cases}},
                batch_size=batch_size,
                store=store,
                progress=progress,
                config={**experiment.described(), "method": method, "eval_every": experiment.eval_every},
                name=f"{experiment.name} ({experiment.variant}), {method}",
                code_version=code_version,
            )
            for method, recipe in experiment.methods.items()
        ]
    dataset = _joined(experiment, parts)
    results.save(dataset, path_of(experiment, store))
    return dataset


def path_of(experiment: Experiment, store: str | Path) -> Path:
    """Where the data set of an experiment is put."""
    return Path(store) / f"{experiment.name}-{experiment.variant}.nc"


def lane(experiment: Experiment, task: Task, method: str) -> Callable[..., Result]:
    """One run as a function of the axes; of its history it keeps the rounds of evaluations.

    What is recorded in round k belongs to the parameters before it, what is evaluated to those after it.
    """
    byzantine = np.arange(task.num_workers) >= task.num_workers - experiment.num_byzantine
    every = experiment.eval_every

    def run(*, case: tuple[str, str], learning_rate: jax.Array, seed: jax.Array, **more: jax.Array) -> Result:
        attack, rule = parts(experiment, case, seed)
        result = simulate(
            experiment.per_run(task, seed),
            experiment.methods[method].build(learning_rate, rule, **more),
            attack,
            byzantine=jnp.asarray(byzantine),
            key=jax.random.key(seed),
            num_rounds=experiment.num_rounds,
            eval_every=every,
            record=metrics.record(*_recordable(experiment, case[1])),
        )
        kept = {name: values[every - 1 :: every] for name, values in result.history.items()}
        return Result(result.state, {}, {**result.evals, **kept})

    return run


def parts(experiment: Experiment, case: tuple[str, str], seed: jax.Array) -> tuple[Any, Any]:
    """The attack and the rule of a case."""
    attack, rule = case
    return (
        attacks.none() if attack == NONE else experiment.attacks[attack](seed),
        aggregators.mean() if rule == MEAN else experiment.aggregators[rule],
    )


def _recordable(experiment: Experiment, rule: str) -> tuple[str, ...]:
    """Whom a mixing kept can only be told where there is one."""
    return tuple(name for name in experiment.record if rule != MEAN or name != "attackers_kept")


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """All numbers of a block in float64 or float32, in every thread."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", name == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _joined(experiment: Experiment, parts: list[xarray.Dataset]) -> xarray.Dataset:
    import xarray

    labels = list(experiment.methods)
    for part in parts:
        part["tried"] = xarray.ones_like(part["diverged"], bool)
    rates = np.unique(np.concatenate([part["learning_rate"].values for part in parts]))
    fill = {"diverged": False, "tried": False}
    aligned = [
        xarray.Dataset({name: _on(part[name], rates, fill.get(str(name), np.nan)) for name in part.data_vars})
        for part in parts
    ]
    dataset = xarray.concat(aligned, xarray.IndexVariable("method", labels), coords="minimal", compat="override")
    attack, rule = zip(*experiment.cases, strict=True)
    dataset = dataset.assign_coords(attack=("case", list(attack)), aggregator=("case", list(rule)))
    for part in parts:
        for name in part.variables:
            dataset[name].attrs.update(part[name].attrs)
    dataset.attrs = {**parts[0].attrs, "config": results.encode(experiment.described())}
    seconds = {name: float(sum(part.attrs[name] for part in parts)) for name in ("compile_seconds", "run_seconds")}
    counts = {name: int(sum(part.attrs[name] for part in parts)) for name in ("lanes", "diverged")}
    dataset.attrs.update(**seconds, **counts, batch_size=json.dumps([part.attrs["batch_size"] for part in parts]))
    return dataset


def _on(values: xarray.DataArray, rates: np.ndarray, fill: Any) -> xarray.DataArray:
    return values.reindex(learning_rate=rates, fill_value=fill) if "learning_rate" in values.dims else values
