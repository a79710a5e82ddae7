"""Rules that measure how far rows are from a point, held against float64 where rows lie next to that point.

The origin, the last aggregate and an iterate are points that attackers can go to. There a distance that comes
from inner products about another point is rounding, and an iteration that starts on a row never leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byzjax import aggregators as agg
from byzjax.aggregators._chain import chain
from byzjax.base import Aggregator
from byzjax.testing.references import REFERENCES

# n, d, f; the last ones are measured by inner products, the others by differences.
SHAPES = ((3, 1, 1), (5, 2, 2), (11, 9, 3), (20, 50, 3), (20, 2_000, 3), (12, 20_000, 4), (8, 100_000, 2))
PLACES = (
    "origin",
    "near the origin",
    "an honest row",
    "two honest rows",
    "the last aggregate",
    "beside the mean",
    "far",
)
_FAR = 1e9  # of liars, in lengths of honest rows; beyond 2⁴⁶ units rows are drawn back


class Rule(NamedTuple):
    """A rule and its reference.

    Attributes:
      make: ``(f, number) -> rule``, where ``number`` is drawn log-uniformly, and may be traced.
      expected: ``(x f64[n, d], f, number, last f64[d]) -> f64[d]`` or ``[n, d]``.
      least, most: between what the number is drawn.
      absolute: the number is a length, and is drawn in units of the honest rows' scale instead where false.
    """

    make: Callable[[int, Any], Any]
    expected: Callable[..., np.ndarray]
    least: float = 1e-9
    most: float = 1.0
    absolute: bool = True


def _after(before: Callable[..., np.ndarray], rule: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda x, f, number, last: rule(before(x, f, number, last), f, number, last)


def _median(**options: Any) -> Callable[..., np.ndarray]:
    return lambda x, f, number, last: REFERENCES["geometric_median"](x, smoothing=number, **options)


def _centered(x: np.ndarray, f: int, number: float, last: np.ndarray, num_iters: int = 1) -> np.ndarray:
    """From the last aggregate: the reference starts at the origin, so that is moved there."""
    del f
    return last + REFERENCES["centered_clipping"](x - last, tau=number, num_iters=num_iters, start="zero")


def _clipped(x: np.ndarray, f: int, number: float, last: np.ndarray) -> np.ndarray:
    return REFERENCES["clipping"](x, number)


def _arc(x: np.ndarray, f: int, number: float, last: np.ndarray) -> np.ndarray:
    return REFERENCES["arc"](x, f)


def _nnm(x: np.ndarray, f: int, number: float, last: np.ndarray) -> np.ndarray:
    return REFERENCES["nnm"](x, f)


def _default_median(x: np.ndarray, f: int, number: float, last: np.ndarray) -> np.ndarray:
    return REFERENCES["geometric_median"](x)


RULES: dict[str, Rule] = {
    "geometric_median()": Rule(lambda f, v: agg.geometric_median(), _default_median),
    "geometric_median": Rule(lambda f, v: agg.geometric_median(smoothing=v), _median()),
    "geometric_median-3": Rule(lambda f, v: agg.geometric_median(3, smoothing=v), _median(num_iters=3)),
    "geometric_median-100": Rule(lambda f, v: agg.geometric_median(100, smoothing=v), _median(num_iters=100)),
    "geometric_median-median": Rule(
        lambda f, v: agg.geometric_median(smoothing=v, init="median"),
        _median(init="median"),
    ),
    "nnm,geometric_median": Rule(
        lambda f, v: chain(agg.nnm(f), agg.geometric_median(smoothing=v)), _after(_nnm, _median())
    ),
    "arc,geometric_median": Rule(
        lambda f, v: chain(agg.arc(f), agg.geometric_median(smoothing=v)), _after(_arc, _median())
    ),
    "clipping,geometric_median()": Rule(
        lambda f, v: chain(agg.clipping(v), agg.geometric_median()), _after(_clipped, _default_median), 1e-2, 1e2, False
    ),
    "clipping": Rule(lambda f, v: agg.clipping(v), _clipped, 1e-3, 1e3, False),
    "nnm,clipping": Rule(lambda f, v: chain(agg.nnm(f), agg.clipping(v)), _after(_nnm, _clipped), 1e-3, 1e3, False),
    "arc": Rule(lambda f, v: agg.arc(f), _arc),
    "cge": Rule(lambda f, v: agg.cge(f), lambda x, f, v, last: REFERENCES["cge"](x, f)),
    "norm_clipping": Rule(
        lambda f, v: agg.norm_clipping(v), lambda x, f, v, last: REFERENCES["norm_clipping"](x, v), 1e-3, 1e3, False
    ),
    "centered_clipping": Rule(lambda f, v: agg.centered_clipping(v), _centered, 1e-6, 1e3, False),
    "centered_clipping-5": Rule(
        lambda f, v: agg.centered_clipping(v, num_iters=5),
        lambda *arguments: _centered(*arguments, num_iters=5),
        1e-6,
        1e3,
        False,
    ),
    "nnm,centered_clipping": Rule(
        lambda f, v: chain(agg.nnm(f), agg.centered_clipping(v, num_iters=2)),
        lambda x, f, v, last: _centered(REFERENCES["nnm"](x, f), f, v, last, 2),
        1e-6,
        1e3,
        False,
    ),
}


class Found(NamedTuple):
    """What was found.

    Attributes:
      inputs: how many.
      worst: the largest error, as a share of the answer, of a pre-aggregation of each of its rows.
      worst_kind: of which input.
      beyond: how many errors are above 1e-4.
    """

    inputs: int
    worst: float
    worst_kind: str
    beyond: int


def check(name: str, seed: int, count: int, shapes: Sequence[tuple[int, int, int]] = SHAPES) -> Found:
    """Answers of a rule in `RULES` beside float64, over scales from 1e-8 to 1e8.

    Args:
      name: of the rule.
      seed: of the inputs.
      count: how many inputs, spread over the shapes; few for those of many coordinates.
      shapes: ``(n, d, f)``.
    """
    rule = RULES[name]
    worst, kind, beyond, total = 0.0, "", 0, 0
    shares = np.array([1.0 / np.sqrt(n * d) for n, d, _ in shapes])
    counts = np.maximum(np.ceil(count * shares / shares.sum()), 8).astype(int)
    for (n, d, f), inputs in zip(shapes, counts, strict=True):
        rng = np.random.default_rng([seed, n, d])
        apply = jax.jit(lambda x, number, last, f=f: _apply(rule.make(f, number), x, last))
        for k in range(inputs):
            place = PLACES[k % len(PLACES)]
            last, x, scale = _input(rng, n, d, f, place)
            number = np.float32(10.0 ** rng.uniform(np.log10(rule.least), np.log10(rule.most)))
            number = number if rule.absolute else np.float32(number * scale)
            answer = np.asarray(apply(x, number, last), np.float64)
            wide = x.astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                expected = np.nan_to_num(rule.expected(wide, f, float(number), last.astype(np.float64)))
            size = np.linalg.norm(expected, axis=-1)
            error = np.max(np.linalg.norm(answer - expected, axis=-1) / np.where(size > 0, size, 1e-30))
            total, beyond = total + 1, beyond + int(not error <= 1e-4)
            if not error <= worst:
                worst, kind = error, f"{place}, n = {n}, d = {d}, f = {f}, scale {scale:.1e}, number {number:.1e}"
    return Found(total, float(worst), kind, beyond)


def _apply(rule: Any, x: jax.Array, last: jax.Array) -> Any:
    """With the last aggregate as what the rule remembers, if it remembers anything."""
    state = jax.tree.map(lambda leaf: last if leaf.shape == last.shape else leaf, rule.init(jnp.zeros_like(last)))
    assert isinstance(rule, Aggregator) or not jax.tree.leaves(state)
    return rule.update(x, state, last)[0]


def _input(rng: np.random.Generator, n: int, d: int, f: int, place: str) -> tuple[np.ndarray, np.ndarray, float]:
    """A last aggregate, rows of which f lie at a place, and the honest rows' scale."""
    scale = 10.0 ** rng.uniform(-8, 8)
    spread = 10.0 ** rng.uniform(-2, -0.6)  # nobody's rows add up to nothing: an error is a share of the answer
    centre = rng.normal(size=d)
    centre /= np.linalg.norm(centre)
    x = centre + spread * rng.normal(size=(n, d)) / np.sqrt(d)
    last = centre + 0.3 * spread * rng.normal(size=d) / np.sqrt(d)
    liars = rng.choice(n, size=f, replace=False)
    honest = np.delete(x, liars, axis=0)
    tiny = 10.0 ** rng.uniform(-7, -2) * rng.normal(size=(f, d)) / np.sqrt(d)
    x[liars] = {
        "origin": np.zeros((f, d)),
        "near the origin": tiny,
        "an honest row": np.repeat(honest[:1], f, axis=0),
        "two honest rows": honest[np.arange(f) % min(2, len(honest))],
        "the last aggregate": np.repeat(last[None], f, axis=0),
        "beside the mean": honest.mean(0) + 0.01 * (honest[:1] - honest[1:2]) + spread * tiny,
        "far": _FAR * rng.normal(size=(f, d)) / np.sqrt(d),
    }[place]
    last = (scale * last).astype(np.float32)
    x = (scale * x).astype(np.float32)
    if place == "the last aggregate":
        x[liars] = last
    return last, x, scale
