"""Lengths of rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import stacked
from byzjax.stacked import lengths

WIDE = (1 << 14) + 3  # sums over workers are matrix products from here on


@pytest.mark.parametrize("about", ["origin", "previous", 1])
def test_lengths_are_the_same_in_blocks(about, limit):
    x = jnp.asarray(np.random.default_rng(13).normal(size=(4, WIDE)), jnp.float32).at[3, 9].set(jnp.nan)
    reference = jnp.asarray(np.random.default_rng(14).normal(size=WIDE), jnp.float32)
    whole, _ = stacked.measure_lengths(x, about, reference)
    limit(lengths, "_WHOLE", 0)
    blocks, _ = stacked.measure_lengths(x, about, reference)
    np.testing.assert_allclose(whole.squares, blocks.squares, rtol=1e-5)
    assert whole.finite.tolist() == [True, True, True, False]
