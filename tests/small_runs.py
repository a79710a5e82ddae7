"""The smallest run there is, for tests of what becomes of its parts."""

import jax
import jax.numpy as jnp

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks

N, MASK, KEY = 4, jnp.arange(4) >= 3, jax.random.key(0)
TASK = tasks.quartic(N, 1, dim=3, noise_scale=0.1)
METHOD = methods.momentum_sgd(0.01, aggregator=agg.median())


def go(task=TASK, method=METHOD, attack=None, runner=byzjax.simulate, **options):
    options = {"byzantine": MASK, "key": KEY, "num_rounds": 2, **options}
    return runner(task, method, attack or attacks.none(), **options)
