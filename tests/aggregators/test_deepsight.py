"""DeepSight: what it sees of the output layer and of predictions, and whom it leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import data
from byzjax.aggregators._deepsight import energy_shares, output_layer, probability_ratios
from byzjax.tasks import models

KEY = jax.random.key(0)


def tree(n=4, classes=3):
    layer = {"bias": jnp.ones((n, classes)), "kernel": jnp.ones((n, 5, classes))}
    return {"first": {"bias": jnp.ones((n, 5)), "kernel": jnp.ones((n, 2, 5))}, "last": layer}


def test_the_output_layer_is_the_last_one_or_the_one_that_is_named():
    weights, bias = output_layer(tree())
    assert ([w.shape for w in weights], bias.shape) == ([(4, 5, 3)], (4, 3))
    weights, bias = output_layer(tree(), "first")
    assert ([w.shape for w in weights], bias.shape) == ([(4, 2, 5)], (4, 5))
    for where, fault in (("firs", "has 0 leaves"), ("head", "'first/bias', 'first/kernel', 'last/bias'")):
        with pytest.raises(ValueError, match=fault):
            output_layer(tree(), where)
    with pytest.raises(ValueError, match="has 2 leaves of one dimension"):
        output_layer({"all": tree()}, "all")
    with pytest.raises(ValueError, match="has 1 outputs"):
        output_layer({"bias": jnp.ones((4, 1))})
    with pytest.raises(ValueError, match="output = None has 0 leaves"):
        byzjax.aggregate(agg.deepsight(), {"w": jnp.zeros((6, 2, 2))})


def test_energies_are_their_formula_whatever_the_length():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 6, 3)), rng.normal(size=(4, 3))
    energy = np.abs(bias) + np.abs(kernel).sum(1)
    expected = energy**2 / (energy**2).sum(1, keepdims=True)
    for scale in (1e-30, 1.0, 1e30):
        rows = (jnp.asarray(x * scale, jnp.float32) for x in (kernel, bias))
        got = energy_shares([next(rows)], next(rows), jnp.ones(4, bool))
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    lost = energy_shares([jnp.asarray(kernel)], jnp.asarray(bias).at[1].set(jnp.nan), jnp.arange(4) != 1)
    np.testing.assert_allclose(lost, np.where(np.arange(4)[:, None] != 1, expected, 0), rtol=1e-5)


def test_ratios_are_of_probabilities_and_always_numbers():
    params, rows = jnp.array([0.0, 1.0, -1.0]), jnp.array([[0.0, 0.0, 0.0], [2.0, 0.0, 1.0], [3e38, -3e38, 3e38]])

    def ratios(samples, step=1.0):
        def predict(w, inputs):
            return jnp.broadcast_to(w, (len(inputs), 3))

        return np.asarray(probability_ratios(predict, params, rows, step, (2,), samples, KEY))

    for step in (1.0, -0.5):
        expected = jax.nn.softmax(params[None] + step * rows[:2]) / jax.nn.softmax(params)[None]
        for samples in (3, 1200):
            np.testing.assert_allclose(ratios(samples, step)[:2], expected, rtol=1e-5)
    assert np.isfinite(ratios(7)).all()
    model = models.mlp((4, 3, 2))
    point = model.init(KEY)
    moved = jax.tree.map(lambda p: jnp.stack([jnp.zeros_like(p), jnp.ones_like(p)]), point)
    got = probability_ratios(model.apply, point, moved, 1.0, (2, 2), 900, KEY)
    np.testing.assert_allclose(got[0], 1.0, rtol=1e-6)
    inputs = np.random.default_rng(0).uniform(size=(20_000, 2, 2)).astype(np.float32)
    before, after = (jax.nn.softmax(model.apply(p, inputs)) for p in (point, jax.tree.map(lambda p: p + 1, point)))
    np.testing.assert_allclose(got[1], (after / before).mean(0), rtol=0.05)  # Monte Carlo


@pytest.fixture(scope="module")
def backdoored():
    """Model, global parameters and differences of models: ten honest workers, five that call stamped images 0."""
    images, labels = (x[:6000] for x in data.load("mnist")[:2])
    model = models.mlp()

    def loss(params, x, y):
        return -jnp.take_along_axis(jax.nn.log_softmax(model.apply(params, x)), y[:, None], 1).mean()

    @jax.jit
    def train(params, x, y):
        def step(p, batch):
            return jax.tree.map(lambda a, g: a - 0.1 * g, p, jax.grad(loss)(p, *batch)), None

        trained, _ = jax.lax.scan(step, params, (x.reshape(-1, 32, 28, 28), y.reshape(-1, 32)))
        return jax.tree.map(jnp.subtract, trained, params)

    def worker(k):
        chosen = np.random.default_rng(k).choice(6000, 320, replace=False)
        x, y = images[chosen].astype(np.float32) / 255, labels[chosen].astype(np.int32)
        if k > 10:
            x[:, :4, :4], y[:] = 1.0, 0
        return jnp.asarray(x), jnp.asarray(y)

    params = model.init(KEY)
    params = jax.tree.map(jnp.add, params, train(params, *worker(0)))
    updates = [train(params, *worker(k)) for k in range(1, 16)]
    return model, params, jax.tree.map(lambda *leaves: jnp.stack(leaves), *updates)


def test_a_backdoor_is_left_out(backdoored):
    model, params, updates = backdoored
    rule = agg.deepsight(predict=model.apply, input_shape=(28, 28), num_samples=500, num_seeds=2)
    result, _, trust = jax.jit(lambda u: rule.update_with_trust(u, rule.init(params), params, key=KEY))(updates)
    weights = np.asarray(trust.weights)
    assert (weights[10:] == 0).all()
    assert (weights[:10] > 0).sum() >= 9
    np.testing.assert_allclose(result["dense2"]["bias"], weights @ updates["dense2"]["bias"], rtol=1e-4, atol=1e-7)
    lengths = np.sqrt(sum(np.square(leaf.reshape(15, -1)).sum(1) for leaf in jax.tree.leaves(updates)))
    kept = weights > 0
    np.testing.assert_allclose(weights[kept], np.minimum(1, np.median(lengths) / lengths[kept]) / kept.sum(), rtol=1e-4)


def test_lost_rows_are_in_no_cluster(backdoored):
    model, params, updates = backdoored
    spoilt = jax.tree.map(lambda leaf: leaf.at[3].set(jnp.nan).at[4].set(jnp.inf), updates)
    rule = agg.deepsight(predict=model.apply, input_shape=(28, 28), num_samples=10, num_seeds=1)
    result, _, trust = jax.jit(lambda u: rule.update_with_trust(u, rule.init(params), params, key=KEY))(spoilt)
    assert (trust.weights[3:5] == 0).all()
    assert (trust.weights > 0).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


def test_without_a_trusted_cluster_there_is_no_step():
    @jax.jit
    def apply(x, size, samples, share):
        rule = agg.deepsight(min_cluster_size=size, min_samples=samples, share=share)
        return byzjax.aggregate(rule, x, return_weights=True)

    narrow, broad = jnp.array([[5.0, 0.0, 0.1]]), jnp.ones((1, 3))
    x = jnp.concatenate([jnp.tile(narrow, (4, 1)), jnp.tile(broad, (6, 1))])
    assert (np.asarray(apply(x, 3, 1, 0.3)[1]) > 0).tolist() == [False] * 4 + [True] * 6
    for share, trusted in ((0.5, True), (0.4, False)):  # all are one cluster, of which 0.4 are suspicious
        result, weights = apply(x, 12, 3, share)
        assert bool((weights > 0).all()) is trusted
        assert bool((result != 0).any()) is trusted
    result, weights = apply(jnp.full_like(x, jnp.nan), 3, 1, 0.3)
    assert np.isnan(result).all()


def test_deepsight_refuses_what_it_cannot_use(backdoored):
    model, params, updates = backdoored
    for options, fault in (
        ({"predict": 3}, "predict = 3 must be a function"),
        ({"num_samples": 0}, "num_samples = 0"),
        ({"num_seeds": 0}, "num_seeds = 0"),
        ({"threshold_factor": 1.0}, "threshold_factor = 1.0"),
        ({"share": 0.0}, "share = 0.0"),
        ({"min_cluster_size": 1}, "min_cluster_size = 1"),
        ({"min_samples": 0}, "min_samples = 0"),
        ({"step": float("nan")}, "step = nan"),
        ({"output": 3}, "output = 3 must be a path"),
        ({"input_shape": 2}, "input_shape = 2 must be a tuple"),
        ({"input_shape": (-1,)}, "input_shape = "),
    ):
        with pytest.raises(ValueError, match=fault):
            agg.deepsight(**options)
    rule = agg.deepsight(predict=model.apply, input_shape=(28, 28))
    with pytest.raises(ValueError, match="needs the parameters"):
        rule.update(updates, rule.init(params), key=KEY)
    with pytest.raises(ValueError, match="needs a PRNG key"):
        rule.update(updates, rule.init(params), params)
    with pytest.raises(ValueError, match="other leaves or shapes"):
        rule.update(updates, rule.init(params), params["dense2"], key=KEY)
    for wrong in (lambda p, x: (x, 1), lambda p, x: x.sum(), lambda p, x: x.sum((1, 2)), lambda p, x: x):
        rule = agg.deepsight(predict=wrong, input_shape=(28, 28), num_samples=10)
        with pytest.raises(ValueError, match=r"predict makes .* it must make logits \[10, P\]"):
            rule.update(updates, rule.init(params), params, key=KEY)
    refused = jax.jit(jax.vmap(lambda m: byzjax.aggregate(agg.deepsight(min_cluster_size=m), jnp.ones((6, 3)))))
    assert np.isnan(refused(jnp.array([1.0, -3.0]))).all()


def test_a_layer_that_stands_still_makes_nobody_suspicious():
    x = {"body": jnp.ones((6, 4, 2)), "head": {"bias": jnp.zeros((6, 3)), "kernel": jnp.zeros((6, 2, 3))}}
    result = byzjax.aggregate(agg.deepsight(), x)
    np.testing.assert_allclose(result["body"], 1.0, rtol=1e-6)
