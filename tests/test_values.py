"""Rules, attacks, methods and tasks are values: equal, hashable, readable and picklable by what made them."""

import copy
import dataclasses
import functools
import pickle
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, tasks, transforms
from byzjax.aggregators._chain import _aggregate
from byzjax.base import Aggregator, Mixing, PreAggregator
from byzjax.simulation.run import _chunk
from byzjax.testing import attack_cases, rule_cases
from byzjax.values import Template, lifted, value

RULE = "chain(nnm(f=1), geometric_median())"
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """For all programs, so that they can be counted."""
    for kept in (_aggregate, _chunk):
        monkeypatch.setattr(kept, "most", 10_000)
        monkeypatch.setattr("byzjax.programs.compiled._is_crowded", lambda: False)


def made(text):
    return eval(text, {**vars(agg), **vars(attacks), **vars(methods), **vars(tasks), **vars(transforms)})


PRODUCTS = {
    **{case.id: functools.partial(case.make, 1, 6) for case in rule_cases()},
    **{case.id: functools.partial(case.make, 1, 6) for case in attack_cases()},
    "chain": lambda: made(RULE),
    "momentum_sgd": lambda: methods.momentum_sgd(0.1, aggregator=made(RULE), decay=True),
    "byz_nsgdm": lambda: methods.byz_nsgdm(0.1, aggregator=agg.median(), beta=0.5),
    "byz_lmo": lambda: methods.byz_lmo(0.1, aggregator=agg.median(), norm="nuclear", vectors="rms", radius=2.0),
    "byz_sign": lambda: methods.byz_sign(methods.fixed_horizon(1.0, 9), aggregator=agg.median()),
    "byz_muon": lambda: methods.byz_muon(0.1, aggregator=agg.median(), beta=methods.doubling_beta(2)),
    "byz_scion": lambda: methods.byz_scion(0.1, aggregator=agg.median(), radii={"others": 2.0}, layers={"w": "last"}),
    "byz_clip": lambda: methods.byz_clip(0.1, aggregator=agg.median(), threshold=2.0),
    "byz_fedadam": lambda: methods.byz_fedadam(0.1, aggregator=agg.median(), tau=0.1),
    "marina": lambda: methods.byz_vr_marina(0.1, aggregator=made(RULE), compressor=transforms.random_k(0.5)),
    "clipped": lambda: methods.clipped_differences(methods.byz_ef21(0.1, aggregator=agg.median()), scale=2.0),
    "quartic": lambda: tasks.quartic(5, noise_scale=0.1),
    "logistic_regression": lambda: tasks.logistic_regression(5, l2=0.5),
    "mnist": lambda: tasks.mnist(5, batch_size=8),
    "shakespeare": lambda: tasks.shakespeare(5),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_is_made_twice_is_equal(name):
    one, other = PRODUCTS[name](), PRODUCTS[name]()
    assert one is not other
    assert one == other
    assert not one != other  # noqa: SIM202  # `!=` is a method of its own
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert copy.deepcopy(one) == one
    if "object at 0x" not in repr(one) and name not in ("mnist", "shakespeare"):
        assert repr(one) == repr(other)
        assert made(repr(one)) == one


def test_every_factory_of_a_registry_makes_values():
    for module in (agg, attacks, methods, tasks):
        for name, factory in module.REGISTRY.items():
            assert hasattr(factory, "__wrapped__"), f"{name} lacks @value"


def test_what_differs_is_unequal():
    different = [agg.krum(1), agg.krum(2), agg.krum(1.0), agg.multi_krum(1), agg.krum(1, power=1)]
    different += [agg.nnm(1), byzjax.chain(agg.nnm(1), agg.krum(1)), attacks.ipm(1.0), attacks.ipm(np.float32(1.0))]
    assert len(set(different)) == len(different)
    assert agg.krum(1) != "krum(f=1)"
    assert byzjax.chain(agg.krum(1)) == agg.krum(1)
    assert agg.krum(1)._replace(init=print) != agg.krum(1)


@pytest.mark.parametrize("f", [jnp.asarray(1), np.asarray(1)])
def test_arrays_make_a_rule_equal_to_itself_alone(f):
    rule = agg.krum(f)
    assert rule == rule
    assert rule != agg.krum(f)
    assert repr(rule) == f"krum(f={f.dtype}[])"
    traced = []
    jax.jit(lambda f: traced.extend([agg.krum(f), agg.krum(f)]) or f)(1)
    assert traced[0] != traced[1]
    assert traced[0] == traced[0]


def test_rules_made_in_the_call_are_compiled_once():
    before = len(_aggregate)
    with jax.log_compiles(False):
        for _ in range(100):
            byzjax.aggregate(byzjax.chain(agg.nnm(f=2), agg.geometric_median(num_iters=3)), X)
    assert len(_aggregate) == before + 1


PICKLED = """
import pickle, sys, numpy as np, byzjax
rule, x = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps(np.asarray(byzjax.aggregate(rule, x))))
"""


def test_a_pickled_rule_gives_the_same_bits_in_another_process():
    rule = made(RULE)
    done = subprocess.run(
        [sys.executable, "-c", PICKLED], input=pickle.dumps((rule, X)), capture_output=True, check=True
    )
    np.testing.assert_array_equal(pickle.loads(done.stdout), byzjax.aggregate(rule, X))


def run(rate, rounds=7, attack=None, task=None):
    method = methods.byz_nsgdm(rate, aggregator=made(RULE))
    options = {"byzantine": jnp.arange(5) == 4, "key": jax.random.key(0), "num_rounds": rounds, "eval_every": 3}
    return byzjax.run(task or tasks.quartic(5, 1), method, attack or attacks.ipm(2.0), progress=False, **options)


def test_runs_that_differ_in_numbers_share_a_program():
    run(0.1)
    before = len(_chunk)
    rates = [run(rate, attack=attacks.ipm(scale)) for rate, scale in ((0.2, 1.0), (0.3, 5.0))]
    run(0.1, rounds=100, task=tasks.quartic(5, 1))  # another length, and a task made anew
    assert len(_chunk) == before
    assert not np.array_equal(rates[0].state.params, rates[1].state.params)


def test_a_template_is_filled_with_numbers():
    method = methods.momentum_sgd(0.5, aggregator=byzjax.chain(agg.nnm(1), agg.median()), beta=0.25)
    template, numbers = lifted(method)
    assert numbers == [0.5]
    assert template.filled([0.5]) == method
    assert template == lifted(methods.momentum_sgd(0.1, aggregator=method.aggregator, beta=0.25))[0]
    assert template != lifted(methods.momentum_sgd(0.5, aggregator=agg.median(), beta=0.25))[0]
    assert template != lifted(methods.momentum_sgd(0.5, aggregator=method.aggregator))[0]
    mine = byzjax.Attack(lambda params, n: (), lambda u, s, p=None, **extra: (u, s))
    assert lifted(mine) == (mine, [])
    assert not isinstance(lifted(mine)[0], Template)


SCALE = 2.0


@value
def own_attack(strength: float = 1.0):
    """A user's, which reads its module."""
    scale = SCALE * strength

    def update(updates, state, params=None, *, byzantine, **extra):
        del params, extra
        return byzjax.stacked.replace_rows(updates, byzantine, scale * updates), state

    return byzjax.Attack(lambda params, n: (), update)


def test_what_a_users_factory_read_is_part_of_the_value(monkeypatch):
    before, result = own_attack(), run(0.1, attack=own_attack())
    assert before == own_attack()
    monkeypatch.setitem(globals(), "SCALE", -7.0)
    assert before != own_attack()
    np.testing.assert_array_equal(run(0.1, attack=before).state.params, result.state.params)
    assert not np.array_equal(run(0.1, attack=own_attack()).state.params, result.state.params)


# What a program reads beside its arguments.

ACTIVATION, WEIGHT = jnp.sin, 1.0


def scaled(x):
    return WEIGHT * x


@value
def applying(function):
    """A user's rule that calls back."""
    return Aggregator(optax.init_empty_state, lambda x, s, p=None, **extra: (function(x.mean(0)), s))


@value
def times(factors=[1.0]):  # noqa: B006  # that is what is tried
    """A user's rule that keeps a list."""
    return Aggregator(optax.init_empty_state, lambda x, s, p=None, **extra: (factors[0] * x.mean(0), s))


def test_another_function_of_a_library_is_another_program(monkeypatch):
    def loss(x, batch, key):
        del key
        return jnp.mean(ACTIVATION(x) * x) + jnp.vdot(batch["slope"], x)

    task = dataclasses.replace(tasks.quartic(5, 1), loss=loss)
    before = run(0.1, task=task).state.params
    monkeypatch.setitem(globals(), "ACTIVATION", jnp.cos)
    assert not np.array_equal(run(0.1, task=task).state.params, before)


def test_a_rule_made_anew_is_not_served_a_stale_program(monkeypatch):
    before = byzjax.aggregate(applying(scaled), X)
    monkeypatch.setitem(globals(), "WEIGHT", 7.0)
    np.testing.assert_allclose(byzjax.aggregate(applying(scaled), X), 7 * before, rtol=1e-6)


def test_a_list_that_is_changed_afterwards_changes_no_rule():
    factors = [1.0]
    rule = times(factors)
    factors[0] = 5.0
    np.testing.assert_array_equal(byzjax.aggregate(rule, X), byzjax.aggregate(times(), X))
    assert rule == times()
    assert rule != times(factors)


def test_what_a_link_of_ones_own_reads_is_seen_in_its_kernel(monkeypatch):
    def matrix(geometry, key):
        del key
        return WEIGHT * jnp.eye(geometry.num_workers)

    def update(x, state, params=None, **extra):
        del params, extra
        return WEIGHT * x, state

    mixing = PreAggregator(optax.init_empty_state, update, kernel=Mixing(matrix, measures=False))
    method = methods.momentum_sgd(0.01, aggregator=byzjax.chain(mixing, agg.krum(1)))
    options = {"byzantine": jnp.arange(5) == 4, "key": jax.random.key(0), "num_rounds": 2, "progress": False}
    before = byzjax.run(tasks.quartic(5, 1), method, attacks.none(), **options).state.params
    monkeypatch.setitem(globals(), "WEIGHT", 30.0)
    after = byzjax.run(tasks.quartic(5, 1), method, attacks.none(), **options).state.params
    assert not np.array_equal(before, after)


# Tasks, whose data anybody may change.


def test_a_task_keeps_the_data_that_were_put_into_it():
    task = tasks.quartic(5)
    assert copy.deepcopy(task) == task
    task.data["shifts"] = jnp.zeros_like(task.data["shifts"])
    assert task != tasks.quartic(5)
    for again in (copy.copy(task), copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        np.testing.assert_array_equal(again.data["shifts"], 0.0)
    swept = byzjax.sweep(
        lambda seed, task: {"shifts": task.data["shifts"]},
        grid={"seed": [0]},
        cells={"task": {"q": task}},
        progress=False,
    )
    assert not swept["shifts"].values.any()


def test_an_array_that_is_changed_afterwards_changes_no_copy():
    shifts = np.zeros((5, 10), np.float32)
    task = tasks.quartic(5, shifts=shifts)
    shifts += 3
    for again in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        np.testing.assert_array_equal(again.data["shifts"], 0.0)


def test_a_model_that_is_registered_anew_makes_another_task(monkeypatch):
    def model(width):
        return tasks.models.mlp((784, width, 10))

    monkeypatch.setitem(tasks.models.MODELS, "mine", lambda shape, num_classes: model(2))
    before = tasks.mnist(5, batch_size=8, model="mine")
    assert before == tasks.mnist(5, batch_size=8, model="mine")
    monkeypatch.setitem(tasks.models.MODELS, "mine", lambda shape, num_classes: model(3))
    after = tasks.mnist(5, batch_size=8, model="mine")
    assert before != after
    assert jax.tree.structure(before) != jax.tree.structure(after)


# What factories may do.


def test_a_pickle_is_refused_where_its_factory_would_make_something_else(monkeypatch):
    content = pickle.dumps(own_attack())
    assert pickle.loads(content) == own_attack()
    monkeypatch.setitem(globals(), "SCALE", -7.0)
    with pytest.raises(ValueError, match=r"own_attack\(\) cannot be made again"):
        pickle.loads(content)


KNOWN = {"a": attacks.ipm(1.0)}


@value
def known(name):
    """Returns what it has returned before."""
    return KNOWN[name]


@value
def default_to(*, rule=None):
    """Returns what it was given."""
    return rule or agg.median()


@value
def with_links(first, /, second, *links):
    """Has every kind of parameter."""
    del second, links
    return agg.krum(first)


def test_what_somebody_else_made_keeps_its_name():
    rule = agg.krum(1)
    assert default_to(rule=rule) is rule
    assert repr(default_to()) == "default_to()"
    assert repr(known("a")) == "known(name='a')"
    assert KNOWN["a"] == attacks.ipm(1.0)
    made = with_links(1, 2, 3, 4)
    assert repr(made) == "with_links(1, 2, 3, 4)"
    assert pickle.loads(pickle.dumps(made)) == made


class Pair(NamedTuple):
    x: float


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32(-0.0), np.float32(0.0)),
        (Pair(1), Pair(1.0)),
        (Pair(0.0), Pair(-0.0)),
        (frozenset({1}), frozenset({True})),
        ({1: 2}, {True: 2}),
        (-0.0, 0.0),
        (complex(0.0, 1.0), complex(-0.0, 1.0)),
    ],
)
def test_arguments_are_compared_to_the_bit(one, other):
    assert (applying(one) == applying(other)) == (repr(one) == repr(other))
    assert applying(one) == applying(copy.copy(one))


def test_parts_without_a_hash_are_accepted():
    @dataclasses.dataclass
    class Init:
        def __call__(self, params):
            return ()

    rule = Aggregator(Init(), lambda x, s, p=None, **extra: (x.mean(0), s))
    method = methods.momentum_sgd(0.1, aggregator=rule)
    options = {"byzantine": jnp.arange(5) == 4, "key": jax.random.key(0), "num_rounds": 2, "progress": False}
    assert byzjax.run(tasks.quartic(5, 1), method, attacks.none(), **options).state.params.shape == (10,)


def test_large_and_traced_arguments_are_not_kept_alive():
    shifts = np.zeros((5, 100_000), np.float32)
    task = tasks.quartic(5, dim=100_000, shifts=shifts)
    assert repr(task) == "quartic(num_workers=5, dim=100000, shifts=float32[5,100000])"
    with pytest.raises(TypeError, match="is not remembered"):
        pickle.dumps(task)
    with jax.checking_leaks():
        jax.jit(lambda tau, x: byzjax.aggregate(agg.clipping(tau), x))(1.0, X)


def test_runs_that_record_the_same_and_are_never_evaluated_share_a_program():
    def of(rounds):
        method = methods.momentum_sgd(0.1, aggregator=agg.mean())
        options = {"byzantine": jnp.arange(5) == 4, "key": jax.random.key(0), "record": metrics.record("loss")}
        return byzjax.run(tasks.quartic(5, 1), method, attacks.none(), num_rounds=rounds, progress=False, **options)

    of(10)
    before = len(_chunk)
    assert of(300).history["loss"].shape == (300,)
    assert len(_chunk) == before


def test_rules_are_aggregators_of_optax():
    aggregating = getattr(optax.experimental, "aggregating", None)
    if not hasattr(aggregating, "Aggregator"):
        pytest.skip("this optax has no Aggregator")
    assert isinstance(agg.median(), aggregating.Aggregator)


def test_namespaces_list_what_they_hold():
    for module in (byzjax, agg, attacks, tasks, byzjax.transforms, byzjax.stacked):
        assert sorted(dir(module)) == sorted(module.__all__)
