"""A progress bar with an ETA; plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
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
