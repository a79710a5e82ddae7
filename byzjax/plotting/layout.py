"""What a figure or a table does with every axis of a sweep, where nobody said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from byzjax.checks import check_dataset
from byzjax.plotting.summaries import (
    TIME,
    axis_of,
    metric_of,
    scores,
)

if TYPE_CHECKING:
    import xarray


HYPERPARAMETERS = ("learning_rate", "beta")
# The axes that are shown where it is not said, the first of them that has several values.
_ACROSS_HEATMAP = ("num_byzantine", "f", "attack")
_ACROSS_TABLE = ("attack",)
_DOWN_HEATMAP = ("task", "aggregator", "optimizer")


class Layout(NamedTuple):
    """Which axes of a sweep are shown, rows before columns, which is at its worst, and which are chosen."""

    shown: tuple[str, ...]
    worst: str | None
    choose: tuple[str, ...]


def layout(
    dataset: xarray.Dataset,
    metric: str,
    *,
    table: bool = False,
    x: str | None = None,
    y: Sequence[str] | None = None,
    over: str = "seed",
    worst: str | None = None,
    choose: Sequence[str] | None = None,
    by: str | None = None,
) -> Layout:
    """What to do with every axis, where it is not said.

    A heat map has f, else the attack, across; the task, else the rule, down; the attack at its worst if it is neither;
    and the learning rate, the momentum, and under the worst attack the rule, chosen. A table has the attack across,
    and down whatever is not chosen.

    Args:
      dataset: of a sweep.
      metric: which variable.
      table: rather than a heat map.
      x: the axis across.
      y: the axes down.
      over: the axis of means.
      worst: the axis at its worst; ``"none"`` for none.
      choose: the axes to choose from.
      by: what to choose by; without it, and without a validation accuracy, a table chooses nothing.

    Raises:
      ValueError: an axis that is not there; no axes to show.
    """
    check_dataset(dataset, "layout")
    known = [str(axis) for axis in dataset[metric_of(dataset, metric)].dims if axis not in (over, *TIME)]
    for argument, axes in (("x", [x] if x else []), ("y", y or []), ("choose", choose or [])):
        for axis in axes:
            axis_of(dataset[metric], axis, argument)
    free = [axis for axis in known if dataset.sizes[axis] > 1 and axis not in (x, worst, *(y or ()), *(choose or ()))]
    if x is None:
        x, free = _take(free, _ACROSS_TABLE if table else _ACROSS_HEATMAP)
    if y is None and not table:
        down, free = _take(free, _DOWN_HEATMAP)
        y = [] if down is None else [down]
    if worst is None and "attack" in free and not table:
        worst = "attack"
    worst = None if worst == "none" else worst
    if choose is None:
        default = (*HYPERPARAMETERS, "aggregator") if worst else HYPERPARAMETERS
        choose = [axis for axis in free if axis in default and (not table or by or scores(dataset))]
    if y is None:
        y = [axis for axis in free if axis not in (*choose, worst)]
    if x is None or not (y or table):
        several = ", ".join(axis for axis in known if dataset.sizes[axis] > 1)
        raise ValueError(
            f"{'table: one axis' if table else 'heatmap: two axes'} with several values must be shown; {metric} has "
            f"{several or 'none'}. Name them: --x, --y."
        )
    return Layout((*y, x), worst, tuple(choose))


def _take(free: Sequence[str], preferred: Sequence[str]) -> tuple[str | None, list[str]]:
    """The first preferred axis that is free, else the first that is, or None; and the axes that stay free.

    >>> _take(["beta", "attack"], ["f", "attack"]), _take(["beta"], ["f"]), _take([], ["f"])
    (('attack', ['beta']), ('beta', []), (None, []))
    """
    taken = next((axis for axis in (*preferred, *free) if axis in free), None)
    return taken, [axis for axis in free if axis != taken]
