"""What a heat map or a table shows of a sweep: the worst attack, at hyperparameters chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from byzjax.checks import check_dataset
from byzjax.plotting.style import capitalized, long_name
from byzjax.plotting.summaries import (
    AXES,
    LEVEL,
    TIME,
    Summary,
    axis_name,
    axis_of,
    default_score,
    fixed,
    metric_of,
    plus_minus,
    speaking_labels,
    summarize,
)
from byzjax.results.metric_names import Best, direction, is_share
from byzjax.results.reading import believed
from byzjax.selection import select

if TYPE_CHECKING:
    import xarray

_SEEN = {"round eval": "evaluated in round", "evaluation eval": "evaluation", "round round": "seen in round"}


class Picture(NamedTuple):
    """A metric over a few axes, all others being averaged, chosen or at their worst.

    Attributes:
      metric: which.
      shown: the axes that are left.
      summary: over seeds, with the dimensions ``shown``; where there is a worst attack, under it. Then ``diverged``
        counts runs under all attacks, and one under which no run is finite makes the mean NaN.
      chosen: axis -> label of the value that was chosen, with the dimensions ``shown``.
      worst: label of the worst attack, likewise; None if none was looked for.
      runs: how many there are behind every cell.
      fixed: what is the same in all cells, as ``axis = value``.
      caption: sentences that say all this, but for what is fixed.
    """

    metric: str
    shown: tuple[str, ...]
    summary: Summary
    chosen: dict[str, xarray.DataArray]
    worst: xarray.DataArray | None
    runs: int
    fixed: tuple[str, ...]
    caption: tuple[str, ...]

    def number(self, digits: int = 1, **place: int) -> str:
        """Mean ± half width of one cell; what it is instead where there is no mean."""
        mean, half, _, diverged = (part.isel(place) for part in self.summary)
        if not np.isfinite(mean):
            return "diverged" if int(diverged) else "not run"
        if is_share(self.metric):
            return plus_minus(100 * float(mean), 100 * float(half), digits)
        return plus_minus(float(mean), float(half))

    def remarks(self, **place: int) -> list[str]:
        """What else there is to say of a cell: diverged runs, the choices, the worst attack."""
        diverged, known = int(self.summary.diverged.isel(place)), bool(np.isfinite(self.summary.mean.isel(place)))
        labels = list(self.chosen.values()) if known else []
        if self.worst is not None and (known or diverged):
            labels.append(self.worst)
        counted = [f"{diverged} of {self.runs} diverged"] if diverged and known else []
        return counted + [str(label.isel(place).item()) for label in labels]


def picture(
    dataset: xarray.Dataset,
    metric: str,
    *,
    shown: Sequence[str],
    over: str = "seed",
    worst: str | None = None,
    choose: Sequence[str] = (),
    by: str | None = None,
    best: Best | None = None,
    last: int = 1,
) -> Picture:
    """The last evaluation of a metric, over the axes ``shown``.

    Args:
      dataset: of a sweep.
      metric: which variable.
      shown: axes that are kept.
      over: the axis of means and confidence intervals.
      worst: an axis, the attack, of which the worst value is shown: where the mean over seeds is lowest (of losses,
        norms and distances, highest).
      choose: axes whose value is chosen by ``by``, apart for every cell, but not for every attack: what is best at its
        worst over the axis ``worst``. A defender does not know the attack.
      by: what to choose by, e.g. ``"val_accuracy"``; never a test metric.
      best: whether much or little of it is good, see `byzjax.select`.
      last: choose by the mean over so many last evaluations.

    Raises:
      ValueError: an axis that is not there, used twice or left over; nothing to choose by.
    """
    dataset = believed(check_dataset(dataset, "picture"))
    metric_of(dataset, metric)
    for argument, axes in (("shown", shown), ("worst", [worst] if worst else []), ("choose", choose)):
        for axis in axes:
            axis_of(dataset[metric], axis, argument)
    used = [*shown, *choose, *([worst] if worst else []), over]
    if set(used) & set(TIME):
        raise ValueError(
            f"{' and '.join(set(used) & set(TIME))} cannot be shown: these are the numbers of the last one."
        )
    twice = {axis for axis in used if used.count(axis) > 1}
    if twice:
        raise ValueError(f"{min(twice)} cannot be shown, chosen, averaged and looked for at its worst at once.")
    left = [str(axis) for axis in dataset[metric].dims if axis not in (*used, *TIME) and dataset.sizes[axis] > 1]
    if left:
        raise ValueError(
            f"{metric} also has the axis {left[0]} with {dataset.sizes[left[0]]} values: fix it (--where "
            f"{left[0]}=…), choose it (--choose {left[0]}) or show it (--x, --y)."
        )
    whole, runs = dataset, dataset.sizes.get(over, 1) * (dataset.sizes[worst] if worst else 1)
    if choose:
        by = by or default_score(dataset)
        dataset = at_best(dataset, metric, choose=choose, by=by, best=best, worst=worst, over=over, last=last)
    values = dataset[metric]
    values = values.isel({axis: -1 for axis in values.dims if axis in TIME})
    values = values.squeeze([axis for axis in values.dims if axis not in used])
    chosen = {axis: _labels(whole, axis, values[axis]) for axis in choose}
    summary, at_worst = summarize(values, over), None
    if worst:
        summary, place = _worst(summary, worst, metric)
        at_worst = _labels(whole, worst, whole[worst].isel({worst: place}))
    summary = Summary(*(part.transpose(*shown) for part in summary))
    sentences = _sentences(whole, metric, over, worst, choose, by, last, int(summary.diverged.sum()))
    same = fixed(whole, metric, (*used, *(axis for axis in whole[metric].dims if axis in TIME)))
    return Picture(metric, tuple(shown), summary, chosen, at_worst, runs, tuple(same), tuple(sentences))


def at_best(
    dataset: xarray.Dataset,
    metric: str,
    *,
    choose: Sequence[str],
    by: str,
    best: Best | None = None,
    worst: str | None = None,
    over: str = "seed",
    last: int = 1,
) -> xarray.Dataset:
    """`byzjax.select`, but with the same choice for all values of one axis: the attack.

    Args:
      dataset: of a sweep.
      metric: the one variable that is kept.
      choose: the axes; what was chosen stays as their coordinates.
      by: the score, averaged over ``over`` and the last evaluations. A candidate of which a run diverged has none.
      best: see `byzjax.select`.
      worst: a candidate's score is the one that it has at its worst over this axis.
      over: the axis of the mean.
      last: evaluations.

    Raises:
      ValueError: see `byzjax.select`.

    Warns:
      EdgeWarning, DivergedWarning: see `byzjax.select`.
    """
    dataset = believed(check_dataset(dataset, "at_best"))
    metric_of(dataset, by)
    for axis in choose:
        axis_of(dataset[by], axis, "choose")
    scores = dataset[by].astype(float) if dataset[by].dtype.kind in "iub" else dataset[by]
    scores = scores.where(~dataset["diverged"]) if "diverged" in dataset else scores
    reduced = [axis for axis in (over, worst) if axis in scores.dims]
    for axis in TIME:
        if axis in scores.dims and reduced:  # before the worst is looked for
            scores = scores.isel({axis: slice(-last, None)}).mean(axis, skipna=False)
            last = 1
    if over in reduced:
        scores = scores.mean(over, skipna=False)
    if worst in reduced:
        sign = _sign(by, best, "say --best max or --best min.")
        scores = sign * (sign * scores).min(worst, skipna=False)
    table = scores.to_dataset(name=by)
    if "ran" in dataset.coords:
        table = table.assign_coords(ran=dataset["ran"].any([axis for axis in reduced if axis in dataset["ran"].dims]))
    chosen = select(table, over=list(choose), by=by, reduce=None, best=best, last=last)
    return dataset[[metric]].sel({axis: chosen[axis] for axis in choose})


def chosen_lines(
    dataset: xarray.Dataset,
    metric: str,
    *,
    choose: Sequence[str],
    by: str | None,
    best: Best | None = None,
    over: str = "seed",
    last: int = 1,
) -> tuple[xarray.Dataset, str]:
    """A data set for curves, where every line has the best values of some axes, and a sentence that says so.

    Args:
      dataset: of a sweep.
      metric: the one variable that is kept.
      choose, by, best, over, last: as in `at_best`.
    """
    by = by or default_score(check_dataset(dataset, "chosen_lines"))
    lines = at_best(dataset, metric, choose=choose, by=by, best=best, over=over, last=last)
    return lines, f"Per line: {_chosen(dataset, choose, by, last)}."


def _worst(summary: Summary, axis: str, metric: str) -> tuple[Summary, xarray.DataArray]:
    """A summary where the mean is worst, and where that is; no finite run at all is worse than any."""
    sign = _sign(metric, None, f"show the {axis} (--x, --y), fix it (--where), or say --worst none.")
    ran = summary.finite + summary.diverged > 0
    order = (sign * summary.mean).fillna(-np.inf).where(ran, np.inf)
    place = order.argmin(axis)
    mean, half, finite, _ = (part.isel({axis: place}) for part in summary)
    return Summary(mean, half, finite, summary.diverged.sum(axis)), place


def _sign(metric: str, best: Best | None, fix: str) -> float:
    """1 where much of a metric is good, −1 where little is.

    Raises:
      ValueError: neither its name nor anybody says.
    """
    known = best or direction(metric)
    if known is None:
        raise ValueError(f"{metric}: it is not known whether much or little of it is good; {fix}")
    return 1.0 if known == "max" else -1.0


def _labels(dataset: xarray.Dataset, axis: str, values: xarray.DataArray) -> xarray.DataArray:
    """Values of an axis by their labels."""
    names = dict(zip(dataset[axis].values.tolist(), speaking_labels(dataset, axis), strict=True))
    flat = [names[value] for value in values.values.ravel().tolist()]
    return values.copy(data=np.array(flat, object).reshape(values.shape)).drop_vars(axis, errors="ignore")


def _sentences(
    dataset: xarray.Dataset,
    metric: str,
    over: str,
    worst: str | None,
    choose: Sequence[str],
    by: str | None,
    last: int,
    diverged: int,
) -> list[str]:
    """What a caption says."""
    number = dataset.sizes.get(over, 1)
    time = next((axis for axis in TIME if axis in dataset[metric].dims), None)
    what = [f"{_SEEN[f'{axis_name(dataset, time)} {time}']} {int(dataset[time][-1])}"] if time else []
    if number > 1:
        what.append(f"mean over {number} {over}s ± half the {100 * LEVEL:.0f} % confidence interval (Student's t)")
    lines = [capitalized("; ".join(what)) + "."] if what else []
    if worst:
        lines.append(f"The worst of {dataset.sizes[worst]} {AXES.get(worst, worst)}s.")
    if choose:
        whatever = f", whatever the {worst}" if worst else ""
        lines.append(f"Per cell{whatever}: {_chosen(dataset, choose, str(by), last)}.")
    if diverged:
        lines.append(f"{diverged} {'run' if diverged == 1 else 'runs'} diverged: counted, and not in the means.")
    return lines


def _chosen(dataset: xarray.Dataset, choose: Sequence[str], by: str, last: int) -> str:
    mean = f", mean of the last {last} evaluations" if last > 1 else ""
    return f"the {' and '.join(AXES.get(axis, axis) for axis in choose)} of the best {long_name(dataset, by)}{mean}"
