"""FLDetector: its Hessian, its scores, and when it judges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import aggregators as agg
from byzjax.aggregators._fldetector import hessian_times, well_predicted
from tests.helpers import rows, steps


def lbfgs(pairs, v):
    """B v by the BFGS formula, one update after the other, from the scaling of the latest pair."""
    s, y = pairs[-1]
    matrix = np.eye(len(v)) * (y @ s) / (s @ s)
    for s, y in pairs:
        moved = matrix @ s
        matrix = matrix + np.outer(y, y) / (y @ s) - np.outer(moved, moved) / (s @ moved)
    return matrix @ v


def test_the_compact_hessian_is_that_of_bfgs():
    times = jax.jit(hessian_times)  # operation by operation it takes five times as long
    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8))
    steps_, v = rng.normal(size=(5, 8)), rng.normal(size=8)
    changes = steps_ @ (root @ root.T + np.eye(8))
    expected = lbfgs(list(zip(steps_, changes, strict=True)), v)
    padded = [np.concatenate([np.zeros((3, 8)), x]).astype(np.float32) for x in (steps_, changes)]
    for s, y in ((steps_, changes), padded):
        got = times(*(jnp.asarray(x, jnp.float32) for x in (s, y, v)))
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())
    assert times(jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.ones(2)).tolist() == [0, 0]
    far = jnp.full((3, 2), 1e30)
    np.testing.assert_allclose(times(far, far, jnp.full(2, 1e38)), 1e38, rtol=1e-5)
    s, v, curvature = jnp.array([[1.0, 0.0], [0.6, 0.8]]), jnp.ones(2), jnp.array([[2.0, 5.0]])
    expected = times(s, s * curvature, v)
    for unit in (1e-30, 5e-20, 1e-19, 1e10, 1e30):  # of x, where squares leave the range of numbers
        y = s * unit * curvature
        np.testing.assert_allclose(times(s * unit, y, v * unit) / unit, expected, rtol=1e-5)
    mixed = jnp.array([[1e-25], [1e20]])  # a pair counts the same, however long
    np.testing.assert_allclose(times(s * mixed, s * mixed * curvature, v), expected, rtol=1e-5)
    still = jnp.concatenate([s, jnp.zeros((1, 2))])  # a round without a step, the latest
    np.testing.assert_allclose(times(still, still * curvature, v), expected, rtol=1e-5)
    assert times(s, s * 1e30, v * 1e30).tolist() == [0, 0]


def test_fldetector_finds_who_does_not_follow():
    """Honest gradients of quadratics that differ in their minima; liars send noise of the same size."""
    rng = np.random.default_rng(1)
    n, d = 10, 6
    minima, hessian = rng.normal(size=(n, d)), np.diag(np.linspace(0.5, 2.0, d))
    rule = agg.fldetector(n, window=5, start=8)
    x, state = np.ones(d), rule.init(jnp.zeros(d))
    update = jax.jit(lambda g, s, x: rule.update_with_trust(g, s, x))
    for t in range(20):
        g = (x - minima) @ hessian + 0.01 * rng.normal(size=(n, d))
        g[7:] = rng.normal(size=(3, d)) * np.linalg.norm(g[:7]) / 7
        result, state, trust = update(jnp.asarray(g, jnp.float32), state, jnp.asarray(x, jnp.float32))
        weights = np.asarray(trust.weights)
        if t < 8:
            np.testing.assert_allclose(weights, 0.1)
        x = x - 0.1 * np.asarray(result)
        assert np.isfinite(x).all()
    np.testing.assert_allclose(weights, [1 / 7] * 7 + [0] * 3, rtol=1e-6)


def test_fldetector_judges_from_the_first_full_window():
    """Scores of rounds 1 to N are there in round N; no earlier, and not before ``start``."""
    for window, start, first in ((2, 0, 2), (2, 5, 5), (4, 3, 4)):
        rule = agg.fldetector(10, window=window, start=start)
        state, dropped = rule.init(jnp.zeros(4)), []
        for t in range(8):
            x = rows(10, 4, seed=0) + 0.01 * rows(10, 4, seed=t)  # what was sent before, but for worker 9
            x[9] = 100.0 * (-1) ** t
            _, state, trust = rule.update_with_trust(jnp.asarray(x), state, jnp.zeros(4))
            dropped.append(np.flatnonzero(np.asarray(trust.weights) == 0).tolist())
        assert dropped == [[]] * first + [[9]] * (8 - first)


def test_a_score_that_overflows_is_the_worst():
    rule = agg.fldetector(10, window=2, start=0)
    state = rule.init(jnp.zeros(3))
    for t in range(9):
        x = rows(10, 3, seed=t)
        x[9] = 3e38 * (-1) ** t if t >= 4 else x[9]
        result, state, trust = rule.update_with_trust(jnp.asarray(x), state, jnp.full(3, float(t)))
        assert np.abs(result).max() < 100
        assert (trust.weights[9] == 0) == (t >= 4)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 20])
def test_the_gap_statistic_seldom_splits_one_group(n):
    """Within one standard error, as its criterion says: of uniform scores one in six is taken for two groups."""
    scores = jnp.asarray(np.random.default_rng(n).uniform(1.0, 2.0, (1000, n)), jnp.float32)
    kept = jax.vmap(lambda one: well_predicted(one, jnp.ones(n, bool)))(scores)
    assert (~kept.all(1)).mean() <= (0.2 if n > 2 else 0.0)
    if n > 3:
        apart = scores.at[:, 0].add(10.0)
        kept = jax.vmap(lambda one: well_predicted(one, jnp.ones(n, bool)))(apart)
        assert not kept[:, 0].any()
        assert kept[:, 1:].all()


def test_fldetector_survives_rows_that_are_no_numbers():
    rule = agg.fldetector(5, window=2, start=0)
    stacks = [rows(5, 3, seed) for seed in range(6)]
    for k in (1, 3):
        stacks[k][4] = np.nan
    stacks[4][2] = 1e30
    results, state = steps(rule, stacks, params=[jnp.full(3, float(k)) for k in range(6)])
    assert np.isfinite(results).all()
    assert np.isfinite(state.updates).all()
    with pytest.raises(ValueError, match="needs the parameters"):
        rule.update(jnp.asarray(stacks[0]), state)
    with pytest.raises(ValueError, match="num_workers = 5, but the updates have 4"):
        rule.update(jnp.asarray(stacks[0][:4]), state, jnp.zeros(3))
