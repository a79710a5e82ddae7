"""Silent data corruption: one bit, one NaN, one old gradient at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import attacks
from tests.attacks.strike import BYZANTINE, THREE, N, strike


def flipped(bit, dtype, seed=0):
    """What a stack of ones in two leaves becomes."""
    stack = {"a": jnp.ones((N, 2), dtype), "b": jnp.ones((N, 2, 3), dtype)}
    sent, _ = attacks.soft_error(bit).update(stack, (), None, byzantine=BYZANTINE, key=jax.random.key(seed))
    return np.concatenate([np.asarray(sent["a"]), np.asarray(sent["b"]).reshape(N, 6)], axis=1)


@pytest.mark.parametrize(
    ("bit", "dtype", "value"),
    [
        (31, "float32", -1.0),
        (30, "float32", np.inf),
        (23, "float32", 0.5),
        (0, "float32", 1 + 2.0**-23),
        (15, "bfloat16", -1.0),
        (6, "bfloat16", 1.5),
    ],
)
def test_one_coordinate_has_another_bit(bit, dtype, value):
    x = flipped(bit, dtype).astype(np.float32)
    assert (x[:3] == 1).all()
    assert ((x[3:] == 1).sum(1) == 7).all()
    assert ((x[3:] == value).sum(1) == 1).all()


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 16), ("float32", 32)])
def test_every_coordinate_and_every_bit_comes_up(dtype, bits):
    x = jnp.ones((2048, 8), dtype)
    sent, _ = attacks.soft_error().update(x, (), None, byzantine=jnp.ones(2048, bool), key=jax.random.key(0))
    whole = np.dtype(f"uint{bits}")
    flips = np.asarray(sent).view(whole) ^ np.asarray(x).view(whole)
    assert ((flips != 0).sum(1) == 1).all()
    assert set(np.argmax(flips != 0, axis=1).tolist()) == set(range(8))
    assert set(flips.max(1).tolist()) == {1 << j for j in range(bits)}


def test_a_bit_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="soft_error: bit = 16 of bfloat16 must be below 16"):
        flipped(16, "bfloat16")
    with pytest.raises(ValueError, match="bit = -1"):
        attacks.soft_error(-1)


def test_nan_and_zero():
    assert np.isnan(strike(attacks.nan(), THREE)[0]).all()
    assert (strike(attacks.zero(), THREE)[0] == 0).all()


def test_stale_sends_what_was_due_before():
    attack, stacks = attacks.stale(delay=2), [jnp.full((N, 1), float(t)) for t in range(5)]
    state, sent = attack.init(jnp.zeros(1), N), []
    for x in stacks:
        out, state = attack.update(x, state, None, byzantine=BYZANTINE)
        assert (out[:3] == x[:3]).all()
        sent.append(out[3:, 0].tolist())
    assert sent == [[0.0] * 2, [1.0] * 2, [0.0] * 2, [1.0] * 2, [2.0] * 2]
    with pytest.raises(ValueError, match="delay = 0"):
        attacks.stale(delay=0)


def test_stale_remembers_16_bits_exactly():
    attack, x = attacks.stale(), jnp.full((N, 1), 1.0078125, jnp.bfloat16)
    _, state = attack.update(x, attack.init(jnp.zeros(1, jnp.bfloat16), N), None, byzantine=BYZANTINE)
    assert (attack.update(x * 2, state, None, byzantine=BYZANTINE)[0][3:] == x[3:]).all()
