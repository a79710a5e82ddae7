"""Who holds which examples."""

import numpy as np
import pytest

from byzjax import data
from byzjax.tasks._partitions import partition


def test_shards_of_byzantine_workers_take_classes_away():
    raw = data.load("mnist")
    table, sizes = partition(raw.train_labels, 20, 3, byzantine_data="shard")
    held = set(raw.train_labels[np.concatenate([table[i, : sizes[i]] for i in range(17)])])
    assert 9 not in held
    assert {0, 1, 2, 3, 4, 5, 6, 7} <= held


SCHEMES = {
    "label_sorted": {"scheme": "label_sorted"},
    "iid": {"scheme": "iid"},
    "gamma": {"scheme": "gamma_similarity", "gamma": 0.37},
    "dirichlet": {"scheme": "dirichlet", "alpha": 0.3},
}


def shards_of(labels, *args, **options):
    """The samples of every worker, without padding."""
    table, sizes = partition(labels, *args, **options)
    assert table.dtype == sizes.dtype == np.int32
    for row, size in zip(table, sizes, strict=True):
        assert set(row[size:]) <= set(row[:size])
    return [row[:size] for row, size in zip(table, sizes, strict=True)]


def class_counts(labels, shards):
    return np.stack([np.bincount(labels[shard], minlength=10) for shard in shards])


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist").train_labels


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [1, 3, 7])
def test_partitions_lose_nothing(scheme, n):
    labels = np.random.default_rng(0).integers(0, 5, 100)
    shards = shards_of(labels, n, **SCHEMES[scheme])
    np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(100))
    sizes = [len(shard) for shard in shards]
    assert scheme == "dirichlet" or max(sizes) - min(sizes) <= 1
    assert min(sizes) > 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_partitions_of_mnist(digits, scheme):
    shards = shards_of(digits, 20, 3, **SCHEMES[scheme])
    np.testing.assert_array_equal(np.sort(np.concatenate(shards[:17])), np.arange(60_000))
    again = shards_of(digits, 20, 3, **SCHEMES[scheme])
    assert all(np.array_equal(a, b) for a, b in zip(shards, again, strict=True))
    other = shards_of(digits, 20, 3, **SCHEMES[scheme], seed=1)
    assert not np.array_equal(shards[17], other[17])
    assert scheme == "label_sorted" or not np.array_equal(shards[0], other[0])
    for liar in shards[17:]:
        assert len(set(liar)) == len(liar) == 3530  # a seventeenth of the whole, rounded up
        np.testing.assert_allclose(np.bincount(digits[liar]) / 3530, np.bincount(digits) / 60_000, atol=0.02)


def test_gamma_similarity_ends_at_sorted_and_iid(digits):
    for gamma, scheme in [(0.0, "label_sorted"), (1.0, "iid")]:
        ours = shards_of(digits, 17, scheme="gamma_similarity", gamma=gamma)
        assert all(np.array_equal(a, b) for a, b in zip(ours, shards_of(digits, 17, scheme=scheme), strict=True))


def test_gamma_is_the_fraction_that_is_dealt_iid(digits):
    """Every class but the one or two of its sorted part is in a shard γ times as often as in the whole."""
    counts = class_counts(digits, shards_of(digits, 17, scheme="gamma_similarity", gamma=0.5))
    usual = 0.5 * np.bincount(digits) / 17
    for row in counts:
        common = np.sort(np.abs(row - usual) / usual)[:8]
        assert common.max() < 0.35, common  # about 176 draws each: a standard deviation of 7.5 %


def test_a_large_alpha_is_nearly_iid_and_a_small_one_is_not(digits):
    def spread(alpha):
        counts = class_counts(digits, shards_of(digits, 10, scheme="dirichlet", alpha=alpha))
        shares = counts / np.bincount(digits)
        return shares.std(0).mean() * 10  # relative to the mean share, 1/10

    assert spread(1e6) < 0.01
    # The relative deviation of a Dirichlet share is √((n − 1)/(nα + 1)).
    assert spread(10.0) == pytest.approx(np.sqrt(9 / 101), rel=0.15)
    assert spread(0.1) == pytest.approx(np.sqrt(9 / 2), rel=0.25)


def test_a_dirichlet_split_with_an_empty_shard_is_drawn_again_and_at_last_refused():
    labels = np.repeat(np.arange(4), 25)
    for seed in range(20):
        assert min(map(len, shards_of(labels, 6, scheme="dirichlet", alpha=0.1, seed=seed))) > 0
    with pytest.raises(ValueError, match=r"alpha = 0\.0001 gave each of 6 workers a sample .*larger alpha"):
        partition(labels, 6, scheme="dirichlet", alpha=1e-4)


def test_equal_shards_repeat_the_first_samples(digits):
    shards = shards_of(digits, 20, 3, equal_shards=True)
    assert [len(shard) for shard in shards] == [3530] * 20
    order = np.argsort(digits, kind="stable")
    np.testing.assert_array_equal(np.concatenate(shards[:17]), np.concatenate([order, order[:10]]))
    assert (digits[shards[16][-10:]] == 0).all()


def test_an_infinite_alpha_is_the_equal_split(digits):
    for alpha in (np.inf, float("inf"), np.float32(np.inf), 1e308):
        shards = shards_of(digits, 10, scheme="dirichlet", alpha=alpha)
        np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(60_000))
        counts = class_counts(digits, shards)
        assert (counts.max(0) - counts.min(0)).max() <= 1
