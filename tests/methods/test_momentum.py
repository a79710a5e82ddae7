"""Algorithm 1, step by step, against float64 NumPy; and the three doors to it agree bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks, transforms
from byzjax.rng import round_keys
from byzjax.testing import REFERENCES
from tests.helpers import compiled_as_runs_are

N, B, ROUNDS = 10, 2, 60
BYZANTINE = np.arange(N) >= N - B
KEY = jax.random.key(11)
TASK = tasks.quartic(N, B, dim=4, noise_scale=0.1, shift_scale=0.05)


def rule():
    return byzjax.chain(agg.nnm(B), agg.geometric_median())


def slopes(rounds=ROUNDS):
    """The linear terms ξ + s_i that every round of the run draws, read off the task."""
    return [np.asarray(TASK.sample(TASK.data, round_keys(KEY, t).data)["slope"], np.float64) for t in range(rounds)]


def algorithm_1(gamma, beta, *, momentum="ema", normalise=True, decay=True, v0=None, scale=1.5):
    """The paper's loop on the quartic with NNM, RFA and the IPM attack, in float64."""
    x, v = np.ones(4), np.zeros((N, 4)) if v0 is None else np.array(v0, np.float64)
    path, eta = [], 1 - beta
    for k, slope in enumerate(slopes(), start=1):
        g = 4 * x * (x @ x) + slope
        v = (1 - eta) * v + eta * g if momentum == "ema" else beta * v + g
        sent = v.copy()
        sent[BYZANTINE] = -scale * v[~BYZANTINE].mean(0)
        aggregate = REFERENCES["geometric_median"](REFERENCES["nnm"](sent, B))
        step = gamma / np.sqrt(k) if decay else gamma
        direction = aggregate / np.linalg.norm(aggregate) if normalise else aggregate
        x = x - step * direction
        path.append(x)
    return np.stack(path)


def simulated(method, rounds=ROUNDS):
    """All iterates of a run, one evaluation per round."""
    task = dataclasses.replace(TASK, evaluate=lambda data, x: {"x": x})
    result = byzjax.run(
        task,
        method,
        attacks.ipm(1.5),
        byzantine=jnp.asarray(BYZANTINE),
        key=KEY,
        num_rounds=rounds,
        eval_every=1,
        progress=False,
    )
    return np.asarray(result.evals["x"])


@pytest.mark.parametrize("momentum", ["ema", "heavy_ball"])
@pytest.mark.parametrize("decay", [True, False])
def test_byz_nsgdm_is_algorithm_1(momentum, decay):
    gamma = 0.3 if decay else 0.02
    method = methods.byz_nsgdm(gamma, aggregator=rule(), beta=0.9, momentum=momentum, decay=decay)
    expected = algorithm_1(gamma, 0.9, momentum=momentum, decay=decay)
    np.testing.assert_allclose(simulated(method), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("momentum", ["ema", "heavy_ball"])
@pytest.mark.parametrize("decay", [True, False])
def test_momentum_sgd_is_the_baseline(momentum, decay):
    gamma = 0.02 if momentum == "ema" else 0.002
    method = methods.momentum_sgd(gamma, aggregator=rule(), beta=0.9, momentum=momentum, decay=decay)
    expected = algorithm_1(gamma, 0.9, momentum=momentum, decay=decay, normalise=False)
    np.testing.assert_allclose(simulated(method), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("momentum", "field"), [("ema", "ema"), ("heavy_ball", "trace")])
def test_initial_momentum_is_v0(momentum, field):
    v0 = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32) * 50
    method = methods.byz_nsgdm(0.3, aggregator=rule(), momentum=momentum, initial_momentum=v0)
    state = byzjax.init_state(TASK, method, attacks.none(), key=KEY)
    np.testing.assert_array_equal(optax.tree.get(state.worker, field), v0)
    expected = algorithm_1(0.3, 0.9, momentum=momentum, v0=v0)
    np.testing.assert_allclose(simulated(method), expected, rtol=1e-4, atol=2e-5)
    assert np.abs(expected - algorithm_1(0.3, 0.9, momentum=momentum)).max() > 0.01


def test_steps_have_length_gamma_k_exactly():
    path = np.concatenate([np.ones((1, 4)), simulated(methods.byz_nsgdm(0.3, aggregator=rule()))])
    lengths = np.linalg.norm(np.diff(path.astype(np.float64), axis=0), axis=1)
    np.testing.assert_allclose(lengths, 0.3 / np.sqrt(np.arange(1, ROUNDS + 1)), rtol=1e-5)


def test_zero_momentum_gives_a_zero_step():
    quiet = tasks.quartic(N, B, dim=4, noise_scale=0.0, shift_scale=0.0)
    still = dataclasses.replace(quiet, init=lambda key: jnp.zeros(4))
    method = methods.byz_nsgdm(0.1, aggregator=rule())
    result = byzjax.run(
        still,
        method,
        attacks.none(),
        byzantine=jnp.asarray(BYZANTINE),
        key=KEY,
        num_rounds=3,
        progress=False,
    )
    np.testing.assert_array_equal(result.state.params, 0.0)
    assert result.history["finite"].all()


@pytest.mark.parametrize("task", ["quartic", "mnist"])
def test_optax_chain_method_and_simulate_agree_bit_for_bit(task):
    if task == "quartic":
        task, rounds = tasks.quartic(N, B, noise_scale=1e-2), 20
    else:
        task, rounds = tasks.mnist(N, B, batch_size=8), 5
    mask = jnp.asarray(BYZANTINE)
    method = methods.byz_nsgdm(0.1, aggregator=rule())
    attack = attacks.sign_flip()
    result = byzjax.run(task, method, attack, byzantine=mask, key=KEY, num_rounds=rounds, progress=False)

    chained = optax.chain(
        transforms.per_worker(optax.ema(0.9, debias=False), N),
        transforms.inject_attack(attack, mask, key=jax.random.key(99)),
        transforms.robust_aggregate(rule()),
        transforms.normalize_by_global_norm(),
        optax.scale_by_learning_rate(methods.sqrt_decay(0.1)),
    )

    @compiled_as_runs_are
    def step(task, params, opt_state, t):
        keys = round_keys(KEY, t)
        batch = task.sample(task.data, keys.data)
        grads = jax.vmap(jax.grad(task.loss), in_axes=(None, 0, 0))(params, batch, jax.random.split(keys.model, N))
        updates, opt_state = chained.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    from_parts = optax.chain(
        transforms.per_worker(method.worker, N),
        transforms.inject_attack(attack, mask, key=jax.random.key(99)),
        transforms.robust_aggregate(method.aggregator),
        method.server,
    )
    begin = compiled_as_runs_are(lambda task: byzjax.init_state(task, method, attack, key=KEY).params)
    params = begin(task)
    opt_state = chained.init(params)
    for t in range(rounds):
        params, opt_state = step(task, params, opt_state, t)
    for mine, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(result.state.params), strict=True):
        np.testing.assert_array_equal(mine, theirs)

    grads = jax.tree.map(lambda p: jnp.stack([p * (i + 1) for i in range(N)]), params)
    one, _ = jax.jit(chained.update)(grads, chained.init(params), params)
    other, _ = jax.jit(from_parts.update)(grads, from_parts.init(params), params)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_learning_rate_and_beta_sweep_by_vmap():
    def final(gamma, beta):
        method = methods.byz_nsgdm(gamma, aggregator=agg.median(), beta=beta)
        return byzjax.simulate(
            TASK, method, attacks.none(), byzantine=jnp.asarray(BYZANTINE), key=KEY, num_rounds=5
        ).state.params

    swept = jax.jit(jax.vmap(final))(jnp.array([0.1, 0.2]), jnp.array([0.0, 0.9]))
    np.testing.assert_allclose(swept[1], final(0.2, 0.9), rtol=1e-5)
    np.testing.assert_allclose(swept[0], final(0.1, 0.0), rtol=1e-5)


def test_an_optax_schedule_is_used_as_it_is():
    constant = methods.byz_nsgdm(optax.constant_schedule(0.05), aggregator=rule())
    plain = methods.byz_nsgdm(0.05, aggregator=rule(), decay=False)
    np.testing.assert_array_equal(simulated(constant, 5), simulated(plain, 5))


@pytest.mark.parametrize("factory", [methods.momentum_sgd, methods.byz_nsgdm])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": np.nan}, "learning_rate = nan"),
        ({"learning_rate": np.inf}, "learning_rate = inf"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"beta": 1.0}, "beta = 1.0"),
        ({"momentum": "nesterov"}, "momentum = 'nesterov'"),
        ({"aggregator": agg.nnm(1)}, "not an Aggregator"),
        ({"aggregator": agg.median}, "call a factory"),
    ],
)
def test_bad_input_is_named(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(**{"learning_rate": 0.1, "aggregator": agg.median(), **options})
