"""Grids of runs in TOML: what ``byzjax sweep`` takes. A value fixes a field of a run, a list makes it an axis."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import tomllib
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from byzjax.checks import check_choice
from byzjax.configs import specs
from byzjax.configs.run_config import RunConfig
from byzjax.configs.specs import nearest
from byzjax.results.metric_names import Best
from byzjax.storage.files import expanded

TRACED = ("learning_rate", "beta", "seed")  # runs of one program; every other axis is compiled anew per value
FIELDS: dict[str, type] = {
    name: next(member for member in typing.get_args(hint) or (hint,) if member is not types.NoneType)
    for name, hint in typing.get_type_hints(RunConfig).items()
}
AXES = {"method": "optimizer"}  # what an axis of a data set is called, where that is not its field's name
_LEAST = {"num_workers": 1, "num_byzantine": 0, "f": 0, "num_rounds": 1, "eval_every": 0, "seed": 0}
_OPTIONS = ("store", "batch_size", "skip_invalid", "select")
_LENGTHS = ("num_rounds", "eval_every")
_SEEDS = ("first", "count")


@dataclasses.dataclass(frozen=True)
class Selection:
    """How a sweep's hyperparameters are chosen: the arguments of `byzjax.selection.select`."""

    over: tuple[str, ...]
    by: str
    reduce: str | None = "mean over seeds"
    best: Best | None = None
    last: int = 1


_SELECT = tuple(field.name for field in dataclasses.fields(Selection))


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """A grid of runs, read from TOML.

    Attributes:
      fixed: the fields of `RunConfig` that are the same in all runs and not left at their defaults.
      axes: field -> values, in the order of `RunConfig`. The seed is always one.
      store: folder of finished chunks, data set and figures.
      batch_size: runs per chunk.
      skip_invalid: leave cells out that cannot run, instead of refusing the grid.
      select: how hyperparameters are chosen, if they are.
      name: what the progress bar calls it.
    """

    fixed: dict[str, Any]
    axes: dict[str, tuple[Any, ...]]
    store: str
    batch_size: int | Literal["auto"] = "auto"
    skip_invalid: bool = False
    select: Selection | None = None
    name: str = "grid"

    @property
    def traced(self) -> dict[str, tuple[Any, ...]]:
        """The axes that are traced: all their combinations are one program."""
        return {name: self.axes[name] for name in TRACED if name in self.axes}

    @property
    def cells(self) -> dict[str, tuple[Any, ...]]:
        """The axes of which every combination is a program of its own."""
        return {name: values for name, values in self.axes.items() if name not in TRACED}

    @property
    def runs_per_cell(self) -> int:
        """Runs per cell."""
        return math.prod(len(values) for values in self.traced.values())

    @property
    def num_cells(self) -> int:
        """Programs."""
        return math.prod(len(values) for values in self.cells.values())

    def points(self) -> Iterator[dict[str, Any]]:
        """Every cell as field -> value, the first axis slowest."""
        for values in itertools.product(*self.cells.values()):
            yield dict(zip(self.cells, values, strict=True))

    def config(self, **point: Any) -> RunConfig:
        """The run at a point; axes that it does not name are at their first value. Traced numbers pass."""
        first = {name: values[0] for name, values in self.axes.items()}
        return RunConfig(**{**self.fixed, **first, **point})

    def as_dict(self) -> dict[str, Any]:
        """What determines the results, as JSON: not where and how they are computed."""
        return {"run": {**self.fixed, **{name: list(values) for name, values in self.axes.items()}}}


def load(path: str | Path, overrides: Sequence[str] = ()) -> GridConfig:
    """Read a grid.

    Args:
      path: of the TOML file.
      overrides: e.g. ``"run.learning_rate=[0.1, 0.2]"``: TOML values that replace the file's, or are added to it.
        What is no TOML is taken as a text, so that ``run.attack=ipm(scale=10)`` needs no quotes.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not TOML; and see `parse`.
    """
    path = expanded(path, "grid")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}.") from error
    for override in overrides:
        _override(document, override)
    return parse(document, name=path.stem)


def parse(document: Mapping[str, Any], *, name: str = "grid") -> GridConfig:
    """A grid from what a TOML file says.

    Args:
      document: ``run``: fields of `RunConfig`, each a value, a list of values, or for the seed ``{first, count}``;
        ``sweep``: ``store``, ``batch_size``, ``skip_invalid`` and ``select = {over, by, reduce, best, last}``.
      name: of the grid; its store is ``results/NAME`` by default.

    Raises:
      ValueError: an unknown key (with the nearest), a value of the wrong type, an empty list, a value given twice, a
        text that is not a specification.

    >>> grid = parse({"run": {"attack": ["none", "alie"], "learning_rate": [0.1, 0.3], "seed": {"count": 5}}})
    >>> grid.cells, grid.runs_per_cell
    ({'attack': ('none', 'alie')}, 10)
    """
    _known(document, ("run", "sweep"), "the grid")
    run, options = _table(document, "run"), _table(document, "sweep")
    _known(run, FIELDS, "[run]")
    _known(options, _OPTIONS, "[sweep]")
    for field in _LENGTHS:
        if isinstance(run.get(field), list):
            raise ValueError(
                f"run.{field} = {run[field]!r} cannot be an axis: all runs of a data set are equally long. A long run "
                "begins as a short one does: write the largest number, and look at earlier rounds."
            )
    values = {field: _values(field, run[field]) for field in FIELDS if field in run}
    values.setdefault("seed", (RunConfig.seed,))
    several = {field for field, given in run.items() if isinstance(given, list | dict)} | {"seed"}
    axes = {field: given for field, given in values.items() if field in several}
    _check_specs(values)
    batch_size, store = options.get("batch_size", "auto"), options.get("store", f"results/{name}")
    return GridConfig(
        {field: given for field, (given, *_) in values.items() if field not in several},
        axes,
        store=str(expanded(_text(store, "sweep.store"), "sweep.store")),
        batch_size="auto" if batch_size == "auto" else _integer(batch_size, "sweep.batch_size", least=1),
        skip_invalid=_flag(options.get("skip_invalid", False), "sweep.skip_invalid"),
        select=_selection(_table(options, "select", "sweep."), axes) if "select" in options else None,
        name=name,
    )


def describe(point: Mapping[str, Any]) -> str:
    """A cell in words.

    >>> describe({"aggregator": "nnm,rfa", "num_byzantine": 3})
    'aggregator = nnm,rfa, num_byzantine = 3'
    """
    return ", ".join(f"{name} = {value}" for name, value in point.items()) or "the only cell"


def _known(given: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in {where}; {nearest(key, known)}.")


def _table(document: Mapping[str, Any], key: str, prefix: str = "") -> Mapping[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, Mapping):
        raise ValueError(f"{prefix}{key} = {table!r} must be a table: write [{prefix}{key}].")
    return table


def _values(field: str, given: Any) -> tuple[Any, ...]:
    """The values of a field, of its type; one if it is not an axis."""
    where = f"run.{field}"
    if field == "seed" and isinstance(given, Mapping):
        given = _seeds(given)
    if isinstance(given, list) and not given:
        raise ValueError(f"{where} = [] is an axis without values; write at least one, or leave it out.")
    values = tuple(_typed(field, value) for value in (given if isinstance(given, list) else [given]))
    twice = [value for value, times in collections.Counter(values).items() if times > 1]
    if twice:
        raise ValueError(f"{where}: {twice[0]} is given twice; each value of an axis is run once.")
    return values


def _seeds(given: Mapping[str, Any]) -> list[int]:
    _known(given, _SEEDS, "run.seed")
    if "count" not in given:
        raise ValueError("run.seed: count is missing; write seed = { first = 0, count = 10 }.")
    first = _integer(given.get("first", 0), "run.seed.first", least=0, below=2**32)
    count = _integer(given["count"], "run.seed.count", least=1, below=2**32 - first + 1)
    return list(range(first, first + count))


def _typed(field: str, value: Any) -> Any:
    where, kind = f"run.{field}", FIELDS[field]
    if kind is str:
        text = _text(value, where)
        return ",".join(map(str, specs.parse_chain(text)))  # blanks do not matter, and do not make two values
    if kind is int:
        return _integer(value, where, least=_LEAST[field], below=2**32 if field == "seed" else None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} = {value!r} must be a finite number.")
    return float(value)


def _integer(value: Any, where: str, *, least: int, below: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (below and value >= below):
        raise ValueError(f"{where} = {value!r} must be an integer ≥ {least}{f' and < {below}' if below else ''}.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} = {value!r} must be a text.")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} = {value!r} must be true or false.")
    return value


def _check_specs(values: Mapping[str, tuple[Any, ...]]) -> None:
    """Names and arguments of every text, whatever it is combined with: a typing error is not an invalid cell."""
    rest = {"beta": values["beta"][0]} if "beta" in values else {}
    for field, kind in FIELDS.items():
        for value in values.get(field, ()) if kind is str else ():
            try:
                RunConfig(**{field: value}, **rest).calls()
            except ValueError as error:
                raise ValueError(f"run.{field}: {error}") from error


def _selection(given: Mapping[str, Any], axes: Mapping[str, Any]) -> Selection:
    _known(given, _SELECT, "[sweep.select]")
    for key in ("over", "by"):
        if key not in given:
            raise ValueError(f"sweep.select: {key} is missing, as in over = 'learning_rate', by = 'val_accuracy'.")
    over = tuple(_text(axis, "sweep.select.over") for axis in _listed(given["over"]))
    for axis in over:
        if axis not in axes:
            raise ValueError(f"sweep.select.over: {axis!r} is not an axis of this grid; {nearest(axis, axes)}.")
    best = given.get("best")
    if best is not None:
        check_choice(best, typing.get_args(Best), "best", "sweep.select")
    reduce = given.get("reduce", Selection.reduce)
    return Selection(
        over,
        _text(given["by"], "sweep.select.by"),
        None if reduce == "none" else _text(reduce, "sweep.select.reduce"),
        best,
        _integer(given.get("last", 1), "sweep.select.last", least=1),
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) and value else [value]


def _override(document: dict[str, Any], override: str) -> None:
    """Put one ``a.b=value`` into a document."""
    path, equals, text = override.partition("=")
    *tables, key = (part.strip() for part in path.split("."))
    if not equals or not tables or not all((*tables, key)):
        raise ValueError(f"--set {override}: write table.key=value, as in 'run.learning_rate=[0.1, 0.2]'.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for name in tables:
        inner = document.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {override}: {name} is {inner!r}, not a table.")
        document = inner
    document[key] = value
