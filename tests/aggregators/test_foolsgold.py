"""FoolsGold: copies over rounds, and directions that differ by little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.testing.histories import foolsgold_weights
from tests.helpers import rows


def test_foolsgold_finds_copies_over_rounds():
    """Two liars send the same aim with noise of their own: over the rounds the aim is what remains."""
    rng = np.random.default_rng(21)
    aims = rng.normal(size=(6, 30))
    aims[5] = aims[4]
    stacks = [(aims + 2.0 * rng.normal(size=aims.shape)).astype(np.float32) for _ in range(200)]
    rule = agg.foolsgold(6)
    state = rule.init(jnp.zeros(30))
    step = jax.jit(lambda x, state: rule.update_with_trust(x, state, jnp.zeros(30)))
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
        _, state, trust = rule.update_with_trust(jnp.asarray(x), state)
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
    _, state, trust = rule.update_with_trust(x.at[1].set(jnp.nan), rule.init(jnp.zeros(4)))
    assert trust.weights[1] == 0
    np.testing.assert_array_equal(state.total[1], 0)
    assert byzjax.aggregate(rule, jnp.ones((4, 4))).tolist() == [0, 0, 0, 0]
    unlike = agg.foolsgold(4, reduce="sum")
    assert byzjax.aggregate(unlike, jnp.eye(4)).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.foolsgold(4, reduce="median"), "reduce = .median."),
        (lambda: byzjax.aggregate(agg.foolsgold(4), jnp.ones((5, 1))), "num_workers = 4, but the updates have 5"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
