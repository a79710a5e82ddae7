"""Shared by the benchmarks: the machine in words, interleaved timing, tables."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

QUICK = 0.1  # seconds that a run of an arm takes at most to be quick


class Timing(NamedTuple):
    """Seconds per unit of work, over the repetitions."""

    median: float
    min: float
    max: float

    def milliseconds(self) -> dict[str, float]:
        return {f"{name}_ms": round(1e3 * value, 4) for name, value in self._asdict().items()}


class Arm(NamedTuple):
    """One contestant. ``run`` does ``units`` units of work and returns when all is done; ``before`` is not timed."""

    run: Callable[[], Any]
    units: int = 1
    before: Callable[[], Any] = lambda: None


def interleaved(arms: dict[str, Arm], reps: int, often: int = 1) -> dict[str, Timing]:
    """Time every arm once per repetition, so that all of them see the same machine, busy or not.

    Quick arms go through ``often`` times per repetition: where others use the machine, too, it is busy for seconds, and
    takes a median of many to see past that.

    Each timed call follows an untimed one of the same arm: it fills the caches, and outlasts threads of another
    library that still spin for work. Even turns go through the arms forwards, odd ones backwards.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(reps * often):
        repetition, again = divmod(turn, often)
        for name in list(arms) if (repetition + again) % 2 == 0 else reversed(arms):
            arm = arms[name]
            if again and seconds[name][0] * arm.units > QUICK:  # the first decides, or idle turns would count more
                continue
            arm.before()
            arm.run()
            arm.before()
            start = time.perf_counter()
            arm.run()
            seconds[name].append((time.perf_counter() - start) / arm.units)
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def machine() -> dict[str, Any]:
    """The machine by cores, processor and accelerator, and how busy it was; no names, no paths."""
    device = jax.devices()[0]
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "device": "cpu" if device.platform == "cpu" else device.device_kind,
        "system": f"{platform.system()} {platform.machine()}",
        # Others' work during the last minute; this process has hardly begun when it is read.
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def label(machine: dict[str, Any]) -> str:
    """Short, for file names: ``2cpu``, or the name of the accelerator."""
    if machine["device"] == "cpu":
        return f"{machine['cores']}cpu"
    return re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, aligned so that it also reads well in a terminal; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    right = [all(not isinstance(row[k], str) for row in rows) for k in range(len(header))]

    def line(row: list[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


class Fixed(float):
    """A number that prints with two decimals."""

    def __str__(self) -> str:
        return f"{self:.2f}"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
