"""What the paper's authors published: Table 1, and curves and single runs of their code. See ``files/README.md``."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "files"


class Place(NamedTuple):
    """A cell of a task's table."""

    attack: str
    aggregator: str
    method: str


class Cell(NamedTuple):
    """A cell of Table 1.

    Attributes:
      task: quartic, mnist or shakespeare.
      place: where.
      printed_mean, printed_std: as printed, text.
      mean, std, std_ddof1: recomputed from the authors' logs, or by their code, in the units of the table.
      learning_rate: γ₀ of the recomputed numbers.
      num_rounds: after which these numbers are.
      source: ``"logs"`` or ``"rerun"``.
      note: why printed and recomputed differ.
    """

    task: str
    place: Place
    printed_mean: str
    printed_std: str
    mean: float
    std: float
    std_ddof1: float
    learning_rate: float
    num_rounds: int
    source: str
    note: str

    @property
    def printed(self) -> str:
        """As printed.

        >>> table1("mnist")[Place("BF", "RFA", "Base")].printed
        '78.6 ± 4.0'
        """
        return f"{self.printed_mean} ± {self.printed_std}"

    @property
    def recomputed(self) -> str:
        """To the printed digits.

        >>> table1("mnist")[Place("BF", "RFA", "Base")].recomputed
        '78.6 ± 4.0'
        """
        return f"{_rounded(self.mean, self.printed_mean)} ± {_rounded(self.std, self.printed_std)}"

    @property
    def reproduces(self) -> bool:
        """Whether the recomputed mean and standard deviation are the printed ones."""
        return self.recomputed == self.printed


class Point(NamedTuple):
    """A point of a curve: means over seeds.

    Attributes:
      round: after which, or in which.
      values: variable -> value.
    """

    round: int
    values: dict[str, float]


NUM_SEEDS = 3  # of every number of the authors
_TABLE_NUMBERS = ("printed_mean", "printed_std", "mean", "std", "std_ddof1", "learning_rate", "num_rounds")


@functools.cache
def table1(task: str) -> dict[Place, Cell]:
    """The cells of Table 1 of a task; empty for a task that it does not have.

    Raises:
      ValueError: the file is missing or damaged.
    """
    cells = [
        Cell(
            row["task"],
            _place(row),
            row["printed_mean"],
            row["printed_std"],
            float(row["mean"]),
            float(row["std"]),
            float(row["std_ddof1"]),
            float(row["learning_rate"]),
            int(row["num_rounds"]),
            row["source"],
            row["note"],
        )
        for row in _rows("table1.csv", lambda row: [float(row[name]) for name in _TABLE_NUMBERS])
    ]
    return {cell.place: cell for cell in cells if cell.task == task}


@functools.cache
def curves(task: str) -> dict[Place, list[Point]]:
    """The authors' curves at the rates of Table 1; empty where there are none.

    Raises:
      ValueError: the file is missing or damaged.

    >>> curves("quartic")[Place("BF", "RFA", "Base")][0].round
    1
    """
    name = {"quartic": "quartic_curves.csv", "mnist": "mnist_curves.csv"}.get(task)
    made: dict[Place, list[Point]] = {}
    for row in _rows(name, _numbers) if name else ():
        made.setdefault(_place(row), []).append(Point(int(row["round"]), _numbers(row)))
    return made


@functools.cache
def seeds(task: str, variable: str) -> dict[Place, list[float]]:
    """The authors' single runs after the last round.

    Raises:
      ValueError: the file is missing or damaged.

    >>> len(seeds("mnist", "test_accuracy")[Place("LF", "CM", "Base")])
    3
    """
    made: dict[Place, list[float]] = {}
    for row in _rows("seeds.csv", lambda row: float(row["value"])):
        if (row["task"], row["variable"]) == (task, variable):
            made.setdefault(_place(row), []).append(float(row["value"]))
    return made


def _place(row: dict[str, str]) -> Place:
    return Place(row["attack"], row["aggregator"], row["method"])


def _numbers(row: dict[str, str]) -> dict[str, float]:
    names = ("aggregate_norm", "gradient_norm", "test_accuracy", "test_accuracy_std", "test_loss")
    return {name: float(row[name]) for name in names if name in row}


def _rounded(value: float, like: str) -> str:
    """With as many digits after the point as another number is printed with."""
    return f"{value:.{len(like.partition('.')[2])}f}"


def _rows(name: str, parse: Callable[[dict[str, str]], Any], folder: Path | None = None) -> list[dict[str, str]]:
    """The rows of a file, each of which can be parsed."""
    path = (folder or FOLDER) / name
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ValueError(f"published numbers: {path} cannot be read ({error}); install byzjax again.") from error
    for number, row in enumerate(rows, start=2):
        try:
            _place(row)
            parse(row)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"published numbers: line {number} of {path} is damaged ({error}); install byzjax again."
            ) from error
    return rows
