"""Krum: who wins where scores tie, and what it says where it has no answer."""

import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg


def test_ties_go_to_the_lowest_index():
    x = jnp.array([[5.0], [0.0], [0.0], [5.0], [5.0], [0.0]])
    assert byzjax.aggregate(agg.krum(1), x)[0] == 5.0
    assert byzjax.aggregate(agg.krum(1), x[1:])[0] == 0.0


def test_too_many_lost_rows_give_nan_not_a_number():
    """A rule that has nothing to stand on must not look like a converged run."""
    x = jnp.full((5, 2), jnp.nan)
    for rule in (agg.krum(1), agg.geometric_median(), byzjax.chain(agg.nnm(1), agg.geometric_median())):
        assert not jnp.isfinite(byzjax.aggregate(rule, x)).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.krum(1, power=3), "power = 3"),
        (lambda: agg.krum(1, neighbors="all"), "neighbors = 'all'"),
        (lambda: byzjax.aggregate(agg.krum(2), jnp.ones((4, 1))), "2f ≥ n"),
        (lambda: byzjax.aggregate(agg.krum(1), jnp.ones((3, 1))), "at least one neighbour"),
        (lambda: byzjax.aggregate(agg.multi_krum(1, m=9), jnp.ones((6, 1))), "m = 9"),
        (lambda: byzjax.aggregate(agg.bulyan(2), jnp.ones((10, 1))), "n ≥ 4f \\+ 3; use f ≤ 1"),
        (lambda: agg.krum(f="3"), "krum: f = '3' must be an integer"),
        (lambda: agg.krum(f=np.array([1, 2])), r"krum: f = array\(\[1, 2\]\) must be an integer"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
