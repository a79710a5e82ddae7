"""AUROR: indicative coordinates and votes."""

import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg


def test_auror_settles_its_coordinates_and_counts_votes():
    x = jnp.asarray([[0.0, 0.0, 5.0], [0.0, 1e-4, 5.0], [0.0, 0.0, 5.0], [9.0, 0.0, 5.0], [9.0, 0.0, 9.0]])
    rule = agg.auror(gap=0.01, num_rounds=1)
    _, state, trust = rule.update_with_trust(x, rule.init(jnp.zeros(3)))
    assert state.indicative.tolist() == [True, False, True]
    assert (np.asarray(trust.weights) > 0).tolist() == [True, True, True, True, False], "one vote of two is not enough"
    _, after, trust = rule.update_with_trust(jnp.zeros((5, 3)).at[3, 1].set(7.0), state)
    assert after.indicative.tolist() == [True, False, True], "it was settled in the first round"
    assert (np.asarray(trust.weights) > 0).all()
    for votes, voters, share in ((117, 900, 0.13), (63, 300, 0.21)):  # exactly the share is not more than it
        x = jnp.zeros((5, voters)).at[0].set(1.0).at[1:3, votes:].set(1.0)
        trust = byzjax.aggregate(agg.auror(share=share), x, return_weights=True)[1]
        assert trust[0] > 0, (votes, voters)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.auror(share=1.0), "auror: share = 1.0"),
        (lambda: agg.auror(num_rounds=0), "auror: num_rounds = 0"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
