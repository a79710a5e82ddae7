"""Random and adversarial inputs by the thousand: is every answer a number, and inside the bound that theory gives?"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.aggregators import aggregate
from byzjax.testing.cases import Case, rule_cases
from byzjax.theory import kappa, kappa_squared

# n, d, f: from one coordinate to many, from a lone liar to the largest minority; wide enough for vector instructions.
SHAPES = ((3, 1, 1), (4, 3, 1), (7, 6, 3), (9, 2, 1), (11, 17, 2), (12, 40, 5), (15, 4, 3), (20, 130, 3), (23, 8, 5))

LARGEST = float(np.finfo(np.float32).max)
_EPS = float(np.finfo(np.float32).eps)
_ROUNDING = 16 * _EPS  # of what a result may be off by, relative to the rows it is made of
_DENORMAL = 1e-36  # below, float32 keeps fewer digits, and processors may flush to zero
_BATCH = 250


class Inputs(NamedTuple):
    """A batch of stacks.

    Attributes:
      stacks: f32[count, n, d].
      hostile: bool[count, n], at most f in each.
      kinds: what the honest and what the hostile rows of each are.
    """

    stacks: np.ndarray
    hostile: np.ndarray
    kinds: list[tuple[str, str]]


class Summary(NamedTuple):
    """What was found.

    Attributes:
      inputs: how many.
      not_finite: how many answers held NaN or inf.
      worst: the largest distance of an answer from the honest mean, as a multiple of the κ bound and rounding; NaN
        without a bound.
      worst_kind: of which input.
      beyond: how many answers were outside the bound.
    """

    inputs: int
    not_finite: int
    worst: float
    worst_kind: str
    beyond: int


def inputs(rng: np.random.Generator, n: int, d: int, f: int, count: int, *, finite_only: bool = False) -> Inputs:
    """Honest rows at scales from 1e-30 to 1e30, at most f hostile ones among them.

    Args:
      rng: draws everything.
      n, d, f: shape and number of hostile rows.
      count: how many stacks.
      finite_only: hostile rows without NaN and inf, and not so large that an average of them overflows.
    """
    stacks = np.zeros((count, n, d))
    hostile = np.zeros((count, n), bool)
    kinds = []
    for k in range(count):
        honest_kind, rows, scale = _honest(rng, n, d)
        places = rng.choice(n, size=int(rng.integers(0, f + 1)), replace=False)
        hostile[k, places] = True
        hostile_kind, lies = _hostile(rng, rows[~hostile[k]], len(places), scale, finite_only)
        rows[places] = lies
        stacks[k] = rows
        kinds.append((honest_kind, hostile_kind if len(places) else "none"))
    with np.errstate(over="ignore", under="ignore"):
        cast = np.where(np.isfinite(stacks), np.clip(stacks, -LARGEST, LARGEST), stacks).astype(np.float32)
    return Inputs(cast, hostile, kinds)


def _honest(rng: np.random.Generator, n: int, d: int) -> tuple[str, np.ndarray, float]:
    scale = 10.0 ** rng.uniform(-30, 30)
    kind = str(rng.choice(["cloud", "near-equal", "ties", "duplicates", "equal", "sparse", "clusters", "uneven"]))
    noise = rng.normal(size=(n, d))
    centre = rng.normal(size=(1, d))
    rows = {
        "cloud": lambda: noise + rng.uniform(0, 3) * centre,
        "near-equal": lambda: centre + 10.0 ** rng.uniform(-4, 0) * noise,
        "ties": lambda: np.round(noise),
        "duplicates": lambda: noise[rng.integers(0, max(n // 2, 1), size=n)],
        "equal": lambda: np.repeat(centre, n, axis=0),
        "sparse": lambda: noise * (rng.uniform(size=(n, d)) < 0.2),
        "clusters": lambda: rng.normal(size=(2, d))[rng.integers(0, 2, size=n)] + 10.0 ** rng.uniform(-4, 0) * noise,
        "uneven": lambda: noise * 10.0 ** rng.uniform(-3, 0, size=(n, 1)),
    }[kind]()
    return kind, scale * rows, scale


def _hostile(
    rng: np.random.Generator, honest: np.ndarray, count: int, scale: float, finite_only: bool
) -> tuple[str, np.ndarray]:
    kinds = ["far", "ipm", "alie", "copy", "zero", "denormal", "opposite", "between", "just beyond"]
    if not finite_only:
        kinds += ["nan", "inf", "one nan", "largest", "mixed"]
    kind = str(rng.choice(kinds))
    d = honest.shape[1]
    mean, deviation = honest.mean(0), honest.std(0)
    noise = rng.normal(size=(count, d))

    def one_nan() -> np.ndarray:
        rows = mean + deviation * noise
        rows[np.arange(count), rng.integers(0, d, size=count)] = np.nan
        return rows

    rows = {
        "far": lambda: 10.0 ** min(rng.uniform(-30, 36), 36.0) * noise,
        "ipm": lambda: np.repeat(-(10.0 ** rng.uniform(-2, 3)) * mean[None], count, axis=0),
        "alie": lambda: np.repeat((mean + rng.uniform(-4, 4) * deviation)[None], count, axis=0),
        "copy": lambda: honest[rng.integers(0, len(honest), size=count)],
        "zero": lambda: np.zeros((count, d)),
        "denormal": lambda: 1e-40 * noise,
        "opposite": lambda: -honest[rng.integers(0, len(honest), size=count)],
        "between": lambda: mean + 0.01 * deviation * noise,
        "just beyond": lambda: mean + 10.0 ** rng.uniform(0, 2) * scale * np.sign(noise),
        "nan": lambda: np.full((count, d), np.nan),
        "inf": lambda: np.where(rng.uniform(size=(count, d)) < 0.5, np.inf, -np.inf),
        "one nan": one_nan,
        "largest": lambda: LARGEST * np.sign(noise),
        "mixed": lambda: np.where(rng.uniform(size=(count, 1)) < 0.5, np.nan, 1e30 * noise),
    }[kind]()
    return kind, rows


def bound(case: Case, x: np.ndarray, hostile: np.ndarray, f: int) -> float | None:
    """How far from the honest mean the rule may be, as far as theory says: the smaller of both definitions' bounds.

    Args:
      case: the rule.
      x: f64[n, d], of which the hostile rows may hold anything.
      hostile: bool[n].
      f: what the rule tolerates.
    """
    n, d = x.shape
    honest = x[~hostile]
    if case.name == "median" and case.options.get("even") == "lower":
        return None  # published for the midpoint
    if case.name in PUBLISHED and case.options != PUBLISHED[case.name]:
        return None
    scale = np.abs(honest).max() or 1.0
    away = np.linalg.norm((honest - honest.mean(0)) / scale, axis=1)
    bounds = []
    with contextlib.suppress(ValueError):
        # (f, κ)-robustness speaks of n − f rows. Of more honest rows, the mean is the mean over all such subsets, and
        # so is the spread, up to a factor below 1.
        bounds.append(np.sqrt(kappa_squared(case.name, num_workers=n, f=f) * np.mean(away**2)))
    with contextlib.suppress(ValueError):
        bounds.append(kappa(case.name, num_workers=n, f=f, dim=d) * away.mean())
    return float(scale * min(bounds)) if bounds else None


# What a bound is about, where that is not the default. Krum's coefficient is published for sums over the n − f nearest
# rows, itself included; that of the geometric median for the minimiser: steps until nothing moves, from a start that
# nobody can spoil.
PUBLISHED: dict[str, dict[str, Any]] = {
    "krum": {"neighbors": "n-f-1"},
    "geometric_median": {"num_iters": 1000, "smoothing": 1e-37, "init": "median"},
}


def cases() -> list[Case]:
    """Every rule in every variant, and the minimiser that the geometric median's coefficient is about."""
    known = [case for case in rule_cases() if case.name != "rfa"]  # an alias
    median = next(case for case in known if case.name == "geometric_median")
    return [*known, median._replace(options=PUBLISHED["geometric_median"])]


def check(case: Case, seed: int, count: int, shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> Summary:
    """Aggregate ``count`` stacks, spread evenly over the shapes, and hold the answers against what is promised.

    A rule that promises no robustness sees finite rows only; it still must not answer NaN. If it has a state, the
    stacks are rounds of one run.

    Args:
      case: the rule.
      seed: of the inputs.
      count: how many inputs in all.
      shapes: ``(n, d, f)``; those that the rule cannot take are left out, or their f is lowered.
    """
    total, not_finite, beyond, worst, worst_kind = 0, 0, 0, float("nan"), ""
    fitting = _fitting(case, shapes)
    for k, (n, d, f) in enumerate(fitting):
        share = count // len(fitting) + (k < count % len(fitting))
        rng = np.random.default_rng([seed, n, d])
        apply = _program(case, n, f)
        for given in (
            inputs(rng, n, d, f, _BATCH, finite_only=not case.traits.robust) for _ in range(-(-share // _BATCH))
        ):
            answers = np.asarray(apply(given.stacks, jax.random.key(seed)), np.float64)
            left = min(_BATCH, count - total)
            for x, hostile, kinds, answer in list(zip(*given, answers, strict=True))[:left]:
                total += 1
                kind = f"{kinds[0]} + {kinds[1]}, n = {n}, d = {d}, f = {f}"
                # A pre-aggregation may leave hostile rows hostile.
                kept = answer[~hostile] if answer.ndim == 2 and len(answer) == n else answer
                if not np.isfinite(kept).all():
                    not_finite, worst_kind = not_finite + 1, f"not finite: {kind}"
                    continue
                wide = x.astype(np.float64)
                allowed = bound(case, wide, hostile, f) if answer.ndim == 1 else None
                if allowed is None:
                    continue
                honest = wide[~hostile]
                rounding = _ROUNDING * np.linalg.norm(np.abs(honest).max(0)) + _DENORMAL
                off = np.linalg.norm(answer - honest.mean(0))
                beyond += off > allowed + rounding
                ratio = off / (allowed + rounding)
                if not ratio <= worst:  # NaN at first
                    worst, worst_kind = ratio, kind if not not_finite else worst_kind
    return Summary(total, not_finite, float(worst), worst_kind, int(beyond))


def _fitting(case: Case, shapes: tuple[tuple[int, int, int], ...]) -> list[tuple[int, int, int]]:
    """The shapes that the rule takes, with the largest f not above the wanted one."""
    fitting = []
    for n, d, wanted in shapes:
        for f in range(wanted, 0, -1):
            if case.traits.static_f and math.comb(n, f) > 500:
                continue
            try:
                jax.eval_shape(_program(case, n, f), jax.ShapeDtypeStruct((1, n, d), "float32"), jax.random.key(0))
            except ValueError:
                continue
            fitting.append((n, d, f))
            break
    return fitting


def _program(case: Case, n: int, f: int) -> Any:
    rule = case.make(f, n)
    if case.traits.robust or not jax.tree.leaves(jax.eval_shape(rule.init, jax.ShapeDtypeStruct((1,), "float32"))):
        return jax.jit(jax.vmap(lambda x, key: aggregate(rule, x, key=key), in_axes=(0, None)))

    def rounds(stacks: jax.Array, key: jax.Array) -> jax.Array:
        """One after the other, whatever their scales: what a rule remembers must not spoil its answer."""

        def turn(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            answer, state = rule.update(x, state, x[0], key=key)
            return state, answer

        return jax.lax.scan(turn, rule.init(jnp.zeros_like(stacks[0, 0])), stacks)[1]

    return jax.jit(rounds)
