"""Pre-aggregations that mix rows: nearest neighbours, buckets, guards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.testing import REFERENCES

KEY = jax.random.key(0)


def test_bucketing_is_a_partition_into_means():
    x = jnp.asarray(2.0 ** np.arange(7))[:, None]  # subset sums are unique
    rows = np.asarray(byzjax.aggregate(agg.bucketing(2), x, key=KEY))[:, 0]
    members = [[i for i in range(7) if round(total) >> i & 1] for total in rows * [2, 2, 2, 1]]
    assert sorted(i for bucket in members for i in bucket) == list(range(7))
    assert [len(m) for m in members] == [2, 2, 2, 1]
    other = byzjax.aggregate(agg.bucketing(2), x, key=jax.random.key(1))
    assert not np.array_equal(rows, np.asarray(other)[:, 0])


def test_rule_after_bucketing_sees_the_smaller_n():
    x = jnp.ones((8, 2))
    rule = byzjax.chain(agg.bucketing(2), agg.krum(f=2))
    with pytest.raises(ValueError, match="f = 2 of n = 4"):
        byzjax.aggregate(rule, x, key=KEY)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum", "geometric_median"])
@pytest.mark.parametrize("d", [5, 40_000])
def test_nnm_then_rule_agrees_with_float64(name, d):
    """Worker space and exact differences (small d), Gram matrix (large d), against mixing the stack for real."""
    n, f = 12, 3
    rng = np.random.default_rng(d)
    x = rng.normal(size=(n, d)).astype(np.float32) + 1
    x[-f:] = -4 * x[:-f].mean(0)
    factory = agg.REGISTRY[name]
    options = {"f": f} if name not in ("median", "geometric_median") else {}
    expected = REFERENCES[name](REFERENCES["nnm"](x.astype(np.float64), f), **options)
    result = byzjax.aggregate(byzjax.chain(agg.nnm(f), factory(**options)), x)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: agg.bucketing(0), "bucket_size = 0"),
        (lambda: byzjax.aggregate(agg.bucketing(9), jnp.ones((4, 1)), key=KEY), "bucket_size = 9"),
        (lambda: byzjax.aggregate(agg.bucketing(2), jnp.ones((4, 1))), "needs a PRNG key"),
        (lambda: agg.finite_guard(replace="median"), "replace = 'median'"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
