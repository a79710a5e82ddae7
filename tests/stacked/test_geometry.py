"""Distances from points that are averages of rows, or that rows lie next to."""

import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import stacked
from byzjax.stacked import gram


@pytest.mark.parametrize("places", [True, False])
def test_a_step_of_a_billionth_away_from_a_row_is_measured(places, limit):
    if not places:
        limit(gram, "_EXACT", 0)
    x = jnp.asarray(np.random.default_rng(2).normal(1, 0.2, (6, 4)), jnp.float32).at[5].set(0.0)
    geometry, _ = stacked.measure(x)
    assert (geometry.places is None) != places
    weights = jnp.array([1e-9, 2e-9, 3e-9, 4e-9, 5e-9, 1.0])
    wide = np.asarray(x, np.float64)
    point = np.asarray(weights[:5], np.float64) @ (wide[:5] - wide[5]) + wide[5]
    away = geometry.distances_from(jnp.pad(weights, (0, geometry.num_points - 6))) * geometry.unit
    np.testing.assert_allclose(away, np.linalg.norm(wide - point, axis=1), rtol=1e-5)
    moved = geometry.distance_between(jnp.pad(weights, (0, 2)), jnp.zeros(8).at[6].set(1.0)) * geometry.unit
    np.testing.assert_allclose(moved, np.linalg.norm(point), rtol=1e-5)


@pytest.mark.parametrize("d", [5, 20_000])
def test_copies_of_a_fixed_point_are_at_distance_zero(d):
    last = jnp.asarray(np.random.default_rng(3).normal(size=d), jnp.float32)
    x = jnp.asarray(np.random.default_rng(4).normal(5.0, 1.0, (6, d)), jnp.float32).at[1].set(0.0).at[4].set(last)
    geometry, _ = stacked.measure(x, last)
    assert float(geometry.squared_norms("origin")[1]) == 0.0
    assert float(geometry.squared_norms("previous")[4]) == 0.0
