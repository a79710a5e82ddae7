"""Distances between rows and the geometry that is made of them, under hostile rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import stacked


def true_distances(x):
    wide = x.astype(np.float64)
    return ((wide[:, None] - wide[None]) ** 2).sum(-1)


HOSTILE = {
    "none": [],
    "huge": [1e30, -1e30, 1e18],
    "far": [1e4, -1e4, 1e5],
    "lost": [np.inf, np.nan, -np.inf],
    "mixed": [np.nan, 1e30, 1e4],
    "denormal": [1e-40, 1e-42, 0.0],
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("closeness", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("d", [50, 20_000])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
def test_honest_distances_survive(hostile, closeness, d, scale):
    """Relative error ≤ 1e-4 for honest pairs at ‖vᵢ − vⱼ‖/‖v‖ from 1 to 1e-4, whatever the other rows hold."""
    n, b = 12, len(hostile)
    rng = np.random.default_rng(1)
    x = scale * (rng.normal(size=d)[None] + closeness * rng.normal(size=(n, d)))
    x = x.astype(np.float32)
    for place, value in zip((0, 5, n - 1), hostile, strict=False):
        x[place] = value
    honest = [i for i in range(n) if i not in (0, 5, n - 1)[:b]]
    measured = np.asarray(stacked.distances(x), np.float64)[np.ix_(honest, honest)]
    expected = true_distances(x[honest])
    off = ~np.eye(len(honest), dtype=bool)
    if scale == 1e-25:  # their squares are below float32: compare in the units of the geometry
        geometry, _ = stacked.measure(jnp.asarray(x))
        measured = np.asarray(geometry.distances, np.float64)[np.ix_(honest, honest)] * float(geometry.unit) ** 2
    assert np.abs(measured / np.where(off, expected, 1) - 1)[off].max() <= 1e-4
    assert (np.diag(measured) == 0).all()


@pytest.mark.parametrize("d", [50, 20_000])
def test_honest_clusters_survive_too(d):
    """Two close pairs, far apart: centring does not help them, measuring again does."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(3, d))
    x = np.repeat(centres, 3, axis=0) + 1e-4 * rng.normal(size=(9, d))
    x = np.concatenate([x, 1e30 * np.ones((2, d))]).astype(np.float32)
    measured = np.asarray(stacked.distances(x), np.float64)[:9, :9]
    off = ~np.eye(9, dtype=bool)
    assert np.abs(measured / np.where(off, true_distances(x[:9]), 1) - 1)[off].max() <= 1e-4


@pytest.mark.parametrize("d", [50, 20_000])
def test_identical_rows_are_at_distance_zero(d):
    x = np.random.default_rng(3).normal(size=(8, d)).astype(np.float32)
    x[5:] = x[2]
    assert (np.asarray(stacked.distances(x))[np.ix_([2, 5, 6, 7], [2, 5, 6, 7])] == 0).all()


def test_lost_rows_are_infinitely_far_and_bfloat16_is_measured_in_float32():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(6, 300)), jnp.bfloat16).at[1, 7].set(jnp.nan)
    measured = stacked.distances(x)
    assert measured.dtype == jnp.float32
    assert jnp.isinf(measured[1, np.array([0, 2, 3, 4, 5])]).all()
    keep = np.array([0, 2, 3, 4, 5])
    expected = true_distances(np.asarray(x.astype(jnp.float32))[keep])
    np.testing.assert_allclose(np.asarray(measured)[np.ix_(keep, keep)], expected, rtol=1e-4)


def test_far_rows_keep_their_distance():
    x = np.random.default_rng(5).normal(size=(6, 40)).astype(np.float32)
    x[3] = 1e17
    np.testing.assert_allclose(np.asarray(stacked.distances(x))[3, 0], 40 * 1e34, rtol=1e-3)


def test_distances_under_jit_and_vmap():
    x = np.random.default_rng(6).normal(size=(4, 7, 9)).astype(np.float32)
    batched = jax.jit(jax.vmap(stacked.distances))(x)
    for one, many in zip(x, batched, strict=True):
        np.testing.assert_allclose(many, stacked.distances(one), rtol=1e-5)


def test_large_and_small_leaves_are_measured_together():
    rng = np.random.default_rng(10)
    tree = {
        "large": rng.normal(size=(5, 300, 400)).astype(np.float32),
        "small": rng.normal(size=(5, 7)).astype(np.float32),
        "scalar": rng.normal(size=(5,)).astype(np.float32),
    }
    flat = np.concatenate([leaf.reshape(5, -1) for leaf in jax.tree.leaves(tree)], axis=1)
    np.testing.assert_allclose(stacked.distances(tree), true_distances(flat), rtol=1e-4)


def test_large_stacks_are_measured_with_wide_integers_too():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(17).normal(size=(6, 20_000)))
        x = x.at[4].set(x[3])
        np.testing.assert_allclose(stacked.distances(x), true_distances(np.asarray(x)), rtol=1e-9)


@pytest.mark.parametrize("d", [6, 20_000])
def test_the_origin_is_measured_when_it_is_asked_for(d):
    x = jnp.asarray(np.random.default_rng(15).normal(size=(5, d)), jnp.float32)
    with_origin, _ = stacked.measure(x)
    without, _ = stacked.measure(x, origin=False)
    assert with_origin.gram.shape == (7, 7)  # the centre is a point, too
    assert without.gram.shape == (6, 6)
    np.testing.assert_allclose(with_origin.distances, without.distances, rtol=1e-5)
    averages = jnp.asarray([[0.5, 0.5, 0.0, 0.0, 0.0], [0.0, 0.2, 0.2, 0.3, 0.3]])
    mixed = [geometry.mix(averages).distances for geometry in (with_origin, without)]
    np.testing.assert_allclose(*mixed, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e24])
@pytest.mark.parametrize("d", [2, 20_000])
def test_a_majority_of_equal_rows_does_not_shrink_the_others(d, scale):
    """Their size is 0, and the unit has to be taken from somebody else."""
    x = scale * np.random.default_rng(18).normal(size=(4, d))[[0, 0, 0, 1, 0, 1, 2, 0, 3]]
    x = x.astype(np.float32)
    expected = true_distances(x / np.float32(scale))
    for origin in (True, False):
        geometry, frame = stacked.measure(jnp.asarray(x), origin=origin)
        shares = np.asarray(geometry.distances, np.float64) * (float(geometry.unit) / scale) ** 2
        np.testing.assert_allclose(shares, expected, rtol=1e-4)
        np.testing.assert_array_equal(frame.reach, 1.0)
    away = np.where((np.arange(9) < 5)[:, None], 0.0, x).astype(np.float32)
    lengths, frame = stacked.measure_lengths(jnp.asarray(away), "origin")
    norms = np.sqrt(np.asarray(lengths.squares, np.float64)) * float(lengths.unit)
    np.testing.assert_allclose(norms, np.linalg.norm(away.astype(np.float64), axis=1), rtol=1e-5)
    np.testing.assert_allclose(frame.reach, 1.0, rtol=1e-6)
