"""Numeric cases from the docstrings and tests of other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.aggregators._mixing import bucket_matrix

KEY = jax.random.key(0)
THREE = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
BLADES = [[1.0, 2.0, 3.0], [-1.0, 4.0, -1.0], [2.0, 2.0, 3.0], [3.0, 1.0, 3.0]]

# (origin, rule, input, expected): every numeric case about a rule in the docstrings and tests of ByzFL 0.0.11, Blades'
# fedlib, ByzPy 0.1.4 and Flower. Where a peer's convention differs, the rule is called with it by name.
PEERS = [
    ("byzfl Median", agg.median(), THREE, [4, 5, 6]),
    ("byzfl TrMean", agg.trimmed_mean(1), THREE, [4, 5, 6]),
    ("byzfl GeometricMedian", agg.geometric_median(3, 0.1), THREE, [3.78788764, 4.78788764, 5.78788764]),
    ("byzfl Krum", agg.krum(1, neighbors="n-f-1"), THREE, [1, 2, 3]),
    ("byzfl MultiKrum", agg.multi_krum(1, neighbors="n-f-1"), THREE, [2.5, 3.5, 4.5]),
    ("byzfl NNM", agg.nnm(1), THREE, [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]),
    ("byzfl README", agg.trimmed_mean(1), [*THREE, [-4.0, -5.0, -6.0]], [2.5, 3.5, 4.5]),
    ("byzfl CenteredClipping", agg.centered_clipping(tau=100.0), THREE, [4, 5, 6]),
    ("byzfl MDA", agg.mda(1), THREE, [2.5, 3.5, 4.5]),
    ("byzfl MoNNA", agg.monna(1, reference=1), THREE, [2.5, 3.5, 4.5]),
    ("byzfl Meamed", agg.meamed(1), THREE, [2.5, 3.5, 4.5]),
    ("byzfl CAF", agg.caf(1), THREE, [4, 5, 6]),
    ("byzfl SMEA", agg.smea(1), THREE, [2.5, 3.5, 4.5]),
    (
        "byzfl Clipping",
        agg.clipping(2.0),
        THREE,
        [
            [0.53452248, 1.06904497, 1.60356745],
            [0.91168461, 1.13960576, 1.36752692],
            [1.00514142, 1.14873305, 1.29232469],
        ],
    ),
    ("byzfl ARC", agg.arc(1), THREE, [[1, 2, 3], [4, 5, 6], [4.41004009, 5.04004582, 5.67005155]]),
    (
        "byzfl pipeline",
        byzjax.chain(agg.clipping(2.0), agg.nnm(1), agg.trimmed_mean(1)),
        THREE,
        [0.95841302, 1.14416941, 1.3299258],
    ),
    ("byzpy MoNNA", agg.monna(1, reference=0), [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], [5, 0]),
    ("byzpy SMEA", agg.smea(1), [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [6.0, 6.0]], [1 / 3, 1 / 3]),
    ("byzpy CAF", agg.caf(1), [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0, 0]),
    ("blades Mean", agg.mean(), BLADES, [1.25, 2.25, 2.0]),
    ("blades Median", agg.median(), BLADES, [1.5, 2.0, 3.0]),
    ("blades Trimmedmean", agg.trimmed_mean(1), BLADES, [1.5, 2.0, 3.0]),
    ("blades DnC", agg.dnc(1, sub_dim=2), BLADES, [2, 5 / 3, 3]),
    (
        "byzpy MeanOfMedians",
        agg.meamed(2),
        [[-10.0, 0.0], [1.0, 100.0], [2.0, 2.0], [3.0, -100.0], [100.0, 1.0]],
        [2, 1],
    ),
    (
        "flower MultiKrum",  # its n − f − 2 = 0 neighbours are raised to 1
        agg.multi_krum(1, m=2, neighbors="n-f-1"),
        [[0.2] * 4, [0.5] * 4, [1.0] * 4],
        [0.35] * 4,
    ),
    ("byzpy Median", agg.median(), [[1.0, 5.0, 3.0], [2.0, 3.0, 40.0], [10.0, 20.0, 30.0]], [2, 5, 30]),
    (
        "flower Krum",
        agg.krum(1, neighbors="n-f-1"),
        [[0.2] * 4, [0.7] * 4, [1.0] * 4],
        [0.7] * 4,
    ),
    (
        "flower FedTrimmedAvg",
        agg.trimmed_mean(1),
        [[0.5, 0.5, 0.5, 0.5], [1.0, 0.2, 0.5, 1.0], [0.2, 0.5, 1.0, 0.2], [0.5, 1.0, 0.2, 0.5]],
        [0.5] * 4,
    ),
]


@pytest.mark.parametrize(("origin", "rule", "x", "expected"), PEERS, ids=[case[0] for case in PEERS])
def test_numeric_cases_of_peers(origin, rule, x, expected):
    np.testing.assert_allclose(
        byzjax.aggregate(rule, jnp.array(x), key=KEY), np.array(expected, np.float32), rtol=1e-6, atol=1e-6
    )


def test_multi_krum_case_of_byzpy():
    """Rows 1, 2 and 3 tie for the second place, so ByzPy's own test allows 0.05; here the lowest indices win."""
    x = jnp.array([[0.0, 0.0], [0.1, 0.0], [-0.1, 0.0], [0.0, 0.1], [100.0, 100.0]])
    result = byzjax.aggregate(agg.multi_krum(1, m=3), x)
    np.testing.assert_allclose(result, [0.0, 0.1 / 3], atol=0.05)
    np.testing.assert_allclose(result, x[:3].mean(0), atol=1e-7)


def test_bucketing_case_of_byzpy():
    matrix = bucket_matrix(jnp.array([2, 0, 4, 1, 3]), 2)
    np.testing.assert_allclose(matrix @ jnp.arange(1.0, 6.0)[:, None], [[2.0], [3.5], [4.0]])


def test_clipped_clustering_case_of_blades():
    """Given to four digits."""
    result = byzjax.aggregate(agg.clipped_clustering(), jnp.array(BLADES))
    np.testing.assert_allclose(result, [1.9596, 1.6532, 2.9596], atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_dnc_case_of_blades_whatever_is_drawn(seed):
    """All three pairs of coordinates give the same answer."""
    result = byzjax.aggregate(agg.dnc(1, sub_dim=2), jnp.array(BLADES), key=jax.random.key(seed))
    np.testing.assert_allclose(result, [2, 5 / 3, 3], rtol=1e-6)
