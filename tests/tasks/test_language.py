"""The language model: who holds which blocks, dropout, evaluation, memory, training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks
from byzjax.cli.app import app
from byzjax.data import text as texts
from byzjax.sharding import Layout
from byzjax.simulation.round import init_state, make_round
from byzjax.tasks._partitions import partition_blocks
from byzjax.tasks._transformer import gpt
from byzjax.tasks.models import functional
from tests.tasks.references import numpy_gpt

KEY = jax.random.key(2)
TEXT = texts.encode("".join(chr(97 + (i * i + i // 7) % 11) for i in range(2000)))
TINY = {"num_layers": 1, "width": 16, "num_heads": 2, "block_size": 8, "vocab_size": 11}


def tiny_task(num_workers=6, num_byzantine=2, text=TEXT, *, dropout_rate=0.1, **options):
    model = options.pop("model", None) or gpt(**TINY, dropout=dropout_rate)
    options = {"batch_size": 3, "block_size": 8} | options
    return tasks.language_model(text, num_workers, num_byzantine, model=model, **options)


def test_what_byzantine_workers_may_hold():
    table, sizes = partition_blocks(100, 8, 3, byzantine_data="shard")
    assert sizes.tolist() == [12] * 7 + [16]
    np.testing.assert_array_equal(np.concatenate([table[i, : sizes[i]] for i in range(8)]), np.arange(100))
    table, sizes = partition_blocks(103, 8, 3, byzantine_data="iid")
    assert sizes.tolist() == [20] * 4 + [23] * 4
    assert all(len(set(row)) == 23 and np.ptp(row) > 50 for row in table[5:])
    again, _ = partition_blocks(103, 8, 3, byzantine_data="iid", seed=1)
    assert not np.array_equal(table[5:], again[5:])
    table, _ = partition_blocks(9, 5, 3, byzantine_data="honest")  # more liars than honest workers
    np.testing.assert_array_equal(table[2:], table[[0, 1, 0]])


@pytest.mark.parametrize("holding", ["honest", "twin", "shard", "iid"])
def test_batches_are_of_each_worker_s_own_blocks(holding):
    task = tiny_task(byzantine_data=holding, batch_size=200)
    table, sizes, blocks = (np.asarray(task.data[name]) for name in ("table", "sizes", "blocks"))
    batch = jax.tree.map(np.asarray, task.sample(task.data, KEY))
    assert batch["token"].shape == batch["target"].shape == (6, 200, 8)
    np.testing.assert_array_equal(batch["token"][..., 1:], batch["target"][..., :-1])
    drawn = np.concatenate([batch["token"], batch["target"][..., -1:]], axis=-1)
    for worker in range(6):
        own = {tuple(blocks[i]) for i in table[worker, : sizes[worker]]}
        seen = {tuple(block) for block in drawn[worker]}
        assert seen <= own
        assert len(seen) > 0.9 * len(own), "and nearly all of them"
    same = [np.array_equal(drawn[4 + i], drawn[i]) for i in range(2)]
    assert same == [holding == "twin"] * 2


@pytest.mark.parametrize("holding", ["honest", "twin", "shard", "iid"])
def test_others_may_lie_than_the_last(holding):
    usual = tiny_task(6, byzantine_data=holding)
    others = tiny_task(6, 0, byzantine=[0, 3], byzantine_data=holding)
    assert others.byzantine == (True, False, False, True, False, False)
    order = np.arange(6) if holding == "shard" else np.array([4, 0, 1, 5, 2, 3])
    for name in ("table", "sizes"):
        np.testing.assert_array_equal(others.data[name], usual.data[name][order])
    token = np.asarray(others.sample(others.data, KEY)["token"])
    same = [np.array_equal(token[liar], token[honest]) for liar, honest in ((0, 1), (3, 2))]
    assert same == [holding == "twin"] * 2


def test_blocks_follow_each_other_and_the_text():
    task = tiny_task()
    blocks = np.asarray(task.data["blocks"])
    assert len(blocks) == (1800 - 1) // 8
    np.testing.assert_array_equal(blocks[:, :8].ravel(), TEXT.train[: 8 * len(blocks)])
    np.testing.assert_array_equal(blocks[:-1, 8], blocks[1:, 0])
    assert blocks[-1, 8] == TEXT.train[8 * len(blocks)]
    assert blocks.dtype == np.uint8


def large(params):
    """Weights so large that attention is far from uniform, and biases that are not zero."""
    keys = iter(jax.random.split(KEY, 99))
    return jax.tree.map(lambda leaf: leaf + 0.5 * jax.random.normal(next(keys), leaf.shape, leaf.dtype), params)


def test_workers_under_vmap_are_workers_alone():
    task = tiny_task(dropout="fresh")
    params, batch = task.init(KEY), task.sample(task.data, KEY)
    keys = jax.random.split(KEY, 6)
    gradient = jax.jit(jax.grad(task.loss))
    together = jax.jit(jax.vmap(jax.grad(task.loss), (None, 0, 0)))(params, batch, keys)
    for worker in (0, 5):
        alone = gradient(params, jax.tree.map(lambda leaf, own=worker: leaf[own], batch), keys[worker])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[worker], b, atol=1e-6)


# --- dropout of a run


def test_frozen_masks_are_one_per_place_for_all_workers_and_rounds():
    task = tiny_task(dropout="frozen", dropout_rate=0.3, byzantine_data="twin")
    params, batch = large(task.init(KEY)), task.sample(task.data, KEY)
    loss = jax.jit(jax.vmap(task.loss, (None, 0, 0)))
    first, later = (
        loss(params, batch, jax.random.split(KEY, 6)),
        loss(params, batch, jax.random.split(jax.random.key(7), 6)),
    )
    np.testing.assert_array_equal(first, later)
    np.testing.assert_array_equal(first[4:], first[:2])
    swapped = {**batch, **{name: batch[name][:, ::-1] for name in ("token", "target")}}
    assert (loss(params, swapped, jax.random.split(KEY, 6)) != first).all(), "a mask belongs to a place in the batch"
    other = tiny_task(dropout="frozen", dropout_rate=0.3, byzantine_data="twin", dropout_key=jax.random.key(1))
    assert (loss(params, other.sample(other.data, KEY), jax.random.split(KEY, 6)) != first).all()
    np.testing.assert_array_equal(task.data["dropout_key"], jax.random.key_data(jax.random.key(0)))


def test_frozen_masks_are_those_of_their_key():
    task = tiny_task(dropout="frozen", dropout_rate=0.3, dropout_key=jax.random.key(5, impl="rbg"))
    params, batch = task.init(KEY), task.sample(task.data, KEY)
    one = jax.tree.map(lambda leaf: leaf[1], batch)
    logits = gpt(**TINY, dropout=0.3).apply(params, one["token"], key=jax.random.key(5, impl="rbg"))
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), one["target"][..., None], axis=-1).mean()
    np.testing.assert_allclose(task.loss(params, one, None), expected, rtol=1e-6)


def test_fresh_masks_are_each_worker_s_and_round_s_own():
    task = tiny_task(dropout_rate=0.3, byzantine_data="twin")
    assert "dropout_key" not in task.data
    params, batch = large(task.init(KEY)), task.sample(task.data, KEY)
    loss = jax.jit(jax.vmap(task.loss, (None, 0, 0)))
    first = loss(params, batch, jax.random.split(KEY, 6))
    assert (first != loss(params, batch, jax.random.split(jax.random.key(7), 6))).all()
    assert (first[4:] != first[:2]).all()


# --- evaluation


def test_a_model_that_knows_nothing_has_the_vocabulary_s_perplexity():
    task = tiny_task()
    params = jax.tree.map(jnp.zeros_like, task.init(KEY))
    scores = jax.jit(task.evaluate)(task.data, params)
    assert set(scores) == {"val_loss", "val_perplexity", "test_loss", "test_perplexity"}
    np.testing.assert_allclose(scores["val_perplexity"], 11, rtol=1e-5)
    np.testing.assert_allclose(scores["test_perplexity"], 11, rtol=1e-5)


@pytest.mark.parametrize("batch", [4, 64])
def test_evaluation_against_numpy(batch, limit):
    limit(tasks._language, "_EVAL_BATCH", batch)
    task = tiny_task(val="rest", eval_blocks=9, dropout_rate=0.5)
    params = large(task.init(KEY))
    rest = np.concatenate([TEXT.val, TEXT.test])
    starts = range(0, 9 * 8, 8)
    logits = numpy_gpt(params, [rest[s : s + 8] for s in starts], num_heads=2)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.mean([log_p[i, t, rest[s + t + 1]] for i, s in enumerate(starts) for t in range(8)])
    scores = jax.jit(task.evaluate)(task.data, params)
    assert set(scores) == {"val_loss", "val_perplexity"}
    np.testing.assert_allclose(scores["val_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(scores["val_perplexity"], np.exp(expected), rtol=1e-4)


def test_validation_and_test_are_halves_of_the_rest():
    task = tiny_task()
    for split, ids in (("val", TEXT.val), ("test", TEXT.test)):
        blocks = np.asarray(task.data[f"{split}_blocks"])
        np.testing.assert_array_equal(blocks[:, :8].ravel(), ids[: 8 * ((len(ids) - 1) // 8)])


# --- workers in turn


def gradients(task, worker_batch, mesh=None):
    layout = Layout(mesh, task.num_workers)
    function = layout.map_workers(jax.value_and_grad(task.loss), worker_batch)
    values = layout.put_everywhere(
        (task.init(KEY), task.sample(task.data, KEY), jax.random.split(KEY, task.num_workers))
    )
    return jax.jit(lambda p, *own: layout.everywhere(layout.workers(function(p, *layout.workers(own)))))(*values)


def wide_task(num_workers, num_byzantine, worker_batch=None):
    """One that compiles in no time, and whose activations are much larger than its gradients."""

    def loss(x, batch, key):
        return jnp.square(jnp.tanh(jnp.outer(batch["slope"], x))).mean() + jax.random.normal(key) * x.sum()

    return dataclasses.replace(tasks.quartic(num_workers, num_byzantine, dim=300), loss=loss, worker_batch=worker_batch)


def assert_alike(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("worker_batch", [1, 4, 9])
def test_workers_in_turn_give_the_same_gradients(worker_batch):
    task = tiny_task()
    assert_alike(gradients(task, worker_batch), gradients(task, None))


@pytest.mark.parametrize("num_workers", [4, 3])
def test_workers_in_turn_on_several_devices(num_workers):
    task = wide_task(num_workers, 1)
    mesh = byzjax.sharding.make_mesh(workers=2)
    assert_alike(gradients(task, 1, mesh), gradients(task, None))


def test_workers_in_turn_take_less_memory():
    def temporaries(worker_batch):
        task = wide_task(20, 3, worker_batch)
        method = methods.momentum_sgd(0.1, aggregator=agg.mean())
        state = jax.eval_shape(lambda key: init_state(task, method, attacks.none(), key=key), KEY)
        step = jax.jit(lambda t, s: make_round(t, method, attacks.none(), byzantine=jnp.arange(20) >= 17)(s))
        return step.lower(task, state).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(None) > 20 * 300 * 300 * 4
    assert temporaries(2) < 0.3 * temporaries(None)


# --- training


@pytest.mark.slow
def test_perplexity_falls_under_attack():
    text = texts.encode("the quick brown fox jumps over the lazy dog. " * 60)
    task = tiny_task(6, 2, text, model=gpt(1, 32, 4, 8, 28), batch_size=4)
    result = byzjax.run(
        task,
        methods.byz_nsgdm(0.5, aggregator=byzjax.chain(agg.nnm(f=2), agg.geometric_median())),
        attacks.bit_flip(),
        byzantine=jnp.arange(6) >= 4,
        key=KEY,
        num_rounds=20,
        eval_every=10,
        progress=False,
    )
    before = float(task.evaluate(task.data, task.init(KEY))["val_perplexity"])
    ten, twenty = map(float, result.evals["val_perplexity"])
    assert text.vocab_size == 28
    assert 24 < before < 35, "about as many as there are characters"
    assert twenty < ten < 0.75 * before


def test_from_the_command_line(tmp_path):
    spec = "shakespeare(model=small, block_size=4, batch_size=2, eval_blocks=5, dropout=frozen)"
    command = ["run", "--task", spec, "--num-workers", "5", "--num-byzantine", "1", "--attack", "bit_flip"]
    command += ["--aggregator", "mean"]
    done = CliRunner().invoke(app, [*command, "--num-rounds", "2", "--eval-every", "1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "val_perplexity" in done.output
    dataset = byzjax.results.load(tmp_path / "run.nc")
    assert dataset.val_perplexity.attrs["long_name"] == "validation perplexity"
    assert dataset.val_perplexity.shape == dataset.test_perplexity.shape == (2,)


def test_hyperparameters_are_chosen_by_validation_perplexity():
    import xarray

    from byzjax.plotting.summaries import default_score

    values = {
        "val_perplexity": ("learning_rate", [9.0, 7.0, 8.0]),
        "test_perplexity": ("learning_rate", [6.0, 8.0, 7.0]),
    }
    dataset = xarray.Dataset(values, {"learning_rate": [0.1, 0.2, 0.3]})
    assert default_score(dataset) == "val_perplexity"
    best = byzjax.select(dataset, over="learning_rate", by="val_perplexity", reduce=None)
    assert float(best.learning_rate) == 0.2
    with pytest.raises(ValueError, match="test_perplexity"):
        byzjax.select(dataset, over="learning_rate", by="test_perplexity", reduce=None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tasks.classification("shakespeare"), "shakespeare: the data set is a text, not images"),
        (lambda: tiny_task(2, 2), "num_byzantine = 2"),
        (lambda: tiny_task(num_workers=300), "224 blocks do not suffice for 298 workers"),
        (lambda: tiny_task(block_size=1800), "block_size = 1800 is too long for the training part of 1800 characters"),
        (lambda: tiny_task(block_size=100), "too long for the val part of 100 characters"),
        (lambda: tiny_task(batch_size=0), "batch_size = 0"),
        (lambda: tiny_task(block_size=1.5), "block_size = 1.5"),
        (lambda: tiny_task(eval_blocks=0), "eval_blocks = 0"),
        (lambda: tiny_task(model="huge"), "model = 'huge' is unknown; use one of .'gpt', 'small'."),
        (lambda: tiny_task(byzantine_data="all"), "byzantine_data = 'all'"),
        (lambda: tiny_task(dropout="none"), "dropout = 'none' must be 'fresh' or 'frozen'"),
        (lambda: tiny_task(val="all"), "val = 'all'"),
        (lambda: tiny_task(dropout="frozen", dropout_key=3), "dropout_key: needs a PRNG key, not 3"),
        (lambda: tiny_task(dropout="frozen", model=deterministic()), "not stochastic"),
        (lambda: tiny_task(worker_batch=0), "worker_batch = 0"),
        (lambda: gpt(width=10), "width = 10 must be a multiple of num_heads = 4"),
        (lambda: gpt(num_layers=0), "num_layers = 0"),
        (lambda: gpt(dropout=1.0), "dropout = 1.0"),
        (lambda: gpt(compute_dtype="int8"), "compute_dtype = 'int8'"),
        (lambda: gpt(compute_dtype="half-ish"), "compute_dtype = 'half-ish'"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def deterministic():
    from flax import nnx

    return functional(lambda rngs: nnx.Embed(11, 11, rngs=rngs))


def test_a_model_of_one_s_own_needs_no_dropout():
    task = tiny_task(model=deterministic())
    losses, grads = gradients(task, 1)
    assert losses.shape == (6,)
    assert jax.tree.leaves(grads)[0].shape == (6, 11, 11)


def test_there_are_no_labels_to_flip():
    task = tiny_task()
    with pytest.raises(ValueError, match="no 'label' to flip"):
        attacks.label_flip().poison(task.sample(task.data, KEY), byzantine=jnp.arange(6) >= 4, key=KEY)
