"""Compressors: how much is lost, by how much they are wrong on average, and as links of a loop of one's own."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byzjax.transforms import Compressor, natural_compression, per_worker, random_k, top_k

X = {"a": jnp.array([[0.3, -2.0, 0.0], [5.0, 1e-20, -0.7]]), "b": jnp.array([1e20, 3.0, -3.0, 0.1])}
KEYS = jax.random.split(jax.random.key(0), 20_000)


def many(compressor, x):
    return jax.jit(jax.vmap(lambda key: compressor.update(x, compressor.init(x), key=key)[0]))(KEYS)


@pytest.mark.parametrize(("make", "omega"), [(lambda: random_k(0.4), 1.5), (natural_compression, 1 / 8)])
def test_unbiased_compressors_are_right_on_average(make, omega):
    x = jnp.array([0.3, -2.0, 0.0, 5.0, -0.7])
    drawn = np.asarray(many(make(), x), np.float64)
    np.testing.assert_allclose(drawn.mean(0), x, atol=5 * drawn.std(0).max() / np.sqrt(len(KEYS)))
    lost = np.square(drawn - np.asarray(x)).sum(1).mean()
    assert lost <= 1.02 * omega * np.square(x).sum()


def test_top_k_keeps_the_largest_of_every_leaf():
    kept = top_k(0.4).update(X, optax.EmptyState())[0]
    np.testing.assert_array_equal(kept["a"], X["a"] * jnp.array([[0, 1, 0], [1, 0, 1.0]]))
    np.testing.assert_array_equal(kept["b"], jnp.array([1e20, 3.0, 0, 0]))  # ties to the lowest index


def test_unscaled_random_k_keeps_what_it_keeps():
    drawn = np.asarray(many(random_k(0.5, scaled=False), X["b"][1:]))
    kept = drawn != 0
    assert (kept.sum(1) == 2).all()
    np.testing.assert_allclose(kept.mean(0), 2 / 3, atol=0.02)
    np.testing.assert_array_equal(drawn, np.where(kept, X["b"][1:], 0))


def test_natural_compression_gives_powers_of_two_around():
    given = natural_compression().update(X, natural_compression().init(X), key=KEYS[0])[0]
    for x, q in zip(jax.tree.leaves(X), jax.tree.leaves(given), strict=True):
        exponents = np.log2(np.abs(q, where=np.asarray(q) != 0, out=np.ones_like(q)))
        np.testing.assert_array_equal(exponents, np.round(exponents))
        assert (np.sign(q) == np.sign(x)).all()
        assert (np.abs(q) <= 2 * np.abs(x)).all()
        assert (np.abs(q) >= np.abs(x) / 2).all()


def test_as_a_link_every_worker_draws_for_itself_and_anew():
    tx = optax.chain(per_worker(random_k(0.5, key=jax.random.key(1)), 3), optax.scale(0.5))
    state, seen = tx.init(jnp.zeros(64)), []
    for _ in range(2):
        rows, state = jax.jit(tx.update)(jnp.ones((3, 64)), state, jnp.zeros(64))
        seen += list(np.asarray(rows) > 0)
    assert all(row.sum() == 32 for row in seen)
    assert len({row.tobytes() for row in seen}) == 6


def test_they_are_values_and_name_bad_input():
    assert random_k(0.1) == random_k(0.1) != random_k(0.2)
    assert repr(top_k(0.5)) == "top_k(fraction=0.5)"
    assert isinstance(top_k(0.5), Compressor)
    for fraction in (0, -1, 2.0, np.nan, "half"):
        with pytest.raises(ValueError, match="top_k: fraction = "):
            top_k(fraction)
    with pytest.raises(ValueError, match="random_k: needs a PRNG key"):
        random_k(0.5).update(jnp.ones(3), random_k(0.5).init(jnp.ones(3)))


@pytest.mark.parametrize(
    ("compressor", "unbiased", "contractive"),
    [
        (top_k(0.1), False, True),
        (top_k(1.0), True, True),
        (random_k(0.1), True, False),
        (random_k(0.6), True, True),
        (random_k(0.1, scaled=False), False, True),
        (random_k(1.0, scaled=False), True, True),
        (natural_compression(), True, True),
        (Compressor(top_k(0.1).init, top_k(0.1).update), None, None),
    ],
)
def test_they_say_what_they_are(compressor, unbiased, contractive):
    assert (compressor.unbiased, compressor.contractive) == (unbiased, contractive)
    again = copy.copy(compressor)
    assert (again.unbiased, again.contractive) == (unbiased, contractive)
