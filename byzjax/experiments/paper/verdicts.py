"""Whether a table's cells agree with the published ones, and whether its methods rank as they were published to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from byzjax import results
from byzjax.experiments.experiment import MEAN, NONE
from byzjax.experiments.paper import published
from byzjax.experiments.paper.published import Cell, Place

if TYPE_CHECKING:
    import xarray

Word = Literal["agrees", "differs", "chaotic", "diverged", "not run", "another setting", "unpublished"]
MANY, APART = 20, 5.0  # `modes`: of normal samples of 20 values one in a hundred is cut in two, of 50 hardly any
_NOTHING = np.empty(0)
STANDARD_ERRORS = 3.0  # differences up to here are put down to the seeds


class Modes(NamedTuple):
    """Two groups of seeds with nothing between them."""

    low: np.ndarray
    high: np.ndarray


class Row(NamedTuple):
    """A cell of the table, ours beside the published one, in the units of the table.

    Attributes:
      place: attack, rule, method.
      values: of the seeds that stayed finite.
      diverged: how many others there are.
      learning_rate: γ₀ as it was chosen; NaN where no rate could be.
      at_edge: of the rates that were tried, see `byzjax.experiments.rate_choice.chosen`.
      cell: as published; None where nothing was.
      word: the verdict.
      compared: values at the published learning rate, where that was tried: the verdict is about the method, and not
        about another choice of the rate. Otherwise, and with nothing published, ``values``.
    """

    place: Place
    values: np.ndarray
    diverged: int
    learning_rate: float
    at_edge: str
    cell: Cell | None
    word: Word
    compared: np.ndarray

    @property
    def mean(self) -> float:
        """Over the finite seeds; NaN if there are none."""
        return float(self.values.mean()) if self.values.size else math.nan

    def std(self, ddof: int = 0) -> float:
        """Over the finite seeds; ``ddof=0`` is what the paper prints. NaN for fewer than ``ddof + 1``."""
        return float(self.values.std(ddof=ddof)) if self.values.size > ddof else math.nan

    @property
    def distance(self) -> float:
        """Our mean minus the recomputed one, in standard errors of that difference."""
        return standard_errors(self.compared, self.cell) if self.cell is not None else math.nan


class Ranking(NamedTuple):
    """The methods under one attack and rule, the best first.

    Attributes:
      attack, aggregator: where.
      order: ours.
      published: the order of the published means of the same methods, recomputed; empty where there are none.
      margin: by how much the first is better than the second, in the units of the table.
      error: standard error of that, from differences at the same seed.
      seeds: how many.
    """

    attack: str
    aggregator: str
    order: tuple[str, ...]
    published: tuple[str, ...]
    margin: float
    error: float
    seeds: int

    @property
    def word(self) -> str:
        """Whether the published order holds; nothing is said where the best diverged."""
        known = self.published and math.isfinite(self.margin)
        return "–" if not known else "holds" if self.order == self.published else "differs"

    @property
    def clear(self) -> bool:
        """Whether zero is below the 95 % interval of the lead; the best was picked first, so this is generous."""
        from scipy.special import stdtrit

        return self.seeds > 1 and self.margin > float(stdtrit(self.seeds - 1, 0.975)) * self.error


def rows(dataset: xarray.Dataset, whole: xarray.Dataset | None = None) -> list[Row]:
    """Every cell of an experiment's table, and those that were published and not run.

    Args:
      dataset: that `byzjax.experiments.rate_choice.chosen` made, without more axes than method, case, seed and
        eval.
      whole: what it was made from, with all rates.
    """
    config = results.config_of(dataset)
    cells = published.table1(config["experiment"])
    made = [_row(part, config, cells, whole) for part in _table_cells(dataset)]
    there = {row.place for row in made}
    missing = [place for place in cells if place not in there]
    return made + [Row(place, _NOTHING, 0, math.nan, "", cells[place], "not run", _NOTHING) for place in missing]


def final(dataset: xarray.Dataset) -> xarray.DataArray:
    """What the table shows of every run: its metric after the last round, in the units of the table.

    Args:
      dataset: of an experiment, chosen or not.
    """
    metric = results.config_of(dataset)["metric"]
    return metric["factor"] * dataset[metric["name"]].isel(eval=-1).where(~dataset["diverged"])


def is_reference(attack: str, aggregator: str) -> bool:
    """Whether a case is not of the paper's table: nobody lies, or the rule believes everybody."""
    return attack == NONE or aggregator == MEAN


def _table_cells(dataset: xarray.Dataset) -> Iterator[xarray.Dataset]:
    for case in range(dataset.sizes["case"]):
        one = dataset.isel(case=case)
        if not is_reference(str(one["attack"].item()), str(one["aggregator"].item())):
            yield from (one.isel(optimizer=method) for method in range(dataset.sizes["optimizer"]))


def _row(part: xarray.Dataset, config: dict, cells: dict[Place, Cell], whole: xarray.Dataset | None) -> Row:
    place = Place(*(str(part[name].item()) for name in ("attack", "aggregator", "optimizer")))
    (kept, diverged), cell = _split(final(part)), cells.get(place)
    compared, lost = kept, diverged
    if cell is not None and whole is not None:
        same = whole.sel(optimizer=place.method, case=part["case"].item())
        rates = np.asarray(same["learning_rate"])
        near = np.flatnonzero(np.isclose(rates, cell.learning_rate, rtol=1e-5))
        if near.size and bool(same["tried"].isel(learning_rate=near[0]).all()):
            compared, lost = _split(final(same.isel(learning_rate=near[0])))
    word = verdict(
        compared,
        lost,
        cell,
        variant=config["variant"],
        num_rounds=config["num_rounds"],
        piece=config.get("piece", False),
    )
    return Row(place, kept, diverged, float(part["learning_rate"]), str(part["at_edge"].item()), cell, word, compared)


def _split(runs: xarray.DataArray) -> tuple[np.ndarray, int]:
    """The finite ones, and how many others there are."""
    values = np.atleast_1d(np.asarray(runs, float))
    kept = values[np.isfinite(values)]
    return kept, values.size - kept.size


def verdict(
    values: np.ndarray, diverged: int, cell: Cell | None, *, variant: str, num_rounds: int, piece: bool = False
) -> Word:
    """A cell in a word.

    - ``unpublished``: there is nothing to compare with.
    - ``another setting``: the paper's text, or runs of another length; published is what the released code gave.
    - ``chaotic``: the authors' own code, run again, does not give what they printed; no other code can be held to it.
    - ``diverged``: a run at the chosen rate stopped being finite, and none of the published ones did.
    - ``agrees``: the means are at most `STANDARD_ERRORS` apart; else ``differs``.

    The published mean is the recomputed one: two cells are swapped in print, and one is of another rate. That two means
    of three seeds agree says that they cannot be told apart, no more; with a large spread that is easy.

    Args:
      values: ours, finite, in the units of the table.
      diverged: how many runs are not among them.
      cell: the published one.
      variant: of the experiment.
      num_rounds: of our runs.
      piece: ours are of something smaller.
    """
    if cell is None:
        return "unpublished"
    if piece or variant != "released" or num_rounds != cell.num_rounds:
        return "another setting"
    if cell.source == "rerun" and not cell.reproduces:
        return "chaotic"
    if diverged or not values.size:
        return "diverged"
    return "agrees" if abs(standard_errors(values, cell)) <= STANDARD_ERRORS else "differs"


def standard_errors(values: np.ndarray, cell: Cell) -> float:
    """Our mean minus the published one, in units of `standard_error`; NaN without values.

    Args:
      values: ours, finite, in the units of the table.
      cell: the published one.

    >>> cell = published.table1("mnist")[Place("BF", "RFA", "Base")]
    >>> standard_errors(np.array([cell.mean]), cell)
    0.0
    """
    if not values.size:
        return math.nan
    difference, error = float(values.mean()) - cell.mean, standard_error(values, cell)
    return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0


def standard_error(values: np.ndarray, cell: Cell) -> float:
    """``s √(1/n + 1/m)``: of the difference between the means of n values of ours and m published ones.

    s is the larger of the two standard deviations (ddof = 1). Three seeds estimate one poorly, and mostly too small
    where runs come in two kinds: three of the same kind show no spread at all.

    Args:
      values: ours, finite, at least one.
      cell: the published one.
    """
    ours = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return max(ours, cell.std_ddof1) * math.sqrt(1 / values.size + 1 / published.NUM_SEEDS)


def modes(values: np.ndarray) -> Modes | None:
    """Two groups of seeds, if that is what they look like.

    The largest gap between neighbours must be more than half of the range, more than one per cent of the mean, and more
    than k times the range within either group; k = 20 for three values and 5 for more. Of normal samples this marks one
    in twelve with three or four values and one in sixty with five; fewer than three values are never marked.

    Ranges grow with the number of seeds, so from `MANY` on another sign will do: cut where the sum of squares within
    the two groups is least, their means are more than `APART` of their standard deviations (root mean square) from each
    other, and neither has less than a tenth of the seeds.

    Args:
      values: of the seeds, finite.

    >>> modes(np.array([88.7, 98.5, 88.8])).low.tolist()
    [88.7, 88.8]
    >>> modes(np.array([88.7, 93.1, 98.5])) is None
    True
    """
    ordered = np.sort(values)
    if ordered.size < 3:
        return None
    gaps = np.diff(ordered)
    place = int(gaps.argmax())
    low, high = ordered[: place + 1], ordered[place + 1 :]
    within = max(float(np.ptp(low)), float(np.ptp(high)))
    factor = 20 if ordered.size == 3 else 5
    least = max(float(np.ptp(ordered)) / 2, factor * within, 0.01 * abs(float(ordered.mean())))
    if gaps[place] > least:
        return Modes(low, high)
    return _two_means(ordered) if ordered.size >= MANY else None


def _two_means(ordered: np.ndarray) -> Modes | None:
    fewest = max(2, math.ceil(ordered.size / 10))
    cuts = [(ordered[:cut], ordered[cut:]) for cut in range(fewest, ordered.size - fewest + 1)]
    low, high = min(cuts, key=lambda cut: sum(part.size * part.var() for part in cut))
    width = math.sqrt((low.var(ddof=1) + high.var(ddof=1)) / 2)
    distance = float(high.mean() - low.mean())
    return Modes(low, high) if distance > max(APART * width, 0.01 * abs(float(ordered.mean()))) else None


def rankings(dataset: xarray.Dataset) -> list[Ranking]:
    """How the methods rank under every attack and rule of the table; nothing for fewer than two.

    A method of which a run diverged ranks behind all others.

    Args:
      dataset: that `byzjax.experiments.rate_choice.chosen` made.
    """
    config = results.config_of(dataset)
    sign = 1.0 if config["metric"]["best"] == "max" else -1.0
    cells = published.table1(config["experiment"])
    values = sign * final(dataset)
    labels = [str(label) for label in dataset["optimizer"].values]
    made = []
    for case in range(dataset.sizes["case"]):
        attack, rule = (str(dataset[name].values[case]) for name in ("attack", "aggregator"))
        if is_reference(attack, rule) or len(labels) < 2:
            continue
        runs = np.asarray(values.isel(case=case).transpose("optimizer", "seed"), float)
        scores = np.where(np.isfinite(runs).all(1), runs.mean(1), -np.inf)
        order = np.argsort(-scores, kind="stable")
        means = {label: cells[place].mean for label in labels if (place := Place(attack, rule, label)) in cells}
        # A finite best has no finite lead over what diverged, and a diverged one leads nobody.
        lead = bool(np.isfinite(scores[order[:2]]).all())
        paired = runs[order[0]] - runs[order[1]] if lead else np.full(runs.shape[1], np.nan)
        made.append(
            Ranking(
                attack,
                rule,
                tuple(labels[index] for index in order),
                tuple(sorted(means, key=lambda label: -sign * means[label])) if len(means) == len(labels) else (),
                float(paired.mean()),
                float(paired.std(ddof=1) / math.sqrt(paired.size)) if paired.size > 1 else math.nan,
                paired.size,
            )
        )
    return made
