"""Logistic regression: its gradients, its minimiser, and whose data they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import tasks

KEY = jax.random.key(2)


def test_loss_and_evaluation_are_the_formula():
    task = tasks.logistic_regression(5, 2, num_examples=9, dim=3, l2=0.3, heterogeneity=0.7)
    x = jnp.array([0.5, -1.0, 2.0])
    a, b = np.asarray(task.data["inputs"], np.float64), 2.0 * np.asarray(task.data["labels"]) - 1
    losses = np.log1p(np.exp(-b * (a @ np.asarray(x, np.float64)))).mean(1) + 0.15 * 5.25
    index = jnp.broadcast_to(jnp.arange(9), (5, 9))
    batch = task.examples(task.data, index)
    np.testing.assert_allclose(jax.vmap(task.loss, (None, 0, None))(x, batch, KEY), losses, rtol=1e-5)
    seen = task.evaluate(task.data, x)
    np.testing.assert_allclose(seen["objective"], losses[:3].mean(), rtol=1e-5)
    best = task.evaluate(task.data, task.data["minimiser"])
    np.testing.assert_allclose(seen["suboptimality"], losses[:3].mean() - best["objective"], rtol=1e-4)
    np.testing.assert_allclose(seen["distance"], np.linalg.norm(x - task.data["minimiser"]), rtol=1e-6)


def test_the_minimiser_is_exact_in_float64_and_nothing_is_lost_near_it():
    with jax.enable_x64(True):
        task = tasks.logistic_regression(5, 2, dim=4, heterogeneity=2.0, l2=1e-3)
        best = task.data["minimiser"]
        assert task.evaluate(task.data, best)["gradient_norm"] < 1e-14
        near = task.evaluate(task.data, best + 1e-9)
        assert near["suboptimality"] > 0
        np.testing.assert_allclose(near["distance"], 2e-9, rtol=1e-6)
    single = tasks.logistic_regression(5, 2, dim=4, heterogeneity=2.0, l2=1e-3)
    assert single.data["inputs"].dtype == jnp.float32
    assert 0 < single.evaluate(single.data, single.data["minimiser"] + 1e-5)["suboptimality"] < 1e-9


@pytest.mark.parametrize("shift", [20.0, -20.0, 300.0, 0.5, 1e-3])
def test_suboptimality_is_right_far_away_too(shift):
    task = tasks.logistic_regression()
    a, best = np.asarray(task.data["inputs"][0], np.float64), np.asarray(task.data["minimiser"])
    x = best + np.float32(shift)
    apart, there = x.astype(np.float64) - best, a @ best.astype(np.float64)
    turn, chance = a @ apart, 0.5 * (1 + np.tanh(there / 2))
    terms = np.logaddexp(0, there + turn) - np.logaddexp(0, there) - chance * turn
    expected = terms.mean() + 0.05 * apart @ apart
    np.testing.assert_allclose(task.evaluate(task.data, jnp.asarray(x))["suboptimality"], expected, rtol=1e-4)


def test_the_smoothness_that_is_stated():
    task = tasks.logistic_regression()
    assert round(float(jnp.square(task.data["inputs"]).sum(-1).max()) / 4 + 0.1, 2) == 6.84


def test_workers_are_alike_without_heterogeneity_and_batches_are_their_own():
    task = tasks.logistic_regression(6, 1, batch_size=40)
    for leaf in (task.data["inputs"], task.data["labels"]):
        assert (leaf == leaf[:1]).all()
    batch = task.sample(task.data, KEY)
    assert batch["input"].shape == (6, 40, 10)
    assert (batch["input"][0] != batch["input"][1]).any()
    other = tasks.logistic_regression(6, byzantine=[0], heterogeneity=1.0)
    assert (other.data["inputs"][1] != other.data["inputs"][2]).any()
    assert other.byzantine == (True, *[False] * 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": 0}, "l2 = 0 must be a finite number > 0"),
        ({"dim": 0}, "dim = 0"),
        ({"num_examples": 0}, "num_examples = 0"),
        ({"heterogeneity": -1.0}, "heterogeneity = -1.0"),
        ({"num_byzantine": 20}, "num_byzantine = 20"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.logistic_regression(**options)
