"""Centred clipping: from round to round, its scalings, and how far a row can pull."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.testing.iterative import centered_clipping as reference
from tests.helpers import rows, steps

KEY = jax.random.key(0)


def test_centred_clipping_goes_on_from_its_last_result():
    stacks = [rows(seed=k) for k in range(6)]
    results, state = steps(agg.centered_clipping(tau=0.7, num_iters=2), stacks)
    v = np.zeros(4)
    for x, result in zip(stacks, results, strict=True):
        v = v + reference(x.astype(np.float64) - v, tau=0.7, num_iters=2)
        np.testing.assert_allclose(result, v, rtol=1e-4)
    np.testing.assert_array_equal(state.previous, results[-1])


@pytest.mark.parametrize("hostile", [1e6, 1e20, 3e38, np.inf, np.nan])
def test_no_row_moves_centred_clipping_by_more_than_its_share(hostile):
    x = rows(seed=3)
    rule = agg.centered_clipping(tau=1.5)
    spoilt = x.copy()
    spoilt[:3] = hostile
    clean, dirty = (np.asarray(byzjax.aggregate(rule, jnp.asarray(y))) for y in (x, spoilt))
    assert np.linalg.norm(clean - dirty) <= 2 * 1.5 * 3 / 10 * 1.0001


def test_scalings_of_tau():
    x = jnp.asarray(rows())
    for scaling, factor in (("none", 1.0), ("linear", 10.0), ("sqrt", np.sqrt(10.0))):
        scaled = byzjax.aggregate(agg.centered_clipping(tau=0.3, scaling=scaling, beta=0.9), x)
        np.testing.assert_allclose(scaled, byzjax.aggregate(agg.centered_clipping(tau=0.3 * factor), x), rtol=1e-5)


def test_tau_beta_and_noise_may_be_traced():
    x = jnp.asarray(rows())
    swept = jax.vmap(lambda t, b: byzjax.aggregate(agg.centered_clipping(tau=t, beta=b, scaling="linear"), x))(
        jnp.array([0.1, 1.0]), jnp.array([0.0, 0.5])
    )
    np.testing.assert_allclose(swept[1], byzjax.aggregate(agg.centered_clipping(tau=2.0), x), rtol=1e-5)
    noise = jax.vmap(lambda s: byzjax.aggregate(agg.norm_clipping(100.0, noise_std=s), x, key=KEY))(
        jnp.array([0.0, 1.0])
    )
    np.testing.assert_allclose(noise[0], x.mean(0), rtol=1e-5)
    assert not np.allclose(noise[0], noise[1])


def test_centred_clipping_after_clipping_keeps_both_origins():
    """Clipping measures from zero, centred clipping from its last result: fused, each must keep its own."""
    stacks = [rows(seed=k) for k in range(3)]
    fused, _ = steps(byzjax.chain(agg.clipping(1.0), agg.centered_clipping(tau=0.2)), stacks)
    apart, _ = steps(
        agg.centered_clipping(tau=0.2), [np.asarray(byzjax.aggregate(agg.clipping(1.0), x)) for x in stacks]
    )
    np.testing.assert_allclose(fused, apart, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.centered_clipping(tau=0.0), "tau = 0.0"),
        (lambda: agg.centered_clipping(beta=1.0), "beta = 1.0"),
        (lambda: agg.centered_clipping(scaling="square"), "scaling = 'square'"),
        (lambda: agg.centered_clipping(start="here"), "start = 'here'"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
