"""The learning rate of every cell of a table, chosen as an experiment says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from byzjax import results

if TYPE_CHECKING:
    import xarray


def chosen(dataset: xarray.Dataset) -> xarray.Dataset:
    """A data set of `reproduce` at the learning rate that its own configuration chooses, anew for every cell.

    A candidate's score is the mean of ``tuning["by"]`` over ``tuning["seeds"]`` (all, if None) at the evaluation after
    round ``tuning["after"]`` (the last one until then; of the run, if None). Candidates are the rates that the method
    was tried at. One of which a lane of these seeds diverged, whenever that was, or whose score is not finite, has no
    score and is never chosen. Equal scores give the smaller rate.

    Unlike `byzjax.select` this takes what ``tuning`` names, test data included: what was published was chosen that
    way in places, and reports say so.

    Args:
      dataset: of `byzjax.experiments.reproduce.reproduce`.

    Returns:
      The data set without the dimension ``learning_rate``, all seeds kept, with three coordinates over the remaining
      axes of the grid (method, case, and β where that was swept): ``learning_rate``, NaN where no candidate has a
      score and then all numbers are NaN; ``at_edge``, ``"low"`` or ``"high"`` if the choice is the smallest or largest
      of several rates that the method was tried at, else ``""``; and ``num_tried``.

    Raises:
      ValueError: the data set lacks what ``tuning`` needs.
    """
    import xarray

    score = scores(dataset)
    ranked = np.asarray(score.transpose(..., "learning_rate"), float)
    worst = np.where(np.isfinite(ranked), ranked, np.inf)  # lower is better, and the first of equals wins
    rates = np.asarray(dataset["learning_rate"], float)
    order = np.argsort(rates, kind="stable")
    place = order[worst[..., order].argmin(-1)]
    scored = np.isfinite(ranked).any(-1)

    dims = [dim for dim in score.dims if dim != "learning_rate"]
    over: Any = {dim: score[dim] for dim in dims if dim in score.coords}
    tried = np.asarray(dataset["tried"].any("seed").transpose(*dims, "learning_rate"), bool)
    rate = np.where(scored, rates[place], np.nan)
    several = tried.sum(-1) > 1
    low = several & (rate == np.where(tried, rates, np.inf).min(-1))
    high = several & (rate == np.where(tried, rates, -np.inf).max(-1))

    best = dataset.isel(learning_rate=xarray.DataArray(place, over, dims)).drop_vars("learning_rate")
    for name in best.data_vars:
        if best[name].dtype.kind == "f":
            best[name] = best[name].where(xarray.DataArray(scored, over, dims)).assign_attrs(dataset[name].attrs)
    return best.assign_coords(
        learning_rate=(dims, rate, dataset["learning_rate"].attrs),
        at_edge=(dims, np.where(low, "low", np.where(high, "high", ""))),
        num_tried=(dims, tried.sum(-1)),
    ).assign_attrs(dataset.attrs)


def scores(dataset: xarray.Dataset) -> xarray.DataArray:
    """The score of every candidate, the lower the better; NaN for one that cannot be chosen.

    Args:
      dataset: of `byzjax.experiments.reproduce.reproduce`.

    Raises:
      ValueError: the data set lacks what ``tuning`` needs.
    """
    tuning = results.config_of(dataset)["tuning"]
    by = tuning["by"]
    if by not in dataset:
        raise ValueError(f"chosen: by = {by!r} is not in the data set; it has {sorted(map(str, dataset.data_vars))}.")
    score = dataset[by].where(~dataset["diverged"])
    if "eval" in score.dims:
        score = score.isel(eval=evaluation(dataset, tuning["after"]))
    seeds = np.asarray(dataset["seed"])
    wanted = seeds if tuning["seeds"] is None else [seed for seed in tuning["seeds"] if seed in seeds]
    if not len(wanted):
        raise ValueError(f"chosen: seeds = {tuning['seeds']} choose the rate, and the data set has {seeds.tolist()}.")
    score = score.sel(seed=wanted)
    score = score.where(np.isfinite(score)).mean("seed", skipna=False)
    score = score.where(dataset["tried"].sel(seed=wanted).all("seed"))
    return -score if tuning["best"] == "max" else score


def evaluation(dataset: xarray.Dataset, after: int | None) -> int:
    """The place of the last evaluation until a round; of the last one of all by default.

    Raises:
      ValueError: none was made until then.
    """
    rounds = np.asarray(dataset["eval"])
    until = np.flatnonzero(rounds <= (rounds[-1] if after is None else after))
    if not len(until):
        raise ValueError(f"chosen: after = {after} is before the first evaluation, in round {rounds[0]}.")
    return int(until[-1])
