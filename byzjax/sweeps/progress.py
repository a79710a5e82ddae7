"""The progress bar of a sweep."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from byzjax.simulation.progress import PATIENCE, _duration


class SweepProgress:
    """Progress of a sweep on stderr: cells, chunks, runs, rates, ETA, and how many runs diverged.

    Args:
      name: of the sweep.
      shown: false for silence.
    """

    def __init__(self, name: str, *, shown: bool = True):
        self.name, self.shown = name, shown
        self.left: dict[str, int] = {}  # cell -> chunks that are missing
        self.chunks = self.runs = self.rounds = 0
        self.counts = {"chunks": 0, "runs": 0, "computed": 0, "diverged": 0}
        self._pause = 0.0  # seconds in which nothing but the compiler ran
        self._start: float | None = None
        self._bar: Any = None
        self._shown_tenth = 0
        self._last_line = time.perf_counter()

    def begin(self, cells: Mapping[str, int], *, runs: int, rounds: int) -> None:
        """Say how much there is to do.

        Args:
          cells: label -> chunks of the cell.
          runs: of the whole sweep.
          rounds: of a run; 0 where that is not known.
        """
        self.left, self.chunks, self.runs, self.rounds = dict(cells), sum(cells.values()), runs, rounds
        if self._bar is not None:
            self._bar.update(self._row, total=runs)

    def __enter__(self) -> SweepProgress:
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[status]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._row = self._bar.add_task(self.name, total=None, status="")
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
            self._bar.update(self._row, status=what)
        elif self.shown and time.perf_counter() - self._last_line > PATIENCE:
            self._last_line = time.perf_counter()
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

    def finished(self, cell: str, runs: int, diverged: int, *, computed: bool) -> None:
        """A chunk is there: computed, or found."""
        self.left[cell] -= 1
        for name, more in (("chunks", 1), ("runs", runs), ("computed", runs * computed), ("diverged", diverged)):
            self.counts[name] += more
        if not self.shown:
            return
        if self._bar is not None:
            self._bar.update(self._row, completed=self.counts["runs"], status=self.summary())
        elif computed and 10 * self.counts["runs"] // self.runs > self._shown_tenth:
            self._shown_tenth = 10 * self.counts["runs"] // self.runs
            print(f"{self.name}: {self.summary()}", file=sys.stderr)

    def summary(self) -> str:
        """All of it in a line."""
        counts, cells = self.counts, len(self.left)
        parts = [f"cell {sum(left == 0 for left in self.left.values())}/{cells}"] if cells > 1 else []
        parts += [f"chunk {counts['chunks']}/{self.chunks}", f"{counts['runs']}/{self.runs} runs"]
        running = time.perf_counter() - self._start - self._pause if self._start else 0.0
        if counts["computed"] and running > 0:
            rate = counts["computed"] / running
            parts.append(f"{rate:.3g} runs/s")
            parts += [f"{rate * self.rounds:.3g} rounds/s"] if self.rounds else []
            parts.append(f"ETA {_duration((self.runs - counts['runs']) / rate)}")
        return ", ".join([*parts, f"{counts['diverged']} diverged"])
