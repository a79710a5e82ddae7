"""What a user hands in keeps its promise, or one clear line says what it broke."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, tasks, transforms
from byzjax.base import Aggregator

N, MASK, KEY = 4, jnp.arange(4) >= 3, jax.random.key(0)
TASK = tasks.quartic(N, 1, dim=3, noise_scale=0.1)
METHOD = methods.momentum_sgd(0.01, aggregator=agg.median())
DIVERGING = methods.momentum_sgd(1e4, aggregator=agg.mean())


def go(task=TASK, method=METHOD, attack=None, runner=byzjax.simulate, **options):
    options = {"byzantine": MASK, "key": KEY, "num_rounds": 2, **options}
    return runner(task, method, attack or attacks.none(), **options)


def attack_with(update):
    return attacks.none()._replace(update=update)


def rule_with(update):
    return METHOD._replace(aggregator=Aggregator(optax.init_empty_state, update))


def server(tx):
    return METHOD._replace(server=tx)


# Rows, batches and parameters that are not the attacker's


def test_an_attack_that_rewrites_all_rows_touches_none_but_its_own():
    greedy = attack_with(lambda updates, state, params=None, **extra: (jax.tree.map(jnp.zeros_like, updates), state))
    fair = attack_with(
        lambda updates, state, params=None, *, byzantine, **extra: (
            byzjax.stacked.replace_rows(updates, byzantine, jnp.zeros(3)),
            state,
        )
    )
    one, other = go(attack=greedy), go(attack=fair)
    np.testing.assert_array_equal(one.state.params, other.state.params)
    assert (one.history["honest_spread"] > 0).all()
    assert (one.history["aggregation_error"] > 0).all()
    link = transforms.inject_attack(greedy, MASK, key=KEY)
    out, _ = link.update(jnp.ones((N, 3)), link.init(jnp.zeros(3)))
    np.testing.assert_array_equal(out[:, 0], [1, 1, 1, 0])


def test_a_poison_that_rewrites_all_batches_touches_none_but_its_own():
    ours = attacks.none()._replace(poison=lambda batch, *, byzantine, key: jax.tree.map(lambda x: 100 * x, batch))
    assert go(attack=ours).history["loss"][0] == go().history["loss"][0]
    honest = {"task": dataclasses.replace(TASK, byzantine=None), "byzantine": jnp.zeros(N, bool)}
    assert go(**honest, attack=ours).history["loss"][1] == go(**honest).history["loss"][1]


WRONG = {
    "updates alone": ({"attack": attack_with(lambda updates, state, params=None, **extra: updates)}, "return the pair"),
    "updates of another shape": (
        {"attack": attack_with(lambda updates, state, params=None, **extra: (updates[0], state))},
        r"the updates is \[3\] where \[4, 3\] is wanted",
    ),
    "another state": (
        {"attack": attack_with(lambda updates, state, params=None, **extra: (updates, jnp.zeros(2)))},
        r"Attack.update: the state is \[2\] where nothing is wanted",
    ),
    "batch of another dtype": (
        {"attack": attacks.none()._replace(poison=lambda batch, *, byzantine, key: {"slope": jnp.zeros((N, 3), bool)})},
        r"the batch\['slope'\] is bool\[4, 3\] where float32\[4, 3\] is wanted",
    ),
    "aggregate alone": ({"method": rule_with(lambda updates, state, params=None, **extra: updates[0])}, "the pair"),
    "scalar": (
        {"method": rule_with(lambda updates, state, params=None, **extra: (updates.mean(), state))},
        r"the aggregate is \[\] where \[3\] is wanted",
    ),
    "step": (
        {"method": server(optax.stateless(lambda updates, params: updates.sum()))},
        r"the step is \[\] where \[3\] is wanted",
    ),
    "server": ({"method": METHOD._replace(server="sgd")}, "server = 'sgd' is a str, not a GradientTransformation"),
    "worker": ({"method": METHOD._replace(worker=optax.ema)}, "worker = .* is a function, not a GradientTransform"),
    "pre-aggregation": ({"method": METHOD._replace(aggregator=agg.nnm(1))}, "is a PreAggregator, not an Aggregator"),
    "factory": ({"method": METHOD._replace(aggregator=agg.median)}, "is a function, not an Aggregator"),
    "record": ({"record": ["loss"]}, r"record = \['loss'\] is a list, not a Callable"),
    "record of a list": ({"record": lambda info: [info.finite]}, "record: what it returns .* is a list, not a Mapping"),
    "record of text": (
        {"record": lambda info: {"a": "b"}},
        r"record: what it returns\['a'\] = 'b' is a str, not a number or an array; return",
    ),
    "evaluate": (
        {"task": dataclasses.replace(TASK, evaluate=lambda data, x: x.sum()), "eval_every": 1},
        "Task.evaluate: what it returns .* not a Mapping",
    ),
    "line search": ({"method": server(optax.lbfgs())}, "the server's .* value_fn, the loss at other parameters"),
    "line search of a worker": (
        {"method": METHOD._replace(worker=optax.lbfgs())},
        "the worker's .* value_fn, the loss at other parameters",
    ),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_breaks_its_promise_is_named_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        jax.eval_shape(lambda: go(**options))
    assert "\n" not in str(caught.value).split("\n---")[0]


PARAMS = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(5)}
STACK = jax.tree.map(lambda p: jnp.stack([p + i for i in range(N)]), PARAMS)


def whole_chain():
    return optax.chain(
        transforms.per_worker(optax.ema(0.9), N), transforms.robust_aggregate(agg.median()), optax.scale(-1.0)
    )


def update(tx, updates=STACK, params=PARAMS, **extra):
    return tx.update(updates, tx.init(PARAMS), params, **extra)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: update(transforms.robust_aggregate(agg.median()), PARAMS), "no rows for parameters"),
        (lambda: update(transforms.robust_aggregate(agg.median()), PARAMS, None), "no rows for parameters"),
        (lambda: update(optax.flatten(whole_chain())), "inside per_worker"),
        (lambda: update(optax.MultiSteps(whole_chain(), 2)), "inside per_worker"),
        (lambda: update(optax.flatten(transforms.robust_aggregate(agg.median()))), "inside per_worker"),
        (lambda: update(optax.MultiSteps(transforms.robust_aggregate(agg.median()), 2)), "inside per_worker"),
        (lambda: update(transforms.robust_aggregate(rule_with(lambda u, s, p=None, **e: (0.0, s)).aggregator)),
         r"the aggregate\['b'\] is not there where \[5\] is wanted"),
        (lambda: transforms.inject_attack(attacks.label_flip(), MASK, key=KEY), "only poisons data"),
        (lambda: transforms.inject_attack(attacks.ipm, MASK, key=KEY), "is a function, not an Attack"),
        (lambda: transforms.per_worker(optax.sgd(0.1), 2.5), "num_workers = 2.5 must be an integer"),
        (lambda: transforms.per_worker("sgd", 2), "tx = 'sgd' is a str"),
        (lambda: update(transforms.per_worker(optax.lbfgs(), N), value=jnp.zeros(N), grad=STACK),
         "per_worker: tx calls value_fn"),
        (lambda: update(transforms.per_worker(optax.ema(0.9), 3), PARAMS | {"b": jnp.zeros(3)}, PARAMS | {"b": 0.0}),
         "no rows for parameters"),
        (lambda: metrics.record(["loss"]), "is a list, not a str"),
    ],
)  # fmt: skip
def test_links_name_what_is_wrong(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# Server steps that need more than the aggregate


def test_wrappers_that_keep_a_gradient_work_inside_and_after():
    inside = optax.chain(
        transforms.per_worker(optax.MultiSteps(optax.sgd(1.0), 2), N), transforms.robust_aggregate(agg.mean())
    )
    after = optax.chain(transforms.robust_aggregate(agg.mean()), optax.MultiSteps(optax.sgd(1.0), 2)
                        .gradient_transformation())  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        for tx in (inside, after):
            state = tx.init(PARAMS)
            steps = []
            for _ in range(2):
                updates, state = tx.update(STACK, state, PARAMS)
                steps.append(float(updates["b"][0]))
            assert steps == [0.0, -1.5]


@pytest.mark.parametrize(
    "tx",
    [
        optax.chain(optax.sgd(0.01), optax.contrib.reduce_on_plateau(patience=1)),
        optax.polyak_sgd(0.01),
        optax.lbfgs(0.01, linesearch=None),
        optax.MultiSteps(optax.sgd(0.01), 2),
    ],
    ids=["reduce_on_plateau", "polyak_sgd", "lbfgs", "MultiSteps"],
)
def test_servers_get_the_value_and_the_gradient(tx):
    with jax.numpy_dtype_promotion("standard"):
        result = go(method=server(tx), num_rounds=8)
    assert result.history["finite"].all()
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_the_value_is_the_honest_loss_and_the_gradient_the_aggregate():
    def spy(kind):
        return optax.GradientTransformationExtraArgs(
            lambda params: (jnp.zeros(()), jnp.zeros_like(params)),
            lambda updates, state, params=None, *, value, grad, **extra: (0.01 * updates, (value, grad)),
        )

    result = go(method=METHOD._replace(worker=spy("worker"), server=spy("server")), num_rounds=1)
    value, grad = result.state.server
    np.testing.assert_allclose(value, result.history["loss"][0], rtol=1e-6)
    np.testing.assert_allclose(transforms.global_norm(grad), result.history["aggregate_norm"][0], rtol=1e-6)
    values, grads = result.state.worker
    np.testing.assert_allclose(values[:3].mean(), value, rtol=1e-6)
    assert grads.shape == (N, 3)


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


# 16 bits


def test_momenta_of_16_bits_are_kept_in_32():
    """An average of ones with β = 0.999 is 1 − 0.999^3000 = 0.95 after 3 000 steps; in bfloat16 it stalls at 0.5."""
    tx = transforms.per_worker(optax.ema(0.999, debias=False), 2)
    ones = jnp.ones((2, 3), jnp.bfloat16)

    def step(state, _):
        updates, state = tx.update(ones, state)
        return state, updates

    state, updates = jax.lax.scan(step, tx.init(ones[0]), length=3000)
    np.testing.assert_allclose(state.ema, 1 - 0.999**3000, rtol=1e-4)
    assert updates.dtype == jnp.bfloat16
    own = transforms.per_worker(optax.ema(0.9), 2, accumulator_dtype=None)
    assert own.init(ones[0]).ema.dtype == jnp.bfloat16
    asked = transforms.per_worker(optax.ema(0.9, accumulator_dtype="bfloat16"), 2)
    assert asked.init(ones[0]).ema.dtype == jnp.bfloat16


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
