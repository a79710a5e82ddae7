"""Mean, median and their kin: the limits that they are known for."""

import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg


def test_without_f_the_rules_are_the_mean():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 4)), jnp.float32)
    for rule in (agg.trimmed_mean(0), agg.multi_krum(0)):
        np.testing.assert_allclose(byzjax.aggregate(rule, x), x.mean(0), rtol=1e-6, atol=1e-6)
    mixed = byzjax.aggregate(agg.nnm(0), x)
    np.testing.assert_allclose(mixed, np.tile(x.mean(0), (7, 1)), rtol=1e-6, atol=1e-6)


def test_mean_is_not_robust():
    x = jnp.ones((5, 2)).at[0].set(jnp.nan)
    assert jnp.isnan(byzjax.aggregate(agg.mean(), x)).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.median(even="upper"), "even = 'upper'"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
