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
from byzjax.base import Trust
from byzjax.testing.conventions import CONVENTIONS, Convention
from byzjax.testing.references import REFERENCES
from byzjax.testing.stacks import Stacks, stacks

# n, d, f: 3 to 30 rows, 1 to 50 coordinates.
SHAPES = ((3, 1, 1), (4, 3, 1), (5, 2, 2), (7, 6, 1), (11, 1, 2), (12, 20, 3), (20, 50, 3), (30, 4, 6))

ALLOWED = 1e-4  # of the honest scale
_BATCH = 250
_MOST_SUBSETS = 200


class Case(NamedTuple):
    """One input, and what became of it.

    Attributes:
      x: f32[n, d], what the rule was given.
      answer, right: the rule's and float64's.
      error: the distance of the two in units of the honest scale.
      families: of the honest and of the hostile rows.
      shape: n, d, f.
    """

    x: np.ndarray
    answer: np.ndarray
    right: np.ndarray
    error: float
    families: tuple[str, str]
    shape: tuple[int, int, int]


def conventions(name: str) -> list[Convention]:
    """The defaults of a rule, and what its peers take.

    >>> [convention.who for convention in conventions("mean")]
    ['default']
    """
    return CONVENTIONS.get(name, [Convention("default", {})])


def honest_scale(x: np.ndarray, hostile: np.ndarray) -> float:
    """The median norm of the honest rows; of the largest where half of them are zero.

    >>> honest_scale(np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0], [9e9, 0.0]]), np.array([False] * 3 + [True]))
    1.0
    """
    norms = np.linalg.norm(x[~hostile], axis=1)
    return float(np.median(norms) or norms.max() or 1.0)


def check(
    name: str, convention: Convention, seed: int, count: int, shapes: tuple[tuple[int, int, int], ...] = SHAPES
) -> list[Case]:
    """Aggregate ``count`` stacks, spread evenly over the shapes, and compare with float64.

    An answer is off by its distance from the right one, relative to the honest scale, or to the length of the right
    answer where that is longer: one huge row is most of a mean.

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
        options = _options(name, convention, shape)
        apply = _program(name, convention, shape)
        for _ in range(-(-share // _BATCH)):
            given = stacks(rng, *shape, _BATCH)
            answers, _ = jax.tree.map(np.asarray, apply(given.rows, jax.random.key(seed)))
            left = min(_BATCH, share - sum(case.shape == shape for case in found))
            for k in range(left):
                found.append(_compared(name, options, given, answers[k], k, shape))
    return found


def _compared(
    name: str, options: dict[str, Any], given: Stacks, answer: np.ndarray, k: int, shape: tuple[int, int, int]
) -> Case:
    x = given.rows[k].astype(np.float64)
    right = REFERENCES[name](x, **options)
    scale = max(honest_scale(x, given.hostile[k]), float(np.linalg.norm(right, axis=-1).max()))
    off = float(np.linalg.norm(answer.astype(np.float64) - right, axis=-1).max())
    error = off / scale if np.isfinite(off) else math.inf
    return Case(given.rows[k], answer, right, error, given.families[k], shape)


def _options(name: str, convention: Convention, shape: tuple[int, int, int]) -> dict[str, Any]:
    """All options of the factory at a shape."""
    n, _, f = shape
    parameters = inspect.signature(aggregators.REGISTRY[name]).parameters
    counts = {key: value for key, value in (("f", f), ("num_workers", n)) if key in parameters}
    return {**counts, **convention.at(*shape)}


def _fitting(name: str, convention: Convention, shapes: tuple[tuple[int, int, int], ...]) -> list[tuple[int, int, int]]:
    """The shapes that the rule takes, with the largest f not above the wanted one."""
    fitting = []
    for n, d, wanted in shapes:
        for f in range(wanted, 0, -1):
            if name in ("mda", "smea") and math.comb(n, f) > _MOST_SUBSETS:
                continue
            try:
                program = _program(name, convention, (n, d, f))
                jax.eval_shape(program, jax.ShapeDtypeStruct((1, n, d), "float32"), jax.random.key(0))
            except ValueError:
                continue
            fitting.append((n, d, f))
            break
    return fitting


@functools.cache
def _compiled(name: str, options: tuple[tuple[str, Any], ...]) -> Callable[..., tuple[jax.Array, Trust]]:
    rule = aggregators.REGISTRY[name](**dict(options))

    def one(x: jax.Array, key: jax.Array) -> tuple[jax.Array, Trust]:
        params = jnp.zeros_like(x[0])
        answer, _, trust = rule.weigh(x, rule.init(params), params, key=key)
        return answer, trust

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def _program(name: str, convention: Convention, shape: tuple[int, int, int]) -> Callable[..., tuple[jax.Array, Trust]]:
    return _compiled(name, tuple(_options(name, convention, shape).items()))
