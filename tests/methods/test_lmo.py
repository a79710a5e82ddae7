"""Byz-LMO and its kin: three doors, one algorithm; float64 NumPy beside it; schedules of steps and momenta."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks, transforms
from byzjax.rng import round_keys
from byzjax.task import Task
from byzjax.tasks import models
from byzjax.transforms._lmo import _SCALED, NORMS

N, B = 10, 2
MASK = jnp.arange(N) >= N - B
KEY = jax.random.key(11)
QUARTIC = tasks.quartic(N, B, dim=4, noise_scale=0.1, shift_scale=0.05)


def rule():
    return agg.median()  # quick to compile; Algorithm 1 with the paper's rules is in test_momentum.py


def path(method, rounds, task=QUARTIC):
    """All iterates of a run."""
    task = dataclasses.replace(task, evaluate=lambda data, x: {"x": x})
    options = {"byzantine": MASK, "key": KEY, "num_rounds": rounds, "eval_every": 1, "progress": False}
    return np.asarray(byzjax.run(task, method, attacks.ipm(1.5), **options).evals["x"])


def in_numpy(direction, rate, beta, rounds):
    """The paper's loop with the median and IPM in float64; ``rate`` and ``beta`` are functions of k = 1, 2, …."""
    x, v, points = np.ones(4), np.zeros((N, 4)), []
    for k in range(1, rounds + 1):
        slope = np.asarray(QUARTIC.sample(QUARTIC.data, round_keys(KEY, k - 1).data)["slope"], np.float64)
        v = beta(k) * v + (1 - beta(k)) * (4 * x * (x @ x) + slope)
        sent = v.copy()
        sent[np.asarray(MASK)] = -1.5 * v[~np.asarray(MASK)].mean(0)
        x = x - rate(k) * direction(np.median(sent, axis=0))
        points.append(x)
    return np.stack(points)


def largest(v):
    return np.sign(v) * (np.arange(4) == np.argmax(np.abs(v)))


DIRECTIONS = {"l2": lambda v: v / np.linalg.norm(v), "linf": np.sign, "l1": largest}


@pytest.mark.parametrize("norm", DIRECTIONS)
def test_byz_lmo_in_float64(norm):
    method = methods.byz_lmo(0.1, norm=norm, radius=2.0, aggregator=rule())
    expected = in_numpy(DIRECTIONS[norm], lambda k: 0.2 / np.sqrt(k), lambda k: 0.9, 20)
    np.testing.assert_allclose(path(method, 20), expected, rtol=1e-4, atol=2e-5)


def test_clipped_steps_in_float64():
    method = methods.byz_clip(0.02, threshold=3.0, aggregator=rule(), beta=0.5)
    lengths = []

    def direction(v):
        lengths.append(np.linalg.norm(v))
        return min(1, 3 / lengths[-1]) * v

    expected = in_numpy(direction, lambda k: 0.02, lambda k: 0.5, 40)
    assert min(lengths) < 3 < max(lengths)
    np.testing.assert_allclose(path(method, 40), expected, rtol=1e-4, atol=2e-5)


def fedopt(name, beta_1, beta_2, tau):
    m, s = np.zeros(4), np.full(4, tau**2)

    def direction(v):
        nonlocal m, s
        m = beta_1 * m + (1 - beta_1) * v
        s = {
            "adam": beta_2 * s + (1 - beta_2) * v**2,
            "yogi": s - (1 - beta_2) * v**2 * np.sign(s - v**2),
            "adagrad": s + v**2,
        }[name]
        return m / (np.sqrt(s) + tau)

    return direction


@pytest.mark.parametrize("name", ["adam", "yogi", "adagrad"])
def test_adaptive_servers_in_float64(name):
    momenta = {} if name == "adagrad" else {"beta_1": 0.8, "beta_2": 0.95}
    method = methods.REGISTRY[f"byz_fed{name}"](0.05, aggregator=rule(), beta=0.5, tau=0.1, **momenta)
    direction = fedopt(name, momenta.get("beta_1", 0.0), 0.95, 0.1)
    expected = in_numpy(direction, lambda k: 0.05, lambda k: 0.5, 20)
    np.testing.assert_allclose(path(method, 20), expected, rtol=1e-4, atol=2e-5)


def test_fedopt_with_other_conventions_is_that_of_optax():
    mine = transforms.scale_by_fedopt("adam", beta_2=0.999, tau=1e-8, initial=0.0, bias_correction=True)
    theirs, root = optax.scale_by_adam(), transforms.scale_by_fedopt("adagrad", beta_1=0.0, tau=1e-12, initial=0.1)
    rss = optax.scale_by_rss(0.1, eps=0.0)
    states = [tx.init(jnp.zeros(3)) for tx in (mine, theirs, root, rss)]
    for seed in range(3):
        g = jax.random.normal(jax.random.key(seed), (3,))
        with jax.numpy_dtype_promotion("standard"):
            steps, states = zip(*(tx.update(g, s) for tx, s in zip((mine, theirs, root, rss), states, strict=True)),
                                strict=True)  # fmt: skip
        np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5)
        np.testing.assert_allclose(steps[2], steps[3], rtol=1e-5)


# Three doors to one algorithm


def matrix_task():
    """Least squares of a layer, with its data in the batch."""

    def sample(data, key):
        x = jax.random.normal(key, (N, 8, 5))
        return {"x": x, "y": x @ data}

    def loss(params, batch, key):
        del key
        return jnp.square(batch["x"] @ params["kernel"] + params["bias"][None] - batch["y"]).mean()

    def init(key):
        return {"kernel": jax.random.normal(key, (5, 3)), "bias": jnp.zeros(3)}

    return Task(jnp.ones((5, 3)), init, sample, loss, lambda data, params: {}, N)


LAYER = matrix_task()
VECTOR_NORMS = ("l2", "linf", "l1", "rms")
# Of the norms that are others' multiples one: `tests/transforms` has them all.
DOORS = {
    **{norm: {"norm": norm} for norm in NORMS if norm not in _SCALED or norm == "scion_sign"},
    "polar": {"norm": "spectral", "method": "polar"},
    "dion": {"norm": "spectral", "method": "newton_schulz", "coefficients": "dion"},
}


@pytest.mark.parametrize("options", DOORS.values(), ids=DOORS)
def test_chain_method_and_simulate_agree_bit_for_bit(options):
    if options["norm"] not in VECTOR_NORMS:
        options = {**options, "vectors": "l2"}
    method, attack, rounds = methods.byz_lmo(0.1, aggregator=agg.mean(), **options), attacks.sign_flip(), 3
    run = {"byzantine": MASK, "key": KEY, "num_rounds": rounds}
    result = jax.jit(lambda: byzjax.simulate(LAYER, method, attack, **run).state)()
    chained = optax.chain(
        transforms.per_worker(optax.ema(0.9, debias=False), N),
        transforms.inject_attack(attack, MASK, key=jax.random.key(99)),
        transforms.robust_aggregate(agg.mean()),
        transforms.scale_by_lmo(**options),
        optax.scale_by_learning_rate(methods.sqrt_decay(0.1)),
    )

    @jax.jit
    def loop():
        def round_(t, carry):
            params, state = carry
            keys = round_keys(KEY, t)
            batch = LAYER.sample(LAYER.data, keys.data)
            grads = jax.vmap(jax.grad(LAYER.loss), in_axes=(None, 0, 0))(params, batch, jax.random.split(keys.model, N))
            updates, state = chained.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = byzjax.init_state(LAYER, method, attack, key=KEY).params
        return jax.lax.fori_loop(0, rounds, round_, (params, chained.init(params)))[0]

    jax.tree.map(np.testing.assert_array_equal, loop(), result.params)
    start = byzjax.init_state(LAYER, method, attack, key=KEY)
    assert jax.tree.map(jax.typeof, start) == jax.tree.map(jax.typeof, result)
    assert not np.array_equal(start.params["kernel"], result.params["kernel"])


def test_l2_is_byz_nsgdm_bit_for_bit():
    one = path(methods.byz_lmo(0.3, norm="l2", aggregator=rule()), 20)
    np.testing.assert_array_equal(one, path(methods.byz_nsgdm(0.3, aggregator=rule()), 20))
    sign = path(methods.byz_sign(0.1, aggregator=rule()), 5)
    np.testing.assert_array_equal(sign, path(methods.byz_lmo(0.1, norm="linf", aggregator=rule()), 5))


def network_task():
    """A network of three layers, and another as its teacher."""
    model = models.mlp((6, 8, 8, 3))

    def sample(teacher, key):
        x = jax.random.normal(key, (N, 8, 6))
        return {"x": x, "y": jax.vmap(model.apply, (None, 0))(teacher, x)}

    def loss(params, batch, key):
        del key
        return jnp.square(model.apply(params, batch["x"]) - batch["y"]).mean()

    return Task(model.init(jax.random.key(1)), model.init, sample, loss, lambda data, params: {}, N)


def test_muon_and_scion_train_a_network():
    task = network_task()
    for method in (
        methods.byz_muon(0.1, aggregator=agg.mean(), scale="width", method="newton_schulz"),
        methods.byz_scion(0.05, aggregator=agg.mean(), radii={"others": 1.0, "last": 3.0}, constrained=True),
    ):
        options = {"byzantine": jnp.zeros(N, bool), "key": KEY, "num_rounds": 200}
        result = byzjax.run(task, method, attacks.none(), progress=False, **options)
        loss = result.history["loss"]
        assert result.history["finite"].all()
        assert loss[-10:].mean() < 0.4 * loss[:10].mean()


def test_a_radius_and_a_rate_by_vmap():
    def final(rate, radius, threshold):
        lmo = methods.byz_lmo(rate, norm="spectral", radius=radius, vectors="l2", aggregator=agg.median())
        clip = methods.byz_clip(rate, threshold=threshold, aggregator=agg.median())
        adam = methods.byz_fedadam(rate, tau=threshold, aggregator=agg.median())
        options = {"byzantine": MASK, "key": KEY, "num_rounds": 3}
        return [byzjax.simulate(LAYER, one, attacks.none(), **options).state.params for one in (lmo, clip, adam)]

    numbers = jnp.array([[0.1, 2.0, 0.5], [0.2, 1.0, 0.1]])
    swept = jax.jit(jax.vmap(lambda row: final(*row)))(numbers)
    for k, row in enumerate([(0.1, 2.0, 0.5), (0.2, 1.0, 0.1)]):
        for many, one in zip(jax.tree.leaves(swept), jax.tree.leaves(jax.jit(lambda: final(*row))()), strict=True):  # noqa: B023
            np.testing.assert_allclose(many[k], one, rtol=2e-5, atol=1e-6)


# Schedules


def test_theorem_1():
    """Constant γ and η; K rounds."""
    K = 24
    rate, beta = methods.fixed_horizon(2.0, K), methods.fixed_horizon_beta(K)
    method = methods.byz_nsgdm(rate, beta=beta, aggregator=rule())
    expected = in_numpy(DIRECTIONS["l2"], lambda k: 2 / (K + 1) ** 0.75, lambda k: 1 - 0.2, K)
    np.testing.assert_allclose(path(method, K), expected, rtol=1e-4, atol=2e-5)
    constant = methods.byz_nsgdm(2 / (K + 1) ** 0.75, decay=False, beta=0.8, aggregator=rule())
    np.testing.assert_allclose(path(method, K), path(constant, K), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("momentum", ["ema", "heavy_ball"])
def test_the_doubling_trick(restart, momentum):
    lengths = [2] * 2 + [4] * 4 + [8] * 8 + [16] * 6  # of the block of every round
    begins = [0, 2, 6, 14]
    np.testing.assert_allclose(methods.doubling(1.0, first=2**30)(2**30), (2.0**31 + 1) ** -0.75, rtol=1e-6)
    rate, beta = methods.doubling(2.0, first=2), methods.doubling_beta(first=2, restart=restart)
    np.testing.assert_allclose([rate(k) for k in range(20)], 2 / (np.array(lengths) + 1) ** 0.75, rtol=1e-6)
    betas = np.array([0 if restart and k in begins else 1 - (lengths[k] + 1) ** -0.5 for k in range(20)])
    np.testing.assert_allclose([beta(k) for k in range(20)], betas, rtol=1e-6)

    tx = transforms.momentum(beta, kind=momentum)
    state, v = tx.init(jnp.zeros(2)), np.zeros(2)
    for k in range(8):
        g = np.random.default_rng(k).normal(size=2)
        sent, state = tx.update(jnp.asarray(g, jnp.float32), state)
        v = betas[k] * v + ((1 - betas[k]) * g if momentum == "ema" else g)
        np.testing.assert_allclose(sent, v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("momentum", "field"), [("ema", "ema"), ("heavy_ball", "trace")])
def test_a_schedule_of_a_constant_is_the_constant(momentum, field):
    v0 = np.ones((N, 4), np.float32)
    options = {"aggregator": rule(), "momentum": momentum, "initial_momentum": v0}
    one = methods.byz_nsgdm(0.1, beta=lambda k: 0.9, **options)
    np.testing.assert_allclose(path(one, 8), path(methods.byz_nsgdm(0.1, beta=0.9, **options), 8), rtol=1e-5)
    state = byzjax.init_state(QUARTIC, one, attacks.none(), key=KEY).worker
    np.testing.assert_array_equal(optax.tree.get(state, field), v0)


def test_schedules_are_values():
    made = [
        methods.fixed_horizon(1.0, 10),
        methods.fixed_horizon_beta(10),
        methods.doubling(1.0),
        methods.sqrt_decay(1.0),
    ]
    for one in made:
        assert pickle.loads(pickle.dumps(one)) == one
        assert eval(repr(one), vars(methods)) == one
    methods_ = [methods.byz_nsgdm(methods.fixed_horizon(1.0, k), aggregator=agg.median()) for k in (10, 10, 11)]
    assert methods_[0] == methods_[1] != methods_[2]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: methods.byz_lmo(0.1, norm="spectrum", aggregator=agg.median()),
            "norm = 'spectrum' is unknown; nearest",
        ),
        (lambda: methods.byz_lmo(0.1, radius=0.0, aggregator=agg.median()), "radius = 0.0"),
        (lambda: path(methods.byz_lmo(0.1, norm="spectral", aggregator=agg.median()), 1), "is no matrix.*vectors='l2'"),
        (lambda: methods.byz_muon(0.1, scale="big", aggregator=agg.median()), "byz_muon: scale = 'big'"),
        (lambda: methods.byz_clip(0.1, threshold=-1.0, aggregator=agg.median()), "threshold = -1.0"),
        (lambda: methods.byz_fedadam(0.1, tau=0.0, aggregator=agg.median()), "tau = 0.0"),
        (lambda: methods.byz_fedyogi(0.1, beta_2=1.0, aggregator=agg.median()), "beta_2 = 1.0"),
        (lambda: methods.byz_fedadagrad(0.1, initial=-1.0, aggregator=agg.median()), "initial = -1.0"),
        (lambda: methods.fixed_horizon(0.0, 5), "learning_rate = 0.0"),
        (lambda: methods.fixed_horizon_beta(0), "num_rounds = 0"),
        (lambda: methods.doubling(1.0, first=0), "first = 0"),
        (lambda: methods.doubling(1.0, first=3 * 10**9), "first = 3000000000 is more rounds"),
        (lambda: methods.byz_muon(0.1, steps=5, aggregator=agg.median()), "steps = 5 is for method='newton_schulz'"),
        (lambda: methods.byz_scion(0.1, coefficients="dion", aggregator=agg.median()), "'dion' is for method="),
        (lambda: methods.byz_lmo(0.1, method="polar", aggregator=agg.median()), "norm = 'l2' is none"),
        (lambda: transforms.scale_by_fedopt("adamw"), "second_moment = 'adamw'"),
        (lambda: transforms.momentum(1.5), "beta = 1.5"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
