"""An experiment as data: task, attacks, rules, methods, a grid of learning rates, seeds, and what a table prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from byzjax.base import Aggregator, Attack, Method
from byzjax.checks import check_number
from byzjax.metrics import Record
from byzjax.task import Task

Variant = Literal["paper", "released"]
VARIANTS: tuple[Variant, ...] = ("paper", "released")
NONE, MEAN = "none", "mean"  # the references: nobody lies, and a rule that believes everybody


class Recipe(NamedTuple):
    """A method and the learning rates that it is tried at.

    Attributes:
      build: ``(learning_rate, aggregator, **lane) -> Method``; the learning rate is traced.
      learning_rates: γ₀, ascending.
      record: what to record of this method's rounds besides what is recorded of all.
    """

    build: Callable[..., Method]
    learning_rates: tuple[float, ...]
    record: Record | None = None


class Metric(NamedTuple):
    """A number that a table prints.

    Attributes:
      name: of the variable in the data set.
      title: what the table calls it.
      best: whether much or little is good.
      factor: the table shows ``factor × value``.
      digits: decimals of the table.
    """

    name: str
    title: str
    best: Literal["max", "min"]
    factor: float = 1.0
    digits: int = 1


class Tuning(NamedTuple):
    """How a learning rate is chosen: by the mean of ``by`` over ``seeds``.

    Attributes:
      by: a variable of the data set.
      best: whether much or little of it is good.
      seeds: which; all by default.
      after: the round whose evaluation counts; the last by default.
    """

    by: str
    best: Literal["max", "min"]
    seeds: tuple[int, ...] | None = None
    after: int | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All runs of one table: every attack with every rule, method, learning rate and seed.

    Attributes:
      name, variant: what the command line calls it.
      title: what reports call it.
      task: builds the task.
      attacks: label -> ``(seed) -> Attack``; the seed is traced.
      aggregators: label -> rule.
      methods: label -> `Recipe`.
      num_byzantine: b; the last b of the task's workers lie.
      seeds: of the runs.
      num_rounds, eval_every: how long, and how often is evaluated.
      record: names of `byzjax.metrics`; their values in the rounds of evaluations are kept.
      metric: what Table 1 prints, after the last round.
      tuning: how the learning rate is chosen.
      lanes: more traced axes beside the learning rate and the seed: name -> values.
      per_run: ``(task, seed) -> task``: what of the task's data belongs to a run.
      precision: of all numbers.
      references: also run without attack, and with the plain mean.
      chosen_only: seeds that do not choose the rate are run at the chosen one alone.
      notes: what a reader has to know.
      piece: of something smaller than the paper's task; not to be compared with published numbers.
      labels: of methods, attacks and rules, in the order of the table; a part of an experiment keeps the whole's.
    """

    name: str
    variant: str
    title: str
    task: Callable[[], Task]
    attacks: Mapping[str, Callable[[jax.Array], Attack]]
    aggregators: Mapping[str, Aggregator]
    methods: Mapping[str, Recipe]
    num_byzantine: int
    seeds: tuple[int, ...]
    num_rounds: int
    eval_every: int
    record: tuple[str, ...]
    metric: Metric
    tuning: Tuning
    lanes: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    per_run: Callable[[Task, jax.Array], Task] = lambda task, seed: task
    precision: Literal["float32", "float64"] = "float32"
    references: bool = True
    chosen_only: bool = False
    notes: tuple[str, ...] = ()
    piece: bool = False
    labels: tuple[str, ...] = ()

    def __post_init__(self):
        if self.references and self.chosen_only:
            raise ValueError(f"{self.name}: chosen_only has no references; put them among the attacks and rules.")
        if not self.labels:
            object.__setattr__(self, "labels", (*self.methods, *self.attacks, *self.aggregators))

    @property
    def cases(self) -> tuple[tuple[str, str], ...]:
        """Attacks and rules that are run together: those of the table, then the references."""
        table = tuple((attack, rule) for attack in self.attacks for rule in self.aggregators)
        more = tuple((attack, MEAN) for attack in (NONE, *self.attacks)) if self.references else ()
        return (*table, *(case for case in more if case not in table))

    def described(self) -> dict[str, Any]:
        """What the data set's attributes say, as JSON."""
        return {
            "experiment": self.name,
            "variant": self.variant,
            "piece": self.piece,
            "num_byzantine": self.num_byzantine,
            "num_rounds": self.num_rounds,
            "eval_every": self.eval_every,
            "metric": self.metric._asdict(),
            "tuning": self.tuning._asdict(),
            "precision": self.precision,
            "notes": list(self.notes),
        }


def reduced(
    experiment: Experiment,
    *,
    attacks: tuple[str, ...] = (),
    aggregators: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    num_seeds: int | None = None,
    num_rounds: int | None = None,
    learning_rates: tuple[float, ...] = (),
    lanes: Mapping[str, tuple[float, ...]] | None = None,
) -> Experiment:
    """Part of an experiment: some of its attacks, rules and methods, fewer seeds and rates, shorter runs.

    Args:
      experiment: the whole.
      attacks, aggregators, methods: labels to keep; all where there are none.
      num_seeds: the first so many, and more than the experiment has: the integers after its largest.
      num_rounds: rounded to whole evaluations.
      learning_rates: in place of every method's.
      lanes: in place of the values of other axes.

    Raises:
      ValueError: an unknown label, or a number out of range.
    """
    evals = experiment.num_rounds if num_rounds is None else num_rounds
    if not experiment.eval_every <= evals <= experiment.num_rounds:
        raise ValueError(
            f"num_rounds = {num_rounds} must be between {experiment.eval_every}, the rounds between evaluations, and "
            f"{experiment.num_rounds}, the experiment's."
        )
    for rate in learning_rates:
        check_number(rate, "learning_rate", experiment.name, least=0, open_below=True)
    if num_seeds is not None and num_seeds < 1:
        raise ValueError(f"num_seeds = {num_seeds} must be at least 1.")
    seeds = experiment.seeds
    if num_seeds is not None:
        seeds = (*seeds, *range(max(seeds) + 1, max(seeds) + 1 + num_seeds))[:num_seeds]
    recipes = _picked(experiment.methods, methods, "method")
    if learning_rates:
        recipes = {label: recipe._replace(learning_rates=learning_rates) for label, recipe in recipes.items()}
    rounds = evals - evals % experiment.eval_every
    tuning = experiment.tuning
    return dataclasses.replace(
        experiment,
        attacks=_picked(experiment.attacks, attacks, "attack"),
        aggregators=_picked(experiment.aggregators, aggregators, "aggregator"),
        methods=recipes,
        lanes={**experiment.lanes, **(lanes or {})},
        seeds=seeds,
        num_rounds=rounds,
        tuning=tuning._replace(
            seeds=tuning.seeds and tuple(seed for seed in tuning.seeds if seed in seeds),
            after=tuning.after and min(tuning.after, rounds),
        ),
    )


def _picked(known: Mapping[str, Any], wanted: tuple[str, ...], what: str) -> dict[str, Any]:
    for label in wanted:
        if label not in known:
            raise ValueError(f"{what} = {label!r} is not in this experiment; it has {list(known)}.")
    return {label: value for label, value in known.items() if not wanted or label in wanted}
