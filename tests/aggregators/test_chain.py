"""Chains of pre-aggregations and a rule: in worker space and for real, flat, and with weights."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.stacked import order_statistics
from byzjax.testing import REFERENCES

chain_module = importlib.import_module("byzjax.aggregators._chain")  # the package has a function of that name


KEY = jax.random.key(0)


def test_many_workers_are_ranked_and_mixed_as_few_are(monkeypatch, limit):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, size=(3, 200)).astype(np.float32)
    for few in (1, 37, 200):
        expected = np.argsort(np.argsort(values, axis=1, kind="stable"), axis=1) < few
        monkeypatch.setattr(order_statistics, "cache_numbers", lambda: 400)  # two rows at a time, and one that is left
        np.testing.assert_array_equal(order_statistics.lowest(jnp.asarray(values), few), expected)
        np.testing.assert_array_equal(order_statistics.lowest(jnp.asarray(values[0]), few), expected[0])

    x = jnp.asarray(rng.normal(size=(11, 6)) + 2, jnp.float32).at[3].set(jnp.nan)
    links = ([agg.nnm(2)], [agg.clipping(3.0), agg.nnm(2)], [agg.bucketing(2), agg.nnm(1)])
    ends = ([agg.multi_krum(1)], [agg.median()], [])
    found = []
    for many in (12, 11):  # at once in worker space, and one after the other
        limit(chain_module, "_MANY", many)
        found.append(
            [
                byzjax.aggregate(byzjax.chain(*before, *last), x, key=KEY, return_weights=last != ends[1])
                for before, last in itertools.product(links, ends)  # the median has no weights
            ]
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)


def test_a_rule_with_a_state_after_a_mixing_of_many(limit):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(11, 6)), jnp.float32)
    found = []
    for many in (12, 11):
        limit(chain_module, "_MANY", many)
        rule = byzjax.chain(agg.nnm(2), agg.centered_clipping(0.1))
        _, state = rule.update(x, rule.init(x[0]))
        found.append(rule.update(x, state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)


def test_chain_of_two_mixings_is_their_product():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(10, 3)), jnp.float32)
    pre = byzjax.chain(agg.nnm(2), agg.bucketing(2))
    key = jax.random.key(3)
    step = byzjax.aggregate(agg.nnm(2), x)
    step = byzjax.aggregate(agg.bucketing(2), step, key=jax.random.fold_in(key, 1))
    np.testing.assert_allclose(byzjax.aggregate(pre, x, key=key), step, rtol=1e-5, atol=1e-6)
    fused = byzjax.aggregate(byzjax.chain(agg.nnm(2), agg.bucketing(2), agg.krum(1)), x, key=key)
    np.testing.assert_allclose(fused, byzjax.aggregate(agg.krum(1), step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: byzjax.chain(), "at least one link"),
        (lambda: byzjax.chain(agg.median(), agg.nnm(1)), "only the last"),
        (lambda: byzjax.chain(agg.nnm), "call the factory"),
        (lambda: byzjax.aggregate(agg.median(), {"a": jnp.ones((4, 1)), "b": jnp.ones((3, 1))}), "disagree"),
        (lambda: byzjax.aggregate(agg.median(), jnp.ones(())), "leading worker axis"),
        (lambda: byzjax.aggregate(agg.median(), {}), "empty tree"),
        (lambda: byzjax.aggregate(agg.median(), jnp.ones((0, 3))), "length 0"),
        (lambda: byzjax.aggregate(agg.median, jnp.ones((4, 3))), "call its factory"),
        (lambda: byzjax.aggregate(agg.median(), jnp.ones((4, 1)), return_weights=True), "treats every coordinate"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def stack(n=11, d=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)) + 1, jnp.float32)


def test_a_chain_within_a_chain_is_flat():
    inner = byzjax.chain(agg.clipping(3.0), agg.nnm(1))
    nested = byzjax.chain(inner, agg.krum(1))
    flat = byzjax.chain(agg.clipping(3.0), agg.nnm(1), agg.krum(1))
    assert len(nested.links) == 3
    for ours, theirs in zip(
        byzjax.aggregate(nested, stack(), return_weights=True),
        byzjax.aggregate(flat, stack(), return_weights=True),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_noise_ends_what_can_be_told():
    rule = byzjax.chain(agg.dp_clipping(), agg.krum(1))
    with pytest.raises(ValueError, match="adds noise"):
        byzjax.aggregate(rule, stack(), key=KEY, return_weights=True)


@pytest.mark.parametrize("share", [1e-4, 0.03, 1.0])
def test_rows_of_a_large_stack_that_are_shortened_keep_their_distances(share):
    rng = np.random.default_rng(0)
    x = 1e5 * (rng.normal(size=2000) / 40 + rng.normal(size=(20, 2000)) / 1000).astype(np.float32)
    x[17:] = 1e9 * rng.normal(size=(3, 2000))
    bound = share * np.linalg.norm(x[0])
    result = byzjax.aggregate(byzjax.chain(agg.clipping(float(bound)), agg.geometric_median()), x)
    expected = REFERENCES["geometric_median"](REFERENCES["clipping"](x.astype(np.float64), bound))
    assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)
