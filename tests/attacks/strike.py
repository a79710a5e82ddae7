"""What attackers send, round by round."""

import jax
import jax.numpy as jnp
import numpy as np

THREE = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], np.float32)
N = 5
BYZANTINE = jnp.arange(N) >= 3


def strike(attack, honest, rounds=1, key=None):
    """Byzantine rows after ``rounds`` rounds; honest rows may change per round (``honest[t]``)."""
    honest = np.asarray(honest, np.float32)
    honest = np.tile(honest, (rounds, 1, 1)) if honest.ndim == 2 else honest
    state = attack.init(jnp.zeros(honest.shape[-1]), N)
    sent = []
    for t in range(rounds):
        x = jnp.concatenate([honest[t], jnp.full((2, honest.shape[-1]), 5.0)])
        key_t = jax.random.fold_in(jax.random.key(0) if key is None else key, t)
        x, state = attack.update(x, state, None, byzantine=BYZANTINE, key=key_t, grads=10 * x, aggregate=None)
        sent.append(np.asarray(x[3:]))
    return sent
