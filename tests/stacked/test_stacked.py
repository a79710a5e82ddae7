"""The attack on the arithmetic: distances, geometry and order statistics under hostile rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import stacked
from byzjax.stacked import lengths
from byzjax.stacked.order_statistics import MAX_NETWORK, partition_network, ranks, sort_workers, sorting_network


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


def test_masked_statistics_ignore_what_is_masked():
    x = np.random.default_rng(7).normal(size=(6, 5)).astype(np.float32)
    mask = np.array([True, True, False, True, True, False])
    x[~mask] = np.nan
    np.testing.assert_allclose(stacked.masked_mean(x, jnp.asarray(mask)), x[mask].mean(0), rtol=1e-6)
    mean, deviations = stacked.mean_and_deviations(x, jnp.asarray(mask))
    np.testing.assert_allclose(mean, x[mask].mean(0), rtol=1e-6)
    np.testing.assert_allclose(deviations[mask], np.linalg.norm(x[mask] - x[mask].mean(0), axis=1), rtol=1e-5)
    for ddof in (0, 1):
        np.testing.assert_allclose(stacked.masked_std(x, jnp.asarray(mask), ddof), x[mask].std(0, ddof=ddof), rtol=1e-5)


@pytest.mark.parametrize("n", [5, 100])
def test_row_mean_and_combination_for_few_and_many_workers(n):
    x = np.random.default_rng(8).normal(size=(n, 3)).astype(np.float32)
    np.testing.assert_allclose(stacked.row_mean(jnp.asarray(x)), x.mean(0), rtol=1e-5, atol=1e-6)
    _, frame = stacked.measure(jnp.asarray(x))
    weights = np.random.default_rng(9).random(n).astype(np.float32)
    np.testing.assert_allclose(stacked.combine(jnp.asarray(weights), x, frame), weights @ x, rtol=1e-4, atol=1e-5)


def test_large_and_small_leaves_are_measured_together():
    rng = np.random.default_rng(10)
    tree = {
        "large": rng.normal(size=(5, 300, 400)).astype(np.float32),
        "small": rng.normal(size=(5, 7)).astype(np.float32),
        "scalar": rng.normal(size=(5,)).astype(np.float32),
    }
    flat = np.concatenate([leaf.reshape(5, -1) for leaf in jax.tree.leaves(tree)], axis=1)
    np.testing.assert_allclose(stacked.distances(tree), true_distances(flat), rtol=1e-4)


WIDE = (1 << 14) + 3  # sums over workers are matrix products from here on


@pytest.mark.parametrize("vmapped", [False, True])
@pytest.mark.parametrize("hostile", [[], [np.nan], [1e36], [np.nan, 1e36]], ids=["none", "lost", "far", "both"])
def test_products_over_workers_skip_what_has_no_weight(hostile, vmapped):
    x = np.random.default_rng(11).normal(size=(7, WIDE)).astype(np.float32)
    for row, value in zip((2, 4), hostile, strict=False):
        x[row, 5:] = value
    _, frame = stacked.measure(jnp.asarray(x))
    reach, centre = np.asarray(frame.reach, np.float64)[:, None], np.asarray(frame.centre[0], np.float64)
    placed = np.where(np.isfinite(x), reach * np.where(np.isfinite(x), x, 0.0) + (1 - reach) * centre, 0.0)
    lost = ~np.isfinite(x).all(1)
    matrix = np.random.default_rng(12).random((3, 7)).astype(np.float32)
    matrix[:, lost] = 0.0
    one = np.eye(7, dtype=np.float32)[4]
    for function, weights in (
        (stacked.combine, matrix[0]),
        (lambda w, x, frame: stacked.combine(w, x, frame, picks=True), one),
        (stacked.mix, matrix),
        (lambda w, x, frame: stacked.mix(w, x, frame, stacked.row_mean), matrix),
    ):
        got = jax.jit(jax.vmap(function) if vmapped else function)(
            *jax.tree.map(lambda a: jnp.stack([a, a]) if vmapped else jnp.asarray(a), (weights, x, frame))
        )
        expected = weights @ placed
        expected = expected if np.ndim(got[0] if vmapped else got) == expected.ndim else expected.mean(0)
        np.testing.assert_allclose(got[1] if vmapped else got, expected, rtol=1e-4, atol=1e-4)
    onto_lost = np.asarray(stacked.combine(jnp.full(7, 1 / 7), jnp.asarray(x), frame))
    assert np.isfinite(onto_lost).all() == (not lost.any())


def test_wide_means_have_gradients():
    x = jnp.ones((3, WIDE))
    np.testing.assert_allclose(jax.grad(lambda x: stacked.row_mean(x).sum())(x), jnp.full_like(x, 1 / 3), rtol=1e-6)
    one = jax.vmap(jax.grad(lambda x: stacked.row_mean(x)[7]))(x[None])
    assert one.sum() == pytest.approx(1.0)


def test_what_is_summed_as_a_product_is_differentiated_row_by_row():
    x = jnp.asarray(np.random.default_rng(16).normal(size=(6, WIDE)), jnp.float32).at[5].set(jnp.nan)
    mask = jnp.arange(6) < 3
    slope = jax.grad(lambda x: stacked.masked_mean(x, mask).sum())(x)
    np.testing.assert_allclose(slope, jnp.broadcast_to(jnp.where(mask, 1 / 3, 0.0)[:, None], x.shape), rtol=1e-6)
    frame = stacked.Frame([jnp.zeros(WIDE)], jnp.ones(6), jnp.ones(6).at[5].set(jnp.inf))
    matrix = jnp.eye(6).at[5].set(jnp.full(6, 0.2).at[5].set(0.0))
    slope = jax.grad(lambda x: stacked.mix(matrix, x, frame).sum())(x)
    np.testing.assert_allclose(slope[:, 0], matrix.sum(0), rtol=1e-6)
    for rule in (agg.krum(1), agg.geometric_median(), byzjax.chain(agg.nnm(1), agg.median()), agg.cge(1)):
        by_scale = jax.jacfwd(lambda s, rule=rule: byzjax.aggregate(rule, x[:5] * s[:, None])[7])(jnp.ones(5))
        weights = byzjax.aggregate(rule, x[:5])
        assert np.isfinite(by_scale).all()
        np.testing.assert_allclose(by_scale.sum(), weights[7], rtol=1e-2)  # of degree one in all rows together


def test_large_stacks_are_measured_with_wide_integers_too():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(17).normal(size=(6, 20_000)))
        x = x.at[4].set(x[3])
        np.testing.assert_allclose(stacked.distances(x), true_distances(np.asarray(x)), rtol=1e-9)


@pytest.mark.parametrize("about", ["origin", "previous", 1])
def test_lengths_are_the_same_in_blocks(about, monkeypatch):
    x = jnp.asarray(np.random.default_rng(13).normal(size=(4, WIDE)), jnp.float32).at[3, 9].set(jnp.nan)
    reference = jnp.asarray(np.random.default_rng(14).normal(size=WIDE), jnp.float32)
    whole, _ = stacked.measure_lengths(x, about, reference)
    monkeypatch.setattr(lengths, "_WHOLE", 0)
    blocks, _ = stacked.measure_lengths(x, about, reference)
    np.testing.assert_allclose(whole.squares, blocks.squares, rtol=1e-5)
    assert whole.finite.tolist() == [True, True, True, False]


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
