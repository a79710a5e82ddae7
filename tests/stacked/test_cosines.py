"""Cosine distances of rows of any length."""

import jax.numpy as jnp
import numpy as np
import pytest

from byzjax.stacked import cosines


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_short_rows_keep_their_directions(scale):
    rng = np.random.default_rng(8)
    x = (rng.normal(size=(6, 50)) + 2.0) * (10.0 ** np.array([0, -3, -5, 0, 0.5, 3]))[:, None] * scale
    x = x.astype(np.float32)
    found = cosines.cosine_distances(jnp.asarray(x))
    wide = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(found, 1.0 - wide @ wide.T, atol=2e-6)
