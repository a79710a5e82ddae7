"""Whom a rule trusted: weights on request, and the metrics made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import stacked
from byzjax.base import Aggregator, Coordinatewise, Mixing
from byzjax.testing import rule_cases
from tests.helpers import in_their_default, starting_with

KEY = jax.random.key(0)


def stack(n=11, d=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)) + 1, jnp.float32)


def weighs(case):
    """Traced only: the answer is in the structure."""
    rule = case.make(2, 11)
    trust = jax.eval_shape(lambda x: rule.update_with_trust(x, rule.init(x[0]), x[0], key=KEY)[2], stack())
    return (trust.weights if isinstance(rule, Aggregator) else trust.mixing) is not None


CASES = [case for case in rule_cases() if weighs(case)]


def test_every_rule_says_whom_it_trusted_or_cannot():
    by_coordinate = {case.name for case in rule_cases() if isinstance(case.make(2, 11).kernel, Coordinatewise)}
    silent = {case.name for case in rule_cases()} - {case.name for case in CASES} - by_coordinate
    unforeseen = ", ".join(sorted(silent ^ {"bulyan", "lasa", "dp_clipping"}))
    assert not unforeseen, f"{unforeseen}: give it `update_with_trust`, or name here what has no weights by its nature"


# Options change numbers; only where the rest of the weight lies is another form.
FACTORIES = [*in_their_default(CASES), starting_with("centered_clipping-start=median", CASES)]


@pytest.mark.parametrize("case", FACTORIES, ids=lambda case: case.id)
def test_weights_make_the_result(case):
    x = stack()
    result, weights = byzjax.aggregate(case.make(2, 11), x, key=KEY, return_weights=True)
    if "start=median" in case.id:  # what the weights lack to 1 lies on the median
        result = result - (1 - weights.sum()) * jnp.sort(x, axis=0)[5]
    np.testing.assert_allclose(weights @ x, result, rtol=1e-5, atol=1e-5)


# The algebra of a chain knows forms and no rules. That the weights of every rule make its result is tested above.
FORMS = [
    "multi_krum",  # affine
    "geometric_median",  # absolute
    "centered_clipping",  # anchored at its last result
    "centered_clipping-start=median",
    "byzantine_sgd",  # with a state
    "nnm",  # a pre-aggregation
]


@pytest.mark.parametrize("case", [starting_with(form, CASES) for form in FORMS], ids=lambda case: case.id)
@pytest.mark.parametrize("pre", ["nnm", "clipping", "nnm+bucketing"])
def test_weights_reach_through_pre_aggregations(case, pre):
    n = 22
    links = {
        "nnm": [agg.nnm(2)],
        "clipping": [agg.clipping(1.5)],
        "nnm+bucketing": [agg.nnm(2), agg.bucketing(2)],
    }[pre]
    rule = byzjax.chain(*links, case.make(2, 11 if "bucketing" in pre else n))
    x = stack(n)
    result, weights = byzjax.aggregate(rule, x, key=KEY, return_weights=True)
    if case.id == "centered_clipping-start=median":
        assert weights.shape == (n,)
        return  # the rest of its weight is on the median
    np.testing.assert_allclose(weights @ x, result, rtol=1e-4, atol=1e-4)


AFFINE = [case for case in rule_cases() if getattr(case.make(2, 11).kernel, "affine", False)]


@pytest.mark.parametrize("case", AFFINE, ids=lambda case: case.id)
def test_affine_kernels_distribute_all_of_their_weight(case):
    """Or the rest would lie on an origin that was not measured."""
    kernel = case.make(2, 11).kernel
    for x in (stack(), stack().at[3].set(jnp.inf), stack().at[3].set(1e30)):
        geometry, _ = stacked.measure(x, origin=False)
        answer = kernel.matrix(geometry, KEY) if isinstance(kernel, Mixing) else kernel.weights(geometry, KEY)
        np.testing.assert_allclose(answer.sum(-1), 1.0, rtol=1e-5)
        if getattr(kernel, "picks", False):
            assert sorted(answer.tolist()) == [0.0] * 10 + [1.0]


def test_affine_kernels_are_known():
    assert {case.name for case in AFFINE} >= {"krum", "multi_krum", "nnm", "bucketing", "mda", "smea", "caf"}
