"""Rules with a memory: centred clipping, ByzantineSGD, Safeguard; and rules that draw noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks
from byzjax.aggregators._fldetector import hessian_times, well_predicted
from byzjax.base import traits_of
from byzjax.testing.histories import centered_clipping as reference
from byzjax.testing.histories import foolsgold_weights

KEY = jax.random.key(0)


def rows(n=10, d=4, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) * scale + 2


def steps(rule, stacks, params=None, state=None):
    state = rule.init(jnp.zeros(stacks[0].shape[1])) if state is None else state
    results = []
    for k, x in enumerate(stacks):
        at = jnp.zeros(x.shape[1]) if params is None else params[k]
        result, state = rule.update(jnp.asarray(x), state, at, key=jax.random.fold_in(KEY, k))
        results.append(np.asarray(result))
    return results, state


def test_centred_clipping_goes_on_from_its_last_result():
    stacks = [rows(seed=k) for k in range(6)]
    results, state = steps(agg.centered_clipping(tau=0.7, num_iters=2), stacks)
    v = np.zeros(4)
    for x, result in zip(stacks, results, strict=True):
        v = v + reference(x.astype(np.float64) - v, tau=0.7, num_iters=2)
        np.testing.assert_allclose(result, v, rtol=1e-4)
    np.testing.assert_array_equal(state.previous, results[-1])


def test_adaptive_clipping_finds_the_quantile():
    rng = np.random.default_rng(0)
    stacks = rng.normal(size=(200, 40, 5)).astype(np.float32)
    norms = np.linalg.norm(stacks, axis=2)
    for quantile in (0.2, 0.8):
        rule = agg.adaptive_clipping(quantile=quantile)
        state, _ = jax.lax.scan(lambda s, x, r=rule: r.update(x, s)[::-1], rule.init(jnp.zeros(5)), stacks)
        np.testing.assert_allclose((norms <= state.max_norm).mean(), quantile, atol=0.05)
    rule = agg.adaptive_clipping(2.0, learning_rate=0.5)
    _, state = rule.update(jnp.asarray([[1.0], [3.0], [1.0], [jnp.nan]]), rule.init(jnp.zeros(1)))
    np.testing.assert_allclose(state.max_norm, 2.0)  # two of four were not clipped
    _, state = rule.update(jnp.asarray([[1.0], [3.0], [9.0], [jnp.nan]]), rule.init(jnp.zeros(1)))
    np.testing.assert_allclose(state.max_norm, 2.0 * np.exp(0.5 * 0.25), rtol=1e-6)


def test_adaptive_clipping_draws_noise_for_rows_and_for_the_count():
    x = jnp.zeros((4, 20_000))
    rule = agg.adaptive_clipping(2.0, count_noise_std=1.0, noise_multiplier=0.5)
    noisy, state = rule.update(x, rule.init(x[0]), key=KEY)
    np.testing.assert_allclose(noisy.std(1), 1.0, rtol=0.05)
    exact = agg.adaptive_clipping(2.0)
    assert state.max_norm != exact.update(x, exact.init(x[0]))[1].max_norm

    leaves = [jnp.ones((40, 3))] * 2  # shorter than C, as a whole
    rule = agg.adaptive_clipping(4.0, learning_rate=1.0, count_noise_std=3.0, noise_multiplier=0.5)
    state = rule.init([jnp.ones(3)] * 2)
    drawn, after = jax.vmap(lambda key: rule.update(leaves, state, key=key))(jax.random.split(jax.random.key(1), 2000))
    on_count = 40 * (0.5 - jnp.log(after.max_norm / 4.0)) - 40
    np.testing.assert_allclose([on_count.mean(), on_count.std()], [0.0, 3.0], atol=0.2)
    on_rows = jnp.concatenate([leaf.reshape(2000, -1)[:, :50] for leaf in drawn], axis=1)
    together = np.corrcoef(np.column_stack([on_count, on_rows]), rowvar=False)
    assert np.abs(together[0, 1:]).max() < 0.1, "the count has noise of its own"


def test_adaptive_clipping_counts_far_and_lost_rows_as_clipped():
    for others, bound in ((np.nan, 100.0), (10.0, 1.0), (np.inf, 1.0)):
        rule = agg.adaptive_clipping(bound, learning_rate=1.0)
        x = jnp.array([[1e-15], [2e-15], [1e-15], [others]])
        _, state = rule.update(x, rule.init(x[0]))
        np.testing.assert_allclose(state.max_norm, bound * np.exp(-(0.75 - 0.5)), rtol=1e-6)


@pytest.mark.parametrize("row", [0.0, np.nan])
def test_adaptive_clipping_comes_back_from_rounds_without_a_length(row):
    rule = agg.adaptive_clipping(learning_rate=20.0)
    _, state = steps(rule, [np.full((4, 3), row, np.float32)] * 20)
    assert 0 < state.max_norm < np.inf
    _, state = steps(rule, [rows(4, 3, seed) for seed in range(40)], state=state)
    assert 1e-5 < state.max_norm < 1e5, "a round moves it by up to exp(10)"


def lbfgs(pairs, v):
    """B v by the BFGS formula, one update after the other, from the scaling of the latest pair."""
    s, y = pairs[-1]
    matrix = np.eye(len(v)) * (y @ s) / (s @ s)
    for s, y in pairs:
        moved = matrix @ s
        matrix = matrix + np.outer(y, y) / (y @ s) - np.outer(moved, moved) / (s @ moved)
    return matrix @ v


def test_the_compact_hessian_is_that_of_bfgs():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8))
    steps_, v = rng.normal(size=(5, 8)), rng.normal(size=8)
    changes = steps_ @ (root @ root.T + np.eye(8))
    expected = lbfgs(list(zip(steps_, changes, strict=True)), v)
    padded = [np.concatenate([np.zeros((3, 8)), x]).astype(np.float32) for x in (steps_, changes)]
    for s, y in ((steps_, changes), padded):
        got = hessian_times(*(jnp.asarray(x, jnp.float32) for x in (s, y, v)))
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())
    assert hessian_times(jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.ones(2)).tolist() == [0, 0]
    far = jnp.full((3, 2), 1e30)
    np.testing.assert_allclose(hessian_times(far, far, jnp.full(2, 1e38)), 1e38, rtol=1e-5)
    s, v, curvature = jnp.array([[1.0, 0.0], [0.6, 0.8]]), jnp.ones(2), jnp.array([[2.0, 5.0]])
    expected = hessian_times(s, s * curvature, v)
    for unit in (1e-30, 5e-20, 1e-19, 1e10, 1e30):  # of x, where squares leave the range of numbers
        y = s * unit * curvature
        np.testing.assert_allclose(hessian_times(s * unit, y, v * unit) / unit, expected, rtol=1e-5)
    mixed = jnp.array([[1e-25], [1e20]])  # a pair counts the same, however long
    np.testing.assert_allclose(hessian_times(s * mixed, s * mixed * curvature, v), expected, rtol=1e-5)
    still = jnp.concatenate([s, jnp.zeros((1, 2))])  # a round without a step, the latest
    np.testing.assert_allclose(hessian_times(still, still * curvature, v), expected, rtol=1e-5)
    assert hessian_times(s, s * 1e30, v * 1e30).tolist() == [0, 0]


def test_fldetector_finds_who_does_not_follow():
    """Honest gradients of quadratics that differ in their minima; liars send noise of the same size."""
    rng = np.random.default_rng(1)
    n, d = 10, 6
    minima, hessian = rng.normal(size=(n, d)), np.diag(np.linspace(0.5, 2.0, d))
    rule = agg.fldetector(n, window=5, start=8)
    x, state = np.ones(d), rule.init(jnp.zeros(d))
    update = jax.jit(lambda g, s, x: rule.weigh(g, s, x))
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
            _, state, trust = rule.weigh(jnp.asarray(x), state, jnp.zeros(4))
            dropped.append(np.flatnonzero(np.asarray(trust.weights) == 0).tolist())
        assert dropped == [[]] * first + [[9]] * (8 - first)


def test_a_score_that_overflows_is_the_worst():
    rule = agg.fldetector(10, window=2, start=0)
    state = rule.init(jnp.zeros(3))
    for t in range(9):
        x = rows(10, 3, seed=t)
        x[9] = 3e38 * (-1) ** t if t >= 4 else x[9]
        result, state, trust = rule.weigh(jnp.asarray(x), state, jnp.full(3, float(t)))
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


@pytest.mark.parametrize("hostile", [1e6, 1e20, 3e38, np.inf, np.nan])
def test_no_row_moves_centred_clipping_by_more_than_its_share(hostile):
    x = rows(seed=3)
    rule = agg.centered_clipping(tau=1.5)
    spoilt = x.copy()
    spoilt[:3] = hostile
    clean, dirty = (np.asarray(byzjax.aggregate(rule, jnp.asarray(y))) for y in (x, spoilt))
    assert np.linalg.norm(clean - dirty) <= 2 * 1.5 * 3 / 10 * 1.0001


def test_scalings_of_tau():
    x = jnp.asarray(rows())
    for scaling, factor in (("none", 1.0), ("linear", 10.0), ("sqrt", np.sqrt(10.0))):
        scaled = byzjax.aggregate(agg.centered_clipping(tau=0.3, scaling=scaling, beta=0.9), x)
        np.testing.assert_allclose(scaled, byzjax.aggregate(agg.centered_clipping(tau=0.3 * factor), x), rtol=1e-5)


def test_tau_beta_and_noise_may_be_traced():
    x = jnp.asarray(rows())
    swept = jax.vmap(lambda t, b: byzjax.aggregate(agg.centered_clipping(tau=t, beta=b, scaling="linear"), x))(
        jnp.array([0.1, 1.0]), jnp.array([0.0, 0.5])
    )
    np.testing.assert_allclose(swept[1], byzjax.aggregate(agg.centered_clipping(tau=2.0), x), rtol=1e-5)
    noise = jax.vmap(lambda s: byzjax.aggregate(agg.norm_clipping(100.0, noise_std=s), x, key=KEY))(
        jnp.array([0.0, 1.0])
    )
    np.testing.assert_allclose(noise[0], x.mean(0), rtol=1e-5)
    assert not np.allclose(noise[0], noise[1])


def test_centred_clipping_after_clipping_keeps_both_origins():
    """Clipping measures from zero, centred clipping from its last result: fused, each must keep its own."""
    stacks = [rows(seed=k) for k in range(3)]
    fused, _ = steps(byzjax.chain(agg.clipping(1.0), agg.centered_clipping(tau=0.2)), stacks)
    apart, _ = steps(
        agg.centered_clipping(tau=0.2), [np.asarray(byzjax.aggregate(agg.clipping(1.0), x)) for x in stacks]
    )
    np.testing.assert_allclose(fused, apart, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("name", ["byzantine_sgd", "safeguard", "centered_clipping"])
def test_stateful_rules_run_and_resume(name):
    """In a whole run, under vmap over seeds, and cut in two with the same bits."""
    n = 8
    options = {
        "byzantine_sgd": {"num_workers": n, "deviation": 10.0, "diameter": 10.0, "num_rounds": 20},
        "safeguard": {"num_workers": n, "windows": (3, 7)},
        "centered_clipping": {"tau": 1.0},
    }[name]
    method = methods.momentum_sgd(0.01, aggregator=agg.REGISTRY[name](**options))
    task, byzantine = tasks.quartic(num_workers=n, num_byzantine=2), jnp.arange(n) >= 6

    def run(key, rounds=20, state=None):
        return byzjax.simulate(
            task, method, attacks.bit_flip(), byzantine=byzantine, key=key, num_rounds=rounds, state=state
        )

    whole = jax.jit(run)(KEY)
    assert jnp.isfinite(whole.history["loss"]).all()
    first = jax.jit(lambda key: run(key, 12))(KEY)
    second = jax.jit(lambda state: run(None, 8, state))(first.state)
    np.testing.assert_array_equal(second.state.params, whole.state.params)
    lanes = jax.jit(jax.vmap(run))(jax.random.split(KEY, 3))
    assert lanes.history["loss"].shape == (3, 20)


def test_noise_has_the_deviation_it_promises():
    x = jnp.zeros((4, 20_000))
    rule = agg.norm_clipping(1.0, noise_std=0.5)
    assert abs(float(byzjax.aggregate(rule, x, key=KEY).std()) - 0.5) < 0.02
    private = byzjax.aggregate(agg.dp_clipping(2.0, noise_multiplier=0.25), x, key=KEY)
    np.testing.assert_allclose(private.std(1), 0.5, atol=0.02)
    assert abs(float(jnp.corrcoef(private)[0, 1])) < 0.05
    np.testing.assert_array_equal(private, byzjax.aggregate(agg.dp_clipping(2.0, noise_multiplier=0.25), x, key=KEY))


def test_dnc_can_be_misled_across_the_main_direction():
    """A finding: scores are about the mean of all rows, so far rows that pull apart can beat honest ones."""
    assert not traits_of(agg.dnc).robust
    rng = np.random.default_rng(7)
    x = rng.normal(size=(20, 10)).astype(np.float32)
    x[-3:] = 1e12 * rng.uniform(-1, 1, size=(3, 10))
    assert jnp.abs(byzjax.aggregate(agg.dnc(3), jnp.asarray(x), key=KEY)).max() > 1e9


def test_foolsgold_finds_copies_over_rounds():
    """Two liars send the same aim with noise of their own: over the rounds the aim is what remains."""
    rng = np.random.default_rng(21)
    aims = rng.normal(size=(6, 30))
    aims[5] = aims[4]
    stacks = [(aims + 2.0 * rng.normal(size=aims.shape)).astype(np.float32) for _ in range(200)]
    rule = agg.foolsgold(6)
    state = rule.init(jnp.zeros(30))
    step = jax.jit(lambda x, state: rule.weigh(x, state, jnp.zeros(30)))
    weights = []
    for x in stacks:
        _, state, trust = step(x, state)
        weights.append(np.asarray(trust.weights))
    assert weights[-1][4:].max() == 0
    assert weights[-1][:4].min() > 0.1
    assert weights[0][4:].max() > 0, "one round does not tell"


def test_foolsgold_remembers_copies_that_try_to_overflow():
    rule = agg.foolsgold(5)
    state = rule.init(jnp.zeros(4))
    for k in range(3):
        x = np.concatenate(
            [np.eye(4, dtype=np.float32)[:3] + 0.1 * rows(n=3, seed=k), np.full((2, 4), 3e38, np.float32)]
        )
        _, state, trust = rule.weigh(jnp.asarray(x), state)
        assert trust.weights[3:].tolist() == [0, 0]
    assert np.isfinite(np.asarray(state.total)).all()


def test_foolsgold_tells_nearly_equal_directions_apart():
    """In float32 the cosines of all of these are 1, or one rounding below."""
    x = 1 + 1e-3 * np.random.default_rng(7).normal(size=(6, 3)) * np.arange(1, 7)[:, None]
    x = x.astype(np.float32)
    weights = np.asarray(byzjax.aggregate(agg.foolsgold(6, reduce="sum"), jnp.asarray(x), return_weights=True)[1])
    expected = foolsgold_weights(x.astype(np.float64), 6, "sum")
    assert ((expected > 0.1) & (expected < 0.9)).any()
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    same = np.random.default_rng(0).normal(size=(6, 1)) * np.random.default_rng(1).normal(size=(1, 4))
    same = jnp.asarray(np.abs(same), jnp.float32)
    assert byzjax.aggregate(agg.foolsgold(6), same).tolist() == [0] * 4, "they differ by rounding"


def test_foolsgold_forgets_what_is_not_a_number_and_takes_no_step_among_copies():
    x = jnp.asarray(rows(n=4))
    rule = agg.foolsgold(4)
    _, state, trust = rule.weigh(x.at[1].set(jnp.nan), rule.init(jnp.zeros(4)))
    assert trust.weights[1] == 0
    np.testing.assert_array_equal(state.total[1], 0)
    assert byzjax.aggregate(rule, jnp.ones((4, 4))).tolist() == [0, 0, 0, 0]
    unlike = agg.foolsgold(4, reduce="sum")
    assert byzjax.aggregate(unlike, jnp.eye(4)).tolist() == [1, 1, 1, 1]
