"""The quartic: the paper's oracle, its noise and shifts, and its truth."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from byzjax import tasks

KEY = jax.random.key(2)


def test_quartic_gradient_is_the_paper_s_oracle():
    task = tasks.quartic(6, 2, dim=4, noise_scale=0.3, shift_scale=0.7)
    x = jnp.array([1.0, -2.0, 0.5, 3.0])
    batch = task.sample(task.data, KEY)
    grads = jax.vmap(jax.grad(task.loss), in_axes=(None, 0, None))(x, batch, KEY)
    expected = 4 * np.asarray(x) * float(x @ x) + np.asarray(batch["slope"])
    np.testing.assert_allclose(grads, expected, rtol=1e-5)


def test_quartic_noise_and_shifts_have_the_scales_given():
    task = tasks.quartic(1003, 3, dim=50, noise_scale=0.3, shift_scale=0.7)
    shifts = np.asarray(task.data["shifts"])
    np.testing.assert_allclose(shifts[:1000].sum(0), 0.0, atol=1e-3)
    np.testing.assert_array_equal(shifts[1000:], 0.0)
    np.testing.assert_allclose(shifts[:1000].std(), 0.7, rtol=0.02)
    noise = np.asarray(task.sample(task.data, KEY)["slope"]) - shifts
    np.testing.assert_allclose(noise.std(), 0.3, rtol=0.02)
    again = np.asarray(task.sample(task.data, jax.random.key(3))["slope"]) - shifts
    assert abs(np.corrcoef(noise.ravel(), again.ravel())[0, 1]) < 0.02


def test_quartic_evaluation_is_the_truth():
    task = tasks.quartic(4, 1)
    x = jnp.full(10, 0.5)
    truth = task.evaluate(task.data, x)
    norm = float(jnp.linalg.norm(jax.grad(lambda x: jnp.vdot(x, x) ** 2)(x)))
    np.testing.assert_allclose(truth["gradient_norm"], norm, rtol=1e-6)
    np.testing.assert_allclose(truth["objective"], 2.5**2, rtol=1e-6)
    np.testing.assert_allclose(truth["distance"], 2.5**0.5, rtol=1e-6)
    np.testing.assert_array_equal(task.init(KEY), np.ones(10))


def test_quartic_defaults_are_the_variances_of_the_paper():
    task = tasks.quartic(20, 3)
    np.testing.assert_allclose(float(task.data["noise_scale"]) ** 2, 1e-5, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(task.data["shifts"])[:17].var(), 1e-3, rtol=0.3)


def test_quartic_scales_can_be_swept():
    batches = jax.vmap(
        lambda s: tasks.quartic(4, noise_scale=s, shift_scale=0.0).sample(
            tasks.quartic(4, noise_scale=s, shift_scale=0.0).data, KEY
        )["slope"]
    )(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(batches[1], 2 * batches[0], rtol=1e-6)


def test_the_honest_workers_of_a_quartic_balance_each_other_whoever_they_are():
    usual, others = tasks.quartic(5, 2), tasks.quartic(5, byzantine=[0, 3])
    shifts = np.asarray(others.data["shifts"])
    np.testing.assert_array_equal(shifts[[0, 3]], 0.0)
    np.testing.assert_array_equal(shifts[[1, 2, 4]], usual.data["shifts"][:3])
    np.testing.assert_allclose(shifts.sum(0), 0.0, atol=1e-7)
    assert tasks.quartic(5, 2, byzantine=[3, 4]).byzantine == usual.byzantine
