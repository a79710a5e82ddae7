"""Next-character prediction on a text split among workers; tiny Shakespeare as in section 6.2."""

from __future__ import annotations

import typing
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from byzjax import data as datasets
from byzjax.checks import check_choice, check_integer, check_kind
from byzjax.checks.arrays import as_array
from byzjax.checks.masks import Liars
from byzjax.data.text import Text
from byzjax.rng import check_key
from byzjax.task import Task
from byzjax.tasks._partitions import ByzantineBlocks, partition_blocks
from byzjax.tasks._sampling import Sampling, sampler
from byzjax.tasks._workers import who_lies
from byzjax.tasks.models import Model, check_model
from byzjax.values import value

Dropout = Literal["fresh", "frozen"]
Validation = Literal["half", "rest"]

_EVAL_BATCH = 64  # blocks evaluated at a time: bounds the memory of an evaluation


class Preset(NamedTuple):
    """A GPT by name, and what it is trained on at a time."""

    num_layers: int
    width: int
    num_heads: int
    block_size: int
    batch_size: int


MODELS = {"gpt": Preset(4, 128, 4, 128, 64), "small": Preset(2, 64, 4, 64, 16)}


@value
def tiny_shakespeare(
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    path: str | None = None,
    model: str | Model = "gpt",
    batch_size: int | None = None,
    block_size: int | None = None,
    sampling: Sampling = "replacement",
    rounds_per_epoch: int | None = None,
    order_seed: int | None = None,
    byzantine_data: ByzantineBlocks = "honest",
    val: Validation = "half",
    eval_blocks: int | None = None,
    dropout: Dropout = "fresh",
    dropout_rate: float = 0.1,
    dropout_key: jax.Array | None = None,
    compute_dtype: DTypeLike | None = None,
    worker_batch: int = 1,
    split_seed: int = 0,
) -> Task:
    """The paper's language model: tiny Shakespeare, in contiguous chunks among the honest workers.

    7 842 blocks of 128 characters; at n = 20, b = 3 each honest worker has 461, the last one 466. The released code is
    ``val="rest", eval_blocks=768, dropout="frozen", byzantine_data="twin", sampling="epochs", order_seed=0``.

    Args:
      path: of the file, see `byzjax.data.text.load_tiny_shakespeare`.
      num_workers, num_byzantine, …: as in `language_model`.

    Raises:
      ValueError: as `language_model`; the text cannot be had.
    """
    options = dict(locals())  # every argument, by its name
    text = datasets.load("tiny_shakespeare", path=options.pop("path"))
    return language_model(text, **options, name="tiny_shakespeare")


@value
def shakespeare(
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    model: str | Model = "gpt",
    batch_size: int | None = None,
    block_size: int | None = None,
    sampling: Sampling = "replacement",
    rounds_per_epoch: int | None = None,
    order_seed: int | None = None,
    byzantine_data: ByzantineBlocks = "honest",
    val: Validation = "half",
    eval_blocks: int | None = None,
    dropout: Dropout = "fresh",
    dropout_rate: float = 0.1,
    dropout_key: jax.Array | None = None,
    compute_dtype: DTypeLike | None = None,
    worker_batch: int = 1,
    split_seed: int = 0,
) -> Task:
    """Eight plays of Shakespeare that ship with the package: a language model without a download.

    ``shakespeare(model="small")`` trains in minutes on two cores. About 1 MB, 63 different characters, in contiguous
    chunks among the honest workers, so that each knows parts of one play or two.

    Args:
      num_workers, num_byzantine, …: as in `language_model`.

    Raises:
      ValueError: as `language_model`.

    >>> task = shakespeare(num_workers=20, num_byzantine=3)
    >>> task.data["blocks"].shape, task.data["sizes"][:17].tolist()[-2:]
    ((7278, 129), [428, 430])
    """
    options = dict(locals())  # every argument, by its name
    return language_model(datasets.load("shakespeare"), **options, name="shakespeare")


@value
def language_model(
    text: Text,
    num_workers: int = 20,
    num_byzantine: int = 0,
    *,
    byzantine: Liars | None = None,
    model: str | Model = "gpt",
    batch_size: int | None = None,
    block_size: int | None = None,
    sampling: Sampling = "replacement",
    rounds_per_epoch: int | None = None,
    order_seed: int | None = None,
    byzantine_data: ByzantineBlocks = "honest",
    val: Validation = "half",
    eval_blocks: int | None = None,
    dropout: Dropout = "fresh",
    dropout_rate: float = 0.1,
    dropout_key: jax.Array | None = None,
    compute_dtype: DTypeLike | None = None,
    worker_batch: int = 1,
    split_seed: int = 0,
    name: str = "language_model",
) -> Task:
    """Next-character prediction on any text.

    The training part is cut into blocks of T characters, one after the other; a block's targets are its characters
    one place further on. Every honest worker has the same number of consecutive blocks, the last one also the
    remainder. A worker's loss is the mean cross-entropy of B of its blocks.

    Args:
      text: from `byzjax.data.load` or `byzjax.data.text.encode`.
      num_workers: n.
      num_byzantine: b. The first n − b workers share the whole training part, the last b lie.
      byzantine: who lies, instead of the last b: a mask bool[n], or the numbers of those who do. A run whose mask marks
        others is refused.
      model: ``"gpt"``, the paper's (4 layers × 128, T = 128, B = 64); ``"small"`` (2 × 64, T = 64, B = 16), which two
        cores train in minutes; or a `Model` from i[B, T] to logits ``[B, T, V]``.
      batch_size: B; by default the model's, 64 for a `Model`.
      block_size: T; by default the model's, 128 for a `Model`.
      sampling: ``"replacement"``, or ``"epochs"``: through a worker's blocks in a new order every epoch.
      rounds_per_epoch, order_seed: see `byzjax.tasks._sampling.sampler`.
      byzantine_data: what those draw from: ``"honest"``, the blocks of the first b honest workers; ``"twin"``,
        the same, and in every round the same batches (the released code); ``"shard"``, their part of an n-way split;
        ``"iid"``, a random draw of all blocks.
      val: validation text, ``"half"`` of what is not for training, the other half for tests; or the whole ``"rest"``,
        without a test, as in the released code. Tune on it, never on the test text.
      eval_blocks: evaluate on the first so many blocks of either, at most; 768 with ``val="rest"`` in the released
        code, which takes 3 batches of 256. All by default.
      dropout: ``"fresh"`` masks for every worker and round; ``"frozen"``, one set for the whole run, one mask per place
        in the batch, shared by all workers (the released code).
      dropout_rate: of the models with a name.
      dropout_key: draws the frozen masks; ``jax.random.key(0)`` by default. It is kept in ``data["dropout_key"]``.
      compute_dtype: of the models with a name, e.g. ``"bfloat16"``; see `byzjax.tasks._transformer.gpt`.
      worker_batch: how many workers' gradients are computed at a time, on every device. One takes the least memory, and
        on a CPU the least time; accelerators want more, as far as activations fit.
      split_seed: of the draw of ``byzantine_data="iid"``.
      name: what reports call the task.

    Finite sum: a worker's blocks, N_i of them, f_ij the mean cross-entropy of block j; with dropout there is none.

    Evaluation: ``val_loss``, ``val_perplexity`` = exp(val_loss), and the same with ``test_``.

    Raises:
      ValueError: no honest worker, a text too short for the blocks, a size out of range, an unknown option.

    >>> from byzjax.data.text import encode
    >>> task = language_model(encode("to be or not to be " * 50), 4, model="small", block_size=8, batch_size=2)
    >>> task.sample(task.data, jax.random.key(0))["token"].shape
    (4, 2, 8)
    """
    text = _checked(text, name)
    liars = who_lies(num_workers, num_byzantine, byzantine, where=name)
    num_workers, honest = len(liars), np.flatnonzero(~liars)
    check_choice(dropout, typing.get_args(Dropout), "dropout", name)
    check_choice(val, typing.get_args(Validation), "val", name)
    check_model(model, name)
    preset = _preset(model, name)
    length = check_integer(preset.block_size if block_size is None else block_size, "block_size", name, least=1)
    size = check_integer(preset.batch_size if batch_size is None else batch_size, "batch_size", name, least=1)
    if eval_blocks is not None:
        eval_blocks = check_integer(eval_blocks, "eval_blocks", name, least=1)
    net = _model(model, preset, length, text.vocab_size, dropout_rate, compute_dtype)
    if dropout == "frozen" and not net.stochastic:
        raise ValueError(f"{name}: dropout = 'frozen' needs a model with dropout; this one is not stochastic.")

    blocks = _blocks(text.train, length, "training", name)
    check_integer(split_seed, "split_seed", name, least=0)
    table, sizes = partition_blocks(
        len(blocks), num_workers, byzantine=liars, byzantine_data=byzantine_data, seed=split_seed
    )
    places = sampler(
        sizes, size, sampling=sampling, rounds_per_epoch=rounds_per_epoch, order_seed=order_seed, where=name
    )
    data = {"blocks": jnp.asarray(blocks), "table": jnp.asarray(table), "sizes": jnp.asarray(sizes), **places.data}
    held_out = {"val": text.val, "test": text.test} if val == "half" else {"val": np.concatenate([text.val, text.test])}
    for split, ids in held_out.items():
        data[f"{split}_blocks"] = jnp.asarray(_blocks(ids, length, split, name)[:eval_blocks])
    key_kind = None
    if dropout == "frozen":
        masks = check_key(jax.random.key(0) if dropout_key is None else dropout_key, f"{name}: dropout_key")
        key_kind, data["dropout_key"] = jax.random.key_impl(masks), jax.random.key_data(masks)

    twin = np.arange(num_workers)
    if byzantine_data == "twin":
        twin[liars] = honest[np.arange(liars.sum()) % len(honest)]

    def losses(params, batch: dict, key: jax.Array | None) -> jax.Array:
        drawn = {"key": key} if net.stochastic else {}
        logits = net.apply(params, batch["token"], **drawn)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["target"])

    def examples(data: dict, place: jax.Array) -> dict:
        return _shifted(data["blocks"][jnp.take_along_axis(data["table"], place, axis=1)])

    def sample(data: dict, key: jax.Array, step: Any = None) -> dict:
        batch = examples(data, places.draw(data, key, step)[twin])
        if dropout == "frozen":
            masks = data["dropout_key"]
            batch["dropout_key"] = jnp.broadcast_to(masks[None], (num_workers, *masks.shape))
        return batch

    def loss(params, batch: dict, key: jax.Array | None) -> jax.Array:
        if dropout == "frozen":
            key = jax.random.wrap_key_data(batch["dropout_key"], impl=key_kind)
        return losses(params, batch, key).mean()

    def evaluate(data: dict, params) -> dict[str, jax.Array]:
        # Together, so that the model is compiled for evaluation once.
        blocks = jnp.concatenate([data[f"{split}_blocks"] for split in held_out])
        each = jax.lax.map(
            lambda block: losses(params, _shifted(block[None]), None).mean(),
            blocks,
            batch_size=min(_EVAL_BATCH, len(blocks)),
        )
        scores, start = {}, 0
        for split in held_out:
            count = len(data[f"{split}_blocks"])
            mean = each[start : start + count].mean()
            scores |= {f"{split}_loss": mean, f"{split}_perplexity": jnp.exp(mean)}
            start += count
        return scores

    exact = not net.stochastic or (isinstance(model, str) and dropout_rate == 0)
    return Task(
        data,
        net.init,
        sample,
        loss,
        evaluate,
        num_workers,
        name,
        worker_batch,
        places.by_round,
        liars,
        examples=examples if exact else None,
        num_examples=sizes if exact else None,
    )


def _checked(text: Any, where: str) -> Text:
    """With arrays of NumPy in place of lists, and ids that the vocabulary has."""
    check_kind(text, Text, "text", where, fix="make one with byzjax.data.text.encode(…).")
    ids = {part: as_array(getattr(text, part), part, where) for part in ("train", "val", "test")}
    for part, values in ids.items():
        wrong = values.ndim != 1 or values.dtype.kind not in "iu"
        if wrong or (len(values) and not 0 <= values.min() <= values.max() < text.vocab_size):
            raise ValueError(
                f"{where}: {part} must be integers [N] from 0 to {text.vocab_size - 1}, places in the vocabulary."
            )
    return text._replace(**ids)


def _shifted(blocks: jax.Array) -> dict[str, jax.Array]:
    """Blocks of T + 1 characters as T tokens and the T targets that follow them."""
    ids = blocks.astype(jnp.int32)
    return {"token": ids[..., :-1], "target": ids[..., 1:]}


def _blocks(ids: np.ndarray, length: int, part: str, name: str) -> np.ndarray:
    """uint8[N, T + 1]: every block, and the character after it."""
    count = (len(ids) - 1) // length
    if count < 1:
        raise ValueError(
            f"{name}: block_size = {length} is too long for the {part} part of {len(ids)} characters; use at most "
            f"{len(ids) - 1}, or more text."
        )
    return np.concatenate(
        [ids[: count * length].reshape(count, length), ids[length : count * length + 1 : length, None]], 1
    )


def _preset(model: str | Model, name: str) -> Preset:
    if isinstance(model, Model):
        return MODELS["gpt"]
    if model not in MODELS:
        raise ValueError(f"{name}: model = {model!r} is unknown; use one of {sorted(MODELS)} or a Model.")
    return MODELS[model]


def _model(
    model: str | Model,
    preset: Preset,
    block_size: int,
    vocab_size: int,
    dropout_rate: float,
    compute_dtype: DTypeLike | None,
) -> Model:
    if isinstance(model, Model):
        return model
    from byzjax.tasks._transformer import gpt  # flax takes a second to load

    layers, width, heads = preset[:3]
    return gpt(layers, width, heads, block_size, vocab_size, dropout_rate, compute_dtype)
