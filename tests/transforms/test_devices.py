"""`inject_attack` on devices that have their own gradient alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from byzjax import attacks
from byzjax.base import Attack
from byzjax.transforms import inject_attack

N, KEY = 8, jax.random.key(7)


def on_devices(attack, broken=(3,)):
    return inject_attack(attack, jnp.isin(jnp.arange(N), jnp.array(broken)), key=KEY, axis_name="data")


def sent(attack, rounds=1):
    """What all devices send in the last of so many rounds, in which gradients grow by one."""
    tx = on_devices(attack)

    def one(own):
        state = tx.init(own)
        for k in range(rounds):
            out, state = tx.update(own + k, state, own)
        return out[None]

    mesh = jax.make_mesh((N,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.shard_map(lambda x: one(x[0]), mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    return np.asarray(jax.jit(run)(jnp.arange(8.0)[:, None] * jnp.ones((1, 5)) + 1.0))


def test_a_device_that_is_broken():
    healthy = np.arange(8) != 3
    plain = np.arange(8.0)[:, None] * np.ones((1, 5)) + 1.0
    for attack, expected in ((attacks.nan(), np.nan), (attacks.zero(), 0.0), (attacks.bit_flip(), -4.0)):
        got = sent(attack)
        np.testing.assert_array_equal(got[healthy], plain[healthy])
        np.testing.assert_array_equal(got[3], np.full(5, expected))
    flipped = sent(attacks.soft_error())
    np.testing.assert_array_equal(flipped[healthy], plain[healthy])
    assert (flipped[3] != 4.0).sum() == 1
    late = sent(attacks.stale(), rounds=3)
    np.testing.assert_array_equal(late, plain + np.where(healthy, 2.0, 1.0)[:, None])


def test_what_has_no_place_on_a_device():
    with pytest.raises(ValueError, match=r"inject_attack: alie\(\) reads what others sent"):
        on_devices(attacks.alie())
    with pytest.raises(ValueError, match=r"inject_attack: attack .* is not one of byzjax.attacks, and may read"):
        on_devices(Attack(attacks.alie().init, attacks.alie().update))
    tx, own = on_devices(attacks.nan()), jnp.ones((4, 2))
    state = tx.init(own[0])
    with pytest.raises(ValueError, match="inject_attack: axis_name = 'data' is no axis"):
        tx.update(own[0], state)
    with pytest.raises(ValueError, match="inject_attack: axis_name = 'data' is no axis"):
        on_devices(attacks.stale()).init(own[0])
    with pytest.raises(ValueError, match="byzantine has 8 entries, but there are 4 devices along 'data'"):
        jax.vmap(lambda x: tx.update(x, state)[0], axis_name="data")(own)
