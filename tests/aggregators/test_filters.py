"""ByzantineSGD and Safeguard: who leaves, who stays, and for how long."""

import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from tests.helpers import rows, steps


def test_byzantine_sgd_drops_a_steady_drift_and_never_forgives():
    """Each gradient is within bounds; only their sum gives the liar away."""
    rng = np.random.default_rng(0)
    n, d, rounds = 9, 3, 60
    rule = agg.byzantine_sgd(n, deviation=1.0, diameter=100.0, num_rounds=4, failure=0.9)  # drops sums beyond 41
    stacks = [rng.normal(size=(n, d)).astype(np.float32) * 0.3 for _ in range(rounds)]
    for x in stacks:
        x[0] = [1.5, 0, 0]
    results, state = steps(rule, [*stacks, *[np.zeros((n, d), np.float32)] * 3])
    assert state.good.tolist() == [False] + [True] * (n - 1)
    np.testing.assert_allclose(results[0], stacks[0].mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(results[rounds - 1], stacks[-1][1:].mean(0), rtol=1e-4, atol=1e-6)


def test_byzantine_sgd_watches_the_way_along_the_path():
    n = 5
    x = np.full((n, 1), 1.0, np.float32)
    x[0] = -1.0  # far less than 4 V away, but uphill
    rule = agg.byzantine_sgd(n, deviation=1.0, diameter=0.01, num_rounds=1, failure=0.99)
    reach = 4 * 0.01 * np.sqrt(np.log(16 * n / 0.99))
    params = [jnp.array([-0.01 * k]) for k in range(12)]
    _, state = steps(rule, [x] * 12, params)
    gap = 2 * 0.01 * sum(range(12))
    assert gap > reach
    assert state.good.tolist() == [False] + [True] * (n - 1)


def test_byzantine_sgd_with_too_small_a_deviation_trusts_one_worker():
    x = rows(5)
    results, state = steps(agg.byzantine_sgd(5, deviation=1e-6, diameter=1.0, num_rounds=1), [x])
    assert state.good.sum() == 1
    np.testing.assert_allclose(results[0], x[int(jnp.argmax(state.good))], rtol=1e-6)


@pytest.mark.parametrize("thresholds", ["auto", (5.0, 15.0)])
def test_safeguard_drops_liars_after_their_first_round(thresholds):
    n = 10
    x = rows(n)
    x[7:] = -1000.0
    rule = agg.safeguard(n, thresholds=thresholds)
    results, state = steps(rule, [x, x])
    kept = np.asarray(state.good)
    assert not kept[7:].any()
    assert kept[:7].all() or (thresholds == "auto" and kept[:7].sum() >= 4)  # "auto" is strict with honest ones, too
    np.testing.assert_allclose(results[0], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(results[1], x[kept].mean(0), rtol=1e-4)


def test_safeguard_windows_restart_and_reset_forgives():
    n = 6
    lying, honest = rows(n), rows(n, seed=1)
    lying[0] = 500.0
    for reset in (False, True):
        rule = agg.safeguard(n, windows=(1, 3), thresholds=(20.0, 20.0), reset=reset)
        _, state = steps(rule, [lying, honest, honest, honest])
        assert bool(state.good[0]) is reset
        expected = honest / (n if reset else n - 1)
        np.testing.assert_allclose(state.long, expected, rtol=1e-5)  # round 3 starts the long window again


def test_a_row_of_nan_is_lost_to_the_filters_for_good():
    n = 7
    bad = rows(n)
    bad[2] = np.nan
    for rule in (agg.safeguard(n, multiplier=3.0), agg.byzantine_sgd(n, deviation=50.0, diameter=9.0, num_rounds=9)):
        results, state = steps(rule, [bad, rows(n), rows(n)])
        assert np.isfinite(results).all()
        assert state.good.tolist() == [True, True, False, True, True, True, True]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.byzantine_sgd(4, deviation=0, diameter=1, num_rounds=1), "deviation = 0"),
        (lambda: agg.safeguard(4, windows=(6, 3)), "T₀ ≤ T₁"),
        (lambda: agg.safeguard(4, thresholds=1.0), "thresholds = 1.0"),
        (lambda: byzjax.aggregate(agg.safeguard(4), jnp.ones((5, 1))), "num_workers = 4, but the updates have 5"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
