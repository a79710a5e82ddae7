"""A short version of `benchmarks/fuzz.py`: every rule beside float64, at its defaults and at its peers' conventions."""

import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.testing import fuzz, rule_cases, ties
from byzjax.testing import references as ref
from byzjax.testing.conventions import CONVENTIONS, Convention
from byzjax.testing.stacks import HONEST, HOSTILE, stacks

SHAPES = ((11, 4, 2),)
QUESTIONS = [(name, convention) for name, all_ in CONVENTIONS.items() for convention in all_]


@pytest.mark.parametrize(("name", "convention"), QUESTIONS, ids=[c.named(name) for name, c in QUESTIONS])
def test_agrees_with_float64_wherever_rows_lie(name, convention):
    found = fuzz.check(name, convention, seed=3, count=50, shapes=SHAPES)
    wrong = [(case.families, case.error, case.sent.tolist()) for case in found if case.wrong]
    assert len(found) == 50
    assert not wrong, f"{len(wrong)} of 50, one of them {wrong[0]}"
    assert sum(bool(case.excuse) for case in found) <= 15, "so many ties test nothing"


def test_every_rule_has_its_defaults_among_the_conventions():
    silent = {case.name for case in rule_cases()} - {"rfa"} - set(CONVENTIONS)
    # They draw: their own tests read off what.
    silent -= {case.name for case in rule_cases() if case.traits.stochastic and case.name not in ref.REFERENCES}
    assert not silent, f"{', '.join(sorted(silent))}: no float64 reference in byzjax/testing/references.py"
    assert all(conventions[0].who.startswith("default") for conventions in CONVENTIONS.values())


ZEROS = np.random.default_rng(1).normal(1, 0.2, (20, 10)).astype(np.float32)
ZEROS[17:] = 0
NEAR = [[-3.5374, 3.1689]] * 2 + [[-5.945, -7.3728], [-3.5374, 3.1689], [3.5597, -6.0737], [3.5597, -6.0737]]
SMALL = [[-0.94, -4.91, 3.69], [-2.24, 7.58, -2.94], [-2.57, -8.03, -4.60], [-0.95, -4.90, 3.70], [-2.24, 7.58, -2.95]]
BYZPY = {"num_iters": 256, "smoothing": 1e-12, "init": "median", "tolerance": 1e-6}


@pytest.mark.parametrize(
    ("options", "x", "right"),
    [
        ({"num_iters": 64, "smoothing": 1e-6}, ZEROS, None),
        ({}, 3e3 * ZEROS, None),
        ({"num_iters": 100, "smoothing": 1e-6, "init": "mean"}, NEAR, [-3.53723, 3.16845]),
        ({"num_iters": 1, "smoothing": 1e-6, "init": "mean"}, [[4.0], [-3.0], [1.0], [2.0]], [1.0]),
        ({}, [[164.075], [0.0], [164.075]], [22.145]),
        (BYZPY, 1e-7 * np.array(SMALL), [-1.846e-7, -3.382e-7, -0.911e-7]),
    ],
    ids=["zeros", "zeros at the default", "near", "a row at the mean", "three rows", "one step"],
)
def test_the_geometric_median_where_it_was_wrong(options, x, right):
    x = np.asarray(x, np.float32)
    expected = ref.geometric_median(x.astype(np.float64), **options)
    if right is not None:
        np.testing.assert_allclose(expected, right, rtol=1e-3)
    scale = np.median(np.linalg.norm(x, axis=1))
    np.testing.assert_allclose(
        byzjax.aggregate(agg.geometric_median(**options), x), expected, rtol=0, atol=1e-4 * scale
    )


@pytest.mark.parametrize("start", ["zero", "previous"])
def test_zeros_do_not_hold_centred_clipping_that_has_hardly_moved(start):
    """Steps of a ten-billionth of the rows' length, where distances come from inner products."""
    x = 5e9 * np.random.default_rng(0).normal(1.0, 1.0, (19, 400)).astype(np.float32)
    x[:4] = 0
    options = {"tau": 1.0, "num_iters": 10}
    right = ref.centered_clipping(x.astype(np.float64), **options, start="zero")
    got = byzjax.aggregate(agg.centered_clipping(**options, start=start), x)
    np.testing.assert_allclose(got, right, rtol=0, atol=1e-4 * float(np.linalg.norm(right)))


def test_auto_gm_with_a_strength_far_below_the_distances():
    x = 1e9 * np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    right = ref.auto_gm(x.astype(np.float64), regularization=5.0)
    np.testing.assert_allclose(byzjax.aggregate(agg.auto_gm(5.0), x), right, rtol=1e-5)


@pytest.mark.parametrize("seed", [7, 35])
def test_lasa_takes_rows_shortened_to_one_length_for_equally_long(seed):
    long, short = sorted(np.random.default_rng(seed).normal(size=(2, 2)) + 3, key=np.linalg.norm, reverse=True)
    x = np.array([long, short, long, short, short], np.float32)
    right = 0.4 * long * np.linalg.norm(short) / np.linalg.norm(long) + 0.6 * short
    np.testing.assert_allclose(byzjax.aggregate(agg.lasa(rows="sparse"), x), right, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        # Two workers' shares of signs are equally far from the first one's.
        ("signguard", [[0.757, -0.335, 0.149], [0.487, 0.15, 0.149], [0.757, -0.335, 0.149], [0.684, -0.356, -0.622]]),
        # Parallel rows of length one, but for rounding.
        ("flame", [[1.5293488502502441], [1.5293488502502441], [0.00036312881275080144]]),
        # Two balances of signs are exactly one deviation from the median.
        ("lasa", [[-1.0, -1.4, -1.9], [-1.1, -1.0, -1.5], [-1.4, 1.4, 1.2], [-1.7, 1.9, 1.5]]),
    ],
)
def test_what_is_equal_is_no_matter_of_rounding(name, x):
    x = np.asarray(x, np.float32)
    right = fuzz.REFERENCES[name](x.astype(np.float64))
    np.testing.assert_allclose(byzjax.aggregate(agg.REGISTRY[name](), x), right, rtol=1e-4, atol=1e-4)


def test_caf_silences_near_copies_together():
    """A copy that is a rounding nearer would keep a ten-millionth of its weight, and the largest τ."""
    x = 1e-2 * np.random.default_rng(0).normal(size=(12, 20, 3))
    x[:, :3] = 1.5 * np.array([[1.0, 2.0, 3.0]]) * (1 + 1e-7 * np.arange(3))[:, None]
    for stack in x.astype(np.float32):
        right = ref.caf(stack.astype(np.float64), 4)
        np.testing.assert_allclose(byzjax.aggregate(agg.caf(4), stack), right, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [agg.caf(1), agg.simple_clustering(1.0), agg.finite_guard()],
    ids=["caf", "simple_clustering", "finite_guard"],
)
def test_the_mean_of_no_rows_is_not_zero(rule):
    """XLA's compiler makes 0 of a quotient of two counts that are 0."""
    assert np.isnan(byzjax.aggregate(rule, np.full((5, 2), np.nan, np.float32))).all()


def test_conventions_have_names_of_their_own():
    assert len({convention.named(name) for name, convention in QUESTIONS}) == len(QUESTIONS)


def test_a_wrong_rule_is_found_out(monkeypatch):
    """Without a tie, a choice of other rows is wrong; with one, it is counted."""
    monkeypatch.setitem(fuzz.REFERENCES, "krum", lambda x, f: ref.krum(x, f, neighbors="n-f-1"))
    found = fuzz.check("krum", Convention("default", {}), seed=0, count=100, shapes=SHAPES)
    assert sum(case.error > fuzz.ALLOWED for case in found) > 10
    monkeypatch.setitem(fuzz.REFERENCES, "median", lambda x: ref.trimmed_mean(x, 1))
    found = fuzz.check("median", Convention("default", {}), seed=0, count=100, shapes=SHAPES)
    assert sum(case.wrong for case in found) > 50


def test_tied_choices_are_right_and_others_are_not():
    x = np.array([[0.0], [1.0], [2.0], [3.0], [9.0]])
    weights = np.eye(5)
    for k, right in enumerate([False, True, True, False, False]):
        assert ties.chosen_among_equals("krum", x, {"f": 1}, x[k], weights[k]) is right
    assert not ties.chosen_among_equals("krum", x, {"f": 1}, x[0], weights[1])
    assert ties.chosen_among_equals("meamed", np.array([[0.0], [1.0], [2.0]]), {"f": 1}, np.array([1.5]), None)
    assert not ties.chosen_among_equals("meamed", np.array([[0.0], [1.0], [2.1]]), {"f": 1}, np.array([1.55]), None)
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    for without in range(4):
        kept = np.arange(4) != without
        assert ties.chosen_among_equals("mda", square, {"f": 1}, square[kept].mean(0), kept / 3)
    assert ties.chosen_among_equals("median", x, {}, x[0], None) is None


def test_stacks_are_what_they_are_called():
    drawn = stacks(np.random.default_rng(0), 11, 4, 3, 400)
    assert drawn.rows.dtype == np.float32
    assert np.isfinite(drawn.rows).all()
    assert drawn.hostile.sum(1).max() == 3
    assert {honest for honest, _ in drawn.families} == set(HONEST)
    assert {hostile for _, hostile in drawn.families} == set(HOSTILE)
    for rows, hostile, (_, family) in zip(*drawn, strict=True):
        if family == "zero":
            assert not rows[hostile].any()
        if family == "copy":
            assert (rows[hostile][:1] == rows[~hostile]).all(1).any()
    sizes = np.log10(np.median(np.linalg.norm(drawn.rows, axis=2), axis=1))
    assert sizes.min() < -8
    assert sizes.max() > 8


def test_a_rule_with_a_memory_is_asked_again():
    found = fuzz.check("centered_clipping", Convention("default", {}), seed=0, count=150, shapes=SHAPES)
    assert {len(case.sent) for case in found} == {1, 2, 3}
    later = [case for case in found if case.families[1].endswith("later")]
    assert any((case.sent[-1] == before.answer).all(1).any() for case, before in zip(found[1:], found, strict=False))
    assert later
    assert jnp.isfinite(found[-1].error)
