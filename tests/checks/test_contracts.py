"""What a user hands in keeps its promise, or one clear line says what it broke."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, metrics, transforms
from byzjax.base import Aggregator
from tests.small_runs import KEY, MASK, METHOD, TASK, N, go


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
