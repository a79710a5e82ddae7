"""What a run records and takes: missing values, 16 bits, and values of all kinds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, tasks
from byzjax.base import Aggregator

N, MASK, KEY = 4, jnp.arange(4) >= 3, jax.random.key(0)
TASK = tasks.quartic(N, 1, dim=3, noise_scale=0.1)
METHOD = methods.momentum_sgd(0.01, aggregator=agg.median())
DIVERGING = methods.momentum_sgd(1e4, aggregator=agg.mean())


def go(task=TASK, method=METHOD, attack=None, runner=byzjax.simulate, **options):
    options = {"byzantine": MASK, "key": KEY, "num_rounds": 2, **options}
    return runner(task, method, attack or attacks.none(), **options)


def rule_with(update):
    return METHOD._replace(aggregator=Aggregator(optax.init_empty_state, update))


PARAMS = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(5)}
STACK = jax.tree.map(lambda p: jnp.stack([p + i for i in range(N)]), PARAMS)


def update(tx, updates=STACK, params=PARAMS, **extra):
    return tx.update(updates, tx.init(PARAMS), params, **extra)


# Missing values


def test_what_does_not_exist_after_divergence_is_missing_in_every_type():
    task = dataclasses.replace(
        TASK,
        evaluate=lambda data, x: {
            "reached": jnp.array(True),
            "images": jnp.int32(7),
            "number": 1.5,
            "NumPy's": np.float32(2),
            "byte": jnp.uint8(3),
            "half": jnp.ones((), jnp.bfloat16),
        },
    )
    record = lambda info: {"finite": info.finite, "count": info.byzantine.sum(), "flag": info.losses[0] > 0, "one": 1.0}  # noqa: E731
    before = go(task=task, record=record, num_rounds=1, eval_every=1)
    assert {name: float(value[0]) for name, value in before.evals.items()} == {
        "reached": 1, "images": 7, "number": 1.5, "NumPy's": 2, "byte": 3, "half": 1}  # fmt: skip
    assert before.history["one"][0] == 1.0
    after = go(task=task, record=record, num_rounds=8, eval_every=8, method=DIVERGING)
    for value in (*after.evals.values(), *(v for name, v in after.history.items() if name != "finite")):
        assert np.isnan(np.asarray(value[-1], np.float32))
    assert after.history["finite"].dtype == bool
    assert not after.history["finite"][-1]
    swept = byzjax.sweep(
        lambda learning_rate: go(
            task=task, record=record, num_rounds=4, eval_every=2,
            method=methods.momentum_sgd(learning_rate, aggregator=agg.mean()),
        ),
        grid={"learning_rate": [0.01, 1e4]}, progress=False,
    )  # fmt: skip
    for name in ("reached", "images", "count", "flag"):
        np.testing.assert_array_equal(np.isnan(swept[name][:, -1]), [False, True])


def test_a_run_in_16_bits_remembers_and_records_in_32():
    """Between 512 and 1024 bfloat16 knows every fourth number: 513.3, the honest mean, is rounded to 512."""
    slopes = jnp.asarray([[512.0], [512.0], [516.0], [0.0]], jnp.bfloat16)
    task = dataclasses.replace(
        TASK,
        init=lambda key: jnp.ones(1, jnp.bfloat16),
        sample=lambda data, key: slopes,
        loss=lambda x, slope, key: (slope * x).sum(),
    )
    first = rule_with(lambda updates, state, params=None, **extra: (updates[0], state))
    result = go(task, first._replace(server=optax.trace(0.9), worker=optax.trace(0.0)), num_rounds=1)
    np.testing.assert_allclose(result.history["aggregation_error"], 4 / 3, rtol=1e-4)
    np.testing.assert_allclose(result.history["loss"], 1540 / 3, rtol=1e-4)
    assert result.state.server.trace.dtype == result.state.worker.trace.dtype == jnp.float32
    assert result.state.params.dtype == jnp.bfloat16


# Values as what they are


@dataclasses.dataclass
class Recorder:
    """Callable, and without a hash."""

    scale: float = 1.0

    def __call__(self, info):
        return {"scaled": self.scale * metrics.loss(info), "one": 1.0}


def test_an_unhashable_recorder_and_lengths_of_numpy_are_accepted():
    recorder = Recorder()
    run = lambda: go(  # noqa: E731
        runner=byzjax.run, record=recorder, num_rounds=np.int64(4), eval_every=np.int32(2), progress=False)  # fmt: skip
    first = run()
    assert first.evals["objective"].shape == (2,)
    recorder.scale = 2.0
    np.testing.assert_allclose(run().history["scaled"], 2 * first.history["scaled"])


SCALE = 1.0


def scaled_loss(info):
    return {"scaled": SCALE * metrics.loss(info)}


def test_a_run_sees_that_a_number_of_its_module_has_changed(monkeypatch):
    run = lambda: go(runner=byzjax.run, record=scaled_loss, progress=False).history["scaled"]  # noqa: E731
    first = run()
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    np.testing.assert_allclose(run(), 3 * first, rtol=1e-6)


@pytest.mark.parametrize("disable_jit", [False, True])
def test_a_healthy_run_gives_no_nan_in_flight(disable_jit):
    task = dataclasses.replace(TASK, evaluate=lambda data, x: {"x": x, "count": jnp.int32(3)})
    with jax.debug_nans(True), jax.disable_jit(disable_jit):
        for rule in (agg.median(), byzjax.chain(agg.nnm(f=1), agg.geometric_median())):
            method = methods.momentum_sgd(0.01, aggregator=rule)
            result = go(task, method, attacks.alie("auto"), num_rounds=2, eval_every=2)
            assert result.history["finite"].all()
