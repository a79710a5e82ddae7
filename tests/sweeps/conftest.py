"""A sweep that several files look at."""

import pytest

from tests.helpers import QUARTIC_GRID, quartic, sweep


@pytest.fixture(scope="session")
def swept():
    return sweep(quartic, QUARTIC_GRID, batch_size=4, config={"eval_every": 4, "task": "quartic"})
