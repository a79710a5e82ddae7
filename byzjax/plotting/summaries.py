"""What is said of many runs: means over seeds with confidence intervals, who diverged, and what labels axes get."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from byzjax.configs.specs import nearest
from byzjax.plotting.style import calls_of, display_name, long_name, plain
from byzjax.results.metric_names import is_share

if TYPE_CHECKING:
    import xarray

LEVEL = 0.95
TIME = ("round", "eval")
AXES = {
    "aggregator": "rule",
    "optimizer": "method",
    "num_workers": "workers n",
    "num_byzantine": "Byzantine workers b",
    "f": "declared f",
    "learning_rate": "learning rate γ₀",
    "beta": "momentum β",
    "num_rounds": "rounds",
    "eval": "round",
}
SYMBOLS = {"learning_rate": "γ₀ = ", "beta": "β = ", "num_workers": "n = ", "num_byzantine": "b = ", "f": "f = "}


class Summary(NamedTuple):
    """A metric over seeds.

    Attributes:
      mean: over the runs that are finite; NaN where there are none.
      half_width: of the 95 % confidence interval of the mean, Student's t; NaN for fewer than two runs.
      finite: how many runs are in the mean.
      diverged: how many are not, because they stopped being finite. They are never averaged, and always counted.
    """

    mean: xarray.DataArray
    half_width: xarray.DataArray
    finite: xarray.DataArray
    diverged: xarray.DataArray

    def isel(self, **index: Any) -> Summary:
        """A part of it."""
        return Summary(*(part.isel(index) for part in self))


def summarize(values: xarray.DataArray, over: str = "seed") -> Summary:
    """Mean and confidence interval over an axis: ``x̄ ± t(0.975, m − 1) s/√m`` over the m finite entries.

    Args:
      values: of a sweep; NaN where a run diverged, and everywhere in a cell that was not run.
      over: the axis; without it every value is its own mean.

    >>> import xarray
    >>> summary = summarize(xarray.DataArray([1.0, 2.0, 3.0, np.nan], dims="seed"))
    >>> float(summary.mean), round(float(summary.half_width), 3), int(summary.finite), int(summary.diverged)
    (2.0, 2.484, 3, 1)
    """
    import xarray
    from scipy.special import stdtrit

    values = values.astype(float).where(np.isfinite(values))
    if over not in values.dims:
        values = values.expand_dims(over)
    finite = values.notnull().sum(over)
    mean = values.mean(over)
    variance = ((values - mean) ** 2).sum(over) / (finite - 1).where(finite > 1)
    quantile = xarray.apply_ufunc(stdtrit, (finite - 1).where(finite > 1), (1 + LEVEL) / 2)
    skipped = xarray.zeros_like(finite, dtype=bool) if "ran" not in values.coords else ~values.coords["ran"]
    diverged = (values.sizes[over] - finite).where(~skipped, 0)
    return Summary(mean, quantile * np.sqrt(variance / finite.where(finite > 0)), finite, diverged)


def metric_of(dataset: xarray.Dataset, metric: str | None = None) -> str:
    """A variable to show: the named one, or what a model is worth.

    Raises:
      ValueError: there is none of that name; with the nearest.
    """
    names = [str(name) for name in dataset.data_vars]
    if metric is None:
        return next(
            (name for name in ("test_accuracy", "test_perplexity", "gradient_norm", "loss") if name in names), names[0]
        )
    if metric not in names:
        raise ValueError(f"metric: no variable {metric!r} in this data set; {nearest(metric, names)}.")
    return metric


def default_score(dataset: xarray.Dataset) -> str:
    """What hyperparameters are chosen by where nothing is said.

    Raises:
      ValueError: there is neither a validation accuracy nor a validation perplexity.
    """
    known = scores(dataset)
    if not known:
        raise ValueError("by: there is no val_accuracy to choose hyperparameters by; say by what, e.g. --by objective.")
    return known[0]


def scores(dataset: xarray.Dataset) -> list[str]:
    """What a model is worth on validation data."""
    return [name for name in ("val_accuracy", "val_perplexity") if name in dataset]


def axis_of(data: xarray.Dataset | xarray.DataArray, axis: str, argument: str) -> str:
    """Check that data have an axis.

    Raises:
      ValueError: they have not; with the nearest.
    """
    axes = [str(dim) for dim in data.dims]
    if axis not in axes:
        raise ValueError(f"{argument}: {axis!r} is not an axis here; {nearest(axis, axes)}.")
    return axis


def where(dataset: xarray.Dataset, fixed: Mapping[str, Sequence[str]]) -> xarray.Dataset:
    """The part of a data set at given values.

    Args:
      dataset: of a sweep.
      fixed: axis -> values as text; one value drops the axis.

    Raises:
      ValueError: no such axis or value; with the nearest.
    """
    for axis, texts in fixed.items():
        axis_of(dataset, axis, "where")
        places = [_place(dataset[axis].values, text, axis) for text in texts]
        dataset = dataset.isel({axis: places[0] if len(places) == 1 else places})
    return dataset


def _place(values: np.ndarray, text: str, axis: str) -> int:
    try:
        matches = [np.isclose(float(value), float(text), rtol=1e-5, atol=0) for value in values]
    except ValueError:
        matches = [_bare(str(value)) == _bare(text) for value in values]
    if not any(matches):
        known = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        raise ValueError(f"where: {axis} is never {text}; {nearest(text, known)}.")
    return int(np.argmax(matches))


def _bare(text: str) -> str:
    """Without blanks and quotation marks, which shells eat."""
    return re.sub(r"[\s'\"]", "", text)


def axis_labels(dataset: xarray.Dataset, axis: str) -> tuple[str, list[str]]:
    """What an axis and its values are called. Of specifications that differ in one argument only that is said.

    >>> import xarray
    >>> axis_labels(xarray.Dataset(coords={"task": ["mnist(scheme='iid')", "mnist(scheme='label_sorted')"]}), "task")
    ('MNIST: scheme', ['iid', 'label sorted'])
    """
    values = dataset[axis].values
    said = axis_name(dataset, axis)
    if values.dtype.kind in "iufb":
        return said, _distinct([f"{value:g}" for value in values.astype(float)], values)
    texts = [str(value) for value in values]
    return _difference(texts) or (said, _distinct([display_name(text) for text in texts], texts))


def speaking_labels(dataset: xarray.Dataset, axis: str) -> list[str]:
    """What values of an axis are called where the axis itself is not named: numbers and flags say what they are.

    >>> import xarray
    >>> axes = xarray.Dataset(coords={"f": [1, 3], "tau": [0.5], "rule": ["krum"]})
    >>> [speaking_labels(axes, axis) for axis in axes.coords]
    [['f = 1', 'f = 3'], ['tau = 0.5'], ['Krum']]
    """
    said, labels = axis_labels(dataset, axis)
    return labels if all(map(_speaks, labels)) else [f"{SYMBOLS.get(axis, f'{said} = ')}{label}" for label in labels]


def _speaks(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return label not in ("True", "False", "None")
    return False


def fixed(dataset: xarray.Dataset, metric: str, shown: Collection[str]) -> list[str]:
    """What is the same in all of a picture, as ``axis = value``: axes at one value that are not shown.

    Args:
      dataset: of a sweep, or the part of it that `where` gave.
      metric: which variable.
      shown: axes that are shown, averaged or chosen.
    """
    values = dataset[metric]
    alone = [str(name) for name in values.coords if values[name].size == 1 and name not in (*shown, "ran")]
    if "case" in alone:
        alone = [name for name in alone if name not in ("attack", "aggregator")]  # which it is made of
    said = []
    for axis in alone:
        one = dataset[[]].assign_coords({axis: (axis, np.atleast_1d(values[axis].values), values[axis].attrs)})
        name, (label,) = axis_labels(one, axis)
        said.append(f"{SYMBOLS.get(axis, f'{name} = ')}{label}")
    return said


def axis_name(dataset: xarray.Dataset, axis: str) -> str:
    """What readers call an axis."""
    if axis == "eval" and dataset[axis].attrs.get("long_name", "").startswith("evaluation"):
        return "evaluation"  # of which nobody said after which round it was
    return AXES.get(axis, axis.replace("_", " "))


def _distinct(labels: list[str], values: Sequence[Any] | np.ndarray) -> list[str]:
    """Labels, or the values as they are where two labels would be the same."""
    return labels if len(set(labels)) == len(labels) else [str(value) for value in values]


def _difference(texts: list[str]) -> tuple[str, list[str]] | None:
    """The one argument in which calls of one factory differ, and its values."""
    chains = [calls_of(text) for text in texts]
    calls = [chain[0] for chain in chains if chain is not None and len(chain) == 1]
    kinds = {(call.name, repr(call.args), tuple(sorted(call.kwargs))) for call in calls}
    if len(calls) < max(2, len(texts)) or len(kinds) > 1:
        return None
    keys = [key for key in calls[0].kwargs if len({repr(call.kwargs[key]) for call in calls}) > 1]
    if len(keys) != 1:
        return None
    words = [plain(call.kwargs[keys[0]]).replace("_", " ") for call in calls]
    if len(set(words)) < len(words):
        return None
    return f"{display_name(calls[0].name)}: {keys[0].replace('_', ' ')}", words


def plus_minus(mean: float, half: float, digits: int | None = None) -> str:
    """A mean and its half width to the same place: after the point, or to three figures of the mean.

    >>> plus_minus(91.234, 0.56, 1), plus_minus(0.01789, 0.000209), plus_minus(1.789e-6, 2e-8), plus_minus(106, np.nan)
    ('91.2 ± 0.6', '0.0179 ± 0.0002', '(1.79 ± 0.02)e-6', '106')
    """
    power = math.floor(math.log10(abs(mean))) if mean else 0
    if digits is None and not -3 <= power <= 4:
        scaled = plus_minus(mean / 10.0**power, half / 10.0**power, 2)
        return f"({scaled})e{power}" if np.isfinite(half) else f"{scaled}e{power}"
    places = max(0, 2 - power) if digits is None else digits
    return f"{mean:.{places}f}" + (f" ± {half:.{places}f}" if np.isfinite(half) else "")


def in_units(values: Any, metric: str) -> Any:
    """Accuracies in per cent."""
    return 100 * values if is_share(metric) else values


def metric_label(dataset: xarray.Dataset, metric: str) -> str:
    """What a metric's axis or colour bar is called."""
    units = dataset[metric].attrs.get("units", "1")
    return long_name(dataset, metric) + (" (%)" if is_share(metric) else "" if units == "1" else f" ({units})")
