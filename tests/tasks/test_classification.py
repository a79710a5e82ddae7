"""Image classification: gradients, batches, evaluation, and what is no data set."""

import dataclasses
import inspect

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from byzjax import aggregators, attacks, data, methods, tasks
from byzjax.checks import check_mask
from byzjax.configs.run_config import RunConfig
from byzjax.data import Dataset
from byzjax.data.text import encode
from byzjax.sharding import make_mesh, place_task
from byzjax.simulation.run import run
from byzjax.simulation.simulate import simulate
from byzjax.sweeps.sweep import sweep
from byzjax.task import Task
from byzjax.tasks.models import MODELS, Model, cnn, functional, mlp

KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def mnist():
    return tasks.mnist(20, 3)


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


def tiny(shape=(6, 7), num_classes=3):
    """A data set of random pixels."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, *shape), np.uint8), np.arange(40) % num_classes
    return Dataset(images[:30], labels[:30], images[30:], labels[30:], num_classes)


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


LIARS = {"indices": [0, 3], "mask": np.arange(5) % 3 == 0, "list": [True, False, False, True, False]}


@pytest.mark.parametrize("byzantine", LIARS.values(), ids=LIARS)
@pytest.mark.parametrize("options", [{}, {"scheme": "dirichlet", "alpha": 1.0}, {"byzantine_data": "shard"}])
def test_others_may_lie_than_the_last(byzantine, options):
    """They hold what the last would, and the honest workers' objective is the same."""
    options |= {"batch_size": 2, "val_size": 6, "gradient_norm": True}
    usual = tasks.classification(tiny(), 5, 2, **options)
    others = tasks.classification(tiny(), 5, byzantine=byzantine, **options)
    assert usual.byzantine == (False, False, False, True, True)
    assert others.byzantine == (True, False, False, True, False)
    order = [0, 1, 2, 3, 4] if "byzantine_data" in options else [3, 0, 1, 4, 2]
    np.testing.assert_array_equal(others.data["table"], usual.data["table"][np.array(order)])
    np.testing.assert_array_equal(others.data["sizes"], usual.data["sizes"][np.array(order)])
    if "byzantine_data" not in options:
        np.testing.assert_array_equal(others.data["honest_share"], usual.data["honest_share"])
    share = np.zeros(len(usual.data["labels"]))
    for row, size in zip(*[np.asarray(others.data[name])[[1, 2, 4]] for name in ("table", "sizes")], strict=True):
        np.add.at(share, row[:size], 1 / (3 * size))
    np.testing.assert_allclose(others.data["honest_share"], share, rtol=1e-6)


def liars_of(task, byzantine, attack=None):
    method = methods.byz_nsgdm(0.1, aggregator=aggregators.median())
    options = {"byzantine": byzantine, "key": KEY, "num_rounds": 1}
    return simulate(task, method, attack or attacks.none(), **options)


@pytest.mark.parametrize("start", [simulate, run])
def test_a_mask_of_others_than_the_task_was_built_for_is_refused(start):
    method = methods.byz_nsgdm(0.1, aggregator=aggregators.median())
    for task in (tasks.quartic(5, 2), tasks.classification(tiny(), 5, 2, batch_size=2, val_size=6)):
        for mask, message in [
            (jnp.arange(5) < 2, r"marks workers 0, 1, but the task was built for workers 3, 4, .*byzantine=\[0, 1\]"),
            (np.arange(5) == 4, r"marks worker 4, but the task was built for workers 3, 4"),
            (jnp.zeros(5, bool), r"marks no worker, but .* without an attack the mask stays, with attacks\.none\(\)"),
        ]:
            with pytest.raises(ValueError, match=f"byzantine: {message}") as error:
                start(task, method, attacks.none(), byzantine=mask, key=KEY, num_rounds=1)
            assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="marks workers 3, 4, but the task was built for no worker"):
        start(tasks.quartic(5), method, attacks.none(), byzantine=jnp.arange(5) >= 3, key=KEY, num_rounds=1)


def test_a_mask_that_is_traced_and_a_task_for_anybody_pass():
    task = tasks.quartic(5, 2)
    liars_of(task, jnp.asarray(task.byzantine))
    jax.eval_shape(lambda mask: liars_of(task, mask), jnp.zeros(5, bool))
    with pytest.raises(ValueError, match="byzantine: marks worker 0"):  # one that is known is compared, traced or not
        jax.eval_shape(lambda key: liars_of(task, np.arange(5) == 0), KEY)
    anybody = dataclasses.replace(task, byzantine=None)
    jax.eval_shape(lambda key: liars_of(anybody, np.arange(5) == 0), KEY)


def test_a_sweep_refuses_another_mask():
    def lane(*, seed):
        return liars_of(tasks.quartic(5, 2), np.arange(5) < 2)._replace(state=None)

    with pytest.raises(ValueError, match="byzantine: marks workers 0, 1, but the task was built for workers 3, 4"):
        sweep(lane, grid={"seed": [0, 1]}, progress=False)


def test_the_command_line_may_say_who_lies():
    config = RunConfig(task="quartic(byzantine=[0, 2])", aggregator="median", num_workers=5, num_byzantine=2)
    assert config.build().byzantine.tolist() == [True, False, True, False, False]
    assert RunConfig(aggregator="median", num_workers=5, num_byzantine=2).build().byzantine.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="num_byzantine = 3, but byzantine marks 2 workers"):
        RunConfig(task="quartic(byzantine=[0, 2])", aggregator="median", num_workers=5, num_byzantine=3).build()


def test_flipped_labels_have_a_loss_whatever_the_number_of_classes():
    task = tasks.classification(tiny(), 5, 2, batch_size=4, val_size=6)
    assert task.num_classes == 3
    for map in ("shift", "mirror"):
        result = liars_of(task, jnp.asarray(task.byzantine), attacks.label_flip(map))
        assert bool(jnp.isfinite(result.history["loss"]).all())
        # The median of five would hide two NaN losses; the liars' own gradients must be finite.
        batch = task.sample(task.data, KEY)
        batch = attacks.label_flip(map).poisoned(
            batch, byzantine=jnp.asarray(task.byzantine), key=KEY, num_classes=task.num_classes
        )
        losses = jax.vmap(task.loss, in_axes=(None, 0, None))(task.init(KEY), batch, KEY)
        assert bool(jnp.isfinite(losses).all())
    unknown = dataclasses.replace(task, num_classes=None)
    with pytest.raises(ValueError, match="the number of classes is not known"):
        liars_of(unknown, jnp.asarray(task.byzantine), attacks.label_flip())


def aligned(values):
    """A copy at an address that a device on the host takes over as it is."""
    raw = np.zeros(values.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    own = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    own[...] = values
    return own


def test_tasks_own_their_data():
    dataset = tiny()
    dataset = Dataset(*(aligned(np.asarray(x, x.dtype if x.ndim > 1 else np.int32)) for x in dataset[:4]), 3)
    shifts, scale, data = aligned(np.ones((3, 4), np.float32)), aligned(np.ones((), np.float32)), aligned(np.ones(4))
    quartic = tasks.quartic(3, dim=4, shifts=shifts, noise_scale=scale)
    whole = tasks.classification(dataset, 3, batch_size=2, val_size=0)
    built = [
        whole,
        tasks.classification(dataset, 3, batch_size=2, val_size=6, test_size=4),
        quartic,
        dataclasses.replace(quartic, data={"x": data, "view": np.broadcast_to(data, (3, 4))}),
        place_task(dataclasses.replace(quartic, data={"x": data}), make_mesh(workers=1)),
    ]
    before = [jax.tree.map(lambda leaf: np.array(leaf), task.data) for task in built]
    for array in (*dataset[:4], shifts, scale, data):
        array[...] = 0
    for task, then in zip(built, before, strict=True):
        jax.tree.map(np.testing.assert_array_equal, task.data, then)
    with pytest.raises(ValueError, match="read-only"):
        built[3].data["x"][0] = 7


def test_a_mask_is_not_borrowed():
    mask = aligned(np.arange(64) >= 60)
    kept = check_mask(mask, 64)
    mask[:] = False
    assert int(kept.sum()) == 4


def test_labels_may_be_lists():
    dataset = tiny()
    lists = dataset._replace(train_labels=dataset.train_labels.tolist(), test_labels=tuple(dataset.test_labels))
    options = {"batch_size": 2, "val_size": 6}
    ours, theirs = (tasks.classification(which, 3, **options).data for which in (lists, dataset))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert tasks.classification(dataset._replace(num_classes=np.int64(3)), 3, **options).num_classes == 3


@pytest.mark.parametrize("kind", [np.int64, np.uint8, float])
def test_counts_may_be_numbers_of_numpy(kind):
    counts = {"num_workers": kind(3), "num_byzantine": kind(1)}
    task = tasks.classification(tiny(), **counts, batch_size=kind(2), val_size=kind(6), test_size=kind(4))
    assert type(task.num_workers) is int
    assert len(task.data["test_labels"]) == 4
    assert tasks.quartic(**counts, dim=kind(4)).data["shifts"].shape == (3, 4)
    text = encode("to be or not to be " * 50)
    sizes = {"batch_size": kind(2), "block_size": kind(8), "eval_blocks": kind(2), "worker_batch": kind(1)}
    task = tasks.language_model(text, **counts, model="small", **sizes)
    assert (task.num_workers, task.worker_batch) == (3, 1)
    assert task.data["val_blocks"].shape == (2, 9)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 6)])
def test_channels_that_come_first_are_named(model, shape):
    with pytest.raises(ValueError, match=rf"channels first; '{model}' takes \[height, width, channels\]: .*moveaxis"):
        tasks.classification(tiny(shape), 3, model=model, batch_size=2, val_size=6)
    own = mlp((int(np.prod(shape)), 3))  # a model of one's own knows what it takes
    assert tasks.classification(tiny(shape), 3, model=own, batch_size=2, val_size=6).num_classes == 3


def test_the_accuracy_of_a_class_without_images_is_missing_and_no_other():
    dataset = tiny()
    dataset = dataset._replace(test_labels=np.where(dataset.test_labels == 1, 0, dataset.test_labels))
    task = tasks.classification(dataset, 3, batch_size=2, val_size=0)
    each = task.evaluate(task.data, task.init(KEY))["test_accuracy_per_class"]
    np.testing.assert_array_equal(np.isnan(each), [False, True, False])


def test_a_healthy_run_passes_where_every_nan_is_an_error():
    task = tasks.classification(tiny(), 3, batch_size=2, val_size=6)
    params, batch = task.init(KEY), task.sample(task.data, KEY)
    with jax.debug_nans(True), jax.disable_jit():
        assert float(task.loss(params, jax.tree.map(lambda leaf: leaf[0], batch), KEY)) > 0
        assert task.evaluate(task.data, params)["val_accuracy_per_class"].shape == (3,)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(x.reshape(x.shape[0], -1))


def made(**changes):
    parts = {name: getattr(tasks.quartic(3), name) for name in ("data", "init", "sample", "loss", "evaluate")}
    return Task(**{**parts, "num_workers": 3, **changes})


def of_tiny(*args, **options):
    return tasks.classification(tiny(), *args, **{"batch_size": 2, "val_size": 6, **options})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: tasks.classification((np.zeros(3), [1, 2])),
            r"classification: dataset = \(.* is a tuple, not a Dataset",
        ),
        (lambda: tasks.classification(None), "dataset = None is a NoneType, not a Dataset"),
        (
            lambda: tasks.classification(tiny()._replace(train_labels=[[1], [1, 2]])),
            "train_labels = .* an array of num",
        ),
        (lambda: tasks.classification(tiny()._replace(num_classes=2.5)), "num_classes = 2.5 must be an integer ≥ 1"),
        (lambda: tasks.classification(tiny()._replace(test_images=np.zeros((10, 5, 5), np.uint8))), "must be alike"),
        (lambda: of_tiny(3, model=nnx.Linear(42, 3, rngs=nnx.Rngs(0))), "model = .* is a Linear, not a str or a Model"),
        (lambda: of_tiny(3, model=Linen()), "model = .* is a Linen, not a str or a Model; .*functional"),
        (lambda: of_tiny(3, model=nnx.Linear), "model = .* is a type, not|model = .* is .*Meta"),
        (lambda: of_tiny(3, model=Model(3, len)), "Model: init = 3 is an int, not a Callable"),
        (lambda: of_tiny(3, model=["mlp"]), r"model = \['mlp'\] is a list"),
        (lambda: functional(nnx.Linear(2, 3, rngs=nnx.Rngs(0))), "build = .* is a Linear, not a function"),
        (lambda: functional(Linen()), "build = .* is a Linen, not a function"),
        (lambda: functional(lambda rngs: Linen()), r"build\(rngs\) = .* is a Linen, not a Module"),
        (lambda: functional(3), "build = 3 is an int, not a Callable"),
        (lambda: mlp(5), "sizes = 5 is an int"),
        (lambda: mlp((5, 2.5)), r"sizes\[1\] = 2.5 must be an integer ≥ 1"),
        (lambda: cnn(shape=(8, "8")), r"shape\[1\] = '8' must be an integer ≥ 1"),
        (lambda: of_tiny(2.5), "num_workers = 2.5 must be an integer ≥ 1"),
        (lambda: of_tiny(True), "num_workers = True must be an integer"),
        (lambda: of_tiny("3"), "num_workers = '3' must be an integer"),
        (lambda: of_tiny(3, 0.5), "num_byzantine = 0.5 must be an integer ≥ 0"),
        (lambda: of_tiny(3, byzantine=[3]), r"byzantine = \[3\] must be a mask bool\[3\], or different numbers"),
        (lambda: of_tiny(3, byzantine=[1, 1]), r"byzantine = \[1, 1\] must be a mask"),
        (lambda: of_tiny(3, byzantine=[-1]), r"byzantine = \[-1\] must be a mask"),
        (lambda: of_tiny(3, byzantine=[0.0]), r"byzantine = \[0.0\] must be a mask"),
        (lambda: of_tiny(3, byzantine=[True, False]), r"byzantine = \[True, False\] must be a mask bool\[3\]"),
        (lambda: of_tiny(3, byzantine=2), r"byzantine = 2 must be a mask bool\[3\]"),
        (lambda: of_tiny(3, byzantine="last"), r"byzantine = 'last' must be a mask"),
        (lambda: of_tiny(3, byzantine=[0, 1, 2]), "num_byzantine = 3 must be between 0 and num_workers − 1 = 2"),
        (lambda: of_tiny(3, 1, byzantine=[0, 1]), "num_byzantine = 1, but byzantine marks 2 workers"),
        (lambda: jax.vmap(lambda m: of_tiny(3, byzantine=m))(jnp.ones((1, 3), bool)), "byzantine = .* and not traced"),
        (lambda: of_tiny(3, batch_size=2.5), "batch_size = 2.5 must be an integer ≥ 1"),
        (lambda: of_tiny(3, val_size="6"), "val_size = '6' must be an integer ≥ 0"),
        (lambda: of_tiny(3, test_size=2.5), "test_size = 2.5 must be an integer ≥ 1"),
        (lambda: of_tiny(3, split_seed=-1), "split_seed = -1 must be an integer ≥ 0"),
        (lambda: of_tiny(3, std=0.0), "std = 0.0 must be a finite number > 0"),
        (lambda: of_tiny(3, mean="0"), "mean = '0' must be a finite number"),
        (lambda: of_tiny(3, dropout=0.5), "dropout = 0.5 must be 'fresh' or 'frozen'"),
        (lambda: of_tiny(3, scheme=["iid"]), r"scheme = \['iid'\] must be"),
        (lambda: of_tiny(3, sampling=1), "sampling = 1 must be 'replacement' or 'epochs'"),
        (lambda: of_tiny(3, equal_shards="no"), "equal_shards = 'no' is a str, not a bool"),
        (lambda: tasks.language_model("to be or not"), "text = 'to be or not' is a str, not a Text; .*encode"),
        (
            lambda: tasks.language_model(encode("to be " * 9)._replace(vocabulary="tob")),
            "train must be integers .* from 0 to 2",
        ),
        (lambda: tasks.language_model(encode("to be " * 9), model=Linen()), "model = .* is a Linen"),
        (lambda: tasks.quartic(3, dim=2.5), "dim = 2.5 must be an integer ≥ 1"),
        (lambda: tasks.quartic(3, dim="2"), "dim = '2' must be an integer ≥ 1"),
        (lambda: tasks.quartic(3, noise_scale="x"), "noise_scale = 'x' must be a finite number"),
        (lambda: tasks.quartic(3, noise_scale=[1.0]), r"noise_scale = \[1.0\] must be a finite number"),
        (lambda: tasks.quartic(3, shift_scale=np.nan), "shift_scale = nan"),
        (lambda: tasks.quartic(3, radius="far"), "radius = 'far'"),
        (lambda: tasks.quartic(3, shift_key=0), "quartic: shift_key: needs a PRNG key, not 0"),
        (lambda: tasks.quartic(3, dim=1, shifts="abc"), "shifts = 'abc' must be an array of numbers"),
        (lambda: tasks.quartic(3, dim=1, shifts=[[1.0], [2.0, 3.0], [1.0]]), "shifts = .* must be an array of numbers"),
        (lambda: tasks.quartic(1, dim=1, shifts=[[np.nan]]), "shifts must be finite"),
        (lambda: made(data={"x": "abc"}), r"task: data\['x'\] = 'abc' is a str, not an array of numbers; what else"),
        (lambda: made(data={"x": np.array(["a"])}), r"data\['x'\] = .* is a ndarray, not an array of numbers"),
        (lambda: made(data=[1.0, object()]), r"data\[1\] = .* is an object, not an array of numbers"),
        (lambda: made(init=jnp.zeros(3)), r"init = .* is an ArrayImpl, not a Callable; pass a function"),
        (lambda: made(sample=None), "sample = None is a NoneType, not a Callable"),
        (lambda: made(loss="mse"), "loss = 'mse' is a str, not a Callable"),
        (lambda: made(evaluate={}), "evaluate = {} is a dict, not a Callable"),
        (lambda: made(num_workers=2.5), "num_workers = 2.5 must be an integer ≥ 1"),
        (lambda: made(num_classes=0), "num_classes = 0 must be an integer ≥ 1"),
        (lambda: made(byzantine=[4]), r"task: byzantine = \[4\] must be a mask bool\[3\]"),
        (lambda: made(name=3), "Task: name = 3 is an int, not a str"),
    ],
)
def test_a_wrong_kind_is_one_line(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_jax_may_put_anything_in_the_place_of_data():
    task = tasks.quartic(3)
    kinds = jax.tree.map(lambda leaf: str(leaf.dtype), task)
    assert kinds.data == {"noise_scale": "float32", "shifts": "float32"}
    assert jax.tree.structure(kinds) == jax.tree.structure(task)
    assert jax.tree.leaves_with_path(task)[0][0][0] == jax.tree_util.GetAttrKey("data")
    mapped = jax.tree.map(lambda leaf: leaf, task)
    assert mapped != task, "who knows what was put there"
    assert [vars(mapped)[field.name] for field in dataclasses.fields(task)[1:]] == [
        vars(task)[field.name] for field in dataclasses.fields(task)[1:]
    ]
    assert all(x is y for x, y in zip(jax.tree.leaves(mapped), jax.tree.leaves(task), strict=True))


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
        (lambda: tasks.mnist(4, scheme="sorted"), "scheme = 'sorted' must be 'label_sorted', 'iid',"),
        (lambda: tasks.mnist(4, scheme="dirichlet"), r"scheme = 'dirichlet' needs alpha, e.g. alpha=0.5"),
        (lambda: tasks.mnist(4, scheme="dirichlet", alpha=0.0), "alpha = 0.0 must be a number > 0"),
        (lambda: tasks.mnist(4, scheme="dirichlet", alpha=np.nan), "alpha = nan must be a number > 0"),
        (lambda: tasks.mnist(4, scheme="dirichlet", alpha=-np.inf), "alpha = -inf must be a number > 0"),
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


@pytest.mark.parametrize(
    ("special", "general", "own", "settled"),
    [
        (tasks.mnist, tasks.classification, set(), {"dataset", "mean", "std", "name"}),
        (tasks.shakespeare, tasks.language_model, set(), {"text", "name"}),
        (tasks.tiny_shakespeare, tasks.language_model, {"path"}, {"text", "name"}),
    ],
)
def test_a_data_set_s_task_takes_the_options_of_the_general_one(special, general, own, settled):
    mine, theirs = (inspect.signature(factory).parameters for factory in (special, general))
    assert {name: p for name, p in mine.items() if name not in own} == {
        name: p for name, p in theirs.items() if name not in settled
    }
