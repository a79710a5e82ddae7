"""FLANDERS: matrix autoregression without ever forming its d × d matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.aggregators._flanders import predict_rows
from byzjax.testing.histories import predicted

KEY = jax.random.key(0)


@pytest.mark.parametrize(("count", "n", "d"), [(2, 3, 5), (4, 5, 7), (5, 6, 90)])
@pytest.mark.parametrize("penalty", [1.0, 0.02])
def test_the_prediction_is_that_of_the_two_matrices(count, n, d, penalty):
    series = np.random.default_rng(d).normal(size=(count, n, d)).cumsum(0)
    for scale in (1e-30, 1.0, 1e30):
        got = predict_rows(jnp.asarray(series * scale, jnp.float32), jnp.float32(penalty), jnp.float32(3 * penalty), 10)
        expected = predicted(series, penalty, 3 * penalty)
        np.testing.assert_allclose(got / scale, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())


def followers(rng, n, d, rounds):
    """Rows that turn and shrink from round to round, each in its own way, and a little noise."""
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = rng.normal(size=(n, d))
    for _ in range(rounds):
        yield x + 0.01 * rng.normal(size=(n, d))
        x = 0.98 * x @ turn


def test_flanders_is_its_formula_round_by_round():
    rng = np.random.default_rng(0)
    n, d, f, window = 9, 6, 3, 5
    rule = agg.flanders(n, f, window=window, row_penalty=0.1, column_penalty=0.1)
    state, history = rule.init(jnp.zeros(d)), np.zeros((window, n, d))
    update = jax.jit(rule.update_with_trust)
    caught = []
    for t, x in enumerate(followers(rng, n, d, 25)):
        if t >= 8:
            x[:f] = rng.normal(size=(f, d)) * np.linalg.norm(x) / np.sqrt(n)
        scores = np.linalg.norm(x - predicted(history, 0.1, 0.1), axis=1)
        keep = np.sort(np.argsort(scores)[: n - f]) if t >= 2 else np.arange(n)
        result, state, trust = update(jnp.asarray(x, jnp.float32), state)
        np.testing.assert_array_equal(np.flatnonzero(trust.weights), keep)
        np.testing.assert_allclose(result, x[keep].mean(0), rtol=1e-4, atol=1e-5)
        known = np.where(np.isin(np.arange(n), keep)[:, None], x, x[keep].mean(0))
        history = np.concatenate([history[1:], known[None]])
        np.testing.assert_allclose(state.history, history, rtol=1e-4, atol=1e-5)
        caught.append(not np.isin(range(f), keep).any())
    assert np.mean(caught[8:]) > 0.9


def test_more_liars_than_honest_workers_are_found():
    rng = np.random.default_rng(3)
    n, d, f = 9, 6, 6
    rule = agg.flanders(n, f, row_penalty=0.1, column_penalty=0.1)
    state, weights = rule.init(jnp.zeros(d)), None
    for t, x in enumerate(followers(rng, n, d, 14)):
        if t >= 12:
            x[:f] = -20.0 * x[f:].mean(0)
        _, state, trust = rule.update_with_trust(jnp.asarray(x, jnp.float32), state)
        weights = trust.weights
    np.testing.assert_allclose(weights, [0] * 6 + [1 / 3] * 3, rtol=1e-6)


def test_coordinates_are_drawn_once():
    n, d, r = 6, 50, 8
    rule = agg.flanders(n, 1, sub_dim=r, start=2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, n, d)), jnp.float32)
    state, seen = rule.init({"a": jnp.zeros((d - 7,)), "b": jnp.zeros((7,))}), []
    for t in range(4):
        rows = {"a": x[t][:, :-7], "b": x[t][:, -7:]}
        _, state = rule.update(rows, state, key=jax.random.fold_in(KEY, t))
        seen.append(state.coordinates)
        if t < 2:
            np.testing.assert_array_equal(state.history[-1], x[t][:, state.coordinates])
    assert len(set(np.asarray(seen[0]).tolist())) > 1
    assert np.isin(seen[0], np.arange(d)).all()
    for later in seen[1:]:
        np.testing.assert_array_equal(later, seen[0])
    others = rule.update(rows, rule.init(jax.tree.map(lambda leaf: leaf[0], rows)), key=jax.random.key(5))[
        1
    ].coordinates
    assert set(np.asarray(others).tolist()) != set(np.asarray(seen[0]).tolist())
    with pytest.raises(ValueError, match="needs a PRNG key"):
        rule.update(rows, state)


def test_a_score_beyond_all_numbers_is_the_worst_and_history_stays_finite():
    rng = np.random.default_rng(1)
    n, d = 7, 4
    rule = agg.flanders(n, 2, window=3)
    state = rule.init(jnp.zeros(d))
    for t, x in enumerate(followers(rng, n, d, 12)):
        x = x.astype(np.float32)
        if t >= 3:
            x[0] = 3e38 * (-1) ** t
            x[1] = np.nan if t % 2 else 1e25
        result, state, trust = rule.update_with_trust(jnp.asarray(x), state)
        assert np.abs(result).max() < 10
        assert np.isfinite(state.history).all()
        assert t < 3 or (trust.weights[:2] == 0).all()
    spoilt = np.full((n, d), np.nan, np.float32)
    spoilt[:4] = 1.0
    result, state = rule.update(jnp.asarray(spoilt), state)
    assert np.isnan(result).all(), "three of seven are lost, and f is two"
    assert np.isfinite(state.history).all()


@pytest.mark.parametrize("penalty", [1e-30, 1e-6, 1.0])
def test_rows_that_stay_the_same_are_predicted_whatever_the_penalty(penalty):
    n, d, f = 30, 50, 3
    rule = agg.flanders(n, f, row_penalty=penalty, column_penalty=penalty)
    state, update = rule.init(jnp.zeros(d)), jax.jit(rule.update_with_trust)
    rng = np.random.default_rng(0)
    base = rng.normal(size=d)
    for t in range(14):
        x = base + 1e-3 * rng.normal(size=(n, d))
        if t >= 4:
            x[:f] = -100.0 * base
        _, state, trust = update(jnp.asarray(x, jnp.float32), state)
        assert t < 4 or (trust.weights[:f] == 0).all()


@pytest.mark.parametrize("far", [1e4, 1e20, 1e30, 3e38])
def test_no_far_row_hides_another_one(far):
    rng = np.random.default_rng(0)
    n, d, f = 9, 6, 6
    rule = agg.flanders(n, f, row_penalty=0.1, column_penalty=0.1)
    state, base = rule.init(jnp.zeros(d)), rng.normal(size=(n, d))
    for t in range(8):
        x = base + 1e-3 * rng.normal(size=(n, d))
        if t == 7:
            x[0] = -20.0 * x[f:].mean(0)
            x[1:f] = far
        _, state, trust = rule.update_with_trust(jnp.asarray(x, jnp.float32), state)
    assert np.flatnonzero(trust.weights).tolist() == [6, 7, 8]


def test_the_largest_numbers_have_a_prediction_and_leave_a_finite_history():
    turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    series = jnp.stack([jnp.eye(2), turn, turn @ turn, turn @ turn @ turn])
    for scale in (1e-37, 8e37, 9e37, 3.3e38):
        got = predict_rows(series * scale, jnp.float32(1e-3), jnp.float32(1e-3), 20)
        np.testing.assert_allclose(np.asarray(got, np.float64) / scale, np.eye(2), atol=0.05)
    growing = jnp.exp2(jnp.array([100.0, 110.0, 118.0, 127.0]))[:, None, None] * jnp.eye(2)[None]
    assert np.isfinite(predict_rows(growing, jnp.float32(1e-6), jnp.float32(1e-6), 20)).all()
    rule = agg.flanders(7, 1, window=2)
    state = rule.init(jnp.zeros(3))
    for _ in range(5):
        _, state = rule.update(jnp.full((7, 3), jnp.finfo(jnp.float32).max), state)
        assert np.isfinite(state.history).all()


def test_f_and_the_penalties_may_be_traced():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(6, 7, 4)), jnp.float32)

    def last(f, alpha, beta):
        rule = agg.flanders(7, f, window=3, row_penalty=alpha, column_penalty=beta)
        state, results = jax.lax.scan(lambda s, y: rule.update(y, s)[::-1], rule.init(x[0, 0]), x)
        return results, state.history

    many = jax.vmap(last)(jnp.array([0, 2, 4]), jnp.array([1.0, 0.5, 0.1]), jnp.array([1.0, 2.0, 0.1]))
    for k, options in enumerate([(0, 1.0, 1.0), (2, 0.5, 2.0), (4, 0.1, 0.1)]):
        for one, all_ in zip(last(*options), many, strict=True):
            np.testing.assert_allclose(all_[k], one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many[0][0], x.mean(1), rtol=1e-4, atol=1e-6)


def test_flanders_refuses_what_it_cannot_use():
    for options, fault in (
        ({"f": 7}, "leaves nobody; use f ≤ 6"),
        ({"window": 1}, "window = 1 must be an integer ≥ 2"),
        ({"start": 1}, "start = 1 must be an integer ≥ 2"),
        ({"sub_dim": 0}, "sub_dim = 0"),
        ({"row_penalty": 0.0}, "row_penalty = 0.0"),
        ({"column_penalty": -1.0}, "column_penalty = -1.0"),
        ({"num_iters": 0}, "num_iters = 0"),
    ):
        with pytest.raises(ValueError, match=fault):
            agg.flanders(7, **{"f": 1, **options})
    refused = jax.jit(jax.vmap(lambda p: byzjax.aggregate(agg.flanders(7, 1, row_penalty=p), jnp.ones((7, 2)))))
    assert np.isnan(refused(jnp.array([-1.0, np.nan]))).all()
    for sub_dim in (2, 500):
        rule = agg.flanders(7, 1, sub_dim=sub_dim)
        with pytest.raises(ValueError, match="make it by init of this rule"):
            rule.update(jnp.zeros((7, 4)), rule.init(jnp.zeros(1)), key=KEY)
    with pytest.raises(ValueError, match="num_workers = 7, but the updates have 4"):
        byzjax.aggregate(agg.flanders(7, 1), jnp.zeros((4, 2)))
