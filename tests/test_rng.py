"""Workers, rounds and lanes of a sweep draw independently of each other, and a lane what it draws alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks, transforms
from byzjax.data import Dataset
from byzjax.tasks.models import Model

N, MASK = 6, jnp.arange(6) >= 5
RULE = byzjax.chain(agg.bucketing(2), agg.median())
TASK = dataclasses.replace(tasks.quartic(N, 1, noise_scale=0.1), evaluate=lambda data, x: {"x": x})
OLD_STYLE = optax.GradientTransformation(  # as optax.contrib.sophia keeps it
    lambda params: {"key": jax.random.PRNGKey(0)},
    lambda updates, state, params=None: (updates + jax.random.normal(state["key"], updates.shape), state),
)


@pytest.fixture(autouse=True)
def _promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def noisy():
    """A method that draws in its workers and in its rule."""
    method = methods.byz_nsgdm(0.1, aggregator=RULE)
    return method._replace(worker=optax.chain(optax.add_noise(0.1, 0.0, 0), method.worker))


def final(seed, learning_rate=0.1, impl="rbg"):
    method = noisy()._replace(server=optax.sgd(learning_rate))
    options = {"byzantine": MASK, "key": jax.random.key(seed, impl=impl), "num_rounds": 3, "eval_every": 3}
    return byzjax.simulate(TASK, method, attacks.mimic("copy"), **options)


@pytest.mark.parametrize(
    "tx",
    [
        optax.add_noise(1.0, 0.0, 0),
        optax.add_noise(1.0, 0.0, jax.random.key(0, impl="rbg")),
        optax.contrib.differentially_private_aggregate(1.0, 1.0, key=0),
        OLD_STYLE,
    ],
    ids=["add_noise", "rbg", "differential_privacy", "raw key"],
)
def test_workers_draw_independently(tx):
    """The mean of four standard normals has deviation 1/2, and 1 if they are one."""
    many = transforms.per_worker(tx, 4)
    zeros = jnp.zeros((4, 1, 20_000))
    out, _ = many.update(zeros, many.init(zeros[0]))
    assert abs(float(out.mean(0).std() / out[0].std()) - 0.5) < 0.02


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_lane_draws_what_it_draws_alone(impl):
    seeds = jnp.arange(3, dtype=jnp.uint32)
    swept = jax.jit(jax.vmap(lambda seed: final(seed, impl=impl)))(seeds)
    alone = jax.jit(lambda seed: final(seed, impl=impl))
    for lane, seed in enumerate(seeds):
        one = alone(seed)
        np.testing.assert_allclose(swept.evals["x"][lane], one.evals["x"], rtol=1e-5)
        np.testing.assert_allclose(swept.history["loss"][lane], one.history["loss"], rtol=1e-5)


def test_a_sweep_draws_the_same_batches_at_every_learning_rate():
    dataset = byzjax.sweep(
        final, grid={"learning_rate": [0.1, 0.2], "seed": [0, 1]}, batch_size=4, mesh=None, progress=False
    )
    first = dataset.loss.isel(round=0)
    np.testing.assert_array_equal(first[0], first[1])
    assert first[0, 0] != first[0, 1]
    np.testing.assert_allclose(dataset.x[1, 1], final(jnp.uint32(1), 0.2).evals["x"], rtol=1e-5)


def test_rbg_as_the_default_draws_the_frozen_masks_of_a_task_alike_for_all_workers():
    def apply(params, images, key=None):
        masks = jnp.zeros((len(images), 2)) if key is None else jax.random.normal(key, (len(images), 2))
        return params[None] + masks

    images, labels = np.zeros((8, 2, 2), np.uint8), np.arange(8) % 2
    with jax.default_prng_impl("rbg"):
        model = Model(lambda key: jnp.zeros(2), apply, stochastic=True)
        dataset = Dataset(images, labels, images, labels, 2)
        task = tasks.classification(dataset, 2, batch_size=4, val_size=0, model=model, dropout="frozen")
        batch = task.sample(task.data, jax.random.key(0))
        same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), batch)
        losses = jax.vmap(task.loss, in_axes=(None, 0, None))(jnp.zeros(2), same, None)
        assert losses[0] == losses[1]


def test_rules_draw_lane_by_lane():
    x, keys = jnp.arange(8.0)[:, None], jax.random.split(jax.random.key(0, impl="rbg"), 3)
    swept = jax.vmap(lambda key: byzjax.aggregate(agg.bucketing(2), x, key=key))(keys)
    np.testing.assert_array_equal(swept[2], byzjax.aggregate(agg.bucketing(2), x, key=keys[2]))
    link = transforms.robust_aggregate(RULE, key=keys[0])
    np.testing.assert_array_equal(link.update(x, link.init(x[0]))[0], byzjax.aggregate(
        RULE, x, key=jax.random.fold_in(keys[0], 0)))  # fmt: skip


def test_a_run_of_rbg_goes_on_from_its_checkpoint(tmp_path):
    options = {"byzantine": MASK, "key": jax.random.key(0, impl="rbg"), "progress": False}
    method = noisy()._replace(worker=optax.add_noise(0.1, 0.0, jax.random.key(3, impl="rbg")))
    go = lambda rounds, **more: byzjax.run(TASK, method, attacks.none(), num_rounds=rounds, **options, **more)  # noqa: E731
    go(2, checkpoint=tmp_path)
    np.testing.assert_array_equal(go(4, checkpoint=tmp_path).state.params, go(4).state.params)


@pytest.mark.parametrize(
    "draw",
    [
        lambda key: byzjax.run(TASK, noisy(), attacks.none(), byzantine=MASK, key=key, num_rounds=1, progress=False),
        lambda key: byzjax.simulate(TASK, noisy(), attacks.none(), byzantine=MASK, key=key, num_rounds=1),
        lambda key: byzjax.sweep(lambda seed: final(seed, impl="unsafe_rbg"), grid={"seed": [0]}, progress=False),
        lambda key: byzjax.aggregate(RULE, jnp.ones((4, 1)), key=key),
        lambda key: transforms.robust_aggregate(RULE, key=key),
        lambda key: transforms.inject_attack(attacks.none(), MASK, key=key),
        lambda key: transforms.per_worker(optax.add_noise(1.0, 0.0, key), 2).init(jnp.zeros(1)),
        lambda key: tasks.quartic(2, shift_key=key),
    ],
    ids=["run", "simulate", "sweep", "aggregate", "robust_aggregate", "inject_attack", "per_worker", "quartic"],
)
def test_keys_that_are_not_independent_are_refused(draw):
    with pytest.raises(ValueError, match="'unsafe_rbg' are not independent"):
        draw(jax.random.key(0, impl="unsafe_rbg"))


@pytest.mark.parametrize("key", [jax.random.split(jax.random.key(0)), jnp.zeros(3), jnp.uint32(7)])
def test_what_is_not_one_key_is_named(key):
    with pytest.raises(ValueError, match="is not one PRNG key"):
        byzjax.aggregate(RULE, jnp.ones((4, 1)), key=key)


def test_a_raw_key_is_a_key():
    raw, typed = (final_of(key) for key in (jax.random.PRNGKey(3), jax.random.key(3)))
    np.testing.assert_array_equal(raw, typed)


def final_of(key):
    return byzjax.run(TASK, noisy(), attacks.none(), byzantine=MASK, key=key, num_rounds=2, progress=False).state.params
