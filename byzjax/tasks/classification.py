"""Image classification on data split among workers; MNIST as in section 6.2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byzjax import data as datasets
from byzjax.base import Task
from byzjax.tasks.models import MODELS, Model
from byzjax.tasks.partitions import ByzantineData, Partition, partition
from byzjax.tasks.quartic import check_workers

_EVAL_BATCH = 1000  # images evaluated at a time: bounds the memory of a vmapped sweep


def mnist(
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    model: str | Model = "mlp",
    batch_size: int = 64,
    scheme: Partition = "label_sorted",
    byzantine_data: ByzantineData = "iid",
    val_size: int = 5000,
    split_seed: int = 0,
) -> Task:
    """MNIST, sorted by label and cut among the honest workers: the paper's heterogeneous task.

    Each worker's loss is the cross-entropy of an MLP 784-128-64-10 on a batch drawn from its shard with replacement,
    so that its gradient is an unbiased estimate of its shard's (Assumption 3). Pixels are scaled to
    ``(x/255 − 0.1307)/0.3081``. The experiments of the paper evaluate every 30 rounds.

    Args:
      num_workers: n.
      num_byzantine: b. The first n − b workers share the whole training set.
      model: ``"mlp"``, or any `Model`.
      batch_size: B.
      scheme: ``"label_sorted"`` or ``"iid"``.
      byzantine_data: what the last b workers hold: ``"iid"``, a draw of the whole set (the released code), or
        ``"shard"``, their part of an n-way split. Label-sorted, the latter silently removes whole classes from the
        honest objective (at n = 20, b = 3: all of the 9s and half of the 8s).
      val_size: training images held out for validation, a uniform draw. Tune on it, never on the test set.
      split_seed: of the hold-out and of the split; they belong to the task, not to a run.

    Evaluation: ``test_accuracy``, ``test_loss``, ``test_accuracy_per_class`` [10], and the same with ``val_``.

    Raises:
      ValueError: no honest worker, an empty shard, a batch or validation size out of range, an unknown option.

    >>> task = mnist(num_workers=20, num_byzantine=3)
    >>> task.data["images"].dtype, task.data["test_images"].shape
    (dtype('uint8'), (10000, 28, 28))
    """
    return classification(
        datasets.load("mnist"),
        num_workers,
        num_byzantine,
        model=model,
        batch_size=batch_size,
        scheme=scheme,
        byzantine_data=byzantine_data,
        val_size=val_size,
        split_seed=split_seed,
        mean=0.1307,
        std=0.3081,
        name="mnist",
    )


def classification(
    dataset: datasets.Dataset,
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    model: str | Model = "mlp",
    batch_size: int = 64,
    scheme: Partition = "label_sorted",
    byzantine_data: ByzantineData = "iid",
    val_size: int = 5000,
    split_seed: int = 0,
    mean: float = 0.5,
    std: float = 0.5,
    name: str = "classification",
) -> Task:
    """Classification of any uint8 image data set; see `mnist` for the options.

    Args:
      dataset: images uint8 ``[N, …]`` and labels ``[N]``, for training and test.
      mean, std: of the pixels in units of 255.
      name: what reports call the task.
    """
    check_workers(num_workers, num_byzantine, name)
    total = len(dataset.train_labels)
    if batch_size < 1:
        raise ValueError(f"{name}: batch_size = {batch_size} must be at least 1.")
    if not 0 < val_size < total:
        raise ValueError(
            f"{name}: val_size = {val_size} must be between 1 and {total - 1}; tuning needs held-out data."
        )
    if isinstance(model, str):
        if model not in MODELS:
            raise ValueError(f"{name}: model = {model!r} is unknown; use one of {sorted(MODELS)} or a Model.")
        model = MODELS[model]()
    net = model

    order = np.random.default_rng(split_seed).permutation(total)
    val, train = np.sort(order[:val_size]), np.sort(order[val_size:])
    table, sizes = partition(
        dataset.train_labels[train],
        num_workers,
        num_byzantine,
        scheme=scheme,
        byzantine_data=byzantine_data,
        seed=split_seed,
    )
    data = {
        "images": jnp.asarray(dataset.train_images[train]),
        "labels": jnp.asarray(dataset.train_labels[train], jnp.int32),
        "table": jnp.asarray(table),
        "sizes": jnp.asarray(sizes),
        "val_images": jnp.asarray(dataset.train_images[val]),
        "val_labels": jnp.asarray(dataset.train_labels[val], jnp.int32),
        "test_images": jnp.asarray(dataset.test_images),
        "test_labels": jnp.asarray(dataset.test_labels, jnp.int32),
    }
    num_classes = int(max(dataset.train_labels.max(), dataset.test_labels.max())) + 1

    def logits(params, images: jax.Array) -> jax.Array:
        scaled = (images.astype(jnp.float32) * jnp.float32(1 / 255) - mean) * jnp.float32(1 / std)
        return net.apply(params, scaled)

    def sample(data: dict, key: jax.Array) -> dict:
        place = jax.random.randint(key, (num_workers, batch_size), 0, data["sizes"][:, None])
        index = jnp.take_along_axis(data["table"], place, axis=1)
        return {"image": data["images"][index], "label": data["labels"][index]}

    def loss(params, batch: dict, key: jax.Array) -> jax.Array:
        del key
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, batch["image"]), batch["label"])
        return losses.mean()

    def evaluate(data: dict, params) -> dict[str, jax.Array]:
        scores = {}
        for split in ("test", "val"):
            images, labels = data[f"{split}_images"], data[f"{split}_labels"]
            values = jax.lax.map(lambda image: logits(params, image[None])[0], images, batch_size=_EVAL_BATCH)
            hit = (values.argmax(-1) == labels).astype(jnp.float32)
            member = jax.nn.one_hot(labels, num_classes)
            scores |= {
                f"{split}_accuracy": hit.mean(),
                f"{split}_loss": optax.softmax_cross_entropy_with_integer_labels(values, labels).mean(),
                f"{split}_accuracy_per_class": (hit[:, None] * member).sum(0) / member.sum(0),
            }
        return scores

    return Task(data, net.init, sample, loss, evaluate, num_workers, name)
