"""Single linkage and HDBSCAN, against definitions written another way, with and without ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist, squareform

from byzjax.aggregators._cluster_algorithms import hdbscan, majority_cluster, ultrametric
from byzjax.testing import clusters as ref

OPTIONS = [(5, 3, False), (5, 3, True), (2, 1, False), (3, 2, True), (4, 1, True)]
find = jax.jit(hdbscan, static_argnames="single")


def points(n, seed):
    """Up to three groups of points; rounded in every second seed, so that distances tie."""
    rng = np.random.default_rng([n, seed])
    groups = rng.integers(1, 4)
    x = rng.normal(size=(n, 3)) + rng.choice([2, 5, 10]) * rng.normal(size=(groups, 3))[rng.integers(0, groups, n)]
    return np.round(x / 3) if seed % 2 else x


def far(x):
    return squareform(pdist(x)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 13])
def test_the_ultrametric_is_that_of_single_linkage(n):
    for seed in range(4):
        d = far(points(n, seed))
        expected = squareform(cophenet(linkage(squareform(d), "single"))) if n > 1 else d
        np.testing.assert_allclose(ultrametric(jnp.asarray(d), jnp.ones(n, bool)), expected, rtol=1e-6)


def test_absent_workers_are_no_bridge():
    d = jnp.abs(jnp.arange(5.0)[:, None] - jnp.arange(5.0)[None, :])
    present = jnp.array([True, True, False, True, True])
    joined = np.asarray(ultrametric(d.at[2].set(0.0).at[:, 2].set(0.0), present))
    assert joined[0, 4] == 2
    assert np.isinf(joined[2]).all()
    assert majority_cluster(d, present).tolist() == [True, True, False, True, True]
    assert not majority_cluster(d, jnp.arange(5) < 2).any()


@pytest.mark.parametrize(("m", "k", "single"), OPTIONS)
def test_hdbscan_is_its_definition(m, k, single):
    several = 0
    for n in (4, 7, 12, 18):
        for seed in range(16):
            d = far(points(n, seed))
            expected = np.full(n, -1)
            for cluster in ref.hdbscan(d.astype(np.float64), m, k, single):
                expected[cluster] = min(cluster)
            got = find(jnp.asarray(d), jnp.ones(n, bool), min_cluster_size=m, min_samples=k, single=single)
            np.testing.assert_array_equal(got, expected, err_msg=f"{n} {seed}")
            several += len(set(expected.tolist()) - {-1}) > 1
    assert several > 5


@pytest.mark.parametrize(("m", "k", "single"), OPTIONS[:2])
def test_the_order_of_the_workers_decides_nothing(m, k, single):
    rng = np.random.default_rng(0)
    for seed in range(8):
        d, order = far(points(14, seed)), rng.permutation(14)
        one, other = (
            np.asarray(find(jnp.asarray(x), jnp.ones(14, bool), min_cluster_size=m, min_samples=k, single=single))
            for x in (d, d[np.ix_(order, order)])
        )
        np.testing.assert_array_equal(one[order] < 0, other < 0)
        np.testing.assert_array_equal(one[order][:, None] == one[order][None, :], other[:, None] == other[None, :])


def test_hdbscan_leaves_absent_workers_out():
    d = far(points(12, 2))
    kept = np.delete(np.arange(12), [3, 7])
    spoilt = d.copy()
    spoilt[[3, 7]] = spoilt[:, [3, 7]] = np.nan
    present = jnp.ones(12, bool).at[jnp.array([3, 7])].set(False)
    options = {"min_cluster_size": 3, "min_samples": 2, "single": True}
    got = np.asarray(find(jnp.asarray(spoilt), present, **options))
    alone = np.asarray(find(jnp.asarray(d[np.ix_(kept, kept)]), jnp.ones(10, bool), **options))
    assert (got[[3, 7]] == -1).all()
    np.testing.assert_array_equal(got[kept], np.where(alone < 0, -1, kept[alone]))
    assert (np.asarray(find(jnp.asarray(spoilt), jnp.zeros(12, bool), **options)) == -1).all()


def test_equal_workers_are_one_cluster_or_noise():
    for single in (True, False):
        label = find(jnp.zeros((6, 6)), jnp.ones(6, bool), min_cluster_size=2, min_samples=1, single=single)
        assert label.tolist() == [0 if single else -1] * 6


def test_sizes_may_be_any_numbers_and_distances_of_any_length():
    d = far(points(12, 2))
    expected = find(jnp.asarray(d), jnp.ones(12, bool), min_cluster_size=3, min_samples=2).tolist()
    assert max(expected) > 0
    for scale in (1e-36, 1e30, 3e38 / d.max()):
        scaled = jnp.asarray(d * np.float32(scale))
        assert find(scaled, jnp.ones(12, bool), min_cluster_size=3.0, min_samples=1.5).tolist() == expected
    for huge in (13, 10**10, 1e30):
        label = hdbscan(jnp.asarray(d), jnp.ones(12, bool), min_cluster_size=huge, min_samples=huge)
        assert set(label.tolist()) == {-1}
