"""Models of images: the paper's and the released one's, dropout, and what is no model."""

import itertools

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from byzjax import tasks
from byzjax.data import Dataset
from byzjax.tasks.models import MODELS, cnn, functional, mlp

KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def mnist():
    return tasks.mnist(20, 3)


def test_mnist_model_is_the_paper_s_mlp(mnist):
    params = mnist.init(KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 109_386
    assert all(isinstance(branch, dict) for branch in params.values())


def test_the_mlp_is_that_of_flax():
    """To the bit, in what it draws and in what it computes."""
    sizes = (6, 5, 3)

    class MLP(nnx.Module):
        def __init__(self, rngs):
            self.dense0, self.dense1 = (nnx.Linear(*shape, rngs=rngs) for shape in itertools.pairwise(sizes))

        def __call__(self, x):
            return self.dense1(jax.nn.relu(self.dense0(x)))

    own, theirs = mlp(sizes), functional(MLP)
    x = jnp.linspace(-1.0, 1.0, 24).reshape(4, 6)
    chex.assert_trees_all_equal(own.init(KEY), theirs.init(KEY))
    params = jax.tree.map(lambda leaf: leaf + 0.1, own.init(KEY))
    assert (jax.jit(own.apply)(params, x) == jax.jit(theirs.apply)(params, x)).all()


def tiny(shape=(6, 7), num_classes=3):
    """A data set of random pixels."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, *shape), np.uint8), np.arange(40) % num_classes
    return Dataset(images[:30], labels[:30], images[30:], labels[30:], num_classes)


def test_the_cnn_is_that_of_the_released_code():
    model = cnn()
    params = model.init(KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1_199_882
    for name, fan_in in [("conv0", 9), ("conv1", 288), ("dense0", 9216), ("dense1", 128)]:
        for leaf in params[name].values():
            assert 0.8 * fan_in**-0.5 < float(jnp.abs(leaf).max()) <= fan_in**-0.5
        kernel = np.asarray(params[name]["kernel"])
        assert kernel.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)
    lecun = cnn(init="lecun").init(KEY)
    assert not lecun["dense0"]["bias"].any()
    assert float(lecun["dense0"]["kernel"].std()) == pytest.approx(9216**-0.5, rel=0.05)


@pytest.mark.parametrize("shape", [(6, 7), (9, 8, 1), (8, 9, 3)])
def test_the_cnn_against_numpy(shape):
    """Its evaluation mode, layer by layer in float64."""
    model = cnn(4, shape)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.init(KEY))
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)

    def convolve(x, layer):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
        return np.einsum("bhwcij,ijck->bhwk", windows, layer["kernel"]) + layer["bias"]

    y = x.astype(np.float64).reshape(2, *shape[:2], -1)
    y = convolve(np.maximum(convolve(y, params["conv0"]), 0), params["conv1"])
    height, width = y.shape[1] // 2, y.shape[2] // 2
    y = np.array(
        [[y[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2)) for j in range(width)] for i in range(height)]
    ).transpose(2, 0, 1, 3)
    y = np.maximum(y.reshape(2, -1) @ params["dense0"]["kernel"] + params["dense0"]["bias"], 0)
    expected = y @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    ours = model.apply(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params), jnp.asarray(x))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_dropout_drops_whole_channels_and_keeps_the_mean():
    """With dense layers that only add up what one channel holds, the answers say which masks were drawn."""
    model = cnn(2, (8, 8))
    params = jax.tree.map(jnp.zeros_like, model.init(KEY))
    params["conv1"]["bias"] = jnp.ones(64)  # every channel is 1 everywhere: 2 × 2 × 64 ones
    params["dense0"]["kernel"] = jnp.zeros((256, 128)).at[::64, 0].set(1.0)  # unit 0 adds up channel 0
    params["dense1"]["kernel"] = jnp.zeros((128, 2)).at[0, 0].set(1.0)
    x = jnp.zeros((4000, 8, 8))
    assert float(model.apply(params, x)[0, 0]) == 4.0
    values = np.asarray(model.apply(params, x, key=KEY)[:, 0])
    kept = 4 / 0.75 / 0.5
    np.testing.assert_allclose(values[values > 0], kept, rtol=1e-6)  # all four of a channel, or none
    assert (values > 0).mean() == pytest.approx(0.75 * 0.5, abs=0.04)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(6, 7), (8, 6, 3)])
def test_models_by_name_fit_the_data_set(model, shape):
    task = tasks.classification(tiny(shape), 3, model=model, batch_size=4, val_size=6)
    params = task.init(KEY)
    assert jax.tree.leaves(params)[-1].shape[-1] == 3
    scores = task.evaluate(task.data, params)
    assert scores["test_accuracy_per_class"].shape == scores["val_accuracy_per_class"].shape == (3,)
    batch = task.sample(task.data, KEY)
    assert batch["image"].shape == (3, 4, *shape)
    assert bool(jnp.isfinite(task.loss(params, jax.tree.map(lambda leaf: leaf[0], batch), KEY)))


@pytest.mark.parametrize("dropout", ["fresh", "frozen"])
def test_frozen_masks_are_those_of_all_workers_and_rounds(dropout):
    task = tasks.classification(tiny(), 2, model="cnn", batch_size=4, val_size=6, dropout=dropout)
    params, batch = task.init(KEY), task.sample(task.data, KEY)
    batch = {**batch, "image": batch["image"].at[1].set(batch["image"][0]), "label": batch["label"].at[1].set(0)}
    batch["label"] = batch["label"].at[0].set(0)
    gradient = jax.jit(jax.vmap(jax.grad(task.loss), in_axes=(None, 0, 0)))
    rounds = [gradient(params, batch, jax.random.split(jax.random.key(seed), 2)) for seed in (0, 1)]
    first = [rounds[0]["dense1"]["kernel"][worker] for worker in (0, 1)]
    same = [np.array_equal(first[0], first[1]), np.array_equal(first[0], rounds[1]["dense1"]["kernel"][0])]
    assert same == [dropout == "frozen"] * 2


def test_another_dropout_key_freezes_other_masks():
    task = tasks.classification(tiny(), 2, model="cnn", batch_size=4, val_size=6, dropout="frozen")
    params = task.init(KEY)

    def loss(key):
        batch = task.sample({**task.data, "dropout_key": jax.random.key_data(key)}, KEY)
        return float(task.loss(params, jax.tree.map(lambda leaf: leaf[0], batch), KEY))

    assert loss(jax.random.key(0)) == loss(jax.random.key(0)) != loss(jax.random.key(1))
    own = task.loss(params, jax.tree.map(lambda leaf: leaf[0], task.sample(task.data, KEY)), KEY)
    assert float(own) == loss(jax.random.key(0))


def test_a_model_with_batch_statistics_is_refused():
    from flax import nnx

    with pytest.raises(ValueError, match="state besides parameters"):
        functional(lambda rngs: nnx.BatchNorm(3, rngs=rngs))
