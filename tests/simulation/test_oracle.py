"""What estimators ask of a task: finite sums of every task, in pieces, of several sizes; who refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks
from byzjax.data import Dataset
from byzjax.data.text import encode
from byzjax.estimator import Estimator
from byzjax.sharding import Layout
from byzjax.simulation.oracle import RoundOracle
from byzjax.tasks.models import Model

KEY = jax.random.key(5)
N = 4


LINEAR = Model(lambda key: jax.random.normal(key, (4, 3)), lambda w, images: images.reshape(-1, 4) @ w)


@functools.cache
def pictures():
    """Softmax regression on shards of several sizes, the largest of more than one piece."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (210, 2, 2), np.uint8), rng.integers(0, 3, 210)
    data = Dataset(images, labels, images[:5], labels[:5], 3)
    task = tasks.classification(data, N, 1, model=LINEAR, scheme="dirichlet", alpha=0.5, val_size=0, batch_size=3)
    assert max(task.num_examples) > 64 > min(task.num_examples)
    return task


def expected(w, worker, chosen=None, shift=0):
    """Mean loss and gradient of a worker's examples, in NumPy."""
    data = jax.tree.map(np.asarray, pictures().data)
    places = data["table"][worker][: data["sizes"][worker]] if chosen is None else data["table"][worker][chosen]
    x = (data["images"][places].reshape(-1, 4) / 255 - 0.5) / 0.5
    target = np.eye(3)[(data["labels"][places] + shift) % 3]
    scores = np.exp(x @ np.asarray(w, np.float64))
    chance = scores / scores.sum(1, keepdims=True)
    return -np.log((chance * target).sum(1)).mean(), x.T @ (chance - target) / len(x)


def oracle(task, poison=lambda batch: batch):
    batch = task.sample(task.data, KEY)
    keys = jax.random.split(KEY, task.num_workers)
    return RoundOracle(task, Layout(None, task.num_workers), jnp.int32(0), batch, poison, keys)


def assert_close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def points():
    return jnp.stack([LINEAR.init(jax.random.key(i)) for i in range(N)])


@pytest.mark.parametrize("at_a_time", [None, 2])
def test_full_gradients_are_those_of_all_examples(at_a_time):
    task, at = dataclasses.replace(pictures(), worker_batch=at_a_time), points()
    here = oracle(task)
    shared, own = jax.jit(lambda at: (here.full(at[0]), here.full(at, own=True)))(at)
    for i in range(N):
        assert_close([part[i] for part in shared], expected(at[0], i))
        assert_close([part[i] for part in own], expected(at[i], i))


def test_single_examples_and_batches_at_own_points():
    index, at, here = jnp.array([[0, 2], [1, 1], [3, 0], [2, 2]]), points(), oracle(pictures())
    losses, gradients = jax.jit(here.examples)(at[0], index)
    for i, j in ((0, 1), (1, 0), (1, 1), (2, 0)):
        assert_close((losses[i, j], gradients[i, j]), expected(at[0], i, index[i, j : j + 1]))
    own = jax.jit(lambda at: here.batch(at, own=True))(at)
    assert_close([part[2] for part in own], [part[2] for part in here.batch(at[2])])


def linear_characters(size):
    return Model(lambda key: 0.1 * jax.random.normal(key, (size, size)), lambda table, ids: table[ids])


OTHERS = {
    "language": lambda: tasks.language_model(
        encode("to be or not to be " * 40), N, 1, model=linear_characters(8), block_size=8, batch_size=2
    ),
    "quartic": lambda: tasks.quartic(N, 1, dim=3),
    "logistic": lambda: tasks.logistic_regression(N, 1, num_examples=7, dim=3, heterogeneity=1.0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_task_without_dropout_has_a_finite_sum(name):
    """And batches are drawn of it: their mean loss is right on average."""
    task = OTHERS[name]()
    assert len(task.num_examples) == N
    assert len(set(task.num_examples)) == (2 if name == "language" else 1)
    at = jax.tree.map(lambda leaf: leaf + 0.5, task.init(KEY))
    losses = jax.jit(lambda at: oracle(task).full(at)[0])(at)
    keys = jax.random.split(KEY, 4000)
    draw = jax.jit(jax.vmap(lambda key: jax.vmap(task.loss, (None, 0, None))(at, task.sample(task.data, key), KEY)))
    drawn = np.asarray(draw(keys), np.float64)
    np.testing.assert_allclose(drawn.mean(0), losses, atol=5 * drawn.std(0).max() / np.sqrt(len(keys)))


def test_attacks_on_data_are_at_work_on_all_of_it():
    task, mask = pictures(), jnp.arange(N) == N - 1
    method = methods.byz_vr_marina(0.1, aggregator=agg.mean())
    attack, sent = attacks.label_flip(shift=1), lambda info: {"losses": info.losses, "g": info.updates}
    step = byzjax.make_round(task, method, attack, byzantine=mask, record=sent)
    state = byzjax.init_state(task, method, attack, key=KEY)
    seen = jax.jit(step)(state)[1]
    for i in (0, N - 1):
        assert_close((seen["losses"][i], seen["g"][i]), expected(state.params, i, shift=int(mask[i])))


MARINA = methods.byz_vr_marina(0.1, aggregator=agg.median())
SAGA = methods.byrd_saga(0.1, aggregator=agg.median())


def wrong(**parts):
    fields = {"init": lambda task, params: (), "estimate": lambda *args, key: (*args[0].batch(args[1]), ()), **parts}
    return methods.momentum_sgd(0.1, aggregator=agg.median())._replace(estimator=Estimator(**fields))


REFUSED = {
    "no finite sum": (lambda: (tasks.mnist(N, model="cnn", val_size=0), MARINA), "mnist has no finite sums"),
    "dropout": (lambda: (tasks.shakespeare(N, model="small"), MARINA), "shakespeare has no finite sums"),
    "nothing to draw": (lambda: (tasks.quartic(N), SAGA), "quartic has one example per worker, and from that nothing"),
    "a large table": (lambda: (tasks.mnist(N, val_size=0), SAGA), r"table of 4 workers × 15000 .* takes 24\.4 GiB"),
    "no estimator": (lambda: (tasks.quartic(N), MARINA._replace(estimator="svrg")), "'svrg' is a str, not an Estimat"),
    "no function": (lambda: (tasks.quartic(N), wrong(observe=1)), "Estimator: observe = 1 is an int"),
    "two parts": (lambda: (tasks.quartic(N), wrong(estimate=lambda *args, key: (1, 2))), "return .losses, estimates"),
    "no stack": (
        lambda: (tasks.quartic(N), wrong(estimate=lambda o, p, s, key: (jnp.zeros(N), p, s))),
        r"Estimator.estimate: the estimates is \[10\] where \[4, 10\]",
    ),
    "another state": (
        lambda: (tasks.quartic(N), wrong(observe=lambda state, aggregate: aggregate)),
        "Estimator.observe: the state is",
    ),
    "examples without their axes": (
        lambda: (
            dataclasses.replace(tasks.quartic(N), examples=lambda data, index: {"slope": data["shifts"]}),
            MARINA,
        ),
        r"task.examples: batch\['slope'\] has shape \(4, 10\) where examples \[4, 1\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line(case):
    make, message = REFUSED[case]
    task, method = make()
    options = {"byzantine": jnp.zeros(N, bool), "key": KEY, "num_rounds": 1}
    with pytest.raises(ValueError, match=message) as caught:
        byzjax.simulate(task, method, attacks.none(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"num_examples": None}, "num_examples = None is a NoneType"),
        ({"examples": None}, "examples = None is a NoneType, not a"),
        ({"num_examples": (1, 1)}, "num_examples has 2 entries; pass one size"),
        ({"num_examples": (1, 1, 1, 0)}, "num_examples = 0 must be an integer ≥ 1"),
    ],
)
def test_a_task_has_examples_and_sizes_together(parts, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tasks.quartic(N), **parts)
