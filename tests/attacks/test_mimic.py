"""Mimic: whom it copies, when it turns, and what it remembers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import attacks
from tests.attacks.strike import BYZANTINE, THREE, N, strike


def test_reverse_mimic_waits_then_turns():
    sent = strike(attacks.mimic("reverse", warmup=3), THREE, rounds=5)
    np.testing.assert_array_equal(sent[2], 5.0)
    np.testing.assert_allclose(sent[3][0], -2 * THREE.mean(0))
    np.testing.assert_allclose(sent[4][1], -2 * THREE.mean(0))


def test_reverse_mimic_turns_the_gradients_of_the_text_or_the_momenta_of_the_code():
    """``strike`` hands in gradients ten times as long as the updates."""
    sent = strike(attacks.mimic("reverse", warmup=1, of="gradient"), THREE, rounds=2)
    np.testing.assert_array_equal(sent[0], 5.0)
    np.testing.assert_allclose(sent[1][0], -20 * THREE.mean(0))
    with pytest.raises(ValueError, match="of = 'gradient' needs grads"):
        attacks.mimic("reverse", of="gradient").update(
            THREE, attacks.mimic("reverse").init(THREE[0], 3), None, byzantine=BYZANTINE[2:]
        )


def test_mimic_remembers_16_bits_in_32():
    state = attacks.mimic("copy").init(jnp.zeros(2, jnp.bfloat16), N)
    assert state.mean.dtype == state.direction.dtype == jnp.float32


def test_mimic_defaults_of_the_paper_and_of_karimireddy():
    still_honest = strike(attacks.mimic("reverse"), THREE, rounds=51)
    np.testing.assert_array_equal(still_honest[49], 5.0)
    np.testing.assert_allclose(still_honest[50][0], -2 * THREE.mean(0))
    with pytest.raises(TypeError):
        attacks.mimic()  # no default variant, on purpose


@pytest.mark.parametrize("warmup", [1, 4])
def test_copying_mimic_against_numpy(warmup):
    """Karimireddy et al.'s power iteration, in float64 from the same first draw."""
    rng = np.random.default_rng(0)
    rounds, d = 7, 6
    honest = rng.normal(size=(rounds, 3, d)).astype(np.float32)
    key = jax.random.key(5)
    sent = strike(attacks.mimic("copy", warmup=warmup), honest, rounds, key)

    first = jax.random.split(jax.random.fold_in(key, 0), 1)[0]
    z = np.asarray(jax.random.normal(first, (d,)), np.float64)
    mu, target = np.zeros(d), None
    for t in range(rounds):
        v = honest[t].astype(np.float64)
        if t < warmup:
            mu = t / (t + 1) * mu + v.mean(0) / (t + 1)
            u = sum(((row - mu) @ z) * (row - mu) for row in v)
            u /= np.linalg.norm(u)
            z = u if t == 0 else t / (t + 1) * z + u / (t + 1)
            z /= np.linalg.norm(z)
            target = int(np.argmax(v @ z))
        np.testing.assert_allclose(sent[t], np.tile(honest[t, target], (2, 1)), rtol=1e-6)
