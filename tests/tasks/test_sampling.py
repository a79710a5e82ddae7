"""Which examples every worker takes: with replacement, or through its shard in epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks
from byzjax.data import Dataset
from byzjax.experiments.paper import registry
from byzjax.tasks._sampling import sampler, shuffled
from byzjax.tasks.models import Model

KEY = jax.random.key(5)
SIZES = np.array([12, 7, 3, 12])
DATA = {"sizes": jnp.asarray(SIZES)}


def places(take, rounds, key=KEY, data=DATA):
    """i[rounds, n, B]"""
    return np.asarray(jax.vmap(lambda step: take.draw({**data, **take.data}, key, step))(jnp.arange(rounds)))


def test_an_epoch_takes_every_example_once_and_the_next_one_in_another_order():
    drawn = places(sampler(SIZES, 3, sampling="epochs"), 40)
    for worker, size in enumerate(SIZES):
        length = size // 3
        epochs = drawn[: 40 // length * length, worker].reshape(-1, length * 3)
        for epoch in epochs:
            assert len(set(epoch)) == length * 3
            assert set(epoch) <= set(range(size))
        assert len({tuple(epoch) for epoch in epochs}) > min(6, len(epochs)) / 2
        assert set(epochs.ravel()) == set(range(size))  # what an epoch leaves over, another one takes
    assert (drawn[:4, 0] != drawn[:4, 3]).any()  # equal sizes, orders of their own


def test_all_orders_are_equally_likely():
    keys = jax.random.split(KEY, 24_000)
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, jnp.asarray(5), jnp.arange(5)))(keys))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 120
    assert np.square(counts - 200).sum() / 200 < 173.6  # χ² with 119 degrees of freedom, p = 0.001


def test_a_long_order_is_one_and_keeps_no_neighbours():
    n, count = 3530, 200
    orders = jax.vmap(lambda key: shuffled(key, jnp.asarray(n), jnp.arange(n)))(jax.random.split(KEY, count))
    orders = np.asarray(orders)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(n), (count, 1)))
    kept = (np.diff(orders, axis=1) % n == 1).sum()  # about count · 1 of them by chance
    assert abs(kept - count) < 4 * count**0.5


def test_a_small_shard_is_gone_through_in_turn():
    drawn = places(sampler(np.array([3, 3]), 5, sampling="epochs"), 4, data={"sizes": jnp.array([3, 3])})
    for batch in drawn.reshape(-1, 5):
        assert sorted(np.bincount(batch, minlength=3)) == [1, 2, 2]


def test_an_epoch_can_be_cut_short():
    drawn = places(sampler(SIZES[:2], 3, sampling="epochs", rounds_per_epoch=2), 8, data={"sizes": DATA["sizes"][:2]})
    for epoch in drawn.reshape(4, 2, 2, 3).swapaxes(1, 2).reshape(8, 6):
        assert len(set(epoch)) == 6


@pytest.mark.parametrize("sampling", ["replacement", "epochs"])
def test_an_order_of_its_own_does_not_depend_on_the_run(sampling):
    one, two = (places(sampler(SIZES, 3, sampling=sampling, order_seed=4), 6, key) for key in jax.random.split(KEY))
    np.testing.assert_array_equal(one, two)
    assert (one != places(sampler(SIZES, 3, sampling=sampling, order_seed=5), 6)).any()
    assert (one[0] != one[1]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "shuffled"}, r"sampling = 'shuffled' must be 'replacement' or 'epochs'"),
        ({"rounds_per_epoch": 2}, r"rounds_per_epoch has no effect; use it with sampling='epochs'"),
        (
            {"sampling": "epochs", "rounds_per_epoch": 2},
            r"rounds_per_epoch = 2 is too many: .* 3 examples, 1 batches of 3; use fewer",
        ),
        ({"sampling": "epochs", "rounds_per_epoch": 0}, "rounds_per_epoch = 0 must be an integer ≥ 1"),
        ({"order_seed": -1}, "order_seed = -1 must be an integer ≥ 0"),
        ({"order_seed": 2**32}, r"order_seed = 4294967296 must be less than 2\*\*32"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sampler(SIZES, 3, **options)


def test_the_round_s_number_is_asked_for():
    with pytest.raises(ValueError, match="depend on the round; call sample\\(data, key, step\\)"):
        spread_task(sampling="epochs").sample(spread_task(sampling="epochs").data, KEY)


def test_an_order_is_the_same_in_float64_and_with_other_keys_by_default():
    take = sampler(SIZES, 3, sampling="epochs", order_seed=0)
    drawn = places(take, 6)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(places(take, 6), drawn)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(places(take, 6, jax.random.key(1)), drawn)


def spread_task(**options):
    """The loss of an image is its brightness, and a round's loss the mean of its batch, whatever the parameters."""
    images = np.arange(64, dtype=np.uint8).reshape(64, 1, 1)
    labels = np.arange(64) % 2
    flat = Model(
        init=lambda key: jnp.zeros(()),
        apply=lambda params, x: (x.reshape(-1, 1) + params) * jnp.array([[0.0, 1.0]]),
    )
    dataset = Dataset(images, labels, images, labels, num_classes=2)
    return tasks.classification(dataset, 4, model=flat, batch_size=4, scheme="iid", val_size=0, **options)


def losses(task, rounds=8, key=KEY, **options):
    method = methods.momentum_sgd(1e-30, aggregator=agg.mean())
    result = byzjax.run(
        task,
        method,
        attacks.none(),
        byzantine=jnp.zeros(4, bool),
        key=key,
        num_rounds=rounds,
        progress=False,
        **options,
    )
    return np.asarray(result.history["loss"])


def test_the_rounds_of_an_epoch_see_the_whole_objective(tmp_path):
    """16 images a worker, 4 rounds of 4: the mean loss of an epoch is the objective, and of no four other rounds."""
    drawn = losses(spread_task(sampling="epochs"), 8)
    np.testing.assert_allclose(drawn[:4].mean(), drawn[4:].mean(), rtol=1e-5)
    assert abs(drawn[1:5].mean() / drawn[:4].mean() - 1) > 1e-3
    free = losses(spread_task(), 8)
    assert abs(free[:4].mean() / drawn[:4].mean() - 1) > 1e-3
    # An epoch that is broken off goes on where it was.
    losses(spread_task(sampling="epochs"), 3, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(losses(spread_task(sampling="epochs"), 8, checkpoint=tmp_path / "run"), drawn)


def test_runs_differ_unless_the_order_is_the_task_s():
    keys = jax.random.split(KEY)
    one, two = (losses(spread_task(sampling="epochs"), key=key) for key in keys)
    assert (one != two).any()
    one, two = (losses(spread_task(sampling="epochs", order_seed=0), key=key) for key in keys)
    np.testing.assert_array_equal(one, two)


def test_the_released_experiments_go_through_their_shards():
    task = registry.experiment("mnist", "released").task()
    assert task.by_round
    sizes = np.asarray(task.data["sizes"])
    assert sizes[:17].tolist() == [3530] * 17
    take = sampler(sizes, 64, sampling="epochs", rounds_per_epoch=30, order_seed=0)
    seen = np.concatenate([np.asarray(take.draw(task.data, KEY, jnp.asarray(step)))[5] for step in range(30)])
    assert len(set(seen)) == 30 * 64
    batch = task.sample(task.data, KEY, jnp.asarray(7))
    index = np.asarray(task.data["table"])[5, seen[7 * 64 : 8 * 64]]
    np.testing.assert_array_equal(batch["label"][5], np.asarray(task.data["labels"])[index])
