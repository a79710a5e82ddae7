"""Both tasks: gradients, oracles, partitions, evaluation."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import data, tasks
from byzjax.tasks.models import functional, mlp
from byzjax.tasks.partitions import partition

KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def mnist():
    return tasks.mnist(20, 3)


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


def test_mnist_model_is_the_paper_s_mlp(mnist):
    params = mnist.init(KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 109_386
    assert all(isinstance(branch, dict) for branch in params.values())


def test_mnist_gradient_is_the_derivative(mnist):
    """Against central differences in float64 along random directions, short enough to cross no kink of a ReLU."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # float32 pixels meet float64 weights on purpose
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), mnist.init(jax.random.key(2)))
        batch = jax.tree.map(lambda leaf: leaf[4], mnist.sample(mnist.data, jax.random.key(2)))
        flat, restore = jax.flatten_util.ravel_pytree(params)
        loss = jax.jit(lambda x: mnist.loss(restore(x), batch, None))
        gradient = jax.grad(loss)(flat)
        for seed in range(5):
            direction = np.random.default_rng(seed).normal(size=flat.shape)
            direction /= np.linalg.norm(direction)
            slope = (loss(flat + 1e-5 * direction) - loss(flat - 1e-5 * direction)) / 2e-5
            np.testing.assert_allclose(slope, gradient @ direction, rtol=1e-6)


def test_mnist_loss_is_cross_entropy(mnist):
    params = mnist.init(KEY)
    batch = jax.tree.map(lambda leaf: leaf[0], mnist.sample(mnist.data, KEY))
    x = (np.asarray(batch["image"], np.float64) / 255 - 0.1307) / 0.3081
    x = x.reshape(len(x), -1)
    for layer in range(3):
        dense = params[f"dense{layer}"]
        x = x @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"], np.float64)
        x = np.maximum(x, 0) if layer < 2 else x
    log_p = x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)
    expected = -log_p[np.arange(len(x)), np.asarray(batch["label"])].mean()
    np.testing.assert_allclose(mnist.loss(params, batch, KEY), expected, rtol=1e-5)


def test_mnist_batches_come_from_each_worker_s_own_shard(mnist):
    batch = mnist.sample(mnist.data, KEY)
    assert batch["image"].shape == (20, 64, 28, 28)
    assert batch["image"].dtype == jnp.uint8
    labels = np.asarray(batch["label"])
    assert all(len(set(row)) <= 2 for row in labels[:17]), "label-sorted shards span at most two classes"
    assert sorted(set(labels[:17].ravel())) == list(range(10)), "the honest workers hold every class"
    assert all(len(set(row)) >= 7 for row in labels[17:]), "Byzantine workers hold an IID draw"
    assert not np.array_equal(labels, mnist.sample(mnist.data, jax.random.key(9))["label"])


def test_mnist_splits_are_disjoint_and_complete(mnist):
    d = mnist.data
    assert len(d["labels"]) == 55_000
    assert len(d["val_labels"]) == 5_000
    table, sizes = np.asarray(d["table"]), np.asarray(d["sizes"])
    held = np.concatenate([table[i, : sizes[i]] for i in range(17)])
    np.testing.assert_array_equal(np.sort(held), np.arange(55_000))
    raw = data.load("mnist")
    together = np.bincount(np.concatenate([d["labels"], d["val_labels"]]))
    np.testing.assert_array_equal(together, np.bincount(raw.train_labels))


def test_mnist_evaluation_against_numpy(mnist):
    params = mnist.init(KEY)
    scores = jax.jit(mnist.evaluate)(mnist.data, params)
    raw = data.load("mnist")
    pixels = jnp.asarray((raw.test_images.astype(np.float32) / 255 - 0.1307) / 0.3081)
    predicted = np.asarray(mlp().apply(params, pixels).argmax(-1))
    hit = predicted == raw.test_labels
    np.testing.assert_allclose(scores["test_accuracy"], hit.mean(), atol=3e-4)
    per_class = [hit[raw.test_labels == c].mean() for c in range(10)]
    np.testing.assert_allclose(scores["test_accuracy_per_class"], per_class, atol=3e-3)
    assert scores["val_accuracy_per_class"].shape == (10,)
    assert float(scores["val_loss"]) > 1.5


def test_shards_of_byzantine_workers_take_classes_away():
    raw = data.load("mnist")
    table, sizes = partition(raw.train_labels, 20, 3, byzantine_data="shard")
    held = set(raw.train_labels[np.concatenate([table[i, : sizes[i]] for i in range(17)])])
    assert 9 not in held
    assert {0, 1, 2, 3, 4, 5, 6, 7} <= held


@pytest.mark.parametrize("scheme", ["label_sorted", "iid"])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_partitions_lose_nothing(scheme, n):
    labels = np.random.default_rng(0).integers(0, 5, 100)
    table, sizes = partition(labels, n, scheme=scheme)
    held = np.concatenate([row[:size] for row, size in zip(table, sizes, strict=True)])
    np.testing.assert_array_equal(np.sort(held), np.arange(100))
    assert sizes.max() - sizes.min() <= 1
    for row, size in zip(table, sizes, strict=True):
        assert set(row[size:]) <= set(row[:size])


def test_a_model_with_batch_statistics_is_refused():
    from flax import nnx

    with pytest.raises(ValueError, match="state besides parameters"):
        functional(lambda rngs: nnx.BatchNorm(3, rngs=rngs))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tasks.quartic(3, 3), "num_byzantine = 3"),
        (lambda: tasks.quartic(0), "num_workers = 0"),
        (lambda: tasks.quartic(3, dim=0), "dim = 0"),
        (lambda: tasks.quartic(3, noise_scale=-1.0), "noise_scale = -1.0"),
        (lambda: tasks.quartic(3, shift_scale=np.inf), "shift_scale = inf"),
        (lambda: tasks.mnist(3, 4), "num_byzantine = 4"),
        (lambda: tasks.mnist(100_000), "a worker would be empty"),
        (lambda: tasks.mnist(4, batch_size=0), "batch_size = 0"),
        (lambda: tasks.mnist(4, val_size=0), "val_size = 0"),
        (lambda: tasks.mnist(4, model="resnet"), "model = 'resnet'"),
        (lambda: tasks.mnist(4, scheme="dirichlet"), "scheme = 'dirichlet'"),
        (lambda: tasks.mnist(4, 1, byzantine_data="none"), "byzantine_data = 'none'"),
        (lambda: mlp((3,)), "sizes"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
