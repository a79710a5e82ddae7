"""What single rules promise beyond the contracts, and numeric cases from other libraries' tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.aggregators.mixing import bucket_matrix
from byzjax.testing import REFERENCES
from byzjax.theory import kappa, kappa_after_nnm

KEY = jax.random.key(0)
THREE = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
BLADES = [[1.0, 2.0, 3.0], [-1.0, 4.0, -1.0], [2.0, 2.0, 3.0], [3.0, 1.0, 3.0]]

# (origin, rule, input, expected): docstrings and tests of ByzFL 0.0.11, Blades' fedlib, ByzPy 0.1.4 and Flower.
PEERS = [
    ("byzfl Median", agg.median(), THREE, [4, 5, 6]),
    ("byzfl TrMean", agg.trimmed_mean(1), THREE, [4, 5, 6]),
    ("byzfl GeometricMedian", agg.geometric_median(3, 0.1), THREE, [3.78788764, 4.78788764, 5.78788764]),
    ("byzfl Krum", agg.krum(1, neighbors="n-f-1"), THREE, [1, 2, 3]),
    ("byzfl MultiKrum", agg.multi_krum(1, neighbors="n-f-1"), THREE, [2.5, 3.5, 4.5]),
    ("byzfl NNM", agg.nnm(1), THREE, [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]),
    ("byzfl README", agg.trimmed_mean(1), [*THREE, [-4.0, -5.0, -6.0]], [2.5, 3.5, 4.5]),
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
        byzjax.aggregate(rule, jnp.array(x)), np.array(expected, np.float32), rtol=1e-6, atol=1e-6
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


def test_without_f_the_rules_are_the_mean():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 4)), jnp.float32)
    for rule in (agg.trimmed_mean(0), agg.multi_krum(0)):
        np.testing.assert_allclose(byzjax.aggregate(rule, x), x.mean(0), rtol=1e-6, atol=1e-6)
    mixed = byzjax.aggregate(agg.nnm(0), x)
    np.testing.assert_allclose(mixed, np.tile(x.mean(0), (7, 1)), rtol=1e-6, atol=1e-6)


def test_ties_go_to_the_lowest_index():
    x = jnp.array([[5.0], [0.0], [0.0], [5.0], [5.0], [0.0]])
    assert byzjax.aggregate(agg.krum(1), x)[0] == 5.0
    assert byzjax.aggregate(agg.krum(1), x[1:])[0] == 0.0


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


def test_chain_of_two_mixings_is_their_product():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(10, 3)), jnp.float32)
    pre = byzjax.chain(agg.nnm(2), agg.bucketing(2))
    key = jax.random.key(3)
    step = byzjax.aggregate(agg.nnm(2), x)
    step = byzjax.aggregate(agg.bucketing(2), step, key=jax.random.fold_in(key, 1))
    np.testing.assert_allclose(byzjax.aggregate(pre, x, key=key), step, rtol=1e-5, atol=1e-6)
    fused = byzjax.aggregate(byzjax.chain(agg.nnm(2), agg.bucketing(2), agg.krum(1)), x, key=key)
    np.testing.assert_allclose(fused, byzjax.aggregate(agg.krum(1), step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["geometric_median", "median"])
@pytest.mark.parametrize("mixed", [False, True])
def test_definition_1_holds_with_the_kappa_of_the_paper(rule, mixed):
    n, f, d = 10, 3, 4
    factory = agg.median() if rule == "median" else agg.geometric_median(300, 1e-5, init="mean")
    chain = jax.jit(lambda x: byzjax.aggregate(byzjax.chain(agg.nnm(f), factory) if mixed else factory, x))
    rng = np.random.default_rng(0)
    tight = []
    for trial in range(200):
        honest = rng.normal(size=(n - f, d)) * 10.0 ** rng.uniform(-1, 1, size=d)
        direction = rng.normal(size=d)
        hostile = [
            np.tile(direction * 10.0 ** rng.uniform(-2, 6), (f, 1)),
            np.tile(honest[0], (f, 1)),
            honest.mean(0) + rng.normal(size=(f, d)) * 10.0 ** rng.uniform(-2, 3),
            -10 * np.tile(honest.mean(0), (f, 1)),
        ][trial % 4]
        x = np.concatenate([honest, hostile]).astype(np.float32)
        centre = honest.mean(0)
        deviations = np.linalg.norm(honest - centre, axis=1)
        bound = kappa(rule, num_workers=n, f=f, dim=d)
        if mixed:
            leverage = deviations.max() / deviations.mean()
            bound = kappa_after_nnm(bound, num_workers=n, f=f, leverage=leverage)
        ratio = np.linalg.norm(np.asarray(chain(x)) - centre) / deviations.mean()
        assert ratio <= bound * 1.001
        tight.append(ratio / bound)
    assert max(tight) > 0.02, "inputs too tame to test the bound"


def test_mean_is_not_robust():
    x = jnp.ones((5, 2)).at[0].set(jnp.nan)
    assert jnp.isnan(byzjax.aggregate(agg.mean(), x)).all()


def test_weiszfeld_from_the_mean_follows_a_far_row():
    """A finding, not a wish: why ``init="mean"`` is marked fragile, and why more steps do not cure it at once."""
    x = jnp.ones((9, 3)).at[0].set(1e20)
    assert byzjax.aggregate(agg.geometric_median(8, init="mean"), x)[0] > 1e3
    assert byzjax.aggregate(agg.geometric_median(8, init="zero"), x)[0] < 2


def test_too_many_lost_rows_give_nan_not_a_number():
    """A rule that has nothing to stand on must not look like a converged run."""
    x = jnp.full((5, 2), jnp.nan)
    for rule in (agg.krum(1), agg.geometric_median(), byzjax.chain(agg.nnm(1), agg.geometric_median())):
        assert not jnp.isfinite(byzjax.aggregate(rule, x)).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: byzjax.chain(), "at least one link"),
        (lambda: byzjax.chain(agg.median(), agg.nnm(1)), "only the last"),
        (lambda: byzjax.chain(agg.nnm), "call the factory"),
        (lambda: agg.median(even="upper"), "even = 'upper'"),
        (lambda: agg.krum(1, power=3), "power = 3"),
        (lambda: agg.krum(1, neighbors="all"), "neighbors = 'all'"),
        (lambda: agg.geometric_median(0), "num_iters = 0"),
        (lambda: agg.geometric_median(smoothing=0.0), "smoothing = 0.0"),
        (lambda: agg.geometric_median(init="median"), "init = 'median'"),
        (lambda: agg.bucketing(0), "bucket_size = 0"),
        (lambda: byzjax.aggregate(agg.bucketing(9), jnp.ones((4, 1)), key=KEY), "bucket_size = 9"),
        (lambda: byzjax.aggregate(agg.bucketing(2), jnp.ones((4, 1))), "needs a PRNG key"),
        (lambda: byzjax.aggregate(agg.krum(2), jnp.ones((4, 1))), "2f ≥ n"),
        (lambda: byzjax.aggregate(agg.krum(1), jnp.ones((3, 1))), "at least one neighbour"),
        (lambda: byzjax.aggregate(agg.multi_krum(1, m=9), jnp.ones((6, 1))), "m = 9"),
        (lambda: byzjax.aggregate(agg.median(), {"a": jnp.ones((4, 1)), "b": jnp.ones((3, 1))}), "disagree"),
        (lambda: byzjax.aggregate(agg.median(), jnp.ones(())), "leading worker axis"),
        (lambda: byzjax.aggregate(agg.median(), {}), "empty tree"),
        (lambda: byzjax.aggregate(agg.median(), jnp.ones((0, 3))), "length 0"),
        (lambda: byzjax.aggregate(agg.median, jnp.ones((4, 3))), "call its factory"),
        (lambda: kappa("krum", num_workers=5, f=1), "no linear coefficient"),
        (lambda: kappa("median", num_workers=4, f=2), "2f < n"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
