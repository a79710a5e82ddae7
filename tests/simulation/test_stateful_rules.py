"""Rules with a memory, in whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", ["byzantine_sgd", "safeguard", "centered_clipping"])
def test_stateful_rules_run_and_resume(name):
    """In a whole run, under vmap over seeds, and cut in two with the same bits."""
    n = 8
    options = {
        "byzantine_sgd": {"num_workers": n, "deviation": 10.0, "diameter": 10.0, "num_rounds": 20},
        "safeguard": {"num_workers": n, "windows": (3, 7)},
        "centered_clipping": {"tau": 1.0},
    }[name]
    method = methods.momentum_sgd(0.01, aggregator=agg.REGISTRY[name](**options))
    task, byzantine = tasks.quartic(num_workers=n, num_byzantine=2), jnp.arange(n) >= 6

    def run(key, rounds=20, state=None):
        return byzjax.simulate(
            task, method, attacks.bit_flip(), byzantine=byzantine, key=key, num_rounds=rounds, state=state
        )

    whole = jax.jit(run)(KEY)
    assert jnp.isfinite(whole.history["loss"]).all()
    first = jax.jit(lambda key: run(key, 12))(KEY)
    second = jax.jit(lambda state: run(None, 8, state))(first.state)
    np.testing.assert_array_equal(second.state.params, whole.state.params)
    lanes = jax.jit(jax.vmap(run))(jax.random.split(KEY, 3))
    assert lanes.history["loss"].shape == (3, 20)
