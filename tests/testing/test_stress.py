"""A short version of `benchmarks/stress.py`: every rule on random and adversarial inputs."""

import numpy as np
import pytest

from byzjax.testing import stress
from byzjax.theory import kappa_squared

SHAPES = ((7, 6, 1), (11, 17, 2))
CASES = stress.cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_no_nan_and_inside_the_bound(case):
    shapes = SHAPES if case.traits.workers_needed[0] <= 2 else SHAPES[1:]
    found = stress.check(case, seed=1, count=500, shapes=shapes)
    assert (found.inputs, found.not_finite, found.beyond) == (500, 0, 0), found


def test_bounds_are_not_empty():
    """A rule that breaks is found out: the mean, held to the bound of the trimmed mean."""
    broken = next(c for c in CASES if c.name == "mean")._replace(name="trimmed_mean")
    found = stress.check(broken, seed=1, count=250, shapes=SHAPES[:1])
    assert found.beyond > 25


def test_the_bound_of_smea_is_not_loose():
    x = np.array([[0.0], [0.0], [0.0], [1.0]])
    case = next(c for c in CASES if c.name == "smea")
    allowed = stress.bound(case, x, np.array([False, False, False, True]), 1)
    assert allowed == 0.0
    assert kappa_squared("smea", num_workers=4, f=1) > 0


@pytest.mark.parametrize("rule", ["mda", "unknown"])
def test_no_coefficient_is_made_up(rule):
    with pytest.raises(ValueError, match="no coefficient"):
        kappa_squared(rule, num_workers=10, f=2)
