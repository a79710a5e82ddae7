"""Both tasks: gradients, oracles, partitions, evaluation."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import data, tasks
from byzjax.data import Dataset
from byzjax.tasks.models import MODELS, cnn, functional, mlp
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


@pytest.mark.parametrize(("model", "block"), [("mlp", 1000), ("mlp", 7), ("cnn", 50)])
def test_the_true_gradient_is_that_of_the_honest_shards(model, block):
    """Of uneven shards, against one gradient per worker: each counts the same, however many images it holds."""
    net = MODELS[model]((6, 7), 3)._replace(eval_batch=block)
    options = {"scheme": "dirichlet", "alpha": 2.0, "batch_size": 4, "val_size": 2, "gradient_norm": True}
    task = tasks.classification(tiny(), 5, 2, model=net, **options)
    params, table, sizes = task.init(KEY), np.asarray(task.data["table"]), np.asarray(task.data["sizes"])
    assert len(set(sizes[:3])) > 1

    def mean_loss(params, worker):
        held = table[worker, : sizes[worker]]
        pixels = (task.data["images"][held].astype(jnp.float32) / 255 - 0.5) / 0.5
        chosen = jax.nn.log_softmax(net.apply(params, pixels))[np.arange(len(held)), task.data["labels"][held]]
        return -chosen.mean()

    grads = [jax.flatten_util.ravel_pytree(jax.grad(mean_loss)(params, worker))[0] for worker in range(3)]
    norm = jax.jit(task.evaluate)(task.data, params)["gradient_norm"]
    np.testing.assert_allclose(norm, np.linalg.norm(np.mean(grads, axis=0)), rtol=1e-5)


def test_shards_of_byzantine_workers_take_classes_away():
    raw = data.load("mnist")
    table, sizes = partition(raw.train_labels, 20, 3, byzantine_data="shard")
    held = set(raw.train_labels[np.concatenate([table[i, : sizes[i]] for i in range(17)])])
    assert 9 not in held
    assert {0, 1, 2, 3, 4, 5, 6, 7} <= held


SCHEMES = {
    "label_sorted": {"scheme": "label_sorted"},
    "iid": {"scheme": "iid"},
    "gamma": {"scheme": "gamma_similarity", "gamma": 0.37},
    "dirichlet": {"scheme": "dirichlet", "alpha": 0.3},
}


def shards_of(labels, *args, **options):
    """The samples of every worker, without padding."""
    table, sizes = partition(labels, *args, **options)
    assert table.dtype == sizes.dtype == np.int32
    for row, size in zip(table, sizes, strict=True):
        assert set(row[size:]) <= set(row[:size])
    return [row[:size] for row, size in zip(table, sizes, strict=True)]


def class_counts(labels, shards):
    return np.stack([np.bincount(labels[shard], minlength=10) for shard in shards])


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist").train_labels


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [1, 3, 7])
def test_partitions_lose_nothing(scheme, n):
    labels = np.random.default_rng(0).integers(0, 5, 100)
    shards = shards_of(labels, n, **SCHEMES[scheme])
    np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(100))
    sizes = [len(shard) for shard in shards]
    assert scheme == "dirichlet" or max(sizes) - min(sizes) <= 1
    assert min(sizes) > 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_partitions_of_mnist(digits, scheme):
    shards = shards_of(digits, 20, 3, **SCHEMES[scheme])
    np.testing.assert_array_equal(np.sort(np.concatenate(shards[:17])), np.arange(60_000))
    again = shards_of(digits, 20, 3, **SCHEMES[scheme])
    assert all(np.array_equal(a, b) for a, b in zip(shards, again, strict=True))
    other = shards_of(digits, 20, 3, **SCHEMES[scheme], seed=1)
    assert not np.array_equal(shards[17], other[17])
    assert scheme == "label_sorted" or not np.array_equal(shards[0], other[0])
    for liar in shards[17:]:
        assert len(set(liar)) == len(liar) == 3530  # a seventeenth of the whole, rounded up
        np.testing.assert_allclose(np.bincount(digits[liar]) / 3530, np.bincount(digits) / 60_000, atol=0.02)


def test_gamma_similarity_ends_at_sorted_and_iid(digits):
    for gamma, scheme in [(0.0, "label_sorted"), (1.0, "iid")]:
        ours = shards_of(digits, 17, scheme="gamma_similarity", gamma=gamma)
        assert all(np.array_equal(a, b) for a, b in zip(ours, shards_of(digits, 17, scheme=scheme), strict=True))


def test_gamma_is_the_fraction_that_is_dealt_iid(digits):
    """Every class but the one or two of its sorted part is in a shard γ times as often as in the whole."""
    counts = class_counts(digits, shards_of(digits, 17, scheme="gamma_similarity", gamma=0.5))
    usual = 0.5 * np.bincount(digits) / 17
    for row in counts:
        common = np.sort(np.abs(row - usual) / usual)[:8]
        assert common.max() < 0.35, common  # about 176 draws each: a standard deviation of 7.5 %


def test_a_large_alpha_is_nearly_iid_and_a_small_one_is_not(digits):
    def spread(alpha):
        counts = class_counts(digits, shards_of(digits, 10, scheme="dirichlet", alpha=alpha))
        shares = counts / np.bincount(digits)
        return shares.std(0).mean() * 10  # relative to the mean share, 1/10

    assert spread(1e6) < 0.01
    # The relative deviation of a Dirichlet share is √((n − 1)/(nα + 1)).
    assert spread(10.0) == pytest.approx(np.sqrt(9 / 101), rel=0.15)
    assert spread(0.1) == pytest.approx(np.sqrt(9 / 2), rel=0.25)


def test_a_dirichlet_split_with_an_empty_shard_is_drawn_again_and_at_last_refused():
    labels = np.repeat(np.arange(4), 25)
    for seed in range(20):
        assert min(map(len, shards_of(labels, 6, scheme="dirichlet", alpha=0.1, seed=seed))) > 0
    with pytest.raises(ValueError, match=r"alpha = 0\.0001 gave each of 6 workers a sample .*larger alpha"):
        partition(labels, 6, scheme="dirichlet", alpha=1e-4)


def test_equal_shards_repeat_the_first_samples(digits):
    shards = shards_of(digits, 20, 3, equal_shards=True)
    assert [len(shard) for shard in shards] == [3530] * 20
    order = np.argsort(digits, kind="stable")
    np.testing.assert_array_equal(np.concatenate(shards[:17]), np.concatenate([order, order[:10]]))
    assert (digits[shards[16][-10:]] == 0).all()


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


def test_evaluation_is_without_dropout_and_without_a_key():
    task = tasks.classification(tiny(), 2, model="cnn", batch_size=4, val_size=6)
    params, raw = task.init(KEY), tiny()
    pixels = jnp.asarray((raw.test_images.astype(np.float32) / 255 - 0.5) / 0.5)
    hit = np.asarray(cnn(3, (6, 7)).apply(params, pixels).argmax(-1)) == raw.test_labels
    np.testing.assert_allclose(task.evaluate(task.data, params)["test_accuracy"], hit.mean(), rtol=1e-6)


def test_the_first_test_images_when_sorted_by_label():
    raw = data.load("mnist")
    task = tasks.mnist(4, val_size=0, test_size=9984)
    assert len(task.data["labels"]) == 60_000
    np.testing.assert_array_equal(task.data["test_labels"], np.sort(raw.test_labels)[:9984])
    dropped = np.flatnonzero(raw.test_labels == 9)[-16:]
    kept = np.delete(raw.test_images, dropped, axis=0)
    assert int(np.asarray(task.data["test_images"], np.int64).sum()) == int(kept.astype(np.int64).sum())
    # Where all parameters are 0, every class is equally likely, and the lowest is named: 980 zeros of 9984 images.
    scores = jax.jit(task.evaluate)(task.data, jax.tree.map(jnp.zeros_like, task.init(KEY)))
    assert float(scores["test_accuracy"]) == pytest.approx(980 / 9984)
    assert not any(name.startswith("val") for name in scores)


def test_a_model_with_batch_statistics_is_refused():
    from flax import nnx

    with pytest.raises(ValueError, match="state besides parameters"):
        functional(lambda rngs: nnx.BatchNorm(3, rngs=rngs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((30, 6, 7), np.float32)}, r"train_images float32\[30, 6, 7\]"),
        ({"test_labels": np.zeros(9, np.int64)}, r"test_labels \[9\] must be uint8\[N, …\] and \[N\]"),
        ({"train_labels": np.full(30, 3)}, r"train_labels must be integers from 0 to num_classes − 1 = 2"),
        ({"train_labels": np.full(30, -1)}, r"train_labels must be integers from 0"),
        ({"train_labels": np.zeros(30)}, r"train_labels must be integers from 0"),
    ],
)
def test_a_data_set_that_is_none_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tasks.classification(tiny()._replace(**changes), 3, val_size=6)


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
        (lambda: tasks.mnist(4, val_size=-1), "val_size = -1"),
        (lambda: tasks.mnist(4, val_size=60_000), "val_size = 60000"),
        (lambda: tasks.mnist(4, test_size=0), "test_size = 0"),
        (lambda: tasks.mnist(4, test_size=10_001), "test_size = 10001 must be between 1 and 10000"),
        (lambda: tasks.mnist(4, dropout="frozen"), "dropout = 'frozen' has no effect"),
        (lambda: tasks.mnist(4, dropout="cold"), "dropout = 'cold'"),
        (lambda: tasks.mnist(4, model="resnet"), "model = 'resnet'"),
        (lambda: tasks.mnist(4, scheme="sorted"), "scheme = 'sorted' must be one of"),
        (lambda: tasks.mnist(4, scheme="dirichlet"), r"scheme = 'dirichlet' needs alpha, e.g. alpha=0.5"),
        (lambda: tasks.mnist(4, scheme="dirichlet", alpha=0.0), "alpha = 0.0 must be a finite number > 0"),
        (lambda: tasks.mnist(4, scheme="dirichlet", alpha=np.inf), "alpha = inf must be a finite number > 0"),
        (lambda: tasks.mnist(4, scheme="iid", alpha=1.0), "alpha = 1.0 is for scheme = 'dirichlet'"),
        (lambda: tasks.mnist(4, scheme="gamma_similarity"), "needs gamma"),
        (lambda: tasks.mnist(4, scheme="gamma_similarity", gamma=1.5), "gamma = 1.5 must be between 0 and 1"),
        (lambda: tasks.mnist(4, scheme="gamma_similarity", gamma=-0.5), "gamma = -0.5 must be a finite number ≥ 0"),
        (lambda: tasks.mnist(4, gamma=0.5), "gamma = 0.5 is for scheme = 'gamma_similarity'"),
        (lambda: tasks.mnist(4, scheme="dirichlet", alpha=1.0, equal_shards=True), "equal_shards is for"),
        (lambda: tasks.mnist(4, 1, byzantine_data="none"), "byzantine_data = 'none'"),
        (lambda: mlp((3,)), "sizes"),
        (lambda: cnn(shape=(28,)), r"shape = \(28,\)"),
        (lambda: cnn(shape=(28, 5)), r"shape = \(28, 5\)"),
        (lambda: cnn(1), "num_classes = 1"),
        (lambda: cnn(init="zeros"), "init = 'zeros'"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
