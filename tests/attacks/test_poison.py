"""Flipped labels."""

import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import attacks


def test_label_flip_maps():
    batch = {"label": jnp.array([[0, 4, 9]] * 2)}
    mask = jnp.array([False, True])
    shifted = attacks.label_flip(num_classes=10).poison(batch, byzantine=mask, key=None)["label"]
    np.testing.assert_array_equal(shifted, [[0, 4, 9], [5, 9, 4]])
    mirrored = attacks.label_flip(map="mirror").poison(batch, byzantine=mask, key=None, num_classes=10)["label"]
    np.testing.assert_array_equal(mirrored, [[0, 4, 9], [9, 5, 0]])


@pytest.mark.parametrize("map", ["shift", "mirror"])
@pytest.mark.parametrize("num_classes", [3, 26, 255])
def test_flipped_labels_stay_in_the_range_of_the_task(map, num_classes):
    """And are a permutation of it, which changes at most the one in the middle to itself."""
    label = jnp.tile(jnp.arange(num_classes, dtype=jnp.uint8), (2, 1))
    mask = jnp.array([False, True])
    attack = attacks.label_flip(map)
    flipped = attack.poisoned({"label": label}, byzantine=mask, key=None, num_classes=num_classes)["label"]
    np.testing.assert_array_equal(flipped[0], label[0])
    np.testing.assert_array_equal(np.sort(flipped[1]), label[1])
    expected = (np.arange(num_classes) + 5) % num_classes if map == "shift" else np.arange(num_classes)[::-1]
    np.testing.assert_array_equal(flipped[1], expected)


def test_a_poison_that_does_not_ask_is_not_told_the_number_of_classes():
    asked = []

    def old(batch, *, byzantine, key):
        return batch + 1

    def any_(batch, **extra):
        asked.append(extra["num_classes"])
        return batch + 2

    for poison, added in [(old, 1), (any_, 2)]:
        attack = attacks.none()._replace(poison=poison)
        assert attack.poisoned(0, byzantine=None, key=None, num_classes=7) == added
    assert asked == [7]
