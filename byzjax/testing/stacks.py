"""Random stacks for differential tests: general position, and every way of leaving it that rules are known to mind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Draw = np.random.Generator


class Stacks(NamedTuple):
    """A batch of stacks.

    Attributes:
      rows: f32[count, n, d].
      hostile: bool[count, n], at most f in each.
      families: what the honest and what the hostile rows of each are.
    """

    rows: np.ndarray
    hostile: np.ndarray
    families: list[tuple[str, str]]


def cloud(rng: Draw, n: int, d: int) -> np.ndarray:
    """General position around a point at 0 to 100 deviations from the origin."""
    return rng.normal(size=(n, d)) + rng.choice([0.0, 1.0, 5.0, 100.0]) * rng.normal(size=(1, d))


def clusters(rng: Draw, n: int, d: int) -> np.ndarray:
    """Two to four tight clusters, 10 to 10,000 times as far apart as they are wide."""
    centres = rng.normal(size=(int(rng.integers(2, 5)), d)) + rng.choice([0.0, 3.0]) * rng.normal(size=(1, d))
    return centres[rng.integers(0, len(centres), size=n)] + 10.0 ** rng.uniform(-4, -1) * rng.normal(size=(n, d))


def duplicates(rng: Draw, n: int, d: int) -> np.ndarray:
    """A few rows, each of them sent by several workers."""
    return (rng.normal(size=(max(n // 2, 1), d)) + rng.choice([0.0, 3.0]) * rng.normal(size=(1, d)))[
        rng.integers(0, max(n // 2, 1), size=n)
    ]


def lattice(rng: Draw, n: int, d: int) -> np.ndarray:
    """Small integers: many distances, norms and angles are equal."""
    return rng.integers(-2, 3, size=(n, d)) + rng.choice([0.0, 4.0])


def line(rng: Draw, n: int, d: int) -> np.ndarray:
    """Rows on a line, through the origin or past it."""
    return rng.choice([0.0, 1.0]) * rng.normal(size=(1, d)) + rng.normal(size=(n, 1)) * rng.normal(size=(1, d))


def far(rng: Draw, n: int, d: int) -> np.ndarray:
    """A spread of a thousandth of the distance from the origin."""
    return rng.normal(size=(1, d)) + 1e-3 * rng.normal(size=(n, d))


def uneven(rng: Draw, n: int, d: int) -> np.ndarray:
    """Lengths over three decades."""
    return rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-3, 0, size=(n, 1))


HONEST: dict[str, Callable[[Draw, int, int], np.ndarray]] = {
    family.__name__: family for family in (cloud, clusters, duplicates, lattice, line, far, uneven)
}

# Of the honest rows [h, d], and how many: the hostile rows.
HOSTILE: dict[str, Callable[[Draw, np.ndarray, int], np.ndarray]] = {
    "none": lambda rng, honest, count: honest[:0],
    "zero": lambda rng, honest, count: np.zeros((count, honest.shape[1])),
    "copy": lambda rng, honest, count: np.repeat(honest[rng.integers(0, len(honest), size=1)], count, axis=0),
    "mean": lambda rng, honest, count: np.repeat(honest.mean(0)[None], count, axis=0),
    "median": lambda rng, honest, count: np.repeat(np.median(honest, axis=0)[None], count, axis=0),
    "near": lambda rng, honest, count: (
        honest[rng.integers(0, len(honest), size=count)]
        + 10.0 ** rng.uniform(-6, -2) * honest.std(0) * rng.normal(size=(count, honest.shape[1]))
    ),
    "huge": lambda rng, honest, count: 10.0 ** rng.uniform(2, 6) * rng.normal(size=(count, honest.shape[1])),
    "opposite": lambda rng, honest, count: np.repeat(-(10.0 ** rng.uniform(-1, 1)) * honest.mean(0)[None], count, 0),
}


def stacks(rng: Draw, n: int, d: int, f: int, count: int) -> Stacks:
    """Honest rows of all families at scales from 1e-10 to 1e10, and up to f hostile ones among them.

    Half of the scales are around 1, where options that are lengths matter; half are powers of two, which keep ties.

    Args:
      rng: draws everything.
      n, d, f: shape and number of hostile rows.
      count: how many stacks.
    """
    drawn, hostile, families = np.zeros((count, n, d)), np.zeros((count, n), bool), []
    for k in range(count):
        honest_family, hostile_family = str(rng.choice(list(HONEST))), str(rng.choice(list(HOSTILE)))
        rows = HONEST[honest_family](rng, n, d).astype(np.float64)
        places = rng.choice(n, size=int(rng.integers(1, f + 1)) if f and hostile_family != "none" else 0, replace=False)
        hostile[k, places] = True
        rows[places] = HOSTILE[hostile_family if len(places) else "none"](rng, rows[~hostile[k]], len(places))
        reach = 10.0 if rng.random() < 0.5 else 1.0
        scale = 10.0 ** rng.uniform(-reach, reach)
        drawn[k] = rows * (2.0 ** np.round(np.log2(scale)) if rng.random() < 0.5 else scale)
        families.append((honest_family, hostile_family if len(places) else "none"))
    return Stacks(drawn.astype(np.float32), hostile, families)
