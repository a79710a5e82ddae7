"""A run: pure, deterministic, independent of how it is cut, and honest about divergence."""

import dataclasses
import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, tasks
from byzjax.aggregators._chain import _aggregate
from byzjax.simulation.run import _chunk, _init_state
from tests.helpers import compiled_as_runs_are

N, B = 10, 2
MASK = jnp.arange(N) >= N - B
KEY = jax.random.key(0)
TASK = tasks.quartic(N, B, noise_scale=0.1, shift_scale=0.1)
SHORT = dataclasses.replace(TASK, sample=lambda data, key: {"slope": jnp.zeros((3, 10))})
METHOD = methods.byz_nsgdm(0.1, aggregator=byzjax.chain(agg.nnm(B), agg.geometric_median()))


def go(runner=byzjax.run, task=TASK, method=METHOD, attack=None, key=KEY, **options):
    options = {"num_rounds": 24, "byzantine": MASK, **options}
    if runner is byzjax.run:
        options.setdefault("progress", False)
    return runner(task, method, attack or attacks.ipm(2.0), key=key, **options)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_result_has_the_documented_shapes():
    result = go(eval_every=5)
    assert set(result.history) == {"loss", "aggregate_norm", "aggregation_error", "honest_spread", "finite"}
    assert all(leaf.shape == (24,) for leaf in result.history.values())
    assert {k: v.shape for k, v in result.evals.items()} == dict.fromkeys(
        ("gradient_norm", "objective", "distance"), (4,)
    )
    assert int(result.state.step) == 24


def test_same_seed_gives_identical_bits_twice():
    assert_same_bits(go(eval_every=6), go(eval_every=6))


@pytest.mark.parametrize("eval_every", [0, 1, 5, 24, 100])
def test_how_often_one_looks_changes_nothing(eval_every):
    reference, other = go(eval_every=6), go(eval_every=eval_every)
    assert_same_bits(reference.state, other.state)
    assert_same_bits(reference.history, other.history)


@pytest.mark.parametrize("eval_every", [0, 7])
def test_run_gives_what_simulate_gives(eval_every):
    pure = compiled_as_runs_are(lambda task, key: go(byzjax.simulate, task=task, key=key, eval_every=eval_every))
    pure = pure(TASK, KEY)
    assert_same_bits(pure, go(eval_every=eval_every))


def test_mnist_is_deterministic_and_independent_of_evaluations():
    task = tasks.mnist(N, B, batch_size=8)
    first = go(task=task, num_rounds=6, eval_every=3)
    assert_same_bits(first, go(task=task, num_rounds=6, eval_every=3))
    other = go(task=task, num_rounds=6, eval_every=2)
    assert_same_bits(first.state.params, other.state.params)
    np.testing.assert_array_equal(first.evals["test_accuracy"][-1], other.evals["test_accuracy"][-1])


def test_going_on_from_a_state_is_the_same_run():
    attack = attacks.ipm(2.0)
    half = go(num_rounds=10, attack=attack)
    rest = compiled_as_runs_are(lambda s: go(byzjax.simulate, num_rounds=14, attack=attack, key=None, state=s))
    rest = rest(half.state)
    assert_same_bits(rest.state, go(num_rounds=24, attack=attack).state)


def test_vmap_over_keys_equals_single_runs():
    keys = jax.random.split(KEY, 3)
    swept = jax.jit(jax.vmap(lambda key: go(byzjax.simulate, key=key).state.params))
    for lane, key in zip(swept(keys), keys, strict=True):
        np.testing.assert_allclose(lane, go(key=key).state.params, rtol=1e-4, atol=1e-6)


def test_traced_mask_and_lowering():
    anybody = dataclasses.replace(TASK, byzantine=None)

    def final(mask):
        return go(byzjax.simulate, task=anybody, byzantine=mask, num_rounds=3).state.params

    masks = jnp.stack([MASK, jnp.arange(N) < 3])
    np.testing.assert_allclose(jax.vmap(final)(masks)[1], final(masks[1]), rtol=1e-5)
    assert "while" in jax.jit(final).lower(MASK).as_text()


def test_a_second_run_of_the_same_parts_compiles_nothing():
    attack = attacks.ipm(2.0)
    compiled = []
    listener = lambda event, *args, **kwargs: compiled.append(event)  # noqa: E731
    go(attack=attack, num_rounds=40, eval_every=4)
    key = jax.random.key(1)  # making a key may compile, too
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        go(attack=attack, num_rounds=40, eval_every=4, key=key)
        assert not [event for event in compiled if "backend_compile" in event]
        go(attack=attack, num_rounds=81, eval_every=3)
        assert [event for event in compiled if "backend_compile" in event], "the listener hears nothing"
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def test_same_minibatches_for_every_method_at_a_seed():
    losses = [go(method=m).history["loss"][0] for m in (METHOD, methods.momentum_sgd(0.1, aggregator=agg.median()))]
    assert losses[0] == losses[1]
    assert go(key=jax.random.key(1)).history["loss"][0] != losses[0]


def test_a_diverging_run_freezes_and_says_so():
    result = go(method=methods.momentum_sgd(10.0, aggregator=agg.mean()), num_rounds=50, eval_every=10)
    finite = np.asarray(result.history["finite"])
    assert finite[0]
    assert not finite[-1]
    fall = int(np.argmin(finite))
    assert not finite[fall:].any()
    assert np.isnan(result.history["loss"][fall:]).all()
    assert np.isfinite(result.history["loss"][:fall]).all()
    assert np.isnan(result.evals["objective"][-1])
    assert np.isfinite(result.state.params).all(), "the last finite parameters are kept"
    assert int(result.state.step) == 50


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("rule", ["krum", "multi_krum", "median", "trimmed_mean", "geometric_median"])
@pytest.mark.parametrize("mixed", [False, True])
def test_hostile_rows_never_reach_the_parameters(value, rule, mixed):
    def update(updates, state, params=None, *, byzantine, **extra):
        rows = jax.tree.map(lambda u: jnp.full_like(u[0], value), updates)
        return byzjax.stacked.replace_rows(updates, byzantine, rows), state

    attack = attacks.none()._replace(update=update)
    options = {"f": B} if rule in ("krum", "multi_krum", "trimmed_mean") else {}
    rule = agg.REGISTRY[rule](**options)
    rule = byzjax.chain(agg.nnm(B), rule) if mixed else rule
    result = go(method=methods.byz_nsgdm(0.1, aggregator=rule), attack=attack, num_rounds=30)
    assert result.history["finite"].all()
    travelled = (0.1 / np.sqrt(np.arange(1, 31))).sum()
    assert np.linalg.norm(result.state.params) < np.sqrt(10) - 0.9 * travelled, "steps should lead downhill"


def test_nan_never_reaches_the_parameters_of_a_real_model():
    def update(updates, state, params=None, *, byzantine, **extra):
        rows = jax.tree.map(lambda u: u[0].at[(0,) * (u.ndim - 1)].set(jnp.nan), updates)
        return byzjax.stacked.replace_rows(updates, byzantine, rows), state

    attack = attacks.none()._replace(update=update)
    options = {"task": tasks.mnist(20, 3, batch_size=4), "byzantine": jnp.arange(20) >= 17, "num_rounds": 3}
    rule = byzjax.chain(agg.nnm(3), agg.geometric_median())
    result = go(method=methods.byz_nsgdm(0.1, aggregator=rule), attack=attack, **options)
    assert result.history["finite"].all()
    plain = go(method=methods.byz_nsgdm(0.1, aggregator=agg.mean()), attack=attack, **options)
    assert not plain.history["finite"].any()


def test_byz_nsgdm_beats_the_baseline_on_the_quartic():
    """Section 6.4 with the noise and shift scales of the released code: the *true* gradient norm."""
    task = tasks.quartic(20, 3, noise_scale=1e-5, shift_scale=1e-6)
    rule = byzjax.chain(agg.nnm(3), agg.geometric_median())
    options = {"byzantine": jnp.arange(20) >= 17, "num_rounds": 3000, "eval_every": 3000}
    ours = go(task=task, method=methods.byz_nsgdm(0.1, aggregator=rule), attack=attacks.bit_flip(), **options)
    base = [
        go(task=task, method=methods.momentum_sgd(rate, aggregator=rule), attack=attacks.bit_flip(), **options)
        for rate in (0.005, 0.01, 0.02)
    ]
    best = min(float(result.evals["gradient_norm"][-1]) for result in base)
    assert float(ours.evals["gradient_norm"][-1]) < best / 2


@pytest.mark.slow
def test_nnm_rfa_beats_the_mean_on_mnist_under_ipm():
    task = tasks.mnist(20, 3)
    options = {"byzantine": jnp.arange(20) >= 17, "num_rounds": 120, "eval_every": 120, "attack": attacks.ipm(10.0)}
    rule = byzjax.chain(agg.nnm(3), agg.geometric_median())
    robust = go(task=task, method=methods.byz_nsgdm(0.1, aggregator=rule), **options)
    plain = go(task=task, method=methods.byz_nsgdm(0.1, aggregator=agg.mean()), **options)
    assert float(robust.evals["test_accuracy"][-1]) > 0.6
    assert float(plain.evals["test_accuracy"][-1]) < 0.3


def test_recording_is_the_callers_choice():
    assert go(record=metrics.record()).history == {}
    custom = go(record=lambda info: {"largest": info.params.max(), "lies": info.byzantine.sum()})
    assert custom.history["largest"][0] == 1.0
    assert (custom.history["lies"] == B).all()


def test_default_metrics_against_numpy():
    info = metrics.RoundInfo(
        losses=jnp.array([1.0, 2.0, 30.0]),
        updates=jnp.array([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]]),
        aggregate=jnp.array([4.0, 4.0]),
        params=jnp.zeros(2),
        honest_mean=jnp.array([1.0, 0.0]),
        deviations=jnp.array([1.0, 1.0, 12.0]),
        byzantine=jnp.array([False, False, True]),
        finite=jnp.array(True),
    )
    recorded = {name: float(value) for name, value in metrics.default_record(info).items()}
    expected = {"loss": 1.5, "aggregate_norm": 32**0.5, "aggregation_error": 5.0, "honest_spread": 1.0, "finite": 1.0}
    assert recorded == pytest.approx(expected)


def test_progress_lines_without_a_terminal(capsys):
    go(num_rounds=20, eval_every=5, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("quartic: 20/20 rounds, ETA")
    assert "gradient_norm" in lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"byzantine": jnp.zeros(3, bool)}, r"bool\[3\] is not a mask bool\[10\]"),
        ({"byzantine": jnp.zeros(N, jnp.int32)}, r"int32\[10\] is not a mask"),
        ({"byzantine": jnp.ones(N, bool)}, "all workers are Byzantine"),
        ({"num_rounds": 0}, "num_rounds = 0"),
        ({"num_rounds": 2.5}, "num_rounds = 2.5"),
        ({"num_rounds": 4.0}, "num_rounds = 4.0"),
        ({"task": tasks.quartic}, "not a Task"),
        ({"method": attacks.none()}, "not a Method"),
        ({"attack": attacks.none}, "call its factory"),
        ({"key": 0}, "needs a PRNG key"),
        ({"eval_every": -1}, "eval_every = -1"),
        ({"attack": attacks.label_flip()}, "no 'label' to flip"),
        ({"task": SHORT}, "worker axis"),
    ],
)
@pytest.mark.parametrize("runner", [byzjax.run, byzjax.simulate])
def test_bad_input_is_named(runner, options, message):
    with pytest.raises(ValueError, match=message):
        go(runner, **options)


def test_unknown_metric_is_named():
    with pytest.raises(ValueError, match="unknown metrics"):
        metrics.record("accuracy")


def test_a_process_that_lives_long_keeps_the_programs_used_last(monkeypatch):
    kept = [_chunk, _init_state, _aggregate]
    for compiled in kept:
        monkeypatch.setattr(compiled, "most", 1)

    def maps():
        gc.collect()
        return len(Path("/proc/self/maps").read_text().splitlines())

    def live(numbers):
        for number in numbers:
            method = methods.momentum_sgd(lambda count, rate=0.1 + 1e-3 * number: rate, aggregator=agg.mean())
            again = {"byzantine": MASK, "key": jax.random.key(0), "num_rounds": 2, "record": metrics.record()}
            byzjax.run(TASK, method, attacks.none(), progress=False, **again)
            byzjax.aggregate(agg.clipping(0.5 + number), np.ones((3, 2), np.float32))

    live(range(2))
    before = maps()
    live(range(2, 5))
    assert maps() <= before + 20, "a run alone takes some 70"
    assert [len(compiled) for compiled in kept] == [1, 1, 1]


def test_a_recorder_without_a_hash_is_accepted():
    class Recorder(dict):
        def __call__(self, info):
            return {"loss": info.losses.mean()}

    options = {"byzantine": MASK, "key": jax.random.key(0), "num_rounds": 2, "record": Recorder(), "progress": False}
    method = methods.momentum_sgd(0.1, aggregator=agg.mean())
    assert byzjax.run(TASK, method, attacks.none(), **options).history["loss"].shape == (2,)
