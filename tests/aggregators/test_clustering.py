"""SignGuard, FLAME, simple and clipped clustering: who is in the cluster that counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.testing import REFERENCES

KEY = jax.random.key(0)


def test_signguard_filters_by_length_and_by_signs():
    rng = np.random.default_rng(6)
    x = np.abs(rng.normal(size=(10, 40))) * np.where(rng.uniform(size=(10, 40)) < 0.8, 1, -1)
    x[7] *= -1  # its signs are unlike the others', its length is not
    x[8] *= 100.0  # the other way round
    x[9] = np.nan
    weights = byzjax.aggregate(agg.signguard(), jnp.asarray(x, jnp.float32), return_weights=True)[1]
    assert (np.asarray(weights) > 0).tolist() == [True] * 7 + [False] * 3
    wider = byzjax.aggregate(agg.signguard(upper=1e6), jnp.asarray(x, jnp.float32), return_weights=True)[1]
    assert 0 < wider[8] < 0.01, "it is long, so it is shortened"
    assert np.isfinite(byzjax.aggregate(agg.signguard(), jnp.zeros((4, 3)))).all()


def test_signguard_leaves_the_cluster_out_of_account_rather_than_everybody():
    x = jnp.asarray([[-1.0, -1.0], [-1.0, -1.0], [1e-3, 1e-3], [50.0, 50.0], [60.0, 60.0]])
    weights = byzjax.aggregate(agg.signguard(), x, return_weights=True)[1]
    assert (np.asarray(weights) > 0).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_simple_clustering_is_dbscan(scale):
    rng = np.random.default_rng(8)
    several = 0
    swept = jax.jit(
        lambda x, eps, m: byzjax.aggregate(agg.simple_clustering(eps, min_samples=m), x, return_weights=True)
    )
    for _ in range(60):
        x = rng.normal(size=(14, 2)) + rng.integers(0, 3, (14, 1)) * rng.uniform(0, 4)
        eps, m = rng.uniform(0.1, 1.5), rng.integers(1, 6)
        got, weights = swept(jnp.asarray(x * scale, jnp.float32), jnp.float32(eps * scale), jnp.int32(m))
        np.testing.assert_allclose(got / scale, REFERENCES["simple_clustering"](x, eps, m), atol=1e-4)
        several += (np.asarray(weights) == 0).any()
    assert several > 20


def test_simple_clustering_takes_the_first_of_equal_clusters_and_all_if_there_is_none():
    x = jnp.array([[9.0], [0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [jnp.nan]])
    assert byzjax.aggregate(agg.simple_clustering(0.2), x)[0] == pytest.approx(0.1)
    assert byzjax.aggregate(agg.simple_clustering(0.2, min_samples=4), x)[0] == pytest.approx(24.6 / 7)
    # Far rows are drawn back for the arithmetic, which must not bring them together.
    far = jnp.array([[0.0], [0.01], [2.0], [2.01], [4.0], [1e15], [2e15], [3e15]])
    assert byzjax.aggregate(agg.simple_clustering(0.05, min_samples=2), far)[0] == pytest.approx(0.005)
    assert byzjax.aggregate(agg.simple_clustering(1e20), jnp.array([[0.0], [1.0], [2.0], [1e25]]))[0] == 1.0
    # Workers within reach of each other, but not of a core, are in no cluster.
    near = jnp.array([[0.0], [1.0], [2.0], [3.0], [7.0], [8.0]])
    weights = byzjax.aggregate(agg.simple_clustering(1.0), near, return_weights=True)[1]
    assert weights.tolist() == [0.25] * 4 + [0.0] * 2


def test_flame_takes_the_tightest_majority():
    angles = np.radians([0, 4, 8, 40, 41, 42, 43, 90, 180])  # of nine, five are needed: four lie closer together
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([1, 1, 1, 1, 50, 1, 1, 1, 1])[:, None]
    weights = np.asarray(byzjax.aggregate(agg.flame(), jnp.asarray(x, jnp.float32), return_weights=True)[1])
    assert (weights > 0).tolist() == [True] * 7 + [False] * 2
    np.testing.assert_allclose(weights[4], weights[3] / 50, rtol=1e-5)
    lost = jnp.asarray(x, jnp.float32).at[:5].set(jnp.nan)
    assert not np.isfinite(byzjax.aggregate(agg.flame(), lost)).any(), "no majority is left"


def test_flame_tells_nearly_equal_directions_apart():
    """In float32 the cosines of all of these are 1."""
    rng = np.random.default_rng(0)
    x = 1 + 3e-5 * rng.normal(size=(17, 200))
    x[12:] = 1 + 1e-4 * np.sign(rng.normal(size=200))
    weights = np.asarray(byzjax.aggregate(agg.flame(), jnp.asarray(x, jnp.float32), return_weights=True)[1])
    with jax.enable_x64(True):
        exact = np.asarray(byzjax.aggregate(agg.flame(), jnp.asarray(x, jnp.float64), return_weights=True)[1])
    assert (exact > 0).sum() == 9
    assert not exact[12:].any()
    np.testing.assert_array_equal(weights > 0, exact > 0)


def test_flame_adds_noise_in_proportion_to_the_median_norm():
    x = jnp.full((5, 10), 3e38)  # the norm itself is no float32
    noisy = byzjax.aggregate(agg.flame(noise_factor=1e-3), x, key=KEY)
    assert 1e35 < jnp.abs(noisy - 3e38).max() < 1e37
    exactly = jax.jit(lambda factor: byzjax.aggregate(agg.flame(noise_factor=factor), x, key=KEY))(0.0)
    np.testing.assert_allclose(exactly, 3e38, rtol=1e-6)
    x = jnp.full((5, 10_000), 3.0)
    noise = byzjax.aggregate(agg.flame(noise_factor=1e-3), x, key=KEY) - 3.0
    np.testing.assert_allclose(noise.std(), 1e-3 * 300.0, rtol=0.05)


def test_clustering_without_clipping_keeps_lengths():
    x = jnp.asarray([[1.0, 0.1], [9.0, 0.0], [100.0, 1.0], [-5.0, 0.0]])
    got = byzjax.aggregate(agg.clipped_clustering(None, linkage="complete"), x)
    np.testing.assert_allclose(got, x[:3].mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.clipped_clustering(linkage="ward"), "linkage = 'ward'"),
        (lambda: agg.signguard(lower=2.0), "signguard: lower = 2"),
        (lambda: agg.signguard(upper=0.5), "signguard: upper = 0.5"),
        (lambda: agg.flame(noise_factor=-1.0), "flame: noise_factor = -1.0"),
        (lambda: byzjax.aggregate(agg.flame(noise_factor=1e-3), jnp.ones((4, 1))), "flame: needs a PRNG key"),
        (lambda: agg.simple_clustering(-1.0), "simple_clustering: eps = -1.0"),
        (lambda: agg.simple_clustering(1.0, min_samples=0), "simple_clustering: min_samples = 0"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
