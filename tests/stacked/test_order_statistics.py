"""Sorting networks and ranks."""

import jax.numpy as jnp
import numpy as np
import pytest

from byzjax.stacked.order_statistics import MAX_NETWORK, partition_network, ranks, sort_workers, sorting_network


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 20, 31, MAX_NETWORK, MAX_NETWORK + 1])
def test_network_sorts_with_nan_last(n):
    rng = np.random.default_rng(n)
    x = rng.integers(-3, 4, size=(n, 200)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.05] = -np.inf
    expected = np.sort(x, axis=0)
    expected[np.isnan(expected)] = np.inf
    np.testing.assert_array_equal(np.stack(sort_workers(jnp.asarray(x))), expected)


def test_network_sorts_every_zero_one_input():
    """The 0–1 principle: a network that sorts all 0–1 inputs sorts everything."""
    for n in range(1, 11):
        x = ((np.arange(2**n)[None, :] >> np.arange(n)[:, None]) & 1).astype(np.float32)
        rows = list(x)
        for low, high in sorting_network(n):
            rows[low], rows[high] = np.minimum(rows[low], rows[high]), np.maximum(rows[low], rows[high])
        np.testing.assert_array_equal(np.stack(rows), np.sort(x, axis=0))


def test_partition_network_keeps_ranks_between_their_cuts():
    """All 0–1 inputs: every number of zeros is sorted as far as the cuts ask. And something is left out."""
    for n in range(2, 10):
        x = ((np.arange(2**n)[None, :] >> np.arange(n)[:, None]) & 1).astype(np.float32)
        for low in range(n):
            for high in range(low, n + 1):
                rows = list(x)
                for a, b in partition_network(n, (low, high)):
                    rows[a], rows[b] = np.minimum(rows[a], rows[b]), np.maximum(rows[a], rows[b])
                for part in np.split(np.arange(n), [low, high]):
                    found, expected = np.stack(rows)[part].sum(0), np.sort(x, axis=0)[part].sum(0)
                    np.testing.assert_array_equal(found, expected)
    assert len(partition_network(20, (3, 17))) < 0.85 * len(sorting_network(20))


@pytest.mark.parametrize("n", [1, 6, MAX_NETWORK + 5])
def test_ranks_break_ties_by_index(n):
    values = np.random.default_rng(n).integers(0, 4, size=(3, n)).astype(np.float32)
    expected = np.argsort(np.argsort(values, axis=-1, kind="stable"), axis=-1, kind="stable")
    np.testing.assert_array_equal(ranks(jnp.asarray(values)), expected)
