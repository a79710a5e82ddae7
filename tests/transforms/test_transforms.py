"""The optax door: links that work in anybody's chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, transforms
from byzjax.testing import attack_cases

N = 6


def grads(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(N, 3, 2)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=N), jnp.float32),
    }


PARAMS = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(())}


@pytest.mark.parametrize("tx", [optax.ema(0.9, debias=False), optax.trace(0.9), optax.scale_by_adam(), optax.sgd(0.1)])
def test_per_worker_equals_a_loop_over_workers(tx):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes an integer count with floats
        _compare_with_loop(tx)


def _compare_with_loop(tx):
    many = transforms.per_worker(tx, N)
    state, states = many.init(PARAMS), [tx.init(PARAMS) for _ in range(N)]
    for seed in range(3):
        stack = grads(seed)
        out, state = many.update(stack, state, PARAMS)
        for i in range(N):
            one, states[i] = tx.update(jax.tree.map(lambda g, i=i: g[i], stack), states[i], PARAMS)
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(jax.tree.map(lambda o, i=i: o[i], out)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)


def test_per_worker_takes_gradients_per_example():
    private = transforms.per_worker(optax.contrib.differentially_private_aggregate(1.0, 1e-9, 0), N)
    params = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(())}
    examples = {"w": jnp.full((N, 4, 3, 2), 0.01), "b": jnp.full((N, 4), 0.02)}
    updates, _ = private.update(examples, private.init(params), params)
    jax.tree.map(lambda u, e: np.testing.assert_allclose(u, e.mean(1), rtol=1e-5), updates, examples)


def test_links_work_in_an_ordinary_chain_with_extra_arguments():
    tx = optax.chain(
        transforms.per_worker(optax.ema(0.9, debias=False), N),
        transforms.robust_aggregate(byzjax.chain(agg.nnm(1), agg.median())),
        transforms.normalize_by_global_norm(),
        optax.scale_by_learning_rate(0.5),
    )
    updates, _ = jax.jit(tx.update)(grads(), tx.init(PARAMS), PARAMS)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)
    np.testing.assert_allclose(transforms.global_norm(updates), 0.5, rtol=1e-6)
    tx.update(grads(), tx.init(PARAMS), PARAMS, value=1.0)


def test_robust_aggregate_draws_a_new_key_each_time_and_prefers_the_callers():
    rule = byzjax.chain(agg.bucketing(2), agg.median())
    tx = transforms.robust_aggregate(rule, key=jax.random.key(0))
    state = tx.init(PARAMS)
    first, state = tx.update(grads(), state)
    second, _ = tx.update(grads(), state)
    assert not np.array_equal(first["w"], second["w"])
    given, _ = tx.update(grads(), state, key=jax.random.key(5))
    np.testing.assert_array_equal(given["w"], byzjax.aggregate(rule, grads(), key=jax.random.key(5))["w"])


def test_inject_attack_makes_honest_rows_pass():
    tx = transforms.inject_attack(attacks.bit_flip(), jnp.arange(N) >= 4, key=jax.random.key(0))
    out, state = tx.update(grads(), tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(out["w"][:4], grads()["w"][:4])
    np.testing.assert_array_equal(out["w"][4:], -grads()["w"][4:])
    assert int(state.count) == 1


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-6, 1.0, 1e30, 5e37])
def test_normalisation_is_exact_at_every_scale(scale):
    tree = {"a": jnp.array([3.0 * scale, 0.0]), "b": jnp.array([[4.0 * scale]])}
    unit = transforms.normalized(tree)
    np.testing.assert_allclose(unit["a"], [0.6, 0.0], rtol=1e-5)
    np.testing.assert_allclose(unit["b"], [[0.8]], rtol=1e-5)
    np.testing.assert_allclose(float(transforms.global_norm(tree)) / scale, 5.0, rtol=1e-5)


def test_normalisation_of_zero_is_zero_and_of_nan_is_nan():
    np.testing.assert_array_equal(transforms.normalized(jnp.zeros(3)), 0.0)
    assert jnp.isnan(transforms.normalized(jnp.array([1.0, jnp.nan]))).all()
    assert jnp.isnan(transforms.normalized(jnp.array([1.0, jnp.inf]))).any()
    assert transforms.normalized(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: transforms.per_worker(optax.sgd(0.1), 0), "num_workers = 0"),
        (lambda: _update(transforms.per_worker(optax.sgd(0.1), 3)), "not num_workers = 3"),
        (lambda: transforms.per_worker(optax.sgd(0.1), N, initial={"ema": 0.0}).init(PARAMS), r"initial\['ema'\]"),
        (lambda: transforms.robust_aggregate(agg.nnm(1)), "not an Aggregator"),
        (
            lambda: transforms.inject_attack(attacks.sign_flip(), jnp.arange(N), key=jax.random.key(0)),
            "is not a mask",
        ),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def _update(tx):
    return tx.update(grads(), tx.init(PARAMS), PARAMS)


def whole_chain(rule):
    return optax.chain(
        transforms.per_worker(optax.ema(0.9, debias=False), N),
        transforms.inject_attack(attacks.ipm(), jnp.arange(N) >= 5, key=jax.random.key(1)),
        agg.clipping(1e3),
        transforms.robust_aggregate(rule),
        transforms.normalize_by_global_norm(),
        optax.scale_by_learning_rate(0.1),
    )


@pytest.mark.parametrize("worker", [optax.scale(2.0), optax.scale_by_adam()])
def test_a_group_without_parameters(worker):
    def chain():
        return optax.chain(transforms.per_worker(worker, N), whole_chain(agg.median()))

    alone = chain()
    with jax.numpy_dtype_promotion("standard"):
        expected = alone.update(grads(), alone.init(PARAMS), PARAMS)[0]
        for tx in (
            optax.partition({"some": chain(), "nobody": chain()}, {"w": "some", "b": "some"}),
            optax.chain(chain(), optax.masked(chain(), {"w": False, "b": False})),
        ):
            state = tx.init(PARAMS)
            step, after = jax.jit(tx.update)(grads(), state, PARAMS)
            jax.tree.map(np.testing.assert_array_equal, jax.tree.map(jnp.shape, state), jax.tree.map(jnp.shape, after))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), step, expected)


def test_every_attack_lets_a_tree_without_leaves_pass():
    for case in attack_cases():
        if case.name == "label_flip":
            continue  # refused as a link: it only poisons data
        attack = case.make(num_workers=N) if case.takes_n else case.make()
        tx = transforms.inject_attack(attack, jnp.arange(N) >= 5, key=jax.random.key(1))
        assert tx.update({"a": ()}, tx.init({"a": ()}))[0] == {"a": ()}


def test_complex_parameters():
    tx = transforms.normalize_by_global_norm()
    tree = {"a": jnp.array([3 + 4j], jnp.complex64), "b": jnp.array([12.0])}
    assert transforms.global_norm(tree) == optax.tree.norm(tree) == 13
    step = tx.update(tree, tx.init(tree))[0]
    np.testing.assert_allclose(step["a"], (3 + 4j) / 13, rtol=1e-6)
    np.testing.assert_allclose(step["b"], 12 / 13, rtol=1e-6)
    rows = jnp.ones((N, 2), jnp.complex64)
    attack = transforms.inject_attack(attacks.ipm(), jnp.arange(N) >= 5, key=jax.random.key(1))
    for link in (attack, agg.clipping(), transforms.robust_aggregate(agg.median())):
        with pytest.raises(ValueError, match="complex64; updates must be floating"):
            link.update(rows, link.init(rows[0]))
    workers = transforms.per_worker(optax.trace(0.5), N)
    np.testing.assert_array_equal(workers.update(1j * rows, workers.init(rows[0]))[0], 1j * rows)


@pytest.mark.parametrize("spec", [jax.P(None, "x"), jax.P()])
def test_shardings_that_are_types(spec):
    """The contracts of optax's own sharding_test.py, with a worker axis before."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    rule = byzjax.chain(agg.nnm(1), agg.centered_clipping(num_iters=2))
    tx = whole_chain(rule)
    rng = np.random.default_rng(0)
    stack = rng.normal(size=(N, 2, 8, 4)).astype(np.float32)
    abstract = jax.ShapeDtypeStruct((2, 8, 4), jnp.float32)
    assert tx.init(abstract) is not None
    expected = tx.update(jnp.asarray(stack), tx.init(jnp.zeros((2, 8, 4))), jnp.zeros((2, 8, 4)))[0]
    with jax.set_mesh(mesh):
        params = jnp.zeros((2, 8, 4), out_sharding=jax.NamedSharding(mesh, spec))
        updates = jax.device_put(stack, jax.NamedSharding(mesh, jax.P(None, *spec)))
        tx = whole_chain(rule)  # its keys know the mesh
        state = tx.init(params)
        step, after = tx.update(updates, state, params)
        jitted, _ = jax.jit(tx.update)(updates, state, params)
        assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, after)
        assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, jax.jit(tx.init)(params))
        assert jax.typeof(step) == jax.typeof(jitted) == jax.typeof(params)
    np.testing.assert_allclose(step, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jitted, expected, rtol=1e-5, atol=1e-6)
