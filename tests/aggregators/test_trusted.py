"""FLTrust: directions alone, and a reference against a majority."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg


def test_fltrust_looks_at_directions_alone():
    x = jnp.asarray(np.random.default_rng(5).normal(size=(6, 4)) + 1, jnp.float32)
    rule = agg.fltrust(reference=2)
    stretched = x * jnp.asarray([9.0, 1e-3, 1.0, 1e10, 2.0, 0.5])[:, None]
    np.testing.assert_allclose(byzjax.aggregate(rule, stretched), byzjax.aggregate(rule, x), rtol=1e-5)
    weights = byzjax.aggregate(rule, x, return_weights=True)[1]
    assert weights[2] == 0
    spoilt = x.at[4].set(jnp.nan).at[5].set(0.0)
    assert byzjax.aggregate(rule, spoilt, return_weights=True)[1][4:].tolist() == [0, 0]
    assert not np.isfinite(byzjax.aggregate(agg.fltrust(reference=4), spoilt)).any()
    against = jnp.concatenate([x[2:3], jnp.repeat(-x[2:3], 3, 0)])
    assert byzjax.aggregate(agg.fltrust(), against).tolist() == [0, 0, 0, 0]
    swept = jax.vmap(lambda r: byzjax.aggregate(agg.fltrust(reference=r), x))(jnp.arange(6))
    np.testing.assert_allclose(swept[2], byzjax.aggregate(rule, x), rtol=1e-5)


@pytest.mark.parametrize("hostile", [np.nan, 1e20, 3e38, 1e-30])
def test_fltrust_holds_against_a_majority(hostile):
    x = np.full((5, 3), -hostile, np.float32)
    x[:2] = [1.0, 1.0, 1.0], [1.0, 2.0, 1.0]
    expected = x[1] * np.linalg.norm(x[0]) / np.linalg.norm(x[1])
    np.testing.assert_allclose(byzjax.aggregate(agg.fltrust(), jnp.asarray(x)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: byzjax.aggregate(agg.fltrust(reference=3), jnp.ones((3, 1))), "fltrust: reference = 3"),
        (lambda: byzjax.aggregate(agg.fltrust(), jnp.ones((1, 1))), "fltrust: n = 1"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
