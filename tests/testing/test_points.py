"""Distances from a point that rows may lie next to: the origin, the last aggregate, an iterate."""

import pytest

from byzjax.testing import points

SMALL = ((5, 2, 2), (11, 9, 3))
LARGE = ((12, 2_000, 3),)


@pytest.mark.parametrize("name", points.RULES)
def test_answers_are_those_of_float64(name):
    found = points.check(name, seed=0, count=56, shapes=SMALL)
    assert found.beyond == 0, found


@pytest.mark.parametrize("name", ["geometric_median", "arc,geometric_median", "centered_clipping-5"])
def test_answers_of_large_stacks_are_those_of_float64(name):
    found = points.check(name, seed=0, count=14, shapes=LARGE)
    assert found.beyond == 0, found
