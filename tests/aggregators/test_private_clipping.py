"""Clipping with noise, and to a norm that is learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from tests.helpers import rows, steps

KEY = jax.random.key(0)


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


def test_noise_has_the_deviation_it_promises():
    x = jnp.zeros((4, 20_000))
    rule = agg.norm_clipping(1.0, noise_std=0.5)
    assert abs(float(byzjax.aggregate(rule, x, key=KEY).std()) - 0.5) < 0.02
    private = byzjax.aggregate(agg.dp_clipping(2.0, noise_multiplier=0.25), x, key=KEY)
    np.testing.assert_allclose(private.std(1), 0.5, atol=0.02)
    assert abs(float(jnp.corrcoef(private)[0, 1])) < 0.05
    np.testing.assert_array_equal(private, byzjax.aggregate(agg.dp_clipping(2.0, noise_multiplier=0.25), x, key=KEY))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.norm_clipping(noise_std=-1.0), "noise_std = -1.0"),
        (lambda: byzjax.aggregate(agg.norm_clipping(noise_std=1.0), jnp.ones((4, 1))), "needs a PRNG key"),
        (lambda: byzjax.aggregate(agg.dp_clipping(), jnp.ones((4, 1))), "needs a PRNG key"),
        (lambda: agg.adaptive_clipping(quantile=1.5), "quantile = 1.5"),
        (lambda: agg.adaptive_clipping(initial_norm=0.0), "initial_norm = 0.0"),
        (lambda: byzjax.aggregate(agg.adaptive_clipping(count_noise_std=1.0), jnp.ones((4, 1))), "needs a PRNG key"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
