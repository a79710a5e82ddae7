"""One run as data: what `byzjax run` takes, what a result file says, what the demo is made of."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax import attacks, methods, results, tasks
from byzjax.base import Attack, Method
from byzjax.checks.masks import as_mask
from byzjax.checks.traced import concrete
from byzjax.configs import specs
from byzjax.simulation.checkpoint import Checkpoint
from byzjax.simulation.progress import Advance, Progress
from byzjax.simulation.run import run
from byzjax.simulation.simulate import Result, simulate
from byzjax.task import Task

if TYPE_CHECKING:
    import xarray


_COUNTS = ("num_workers", "num_byzantine", "f", "num_rounds", "eval_every")
_NUM_BYZANTINE = 3


class Parts(NamedTuple):
    """What `byzjax.run` wants."""

    task: Task
    method: Method
    attack: Attack
    byzantine: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run, said in text and numbers.

    Attributes:
      task, method, attack: specifications of one registry entry each, see `byzjax.configs.specs`.
      aggregator: pre-aggregations and a rule, with commas between them.
      num_workers: n.
      num_byzantine: b; the last b workers are Byzantine, unless the task says who. By default as many as it says, or 3.
      f: how many the rule is told to tolerate; ``num_byzantine`` by default.
      learning_rate: γ₀.
      beta: the workers' momentum; the method's own default by default.
      num_rounds, eval_every, seed: as in `byzjax.run`.
    """

    task: str = "quartic"
    method: str = "byz_nsgdm"
    aggregator: str = "nnm,rfa"
    attack: str = "none"
    num_workers: int = 20
    num_byzantine: int = None  # type: ignore[assignment]  # a number from __post_init__ on
    f: int | None = None
    learning_rate: float = 0.1
    beta: float | None = None
    num_rounds: int = 1000
    eval_every: int = 30
    seed: int = 0

    def __post_init__(self):
        if self.num_byzantine is None:
            object.__setattr__(self, "num_byzantine", self._as_the_task_says())

    def _as_the_task_says(self) -> int:
        try:
            liars = specs.parse(self.task).kwargs.get("byzantine")
            return _NUM_BYZANTINE if liars is None else int(as_mask(liars, self.num_workers, "task").sum())
        except ValueError:  # said by `calls`, or by the factory
            return _NUM_BYZANTINE

    def calls(self) -> dict[str, list[specs.Call]]:
        """Every factory with all of its arguments, defaults included; the method's rule is put in by `build`.

        Raises:
          ValueError: whatever does not parse or fit; see `specs.bind`.
        """
        for name in _COUNTS:
            if (getattr(self, name) or 0) >= 2**31:
                raise ValueError(f"{name} = {getattr(self, name)} must be less than 2³¹: counts are of 32 bits.")
        counts = {"num_workers": self.num_workers, "num_byzantine": self.num_byzantine}
        options = {"learning_rate": self.learning_rate, "aggregator": None}
        if self.beta is not None:
            options["beta"] = self.beta
        return {
            "task": [specs.bind(specs.parse(self.task), tasks.REGISTRY, "task", options=counts)],
            "method": [specs.bind(specs.parse(self.method), methods.REGISTRY, "method", options=options)],
            "aggregator": specs.bind_rule(
                self.aggregator, self.num_byzantine if self.f is None else self.f, self.num_workers
            ),
            "attack": [specs.bind(specs.parse(self.attack), attacks.REGISTRY, "attack")],
        }

    def build(self, task: Task | None = None) -> Parts:
        """The objects themselves. ``learning_rate``, ``beta`` and ``seed`` may be traced.

        Args:
          task: use this one, which was built from the same configuration before.

        Raises:
          ValueError: as `calls`, and whatever a factory refuses.
        """
        seed = concrete(self.seed)
        if seed is not None and not 0 <= seed < 2**32:
            raise ValueError(f"seed = {self.seed} must be between 0 and 2³² − 1.")
        calls = self.calls()
        rule = specs.build_rule(calls["aggregator"])
        (method,), (attack,) = calls["method"], calls["attack"]
        built = calls["task"][0].build() if task is None else task
        last = np.arange(self.num_workers) >= self.num_workers - self.num_byzantine
        return Parts(
            built,
            method._replace(arguments={**method.arguments, "aggregator": rule}).build(),
            attack.build(),
            jnp.array(last if built.byzantine is None else built.byzantine),
        )

    def run(self, parts: Parts | None = None, **options: Any) -> Result:
        """`byzjax.run` of it.

        Args:
          parts: what `build` gave before.
          **options: ``progress``, ``name`` and ``checkpoint``, see there.
        """
        return run(**self._arguments(parts), **options)

    def simulate(self, parts: Parts | None = None) -> Result:
        """`byzjax.simulate` of it: pure.

        Args:
          parts: what `build` gave before.
        """
        return simulate(**self._arguments(parts))

    def _arguments(self, parts: Parts | None) -> dict[str, Any]:
        """What `byzjax.run` and `byzjax.simulate` take."""
        return {
            **(self.build() if parts is None else parts)._asdict(),
            "key": jax.random.key(self.seed),
            "num_rounds": self.num_rounds,
            "eval_every": self.eval_every,
        }

    def as_dict(self) -> dict[str, Any]:
        """The whole configuration: what was said, and under ``arguments`` what it means with all defaults."""
        calls = self.calls()
        resolved = {
            part: [{"name": c.name, **{k: v for k, v in c.arguments.items() if k != "aggregator"}} for c in some]
            for part, some in calls.items()
        }
        texts = {
            part: ",".join(str(spec) for spec in specs.parse_chain(getattr(self, part)))  # blanks do not matter
            for part in calls
        }
        declared = self.num_byzantine if self.f is None else self.f
        beta = resolved["method"][0].get("beta")
        return {**dataclasses.asdict(self), **texts, "f": declared, "beta": beta, "arguments": resolved}

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, a line each."""
        calls = self.calls()
        takers = [link for link in calls["aggregator"] if "f" in link.arguments]
        lines = [
            f"{link.name} tolerates f = {link.arguments['f']}, but {self.num_byzantine} of {self.num_workers} workers "
            "are Byzantine: nothing is promised."
            for link in takers
            if link.arguments["f"] < self.num_byzantine
        ]
        if self.f is not None and not any(link.arguments["f"] == self.f for link in takers):
            lines.append(f"f = {self.f} has no effect: no link of {self.aggregator!r} takes it.")
        if self.num_byzantine == 0 and calls["attack"][0].name != "none":
            lines.append(f"{self.attack} does nothing: no worker is Byzantine.")
        if self.eval_every > self.num_rounds or self.eval_every == 0:
            lines.append(
                f"the model is never evaluated: eval_every = {self.eval_every}, num_rounds = {self.num_rounds}."
            )
        return lines


def execute(
    config: RunConfig,
    *,
    task: Task | None = None,
    progress: bool | Progress = True,
    name: str | None = None,
    checkpoint: Checkpoint | None = None,
) -> xarray.Dataset:
    """Run a configuration, and return its data set.

    Args:
      config: what to run.
      task: as in `RunConfig.build`.
      progress: as in `byzjax.run`.
      name: as in `byzjax.run`.
      checkpoint: as in `byzjax.run`; the configuration, but for its number of rounds, becomes a part of it.

    Returns:
      See `byzjax.results.to_dataset`; the attributes ``seconds`` and ``compile_seconds`` say how long it took, after
      round ``resumed_after`` where it went on from a checkpoint.

    Raises:
      ValueError: see `RunConfig.build` and `byzjax.run`.

    >>> config = RunConfig(aggregator="median", num_workers=5, num_byzantine=1, num_rounds=4, eval_every=2)
    >>> dict(execute(config, progress=False).sizes)
    {'round': 4, 'eval': 2}
    """
    parts = config.build(task)
    described = config.as_dict()
    results.encode(described)  # say now, not after the run, that it cannot be saved
    watch = Stopwatch(progress)
    if checkpoint is not None:
        known = {name: value for name, value in described.items() if name != "num_rounds"}
        checkpoint = dataclasses.replace(checkpoint, config=known)
    result = config.run(parts, progress=watch, name=name, checkpoint=checkpoint)
    jax.block_until_ready(result.state.params)
    times: dict[str, Any] = {"seconds": watch.seconds(), "compile_seconds": watch.compile_seconds()}
    resumed = {"resumed_after": watch.resumed_after} if watch.resumed_after else {}
    return results.to_dataset(result, described, **times, **resumed)


class Stopwatch(Progress):
    """A progress display that also measures a run.

    Args:
      inner: what is shown: a `Progress`, or whether to show one.
    """

    def __init__(self, inner: bool | Progress):
        super().__init__(shown=False)
        self._inner = inner if isinstance(inner, Progress) else Progress(shown=inner)
        self._chunks: list[tuple[int, float]] = []  # rounds, seconds
        self._start = time.perf_counter()
        self.resumed_after = 0  # rounds that were not measured

    def say(self, line: str) -> None:
        """As in `Progress`."""
        self._inner.say(line)

    @contextmanager
    def task(self, name: str, num_rounds: int, done: int = 0) -> Iterator[Advance]:
        """As in `Progress`."""
        self.resumed_after = done
        with self._inner.task(name, num_rounds, done) as advance:
            last = time.perf_counter()

            def timed(rounds: int, evaluation: dict[str, Any]) -> None:
                nonlocal last
                now = time.perf_counter()
                self._chunks.append((rounds, now - last))
                last = now
                advance(rounds, evaluation)

            yield timed

    def seconds(self) -> float:
        """Since the start, compilation included."""
        return time.perf_counter() - self._start

    def compile_seconds(self) -> float:
        """An estimate: what the first chunk took longer than the later ones of its length; NaN if there are none."""
        later = [seconds for rounds, seconds in self._chunks[1:] if rounds == self._chunks[0][0]]
        return max(0.0, float(self._chunks[0][1] - np.median(later))) if later else float("nan")
