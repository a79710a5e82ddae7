"""The experiments in a store: their data sets, as `byzjax.experiments.reproduce` put them there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byzjax import results
from byzjax.experiments.experiment import VARIANTS, Metric
from byzjax.experiments.paper.verdicts import is_reference
from byzjax.experiments.rate_choice import chosen
from byzjax.storage.files import expanded

if TYPE_CHECKING:
    import xarray

NAMES = ("quartic", "mnist", "shakespeare", "ablation")
TITLES = {"quartic": "Synthetic quartic", "mnist": "MNIST", "shakespeare": "Language model", "ablation": "Ablation"}
_NEEDED = ("experiment", "variant", "num_rounds", "metric", "tuning", "precision", "notes")
_AXES = ("optimizer", "case", "learning_rate", "seed", "eval")


class Study:
    """An experiment that was run.

    Attributes:
      name, variant: which.
      dataset: all of it.
      config: what it was made with.
      metric: what the table shows.
    """

    def __init__(self, dataset: xarray.Dataset) -> None:
        """Args: dataset: of `byzjax.experiments.reproduce.reproduce`."""
        self.dataset = dataset
        self.config: dict[str, Any] = results.config_of(dataset)
        self.name: str = self.config["experiment"]
        self.variant: str = self.config["variant"]
        self.metric = Metric(**self.config["metric"])

    @functools.cached_property
    def chosen(self) -> xarray.Dataset:
        """At the chosen learning rates."""
        return chosen(self.dataset)

    @property
    def key(self) -> str:
        """As its file is called."""
        return f"{self.name}-{self.variant}"

    @property
    def title(self) -> str:
        """For headings."""
        return f"{TITLES.get(self.name, self.name)} ({self.variant})"

    @property
    def methods(self) -> list[str]:
        """Their labels."""
        return [str(label) for label in self.dataset["optimizer"].values]

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Attacks and rules, in order."""
        pairs = zip(self.dataset["attack"].values, self.dataset["aggregator"].values, strict=True)
        return [(str(attack), str(rule)) for attack, rule in pairs]

    @property
    def in_table(self) -> list[int]:
        """The places of the cases that the paper's table has."""
        return [place for place, case in enumerate(self.cases) if not is_reference(*case)]

    @property
    def num_seeds(self) -> int:
        """Of every cell."""
        return int(self.dataset.sizes["seed"])

    def has(self, *variables: str) -> bool:
        """Whether all of them were kept, and are numbers somewhere."""
        return all(name in self.dataset and bool(np.isfinite(self.dataset[name]).any()) for name in variables)


def found(store: str | Path) -> list[Path]:
    """The data sets of the paper's experiments in a store."""
    folder = expanded(store, "store")
    return [path for name in NAMES for variant in VARIANTS if (path := folder / f"{name}-{variant}.nc").is_file()]


def load(store: str | Path) -> list[Study]:
    """The studies in a store, quartic first, text before released code.

    Args:
      store: a folder with files NAME-VARIANT.nc.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: it is none, or holds no study, or one of the files is damaged or something else.
    """
    store = expanded(store, "store")
    if not store.exists():
        raise FileNotFoundError(f"{store} does not exist; byzjax reproduce makes a store.")
    if not store.is_dir():
        raise ValueError(f"{store} is not a folder; pass the store, which holds files like quartic-released.nc.")
    paths = found(store)
    if not paths:
        raise ValueError(
            f"{store} holds no data set of an experiment, such as quartic-released.nc; byzjax reproduce makes them."
        )
    return [_study(path) for path in paths]


def _study(path: Path) -> Study:
    dataset = results.load(path)
    config = results.config_of(dataset)
    lacking = [name for name in _NEEDED if name not in config]
    lacking += [name for name in (*_AXES, "attack", "aggregator") if name not in dataset.coords]
    lacking += [name for name in ("diverged", "tried") if name not in dataset]
    if not lacking and config["metric"]["name"] not in dataset:
        lacking = [config["metric"]["name"]]
    if lacking:
        raise ValueError(f"{path} is not the data set of an experiment: it lacks {', '.join(lacking)}.")
    return Study(dataset)
