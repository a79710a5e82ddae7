"""An experiment, run: one resumable sweep per method, and one data set of everything."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from byzjax import aggregators, attacks, metrics, results
from byzjax.experiments.experiment import MEAN, NONE, Experiment
from byzjax.experiments.rate_choice import chosen
from byzjax.simulation.simulate import Result, simulate
from byzjax.storage.files import expanded
from byzjax.storage.leases import Leases
from byzjax.sweeps.sweep import sweep
from byzjax.task import Task

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

    A store has one data set of an experiment, and it grows: what an earlier call added and this one does not run stays.

    Returns:
      A data set with the dimensions ``optimizer``, ``case`` (with the coordinates ``attack`` and ``aggregator``),
      ``learning_rate``, ``seed``, and ``eval``. A method is NaN at learning rates that it was not tried at; ``tried``
      says so.

    Raises:
      ValueError: the store holds runs of another length or task of this experiment; see `byzjax.sweep`.
      OSError, KeyboardInterrupt: see `byzjax.sweep`.
    """
    with precision(experiment.precision):
        task = experiment.task()
        config = {**experiment.described(), **_size_of(task)}
        path = path_of(experiment, store)
        before = _before(path, config)  # of another setting? Say so before the first run, not after the last
        options = {"batch_size": batch_size, "store": store, "progress": progress, "code_version": code_version}
        swept = functools.partial(_swept, task=task, config=config, **options)
        dataset = _at_chosen_rates(experiment, swept, before) if experiment.chosen_only else swept(experiment)
    with _alone(path):  # what other processes added since this one began is there, too
        before = _before(path, config)
        if before is not None:
            dataset = _grown(dataset, before, (NONE, *experiment.labels))
        results.save(dataset, path)
    return dataset


def _swept(experiment: Experiment, *, task: Task, config: dict[str, Any], **options: Any) -> xarray.Dataset:
    """Every rate with every seed."""
    parts = [
        sweep(
            lane(experiment, task, method),
            grid={"learning_rate": recipe.learning_rates, **experiment.lanes, "seed": experiment.seeds},
            cells={"case": {f"{attack} / {rule}": (attack, rule) for attack, rule in experiment.cases}},
            config={**config, "method": method},
            name=f"{experiment.name} ({experiment.variant}), {method}",
            **options,
        )
        for method, recipe in experiment.methods.items()
    ]
    return _joined(experiment, config, parts)


def _at_chosen_rates(
    experiment: Experiment, swept: Callable[[Experiment], xarray.Dataset], before: xarray.Dataset | None
) -> xarray.Dataset:
    """All rates with the seeds that choose, then the other seeds with what these chose, cell by cell.

    Rates that the store holds already are candidates, too.
    """
    choose = experiment.tuning.seeds or experiment.seeds
    rest = tuple(seed for seed in experiment.seeds if seed not in choose)
    if not rest:
        raise ValueError(
            f"{experiment.name}: num_seeds = {len(experiment.seeds)} are all needed to choose the learning rate, and "
            f"nobody is left to report it; use at least {len(choose) + 1}."
        )
    dataset = swept(dataclasses.replace(experiment, seeds=choose))
    known = dataset if before is None else _grown(dataset, before, experiment.labels)
    rates = chosen(known)["learning_rate"]
    for method, (attack, rule) in itertools.product(experiment.methods, experiment.cases):
        rate = float(rates.sel(optimizer=method, case=f"{attack} / {rule}"))
        if np.isnan(rate):  # every one diverged
            continue
        cell = dataclasses.replace(
            experiment,
            attacks={attack: experiment.attacks[attack]},
            aggregators={rule: experiment.aggregators[rule]},
            methods={method: experiment.methods[method]._replace(learning_rates=(rate,))},
            seeds=rest,
        )
        dataset = _grown(swept(cell), dataset, experiment.labels)
    return dataset


def path_of(experiment: Experiment, store: str | Path) -> Path:
    """Where the data set of an experiment is put."""
    return expanded(store, "store") / f"{experiment.name}-{experiment.variant}.nc"


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
            record=_recorder(experiment, method, case[1]),
        )
        evaluated = {name: values[every - 1 :: every] for name, values in result.history.items()}
        return Result(result.state, {}, {**result.evals, **evaluated}, result.eval_rounds)

    return run


def parts(experiment: Experiment, case: tuple[str, str], seed: jax.Array) -> tuple[Any, Any]:
    """The attack and the rule of a case."""
    attack, rule = case
    return (
        attacks.none() if attack == NONE else experiment.attacks[attack](seed),
        aggregators.mean() if rule == MEAN else experiment.aggregators[rule],
    )


_MIXED = ("attackers_kept", "worker_kept")


def _recorder(experiment: Experiment, method: str, rule: str) -> metrics.Record:
    """What is recorded of all methods, and what of one. Whom a mixing kept can only be told where there is one."""
    common = metrics.record(*(name for name in experiment.record if rule != MEAN or name not in _MIXED))
    own = experiment.methods[method].record
    return common if own is None else lambda info: {**common(info), **own(info)}


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """All numbers of a block in float64 or float32, in every thread."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", name == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _size_of(task: Task) -> dict[str, Any]:
    params = jax.eval_shape(task.init, jax.random.key(0))
    return {
        "task": task.name,
        "num_workers": task.num_workers,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }


def _before(path: Path, config: dict[str, Any]) -> xarray.Dataset | None:
    """What the store holds of the experiment."""
    if not path.exists():
        return None
    dataset = results.load(path)
    stored, here = results.config_of(dataset), json.loads(results.encode(config))
    other = [f"{key} = {stored.get(key)} there, {here[key]} here" for key in here if stored.get(key) != here[key]]
    if other:
        raise ValueError(
            f"{path} is of another setting ({'; '.join(other)}); pass another store, or move the file away."
        )
    return dataset


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process that shares the store is in such a block for the same file."""
    with Leases(path.parent / "claims") as leases:
        while not leases.acquire(path.stem):
            time.sleep(0.1)
        yield


def _grown(dataset: xarray.Dataset, before: xarray.Dataset, labels: tuple[str, ...]) -> xarray.Dataset:
    """Both, in the order of the labels; where they overlap, the new one."""
    flags = {name: dataset[name].where(dataset["tried"]) for name in ("diverged", "tried")}  # of no run, nothing
    both = dataset.assign(flags).combine_first(before)
    for name in ("diverged", "tried"):
        both[name] = both[name].fillna(False).astype(bool).assign_attrs(dataset[name].attrs)

    def rank(label: str) -> int:
        return labels.index(label) if label in labels else len(labels)

    def place(case: str) -> tuple[int, ...]:
        """References come last."""
        attack, rule = case.split(" / ")
        return int(rule == MEAN and MEAN not in labels), rank(attack), rank(rule)

    methods, cases = (list(map(str, both[name].values)) for name in ("optimizer", "case"))
    both = both.sel(optimizer=sorted(methods, key=rank), case=sorted(cases, key=place))
    attack, rule = zip(*(str(case).split(" / ") for case in both["case"].values), strict=True)
    both = both.assign_coords(attack=("case", list(attack)), aggregator=("case", list(rule)))
    seconds = {name: dataset.attrs[name] + before.attrs[name] for name in ("compile_seconds", "run_seconds")}
    counts = {"lanes": int(both["tried"].sum()), "diverged": int(both["diverged"].sum())}
    both.attrs = {**dataset.attrs, **seconds, **counts}
    return both


def _joined(experiment: Experiment, config: dict[str, Any], parts: list[xarray.Dataset]) -> xarray.Dataset:
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
    dataset = xarray.concat(aligned, xarray.IndexVariable("optimizer", labels), coords="minimal", compat="override")
    attack, rule = zip(*experiment.cases, strict=True)
    dataset = dataset.assign_coords(attack=("case", list(attack)), aggregator=("case", list(rule)))
    for part in parts:
        for name in part.variables:
            dataset[name].attrs.update(part[name].attrs)
    dataset.attrs = {**parts[0].attrs, "config": results.encode(config)}
    seconds = {name: float(sum(part.attrs[name] for part in parts)) for name in ("compile_seconds", "run_seconds")}
    counts = {name: int(sum(part.attrs[name] for part in parts)) for name in ("lanes", "diverged")}
    dataset.attrs.update(**seconds, **counts, batch_size=json.dumps([part.attrs["batch_size"] for part in parts]))
    return dataset


def _on(values: xarray.DataArray, rates: np.ndarray, fill: Any) -> xarray.DataArray:
    return values.reindex(learning_rate=rates, fill_value=fill) if "learning_rate" in values.dims else values
