"""Differential tests: every rule beside its float64 reference, at its defaults and at the conventions of its peers."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax import aggregators
from byzjax.testing.conventions import Convention
from byzjax.testing.histories import HISTORIES
from byzjax.testing.references import REFERENCES
from byzjax.testing.stacks import Stacks, stacks
from byzjax.testing.ties import CONTINUOUS, chosen_among_equals, coarser, jittered, nearby, rounded, scaled

Shape = tuple[int, int, int]

# n, d, f: 3 to 30 rows, 1 to 50 coordinates, and so many that distances are measured block by block.
SHAPES: tuple[Shape, ...] = (
    (3, 1, 1),
    (4, 3, 1),
    (5, 2, 2),
    (7, 6, 1),
    (11, 1, 2),
    (12, 20, 3),
    (20, 50, 3),
    (30, 4, 6),
    (19, 400, 4),
)

ALLOWED = 1e-4  # of the honest scale
_BATCH = 50
_MOST_SUBSETS = 200
_ROUNDS = {"flanders": 4}  # with a memory, else 3

# Options that are lengths, beyond which no row moves the answer.
_REACH = ("tau", "max_norm", "initial_norm")
_KNOWN = 1e-5  # of the rows: a hundred roundings, and what their inner products in float32 resolve
_QUESTIONS = 48  # nearby ones, asked where an answer is wrong


class Case(NamedTuple):
    """One input, and what became of it.

    Attributes:
      sent: f32[t, n, d], what the rule was given, round by round.
      answer, right: the rule's and float64's, in the last of these rounds.
      error: the distance of the two in units of the honest scale.
      excuse: "" where the error is allowed or nothing excuses it; "tie" where float64 gives this answer, too, once rows
        or options change by what is rounding to a choice; "rounding" where float64's own answer moves as far when every
        number is rounded to float32 another way.
      families: of the honest and of the hostile rows.
      shape: n, d, f.
    """

    sent: np.ndarray
    answer: np.ndarray
    right: np.ndarray
    error: float
    excuse: str
    families: tuple[str, str]
    shape: Shape

    @property
    def wrong(self) -> bool:
        return not (self.error <= ALLOWED or self.excuse)


def honest_scale(x: np.ndarray, hostile: np.ndarray) -> float:
    """The median norm of the honest rows; of the largest where half of them are zero.

    >>> honest_scale(np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0], [9e9, 0.0]]), np.array([False] * 3 + [True]))
    1.0
    """
    norms = np.linalg.norm(x[~hostile], axis=1)
    return float(np.median(norms) or norms.max() or 1.0)


def check(name: str, convention: Convention, seed: int, count: int, shapes: tuple[Shape, ...] = SHAPES) -> list[Case]:
    """Aggregate ``count`` stacks, spread evenly over the shapes, and compare with float64.

    An answer is off by its distance from the right one, in units of the median norm of the honest rows, or of an option
    that limits what a row can do where that is shorter, down to 1e-5 of it. Where the right answer itself is longer,
    its length is the unit: one huge row is most of a mean. Of pre-aggregations the worst row counts. A rule with a
    memory is asked several times, and hostile rows may then lie on its last answer.

    Args:
      name: of the rule in the registry.
      convention: its options.
      seed: of the inputs.
      count: how many inputs in all.
      shapes: ``(n, d, f)``; those that the rule cannot take are left out, or their f is lowered.
    """
    found: list[Case] = []
    fitting = _fitting(name, convention, shapes)
    for k, shape in enumerate(fitting):
        share = count // len(fitting) + (k < count % len(fitting))
        rng = np.random.default_rng([seed, *shape])
        mine: list[Case] = []
        while len(mine) < share:
            mine += _batch(name, convention, rng, shape)
        found += mine[:share]
    return found


def _batch(name: str, convention: Convention, rng: np.random.Generator, shape: Shape) -> list[Case]:
    """One batch of runs, as many rounds of each as the rule can tell apart."""
    options = _options(name, convention, shape)
    init, turn = _compiled(name, tuple(options.items()))
    state = init(jnp.zeros((shape[1],)))
    rounds = _ROUNDS.get(name, 3) if _remembers(name, options) or name == "fldetector" else 1
    state = jax.tree.map(lambda s: jnp.broadcast_to(s, (_BATCH, *s.shape)), state)
    given = stacks(rng, *shape, _BATCH)
    sent, params, answers, trusts = [], [], [], []
    at = np.zeros((_BATCH, shape[1]), np.float32)
    for t in range(rounds):
        rows = given.rows if t == 0 else _next_round(rng, given, answers[-1])
        answer, state, trust = turn(rows, state, at)
        sent.append(rows)
        params.append(at)
        answers.append(np.asarray(answer))
        trusts.append(None if trust is None else np.asarray(trust))
        at = at - (0.1 * rows.mean(1)).astype(np.float32)
    runs = np.stack(sent, 1), np.stack(params, 1)
    found = []
    for k in range(_BATCH):
        right = _reference(name, runs[0][k], runs[1][k], options)
        for t in range(rounds):
            asked = runs[0][k][: t + 1], runs[1][k][: t + 1]
            trust = trusts[t]
            told = answers[t][k].astype(np.float64), None if trust is None else trust[k]
            families = given.families[k] if t == 0 else (given.families[k][0], f"{given.families[k][1]} later")
            scale = _scale(asked[0][-1], given.hostile[k], options, right[t])
            error = _off(told[0], right[t], scale)
            excuse = "" if error <= ALLOWED else _excuse(name, options, asked, told, right[t], scale, rng)
            found.append(Case(asked[0], answers[t][k], right[t], error, excuse, families, shape))
    return found


def _next_round(rng: np.random.Generator, given: Stacks, answer: np.ndarray) -> np.ndarray:
    """The same rows, or rows that moved; some hostile ones lie on the last answer."""
    count = len(given.rows)
    moved = given.rows * (1.0 + 0.3 * rng.normal(size=given.rows.shape) * (rng.random((count, 1, 1)) < 0.5))
    if answer.shape == moved[:, 0].shape:
        on_answer = given.hostile & (rng.random((count, 1)) < 0.5)
        moved = np.where(on_answer[:, :, None], answer[:, None], moved)
    return moved.astype(np.float32)


def _scale(x: np.ndarray, hostile: np.ndarray, options: dict[str, Any], right: np.ndarray) -> np.ndarray:
    honest = honest_scale(x.astype(np.float64), hostile)
    reach = min([honest, *(options[key] for key in _REACH if options.get(key) is not None)])
    return np.maximum(max(reach, _KNOWN * honest), np.linalg.norm(right, axis=-1))


def _off(answer: np.ndarray, right: np.ndarray, scale: np.ndarray) -> float:
    if np.isnan(right).any():
        return 0.0 if np.isnan(answer).any() else math.inf
    error = float((np.linalg.norm(answer - right, axis=-1) / scale).max())
    return error if math.isfinite(error) else math.inf


def _excuse(
    name: str,
    options: dict[str, Any],
    asked: tuple[np.ndarray, np.ndarray],
    told: tuple[np.ndarray, np.ndarray | None],
    right: np.ndarray,
    scale: np.ndarray,
    rng: np.random.Generator,
) -> str:
    """What makes a wrong answer right, if anything does."""
    answer, trust = told
    if len(asked[0]) == 1:
        tied = chosen_among_equals(name, asked[0][0].astype(np.float64), options, answer, trust)
        if tied is not None:
            return "tie" if tied else ""

    def ask(move: Callable[[np.ndarray], np.ndarray], options: dict[str, Any]) -> np.ndarray:
        return _reference(name, np.stack([move(x) for x in asked[0].astype(np.float64)]), asked[1], options)[-1]

    for k in range(_QUESTIONS):
        if name not in CONTINUOUS:
            other = ask(functools.partial((nearby, scaled)[k % 2], rng=rng), jittered(options, rng))
        elif "tolerance" in options:
            other = ask(lambda x: x, jittered(options, rng))
        else:
            break
        if _off(answer, other, scale) <= ALLOWED:
            return "tie"
    others = (ask(functools.partial((rounded, coarser)[k % 2], rng=rng), options) for k in range(_QUESTIONS // 3))
    moves = [_off(other, right, scale) for other in others]
    return "rounding" if _off(answer, right, scale) <= 2 * max(moves) else ""


def _reference(name: str, sent: np.ndarray, params: np.ndarray, options: dict[str, Any]) -> list[np.ndarray]:
    sent, params = sent.astype(np.float64), params.astype(np.float64)
    if _remembers(name, options):
        return HISTORIES[name](sent, params, **options)
    return [REFERENCES[name](x, **options) for x in sent]


def _remembers(name: str, options: dict[str, Any]) -> bool:
    return name in HISTORIES and not (name == "centered_clipping" and "start" in options)


def _options(name: str, convention: Convention, shape: Shape) -> dict[str, Any]:
    """All options of the factory at a shape."""
    n, _, f = shape
    parameters = inspect.signature(aggregators.REGISTRY[name]).parameters
    counts = {key: value for key, value in (("num_workers", n), ("f", f)) if key in parameters}
    return {**counts, **convention.at(*shape)}


def _fitting(name: str, convention: Convention, shapes: tuple[Shape, ...]) -> list[Shape]:
    """The shapes that the rule takes, with the largest f not above the wanted one."""
    fitting = []
    for n, d, wanted in shapes:
        for f in range(wanted, 0, -1):
            if name in ("mda", "smea") and math.comb(n, f) > _MOST_SUBSETS:
                continue
            try:
                init, turn = _compiled(name, tuple(_options(name, convention, (n, d, f)).items()))
                state = jax.tree.map(lambda s: s[None], init(jnp.zeros((d,))))
                jax.eval_shape(turn, np.zeros((1, n, d), np.float32), state, np.zeros((1, d), np.float32))
            except ValueError:
                continue
            fitting.append((n, d, f))
            break
    return fitting


@functools.cache
def _compiled(name: str, options: tuple[tuple[str, Any], ...]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A rule's init, and its update of a batch: answers, states, and what it trusted."""
    rule = aggregators.REGISTRY[name](**dict(options))

    def one(x: jax.Array, state: Any, params: jax.Array) -> tuple[jax.Array, Any, jax.Array | None]:
        answer, state, trust = rule.update_with_trust(x, state, params, key=jax.random.key(0))
        return answer, state, trust.weights if trust.weights is not None else trust.mixing

    return rule.init, jax.jit(jax.vmap(one))
