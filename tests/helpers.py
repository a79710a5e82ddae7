"""What tests of several folders share."""

import jax
import jax.numpy as jnp
import numpy as np


def rows(n=10, d=4, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) * scale + 2


def steps(rule, stacks, params=None, state=None):
    """The results of a rule over rounds, and its last state."""
    state = rule.init(jnp.zeros(stacks[0].shape[1])) if state is None else state
    results = []
    for k, x in enumerate(stacks):
        at = jnp.zeros(x.shape[1]) if params is None else params[k]
        result, state = rule.update(jnp.asarray(x), state, at, key=jax.random.fold_in(jax.random.key(0), k))
        results.append(np.asarray(result))
    return results, state
