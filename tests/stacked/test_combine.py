"""Sums over workers: statistics, combinations and mixtures, with what has no weight left out, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import stacked


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
