"""Divide and conquer, CAF: what their scores see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.promises import traits_of

KEY = jax.random.key(0)


def test_dnc_can_be_misled_across_the_main_direction():
    """A finding: scores are about the mean of all rows, so far rows that pull apart can beat honest ones."""
    assert not traits_of(agg.dnc).robust
    rng = np.random.default_rng(7)
    x = rng.normal(size=(20, 10)).astype(np.float32)
    x[-3:] = 1e12 * rng.uniform(-1, 1, size=(3, 10))
    assert jnp.abs(byzjax.aggregate(agg.dnc(3), jnp.asarray(x), key=KEY)).max() > 1e9


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.dnc(1, num_iters=0), "num_iters = 0"),
        (lambda: byzjax.aggregate(agg.dnc(1), jnp.ones((4, 1))), "needs a PRNG key"),
        (lambda: byzjax.aggregate(agg.dnc(1, filter_frac=4.0), jnp.ones((4, 1)), key=KEY), "drops all n = 4"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
