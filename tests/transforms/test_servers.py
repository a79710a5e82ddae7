"""Server steps that need more than the aggregate, and momenta of 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byzjax import aggregators as agg
from byzjax import transforms
from tests.small_runs import METHOD, N, go


def server(tx):
    return METHOD._replace(server=tx)


PARAMS = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(5)}
STACK = jax.tree.map(lambda p: jnp.stack([p + i for i in range(N)]), PARAMS)


# Server steps that need more than the aggregate


def test_wrappers_that_keep_a_gradient_work_inside_and_after():
    inside = optax.chain(
        transforms.per_worker(optax.MultiSteps(optax.sgd(1.0), 2), N), transforms.robust_aggregate(agg.mean())
    )
    after = optax.chain(transforms.robust_aggregate(agg.mean()), optax.MultiSteps(optax.sgd(1.0), 2)
                        .gradient_transformation())  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        for tx in (inside, after):
            state = tx.init(PARAMS)
            steps = []
            for _ in range(2):
                updates, state = tx.update(STACK, state, PARAMS)
                steps.append(float(updates["b"][0]))
            assert steps == [0.0, -1.5]


@pytest.mark.parametrize(
    "tx",
    [
        optax.chain(optax.sgd(0.01), optax.contrib.reduce_on_plateau(patience=1)),
        optax.polyak_sgd(0.01),
        optax.lbfgs(0.01, linesearch=None),
        optax.MultiSteps(optax.sgd(0.01), 2),
    ],
    ids=["reduce_on_plateau", "polyak_sgd", "lbfgs", "MultiSteps"],
)
def test_servers_get_the_value_and_the_gradient(tx):
    with jax.numpy_dtype_promotion("standard"):
        result = go(method=server(tx), num_rounds=8)
    assert result.history["finite"].all()
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_the_value_is_the_honest_loss_and_the_gradient_the_aggregate():
    def spy(kind):
        return optax.GradientTransformationExtraArgs(
            lambda params: (jnp.zeros(()), jnp.zeros_like(params)),
            lambda updates, state, params=None, *, value, grad, **extra: (0.01 * updates, (value, grad)),
        )

    result = go(method=METHOD._replace(worker=spy("worker"), server=spy("server")), num_rounds=1)
    value, grad = result.state.server
    np.testing.assert_allclose(value, result.history["loss"][0], rtol=1e-6)
    np.testing.assert_allclose(transforms.global_norm(grad), result.history["aggregate_norm"][0], rtol=1e-6)
    values, grads = result.state.worker
    np.testing.assert_allclose(values[:3].mean(), value, rtol=1e-6)
    assert grads.shape == (N, 3)


# 16 bits


@pytest.mark.parametrize(
    "tx",
    [
        transforms.momentum(0.9),
        transforms.momentum(0.9, kind="heavy_ball"),
        transforms.momentum(lambda count: 0.9),
        transforms.scale_by_fedopt(),
    ],
    ids=str,
)
def test_a_state_keeps_its_dtypes(tx):
    """Parameters of 16 bits and gradients of 32, or the other way round, under `jax.lax.scan`."""
    for params, grads in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16), (jnp.float16, jnp.bfloat16)):
        start = tx.init(jnp.zeros(3, params))
        with jax.numpy_dtype_promotion("strict"):
            state, steps = jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], start, jnp.ones((2, 3), grads))
        assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, start)
        assert steps.dtype == grads
        assert (steps[1] > 0).all()


def test_a_bare_adaptive_link_of_16_bits_does_not_stall():
    """The second moment of ones tends to 1; one of bfloat16 stops at 0.84."""
    tx = transforms.scale_by_fedopt()
    ones = jnp.ones(3, jnp.bfloat16)
    state, steps = jax.lax.scan(lambda s, _: tx.update(ones, s)[::-1], tx.init(ones), length=1000)
    np.testing.assert_allclose(state.nu, 1.0, rtol=1e-3)
    np.testing.assert_allclose(steps[-1].astype(jnp.float32), 1 / 1.001, rtol=2**-8)
    assert steps.dtype == jnp.bfloat16


def test_momenta_of_16_bits_are_kept_in_32():
    """An average of ones with β = 0.999 is 1 − 0.999^3000 = 0.95 after 3 000 steps; in bfloat16 it stalls at 0.5."""
    tx = transforms.per_worker(optax.ema(0.999, debias=False), 2)
    ones = jnp.ones((2, 3), jnp.bfloat16)

    def step(state, _):
        updates, state = tx.update(ones, state)
        return state, updates

    state, updates = jax.lax.scan(step, tx.init(ones[0]), length=3000)
    np.testing.assert_allclose(state.ema, 1 - 0.999**3000, rtol=1e-4)
    assert updates.dtype == jnp.bfloat16
    own = transforms.per_worker(optax.ema(0.9), 2, accumulator_dtype=None)
    assert own.init(ones[0]).ema.dtype == jnp.bfloat16
    asked = transforms.per_worker(optax.ema(0.9, accumulator_dtype="bfloat16"), 2)
    assert asked.init(ones[0]).ema.dtype == jnp.bfloat16
