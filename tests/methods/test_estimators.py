"""Methods with an estimator: they resume, spread, sweep and keep their state as all others do; bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, sharding, tasks, transforms
from byzjax.base import Aggregator, Trust
from byzjax.configs.run_config import RunConfig, execute
from byzjax.simulation.checkpoint import Checkpoint

N, B = 16, 3
TASK = tasks.logistic_regression(N, B, num_examples=70, dim=3, heterogeneity=0.5)
KEY = jax.random.key(2)
RULE = {"aggregator": agg.mean()}
ESTIMATING = {
    "marina": methods.byz_vr_marina(0.2, **RULE, p=0.3, compressor=transforms.natural_compression()),
    "marina own": methods.byz_vr_marina(0.2, **RULE, p=0.3, base="own", compressor=0.5),
    "lsvrg": methods.byz_lsvrg(0.2, **RULE, p=0.05),
    "saga": methods.byrd_saga(0.2, **RULE, batch_size=2),
    "ef21": methods.byz_ef21(0.2, **RULE, compressor=transforms.random_k(0.5, scaled=False)),
    "vr-dm21": methods.byz_dm21(0.2, **RULE, compressor=0.5, variance_reduced=True),
    "clipped": methods.clipped_differences(methods.byz_ef21(0.2, **RULE)),
}


def go(method, num_rounds=24, **options):
    options = {"byzantine": jnp.asarray(TASK.byzantine), "key": KEY, "eval_every": 6, "progress": False, **options}
    return byzjax.run(TASK, method, attacks.alie(), num_rounds=num_rounds, record=metrics.record("loss"), **options)


def assert_same(got, expected, tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=0.0))


@pytest.mark.parametrize("name", ["marina own", "lsvrg", "saga"])
def test_on_eight_devices_and_after_a_restart_it_is_the_same_run(name, tmp_path):
    method, mesh = ESTIMATING[name], sharding.make_mesh(workers=8)
    go(method, 12, mesh=mesh, checkpoint=Checkpoint(tmp_path))
    resumed = go(method, mesh=mesh, checkpoint=Checkpoint(tmp_path))
    assert_same(resumed, go(method, mesh=mesh), 0.0)
    assert_same(resumed, go(method), 2e-6)
    stacks = [leaf for leaf in jax.tree.leaves(resumed.state.estimator) if leaf.shape[:1] == (N,)]
    assert stacks
    assert {leaf.sharding.spec for leaf in stacks} == {jax.P("workers")}


def test_probability_and_learning_rate_sweep_by_vmap():
    def final(rate, p, seed):
        return byzjax.simulate(
            TASK,
            methods.byz_vr_marina(rate, **RULE, p=p),
            attacks.alie(),
            byzantine=jnp.asarray(TASK.byzantine),
            key=jax.random.key(seed),
            num_rounds=8,
        ).state

    lanes = jnp.array([0.1, 0.3]), jnp.array([0.05, 0.6]), jnp.array([1, 2])
    swept = jax.jit(jax.vmap(final))(*lanes)
    for i in range(2):
        alone = jax.jit(final)(*(lane[i] for lane in lanes))
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], swept.estimator), alone.estimator, 1e-5)
    assert np.abs(swept.params[0] - swept.params[1]).max() > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ESTIMATING)
def test_the_state_looks_alike_in_all_rounds_and_remembers_in_float32(name, dtype):
    task = dataclasses.replace(TASK, init=lambda key: jnp.zeros(3, dtype))
    begin = lambda key: byzjax.init_state(task, ESTIMATING[name], attacks.none(), key=key)  # noqa: E731
    step = byzjax.make_round(task, ESTIMATING[name], attacks.none(), byzantine=jnp.asarray(TASK.byzantine))
    before = jax.eval_shape(begin, KEY)
    after, _ = jax.eval_shape(step, before)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), before)
    assert after.params.dtype == dtype
    kept = {leaf.dtype for leaf in jax.tree.leaves(after.estimator) if leaf.ndim > 1}
    assert jnp.dtype(jnp.float32) in kept or name == "marina"


def test_a_method_without_one_has_no_state_of_it():
    state = byzjax.init_state(TASK, methods.momentum_sgd(0.1, **RULE), attacks.none(), key=KEY)
    assert state.estimator == ()


def test_the_command_line_can_say_it():
    config = RunConfig(
        task="logistic_regression(num_examples=8, dim=2)",
        method="byz_vr_marina(p=0.5, compressor=0.5)",
        aggregator="median",
        attack="label_flip",
        num_workers=5,
        num_byzantine=1,
        num_rounds=4,
        eval_every=2,
    )
    assert execute(config, progress=False).suboptimality.shape == (2,)


def test_trust_of_clipped_differences_is_of_what_was_sent():
    rule = methods.clipped_differences(methods.momentum_sgd(0.1, aggregator=agg.cge(0)), scale=1.0).aggregator
    rows = jnp.array([[1.0, 0.0], [3.0, 0.0]])
    first, state, trust = rule.update_with_trust(rows, rule.init(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_allclose(first, [2.0, 0.0])
    np.testing.assert_allclose(trust.weights, [0.5, 0.5])
    # From [2, 0], with the model moved by 3: the row 4 away is cut to 3, the other is not.
    second, _, trust = rule.update_with_trust(jnp.array([[2.0, 4.0], [2.0, 0.0]]), state, jnp.array([0.0, 3.0]))
    np.testing.assert_allclose(second, [2.0, 1.5])
    np.testing.assert_allclose(trust.weights, [0.375, 0.5])
    with pytest.raises(ValueError, match="clipped_differences: needs params"):
        rule.update(rows, state)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_row_that_is_not_finite_counts_as_the_last_aggregate(bad):
    rule = methods.clipped_differences(methods.momentum_sgd(0.1, aggregator=agg.cge(0)), scale=1.0).aggregator
    zero = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    rows = {"a": jnp.ones((3, 2)), "b": jnp.ones(3)}
    _, state = rule.update(rows, rule.init(zero), zero)
    moved = {"a": jnp.array([0.0, 4.0]), "b": jnp.zeros(())}
    sent = {"a": jnp.array([[1.0, 1.0], [1.0, 2.5], [bad, 1.0]]), "b": jnp.ones(3)}
    aggregate, after, trust = rule.update_with_trust(sent, state, moved)
    np.testing.assert_allclose(aggregate["a"], [1.0, 1.5], rtol=1e-6)
    np.testing.assert_allclose(aggregate["b"], 1.0)
    np.testing.assert_allclose(trust.weights, [1 / 3, 1 / 3, 0.0], rtol=1e-6)
    assert jnp.isfinite(after.aggregate["a"]).all()
    # In the first round, which is taken whole, it is the rule's.
    assert not jnp.isfinite(rule.update(sent, rule.init(zero), zero)[0]["a"]).all()


GOOD = {"learning_rate": 0.1, **RULE}


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        *[(factory, {"learning_rate": 0.0}, "learning_rate = 0.0") for factory in methods.REGISTRY.values()],
        *[(factory, {"aggregator": agg.nnm(1)}, "not an Aggregator") for factory in methods.REGISTRY.values()],
        (methods.byz_vr_marina, {"p": 0}, "p = 0 must be a finite number > 0"),
        (methods.byz_vr_marina, {"p": 1.5}, "p = 1.5 must be at most 1; it is a probability"),
        (methods.byz_vr_marina, {"base": "server"}, "base = 'server' must be 'aggregate' or 'own'"),
        (
            methods.byz_vr_marina,
            {"compressor": "rand"},
            "compressor = 'rand' is a str, not a Compressor; pass a fraction",
        ),
        (methods.byz_vr_marina, {"compressor": 0.0}, "fraction = 0.0 must be"),
        (methods.byz_lsvrg, {"coin": "biased"}, "coin = 'biased'"),
        (methods.byrd_saga, {"batch_size": 0}, "batch_size = 0"),
        (methods.byrd_saga, {"initial": "random"}, "initial = 'random'"),
        (methods.byz_ef21, {"beta": 1.0}, "beta = 1.0"),
        (methods.byz_ef21, {"compressor": 1.5}, r"fraction = 1.5 must be in \(0, 1\]"),
        *[
            (factory, {"compressor": transforms.random_k(0.1)}, r"random_k\(.*not contractive.*scaled=False")
            for factory in (methods.byz_ef21, methods.byz_dm21)
        ],
        *[
            (methods.byz_vr_marina, {"compressor": biased}, r"is biased.*pass random_k\(…\) or natural_compression")
            for biased in (transforms.top_k(0.5), transforms.random_k(0.5, scaled=False))
        ],
        (methods.byz_dm21, {"variance_reduced": "yes"}, "variance_reduced = 'yes' is a str, not a bool"),
    ],
)
def test_bad_input_is_named(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(**{**GOOD, **options})


def test_wrappers_name_bad_input():
    with pytest.raises(ValueError, match=r"method = .* call its factory"):
        methods.clipped_differences(methods.momentum_sgd)
    with pytest.raises(ValueError, match="scale = 0"):
        methods.clipped_differences(methods.momentum_sgd(**GOOD), scale=0)
    with pytest.raises(ValueError, match="tau = 0"):
        methods.learning_from_history(0.1, tau=0)


@pytest.mark.parametrize("trusting", [False, True])
def test_a_rule_without_extra_arguments_is_not_told_of_the_estimator(trusting):
    def update(updates, state, params=None, *, key=None):
        return jax.tree.map(lambda x: x.mean(0), updates), state, *([Trust()] if trusting else [])

    rule = Aggregator(lambda params: (), **{"update_with_trust" if trusting else "update": update})
    for aggregator in (rule, byzjax.chain(agg.nnm(1), rule)):
        method = methods.byz_lsvrg(0.1, aggregator=aggregator)
        round_ = byzjax.make_round(TASK, method, attacks.alie(), byzantine=jnp.asarray(TASK.byzantine))
        jax.eval_shape(round_, byzjax.init_state(TASK, method, attacks.alie(), key=KEY))


def test_a_link_is_given_one_gradient_and_says_so():
    with pytest.raises(ValueError, match="as_transformation: method has an estimator"):
        transforms.as_transformation(methods.byz_lsvrg(**GOOD), N)
