"""Image classification on data split among workers; MNIST as in section 6.2."""

from __future__ import annotations

import typing
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byzjax import data as datasets
from byzjax.checks import check_choice, check_integer, check_kind, check_number
from byzjax.checks.arrays import as_array
from byzjax.checks.masks import Liars
from byzjax.rng import drawable
from byzjax.task import Task
from byzjax.tasks._partitions import ByzantineData, Partition, partition
from byzjax.tasks._sampling import Sampling, sampler
from byzjax.tasks._workers import who_lies
from byzjax.tasks.models import MODELS, Model, check_model
from byzjax.transforms._normalize import global_norm
from byzjax.values import value

Dropout = Literal["fresh", "frozen"]

_CHANNELS = (1, 3)  # grey and colour: an axis of this length is not an image's height or width


@value
def mnist(
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    model: str | Model = "mlp",
    batch_size: int = 64,
    sampling: Sampling = "replacement",
    rounds_per_epoch: int | None = None,
    order_seed: int | None = None,
    scheme: Partition = "label_sorted",
    alpha: float | None = None,
    gamma: float | None = None,
    equal_shards: bool = False,
    byzantine_data: ByzantineData = "iid",
    val_size: int = 5000,
    test_size: int | None = None,
    split_seed: int = 0,
    dropout: Dropout = "fresh",
    gradient_norm: bool = False,
) -> Task:
    """MNIST, sorted by label and cut among the honest workers: the paper's heterogeneous task.

    Each worker's loss is the cross-entropy of an MLP 784-128-64-10 on a batch drawn from its shard, by default with
    replacement, so that its gradient is an unbiased estimate of its shard's (Assumption 3). Pixels are scaled to
    ``(x/255 − 0.1307)/0.3081``. The experiments of the paper evaluate every 30 rounds.

    Args:
      num_workers: n.
      num_byzantine: b. The first n − b workers share the whole training set, the last b lie.
      byzantine: who lies, instead of the last b: a mask bool[n], or the numbers of those who do. A run whose mask marks
        others is refused.
      model: ``"mlp"`` (784-128-64-10), ``"cnn"`` (see `byzjax.tasks.models`; with dropout), or any `Model`.
      batch_size: B.
      sampling: ``"replacement"``, or ``"epochs"``: through a shard in a new order every epoch.
      rounds_per_epoch, order_seed: see `byzjax.tasks._sampling.sampler`.
      scheme: ``"label_sorted"``, ``"iid"``, ``"dirichlet"`` with ``alpha``, or ``"gamma_similarity"`` with ``gamma``:
        see `byzjax.tasks._partitions`.
      alpha: α > 0; the smaller, the more heterogeneous. ``inf`` gives every worker an equal share of every class.
      gamma: γ in [0, 1]: the fraction of the data that is dealt IID, the rest is sorted by label.
      equal_shards: repeat the first samples of the order so that all shards are equally large.
      byzantine_data: what the b workers who lie hold: ``"iid"``, a draw of the whole set (the released code), or
        ``"shard"``, their part of an n-way split. Label-sorted, the latter silently removes whole classes from the
        honest objective (at n = 20, b = 3: all of the 9s and half of the 8s).
      val_size: training images held out for validation, a uniform draw. Tune on it, never on the test set. 0 trains on
        all images and evaluates nothing but the test set.
      test_size: evaluate on as many test images, the first when they are sorted by label (stably): the highest labels
        are cut off. All by default.
      split_seed: of the hold-out and of the split; they belong to the task, not to a run.
      dropout: for models that have it. ``"fresh"`` draws masks for every worker and round. ``"frozen"`` draws them
        once, one per place in the batch, the same for all workers and rounds, from ``task.data["dropout_key"]`` (raw
        key data; of key 0 unless a caller puts in another).
      gradient_norm: also evaluate the *true* gradient norm: ``‖∇f_G(x)‖`` with ``f_G = (1/G) Σ_i f_i`` the objective of
        the honest workers, each f_i the mean loss over all images of worker i, without dropout. Costs several times as
        much as the rest of the evaluation.

    Finite sum: the images of a worker's shard; with a model that has dropout there is none.

    Evaluation: ``test_accuracy``, ``test_loss``, ``test_accuracy_per_class`` [10], and the same with ``val_``. The
    accuracy of a class without images is NaN.

    Raises:
      ValueError: no honest worker, an empty shard, a size out of range, an unknown, missing or superfluous option.

    >>> task = mnist(num_workers=20, num_byzantine=3)
    >>> task.data["images"].dtype, task.data["test_images"].shape
    (dtype('uint8'), (10000, 28, 28))
    """
    options = dict(locals())  # every argument, by its name
    return classification(datasets.load("mnist"), **options, mean=0.1307, std=0.3081, name="mnist")


@value
def classification(
    dataset: datasets.Dataset | str,
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    model: str | Model = "mlp",
    batch_size: int = 64,
    sampling: Sampling = "replacement",
    rounds_per_epoch: int | None = None,
    order_seed: int | None = None,
    scheme: Partition = "label_sorted",
    alpha: float | None = None,
    gamma: float | None = None,
    equal_shards: bool = False,
    byzantine_data: ByzantineData = "iid",
    val_size: int = 5000,
    test_size: int | None = None,
    split_seed: int = 0,
    dropout: Dropout = "fresh",
    gradient_norm: bool = False,
    mean: float = 0.5,
    std: float = 0.5,
    name: str | None = None,
) -> Task:
    """Classification of any uint8 image data set; see `mnist` for the options.

    Args:
      dataset: images uint8 ``[N, height, width]`` or ``[N, height, width, channels]`` and labels ``[N]``, for training
        and test; or a name that `byzjax.data.load` knows, e.g. ``"tfds:fashion_mnist"``. A `Model` of one's own may
        take images of any shape.
      mean, std: of the pixels in units of 255.
      name: what reports call the task; the data set's name by default.

    Raises:
      ValueError: as `mnist`, as `byzjax.data.load`, or a data set of other images or labels.

    >>> task = classification("mnist", num_workers=10, num_byzantine=2, scheme="dirichlet", alpha=0.5)
    >>> task.name, task.data["table"].shape[0]
    ('mnist', 10)
    """
    name = name or (dataset if isinstance(dataset, str) else "classification")
    dataset = _checked(datasets.load(dataset) if isinstance(dataset, str) else dataset, name)
    liars = who_lies(num_workers, num_byzantine, byzantine, where=name)
    num_workers, total = len(liars), len(dataset.train_labels)
    batch_size = check_integer(batch_size, "batch_size", name, least=1)
    val_size = check_integer(val_size, "val_size", name, least=0)
    split_seed = check_integer(split_seed, "split_seed", name, least=0)
    check_number(mean, "mean", name)
    check_number(std, "std", name, least=0, open_below=True)
    if val_size >= total:
        raise ValueError(f"{name}: val_size = {val_size} must be between 0 and {total - 1}.")
    net = _model(model, dataset, name)
    frozen = _frozen(dropout, net, name)

    order = np.random.default_rng(split_seed).permutation(total)
    val, train = np.sort(order[:val_size]), np.sort(order[val_size:])
    table, sizes = partition(
        dataset.train_labels[train],
        num_workers,
        byzantine=liars,
        scheme=scheme,
        alpha=alpha,
        gamma=gamma,
        equal_shards=equal_shards,
        byzantine_data=byzantine_data,
        seed=split_seed,
    )
    places = sampler(
        sizes,
        batch_size,
        sampling=sampling,
        rounds_per_epoch=rounds_per_epoch,
        order_seed=order_seed,
        where=name,
    )
    test = _test(dataset.test_labels, test_size, name)
    # An index copies; what a slice or the whole gives, the device would share with whoever handed it in.
    data = {
        "images": jnp.asarray(dataset.train_images[train]),
        "labels": jnp.asarray(dataset.train_labels[train], jnp.int32),
        "table": jnp.asarray(table),
        "sizes": jnp.asarray(sizes),
        "test_images": jnp.asarray(dataset.test_images[test]),
        "test_labels": jnp.asarray(dataset.test_labels[test], jnp.int32),
        **places.data,
    }
    if val_size:
        data["val_images"] = jnp.asarray(dataset.train_images[val])
        data["val_labels"] = jnp.asarray(dataset.train_labels[val], jnp.int32)
    if frozen:
        data["dropout_key"] = jax.random.key_data(jax.random.key(0))
    if gradient_norm:
        data["honest_share"] = jnp.asarray(_honest_share(table[~liars], sizes[~liars], len(train)))

    def logits(params, images: jax.Array, **extra) -> jax.Array:
        scaled = (images.astype(jnp.float32) * jnp.float32(1 / 255) - mean) * jnp.float32(1 / std)
        return net.apply(params, scaled, **extra)

    def examples(data: dict, place: jax.Array) -> dict:
        index = jnp.take_along_axis(data["table"], place, axis=1)
        return {"image": data["images"][index], "label": data["labels"][index]}

    def sample(data: dict, key: jax.Array, step: Any = None) -> dict:
        batch = examples(data, places.draw(data, key, step))
        if frozen:
            batch["dropout_key"] = jnp.broadcast_to(data["dropout_key"], (num_workers, *data["dropout_key"].shape))
        return batch

    def loss(params, batch: dict, key: jax.Array) -> jax.Array:
        if frozen:
            key = drawable(jax.random.wrap_key_data(batch["dropout_key"]), name)
        extra = {"key": key} if net.stochastic else {}
        values = logits(params, batch["image"], **extra)
        return optax.softmax_cross_entropy_with_integer_labels(values, batch["label"]).mean()

    def evaluate(data: dict, params) -> dict[str, jax.Array]:
        scores = {}
        for split in ("test", "val") if val_size else ("test",):
            images, labels = data[f"{split}_images"], data[f"{split}_labels"]
            values = jax.lax.map(lambda image: logits(params, image[None])[0], images, batch_size=net.eval_batch)
            hit = (values.argmax(-1) == labels).astype(jnp.float32)
            member = jax.nn.one_hot(labels, dataset.num_classes)
            scores |= {
                f"{split}_accuracy": hit.mean(),
                f"{split}_loss": optax.softmax_cross_entropy_with_integer_labels(values, labels).mean(),
                # NaN where a class has no images, and only there: jax_debug_nans sees a constant, too.
                f"{split}_accuracy_per_class": (hit[:, None] * member).sum(0) / member.sum(0),
            }
        if gradient_norm:
            scores["gradient_norm"] = global_norm(honest_gradient(data, params))
        return scores

    def honest_gradient(data: dict, params):
        """``∇f_G``, summed over blocks of images."""
        starts = jnp.arange(0, len(train), net.eval_batch)

        def add(total, start: jax.Array):
            index = start + jnp.arange(net.eval_batch)
            share = jnp.where(index < len(train), data["honest_share"].at[index].get(mode="clip"), 0.0)

            def part(params) -> jax.Array:
                values = logits(params, data["images"].at[index].get(mode="clip"))
                labels = data["labels"].at[index].get(mode="clip")
                return (share * optax.softmax_cross_entropy_with_integer_labels(values, labels)).sum()

            return jax.tree.map(jnp.add, total, jax.grad(part)(params)), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), starts)[0]

    return Task(
        data,
        net.init,
        sample,
        loss,
        evaluate,
        num_workers,
        name,
        by_round=places.by_round,
        byzantine=liars,
        num_classes=dataset.num_classes,
        examples=None if net.stochastic else examples,
        num_examples=None if net.stochastic else sizes,
    )


def _checked(dataset: Any, where: str) -> datasets.Dataset:
    """With arrays of NumPy in place of lists."""
    if isinstance(dataset, datasets.Text):
        raise ValueError(f"{where}: the data set is a text, not images; use tasks.language_model.")
    fix = "pass Dataset(train_images, train_labels, test_images, test_labels, num_classes) of byzjax.data, or a name."
    check_kind(dataset, (datasets.Dataset, str), "dataset", where, fix=fix)
    arrays = {field: as_array(getattr(dataset, field), field, where) for field in dataset._fields[:4]}
    num_classes = check_integer(dataset.num_classes, "num_classes", where, least=1)
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.ndim < 2 or len(images) == 0 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{where}: {split}_images {images.dtype}{list(images.shape)} and {split}_labels "
                f"{list(labels.shape)} must be uint8[N, …] and [N], N ≥ 1."
            )
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"{where}: {split}_labels must be integers from 0 to num_classes − 1 = {num_classes - 1}.")
    one, other = (arrays[f"{split}_images"].shape[1:] for split in ("train", "test"))
    if one != other:
        raise ValueError(
            f"{where}: train_images are {list(one)} each, and test_images {list(other)}; they must be alike."
        )
    return datasets.Dataset(**arrays, num_classes=num_classes)


def _model(model: Any, dataset: datasets.Dataset, where: str) -> Model:
    """A model by name, of the size that the data set needs."""
    check_model(model, where)
    if isinstance(model, Model):
        return model
    if model not in MODELS:
        raise ValueError(f"{where}: model = {model!r} is unknown; use one of {sorted(MODELS)} or a Model.")
    shape = dataset.train_images.shape[1:]
    if len(shape) == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
        raise ValueError(
            f"{where}: images {list(shape)} have their channels first; {model!r} takes [height, width, channels]: "
            "move them with np.moveaxis(images, 1, -1)."
        )
    return MODELS[model](shape, dataset.num_classes)


def _frozen(dropout: Dropout, net: Model, where: str) -> bool:
    check_choice(dropout, typing.get_args(Dropout), "dropout", where)
    if dropout == "frozen" and not net.stochastic:
        raise ValueError(f"{where}: dropout = 'frozen' has no effect, the model has no dropout; use model='cnn'.")
    return dropout == "frozen"


def _honest_share(table: np.ndarray, sizes: np.ndarray, num_images: int) -> np.ndarray:
    """What an image's loss counts in the objective of the workers whose rows these are: f32[N], sum 1."""
    share = np.zeros(num_images)
    for row, size in zip(table, sizes, strict=True):
        np.add.at(share, row[:size], 1.0 / (len(table) * size))
    return share.astype(np.float32)


def _test(labels: np.ndarray, test_size: int | None, where: str) -> np.ndarray:
    """Which test images are evaluated."""
    if test_size is None:
        return np.arange(len(labels))
    test_size = check_integer(test_size, "test_size", where, least=1)
    if test_size > len(labels):
        raise ValueError(f"{where}: test_size = {test_size} must be between 1 and {len(labels)}, or None for all.")
    return np.argsort(labels, kind="stable")[:test_size]
