"""MDA and SMEA: the best of all subsets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.aggregators import _subsets


@pytest.mark.parametrize("together", [100, 1_024])
def test_smea_finds_the_best_of_many_near_ties(together, limit):
    """Rows without a common direction: no cheap bound tells which of many subsets has the least spread."""
    limit(_subsets, "_CHUNK", together)
    stacks = np.random.default_rng(7).normal(size=(3, 12, 400)).astype(np.float32)
    stacks[1, 4] = np.nan
    stacks[2, :3] = stacks[2, 3:6].mean(0)
    rule, members = agg.smea(3), _subsets.subset_masks(12, 3)
    trust = jax.vmap(lambda x: byzjax.aggregate(rule, x, return_weights=True)[1])(jnp.asarray(stacks))
    for x, weights in zip(stacks.astype(np.float64), np.asarray(trust), strict=True):
        (found,) = np.flatnonzero((members == (weights > 0)).all(1))
        rows = [x[m] - x[m].mean(0) for m in members]
        spreads = np.array([np.linalg.norm(y, 2) ** 2 if np.isfinite(y).all() else np.inf for y in rows])
        assert np.sort(spreads)[10] < 1.1 * spreads.min()
        np.testing.assert_allclose(spreads[found], spreads.min(), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: byzjax.aggregate(agg.mda(10), jnp.ones((30, 1))), "30045015 subsets"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
