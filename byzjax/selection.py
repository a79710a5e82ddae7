"""Choosing hyperparameters: on validation data, never on test data, and not without a look at the edge of the grid."""

from __future__ import annotations

import re
import typing
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from byzjax.checks import check_choice, check_dataset
from byzjax.results.metric_names import Best, direction, is_test
from byzjax.results.reading import believed

if TYPE_CHECKING:
    import xarray

REDUCTIONS = ("mean", "median", "min", "max")


class EdgeWarning(UserWarning):
    """The best value sits on the edge of its grid: a better one may lie outside."""


class DivergedWarning(UserWarning):
    """No candidate stayed finite."""


def select(
    dataset: xarray.Dataset,
    *,
    over: str | Sequence[str],
    by: str,
    reduce: str | None = "mean over seeds",
    best: Best | None = None,
    last: int = 1,
) -> xarray.Dataset:
    """The data set at the best value of ``over``, chosen anew for every combination of all other axes.

    A candidate's score is ``by`` at the end of the run, reduced over seeds. A candidate of which one run diverged has
    no score: it is never chosen while another has one. Equal scores give the smaller value.

    Args:
      dataset: of `sweep`.
      over: the axis or axes to choose from.
      by: a metric that is not of test data; those stay unseen until the choice is made.
      reduce: ``"mean over seeds"``: mean, median, min or max, and the axis, in the singular or the plural. None if
        every run is to choose for itself.
      best: ``"max"`` or ``"min"``. Known for names with the word accuracy (max), or loss, norm, objective, distance,
        error, perplexity, spread or kappa (min), but not for such with both.
      last: the score is the mean of the last so many entries of ``eval`` or ``round``.

    Returns:
      The data set without the dimensions ``over``; what was chosen is in the coordinates of that name. All seeds stay.

    Raises:
      ValueError: a test metric, an unknown name, or a direction that is not known.

    Warns:
      EdgeWarning: the best value is the smallest or largest of its grid.
      DivergedWarning: all candidates diverged somewhere; the smallest is given there. Not where nothing was run, by the
        coordinate ``ran`` that sweeps of grid files have.

    >>> import xarray
    >>> accuracy = [[[0.1, 0.2], [0.9, 0.7], [0.8, 0.9]]]
    >>> dataset = xarray.Dataset({"val_accuracy": (("rule", "learning_rate", "seed"), accuracy)},
    ...                          {"rule": ["krum"], "learning_rate": [0.1, 0.3, 1.0], "seed": [0, 1]})
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", EdgeWarning)
    ...     select(dataset, over="learning_rate", by="val_accuracy").learning_rate.values.tolist()
    [1.0]
    """
    dataset = believed(check_dataset(dataset, "select"))
    axes = [over] if isinstance(over, str) else list(over)
    _check(dataset, axes, by)
    up = _upwards(by, best)
    score = _score(dataset, axes, by, reduce, last)

    ranked = score.transpose(..., *axes)
    for axis in axes:  # of equals the smaller value comes first
        ranked = ranked.sortby(axis)
    flat = np.asarray(ranked, np.float64).reshape(*ranked.shape[: -len(axes)], -1)
    flat = np.where(np.isnan(flat), np.inf, -flat if up else flat)
    places = np.unravel_index(flat.argmin(-1), ranked.shape[-len(axes) :])
    chosen = {
        axis: score.isel(dict.fromkeys(axes, 0), drop=True).copy(data=place)
        for axis, place in zip(axes, places, strict=True)
    }
    scoreless = np.asarray(np.isinf(flat).all(-1))
    _warn(ranked, axes, chosen, scoreless, lost=scoreless & _ran(dataset, axes, chosen[axes[0]]))
    names = {axis: chosen[axis].copy(data=np.asarray(ranked[axis])[chosen[axis].values]) for axis in axes}
    return dataset.sel(names)


def _check(dataset: xarray.Dataset, axes: list[str], by: str) -> None:
    if is_test(by):
        raise ValueError(
            f"select: by = {by!r} is measured on test data, which must not choose anything; use a validation metric, "
            "e.g. by='val_accuracy'."
        )
    if by not in dataset.data_vars:
        raise ValueError(f"select: by = {by!r} is not in the data set; it has {sorted(map(str, dataset.data_vars))}.")
    for axis in axes:
        if axis not in dataset[by].dims or axis in ("round", "eval", "class"):
            raise ValueError(f"select: over = {axis!r} is not an axis that {by!r} was swept over: {dataset[by].dims}.")


def _upwards(by: str, best: str | None) -> bool:
    known = direction(by) if best is None else check_choice(best, typing.get_args(Best), "best", "select")
    if known is None:
        raise ValueError(f"select: it is not known whether much or little {by!r} is good; pass best='max' or 'min'.")
    return known == "max"


def _score(dataset: xarray.Dataset, axes: list[str], by: str, reduce: str | None, last: int) -> xarray.DataArray:
    """One number per candidate; NaN if any part of it is, or its run diverged."""
    score = dataset[by].astype(float) if dataset[by].dtype.kind in "iub" else dataset[by]
    for time in ("round", "eval"):
        if time in score.dims:
            if not 1 <= last <= score.sizes[time]:
                raise ValueError(
                    f"select: last = {last} must be between 1 and the {score.sizes[time]} of {time!r}; pass "
                    f"last={score.sizes[time]} or less."
                )
            score = score.isel({time: slice(-last, None)}).mean(time, skipna=False)
    if "diverged" in dataset:
        score = score.where(~dataset["diverged"])
    score = score.where(np.isfinite(score))
    more = [dim for dim in score.dims if dim not in dataset.coords or dim == "class"]
    if more:
        raise ValueError(f"select: {by!r} is not one number per run, it also has the axes {more}.")
    if reduce is None:
        return score
    how, axis = _parsed(reduce, score)
    if axis in axes:
        raise ValueError(f"select: {axis!r} is chosen from, and cannot be averaged away too; pass another reduce.")
    return getattr(score, how)(axis, skipna=False)


def _parsed(reduce: str, score: xarray.DataArray) -> tuple[str, str]:
    match = re.fullmatch(r"(\w+) over (\w+)", reduce)
    if match is None or match[1] not in REDUCTIONS:
        raise ValueError(
            f"select: reduce = {reduce!r} must be like 'mean over seeds', with one of {REDUCTIONS}, or None."
        )
    names = [name for name in (match[2], match[2].removesuffix("s")) if name in score.dims]
    if not names:
        raise ValueError(
            f"select: reduce = {reduce!r}: there is no axis {match[2]!r} in {score.dims}; pass reduce=None."
        )
    return match[1], names[0]


def _ran(dataset: xarray.Dataset, axes: list[str], like: xarray.DataArray) -> np.ndarray:
    """Where anything was run at all: a grid may leave cells out."""
    if "ran" not in dataset.coords:
        return np.ones(like.shape, bool)
    ran = dataset["ran"].any([axis for axis in axes if axis in dataset["ran"].dims])
    return np.asarray((like.copy(data=np.ones(like.shape, bool)) & ran).transpose(*like.dims))


def _warn(
    score: xarray.DataArray,
    axes: list[str],
    chosen: dict[str, xarray.DataArray],
    scoreless: np.ndarray,
    lost: np.ndarray,
) -> None:
    for axis in axes:
        values = np.asarray(score[axis])
        if len(values) < 2 or values.dtype.kind not in "iuf":
            continue
        places = chosen[axis].values
        for end, which in ((0, "smallest"), (len(values) - 1, "largest")):
            at_end = (places == end) & ~scoreless
            if at_end.any():
                where = _where(chosen[axis], at_end)
                warnings.warn(
                    f"select: the best {axis} is the {which} of its grid, {values[end]:g}{where}; a better one may lie "
                    "beyond: widen the grid.",
                    EdgeWarning,
                    stacklevel=3,
                )
    if lost.any():
        where = _where(chosen[axes[0]], lost)
        warnings.warn(
            f"select: all candidates diverged{where}; the smallest is given, and means nothing.",
            DivergedWarning,
            stacklevel=3,
        )


def _where(places: xarray.DataArray, at_end: np.ndarray) -> str:
    """The combinations of the other axes, if there are any; a few of them by name."""
    if not places.dims:
        return ""
    points = [
        ", ".join(f"{dim}={places[dim].values[k]}" for dim, k in zip(places.dims, point, strict=True))
        for point in np.argwhere(at_end)
    ]
    more = f" and {len(points) - 3} more" if len(points) > 3 else ""
    return f", for {'; '.join(points[:3])}{more}"
