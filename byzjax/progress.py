"""A progress bar with an ETA; plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

PATIENCE = 10.0  # seconds without a line, where lines are all that is shown

Advance = Callable[[int, dict[str, Any]], None]


class Progress:
    """Progress of one or several runs on stderr.

    Args:
      shown: false for silence.
      total: rounds of all runs together, where the caller knows; then the ETA is for all of them.
    """

    def __init__(self, *, shown: bool = True, total: int | None = None):
        self.shown = shown
        self.total = total
        self.done = 0
        self.running = 0.0  # seconds spent on rounds whose program was already compiled
        self.counted = 0  # … and how many rounds those were

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self.shown:
            print(line, file=sys.stderr)

    @contextlib.contextmanager
    def task(self, name: str, num_rounds: int, done: int = 0) -> Iterator[Advance]:
        """Show one run, of which some rounds may be done; yields ``advance(rounds, evaluation)``."""
        self.done += done
        if not self.shown:
            yield lambda rounds, evaluation: None
        elif sys.stderr.isatty():
            with self._bar(name, num_rounds, done) as advance:
                yield advance
        else:
            yield self._lines(name, num_rounds, done)

    def _tick(self, rounds: int, seconds: float, first: bool) -> None:
        self.done += rounds
        if not first:
            self.running += seconds
            self.counted += rounds

    def _eta(self, left: int) -> str:
        if not self.counted:
            return "…"
        return _duration(left * self.running / self.counted)

    def _clocked(self, num_rounds: int, done: int, show: Callable[[int, str, dict[str, Any]], None]) -> Advance:
        """Keep time for ``show(rounds done, ETA, evaluation)``; the first chunk compiles and is not counted."""
        clock = {"last": time.perf_counter(), "done": done}

        def advance(rounds: int, evaluation: dict[str, Any]) -> None:
            now = time.perf_counter()
            self._tick(rounds, now - clock["last"], first=clock["done"] == done)
            clock["last"] = now
            clock["done"] += rounds
            left = (self.total - self.done) if self.total else num_rounds - clock["done"]
            show(int(clock["done"]), self._eta(left), evaluation)

        return advance

    @contextlib.contextmanager
    def _bar(self, name: str, num_rounds: int, done: int) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA {task.fields[eta]}  {task.fields[latest]}"),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            row = bar.add_task(name, total=num_rounds, completed=done, eta="…", latest="compiling")

            def show(done: int, eta: str, evaluation: dict[str, Any]) -> None:
                bar.update(row, completed=done, eta=eta, latest=_brief(evaluation))

            yield self._clocked(num_rounds, done, show)

    def _lines(self, name: str, num_rounds: int, done: int) -> Advance:
        shown = {"tenth": 10 * done // num_rounds}

        def show(done: int, eta: str, evaluation: dict[str, Any]) -> None:
            tenth = 10 * done // num_rounds
            if tenth > shown["tenth"]:
                shown["tenth"] = tenth
                print(f"{name}: {done}/{num_rounds} rounds, ETA {eta}  {_brief(evaluation)}".rstrip(), file=sys.stderr)

        return self._clocked(num_rounds, done, show)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (seconds, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])


def _brief(evaluation: dict[str, Any]) -> str:
    scalars = {name: value for name, value in evaluation.items() if getattr(value, "ndim", 0) == 0}
    return "  ".join(f"{name} {float(value):.4g}" for name, value in list(scalars.items())[:2])


class SweepProgress:
    """Progress of a sweep on stderr: cells, chunks, lanes, rates, ETA, and how many lanes diverged.

    Args:
      name: of the sweep.
      shown: false for silence.
    """

    def __init__(self, name: str, *, shown: bool = True):
        self.name, self.shown = name, shown
        self.left: dict[str, int] = {}  # cell -> chunks that are missing
        self.chunks = self.lanes = self.rounds = 0
        self.counts = {"chunks": 0, "lanes": 0, "computed": 0, "diverged": 0}
        self._pause = 0.0  # seconds in which nothing but the compiler ran
        self._start: float | None = None
        self._bar: Any = None
        self._shown_tenth = 0
        self._said = time.perf_counter()

    def begin(self, cells: Mapping[str, int], *, lanes: int, rounds: int) -> None:
        """Say how much there is to do.

        Args:
          cells: label -> chunks of the cell.
          lanes: of the whole sweep.
          rounds: of a lane; 0 where that is not known.
        """
        self.left, self.chunks, self.lanes, self.rounds = dict(cells), sum(cells.values()), lanes, rounds
        if self._bar is not None:
            self._bar.update(self._row, total=lanes)

    def __enter__(self) -> SweepProgress:
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[said]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._row = self._bar.add_task(self.name, total=None, said="")
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif self.shown:
            print(line, file=sys.stderr)

    def note(self, what: str) -> None:
        """What is going on: in the bar, or as a line if it is long since there was one."""
        if self._bar is not None:
            self._bar.update(self._row, said=what)
        elif self.shown and time.perf_counter() - self._said > PATIENCE:
            self._said = time.perf_counter()
            print(f"{self.name}: {what}", file=sys.stderr)

    @contextlib.contextmanager
    def compiling(self, cell: str) -> Iterator[None]:
        """Say that a cell is compiled; that time is not counted as running."""
        self.note(f"compiling {cell}")
        start = time.perf_counter()
        yield
        if self._start is not None:
            self._pause += time.perf_counter() - start

    def began(self) -> None:
        """The first chunk is under way: rates count from here."""
        self._start = self._start or time.perf_counter()

    def finished(self, cell: str, lanes: int, diverged: int, *, computed: bool) -> None:
        """A chunk is there: computed, or found."""
        self.left[cell] -= 1
        for name, more in (("chunks", 1), ("lanes", lanes), ("computed", lanes * computed), ("diverged", diverged)):
            self.counts[name] += more
        if not self.shown:
            return
        if self._bar is not None:
            self._bar.update(self._row, completed=self.counts["lanes"], said=self.summary())
        elif computed and 10 * self.counts["lanes"] // self.lanes > self._shown_tenth:
            self._shown_tenth = 10 * self.counts["lanes"] // self.lanes
            print(f"{self.name}: {self.summary()}", file=sys.stderr)

    def summary(self) -> str:
        """All of it in a line."""
        counts, cells = self.counts, len(self.left)
        parts = [f"cell {sum(left == 0 for left in self.left.values())}/{cells}"] if cells > 1 else []
        parts += [f"chunk {counts['chunks']}/{self.chunks}", f"{counts['lanes']}/{self.lanes} lanes"]
        running = time.perf_counter() - self._start - self._pause if self._start else 0.0
        if counts["computed"] and running > 0:
            rate = counts["computed"] / running
            parts.append(f"{rate:.3g} lanes/s")
            parts += [f"{rate * self.rounds:.3g} rounds/s"] if self.rounds else []
            parts.append(f"ETA {_duration((self.lanes - counts['lanes']) / rate)}")
        return ", ".join([*parts, f"{counts['diverged']} diverged"])
