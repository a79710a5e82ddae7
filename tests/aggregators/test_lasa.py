"""LASA, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg


@pytest.mark.parametrize("kept", ["dense", "sparse"])
def test_lasa_chooses_workers_layer_by_layer(kept):
    rng = np.random.default_rng(1)
    x = {"a": rng.normal(size=(9, 30)), "b": rng.normal(size=(9, 4, 5))}
    x["a"][0] *= 20.0  # ordinary in b
    x["b"][1] = np.abs(x["b"][1])  # ordinary in a
    got = byzjax.aggregate(agg.lasa(rows=kept), jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x))
    rows = np.concatenate([x["a"], x["b"].reshape(9, 20)], axis=1)
    norms = np.linalg.norm(rows, axis=1)
    least = np.sort(np.abs(rows), axis=1)[:, 15]  # 0.3 of 50 coordinates are dropped
    sparse = np.where(np.abs(rows) >= least[:, None], rows, 0.0)
    short = np.minimum(1.0, np.median(norms) / norms)[:, None]
    if kept == "sparse":
        sparse = rows = short * sparse
    else:
        rows = short * rows
    chosen = []
    for layer, name in ((slice(0, 30), "a"), (slice(30, 50), "b")):
        part = sparse[:, layer]
        measured = np.linalg.norm(part, axis=1), np.sign(part).sum(1) / (part != 0).sum(1)
        good = np.all(
            [np.abs(v - np.median(v)) < bound * v.std() for v, bound in zip(measured, (2, 1), strict=True)], 0
        )
        np.testing.assert_allclose(got[name].ravel(), rows[good, layer].mean(0), rtol=1e-4, atol=1e-6)
        chosen.append(good)
    assert not chosen[0][0]
    assert not chosen[1][1]
    np.testing.assert_allclose(byzjax.aggregate(agg.lasa(rows=kept), jnp.full((9, 3), 1e38)), 1e38, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.lasa(sparsity=1.0), "lasa: sparsity = 1.0"),
        (lambda: agg.lasa(rows="some"), "lasa: rows = 'some' must be 'dense' or 'sparse'"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
