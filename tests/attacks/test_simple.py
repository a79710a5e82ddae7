"""What single attacks send, against NumPy, and numeric cases from other libraries' tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from byzjax import attacks
from byzjax.attacks._simple import auto_z
from tests.attacks.strike import BYZANTINE, THREE, N, strike

PEERS = [
    ("byzfl SignFlipping", attacks.sign_flip(), [-4, -5, -6]),
    ("byzfl InnerProductManipulation", attacks.ipm(2.0), [-8, -10, -12]),
    ("byzfl ByzantineClient", attacks.ipm(3.0), [-12, -15, -18]),
    ("byzfl ALittleIsEnough", attacks.alie(1.5, ddof=1), [8.5, 9.5, 10.5]),
    ("byzfl Mimic", attacks.mimic("fixed", worker=0), [1, 2, 3]),
]


@pytest.mark.parametrize(("origin", "attack", "expected"), PEERS, ids=[case[0] for case in PEERS])
def test_numeric_cases_of_peers(origin, attack, expected):
    np.testing.assert_allclose(strike(attack, THREE)[0], np.tile(expected, (2, 1)), rtol=1e-6)


def test_empire_case_of_byzpy():
    x = jnp.array([[1.0, 5.0], [2.0, 3.0], [3.0, 1.0], [0.0, 0.0]])
    sent, _ = attacks.ipm(2.0).update(x, (), None, byzantine=jnp.arange(4) == 3)
    np.testing.assert_allclose(sent[3], [-4.0, -6.0])


def test_bit_flip_negates_the_gradient_or_the_momentum():
    np.testing.assert_array_equal(strike(attacks.bit_flip(), THREE)[0], -50.0)
    np.testing.assert_array_equal(strike(attacks.bit_flip(of="momentum"), THREE)[0], -5.0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("ddof", [0, 1])
def test_alie(sign, ddof):
    expected = THREE.mean(0) + sign * 0.7 * THREE.std(0, ddof=ddof)
    np.testing.assert_allclose(strike(attacks.alie(0.7, sign=sign, ddof=ddof), THREE)[0][0], expected, rtol=1e-6)


@pytest.mark.parametrize(("n", "b"), [(20, 3), (50, 12), (51, 25), (25, 5)])
def test_auto_z_is_the_formula_of_baruch(n, b):
    s = n // 2 + 1 - b
    expected = max(0.0, norm.ppf((n - b - s) / (n - b)))
    np.testing.assert_allclose(auto_z(jnp.arange(n) >= n - b), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ipm", "sign_flip"])
def test_scale_sweeps_by_vmap(name):
    x = jnp.concatenate([jnp.asarray(THREE), jnp.zeros((2, 3))])
    swept = jax.vmap(lambda s: attacks.REGISTRY[name](s).update(x, (), None, byzantine=BYZANTINE)[0])(
        jnp.array([1.0, 10.0])
    )
    np.testing.assert_allclose(swept[1, 3:], 10 * swept[0, 3:], rtol=1e-6)


def test_alie_z_and_mimic_warmup_sweep_by_vmap():
    x = jnp.concatenate([jnp.asarray(THREE), jnp.zeros((2, 3))])
    swept = jax.vmap(lambda z: attacks.alie(z).update(x, (), None, byzantine=BYZANTINE)[0])(jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(swept[:, 3], [THREE.mean(0), THREE.mean(0) + 2 * THREE.std(0)], rtol=1e-6)

    def second(warmup):
        attack = attacks.mimic("reverse", warmup=warmup)
        return attack.update(x, attack.init(x[0], N), None, byzantine=BYZANTINE)[0][3, 0]

    np.testing.assert_allclose(jax.vmap(second)(jnp.array([0, 1])), [-8.0, 0.0])


LABELS = jnp.zeros((N, 3), jnp.int32)


def flip(label, own=None, num_classes=None):
    attack = attacks.label_flip(num_classes=own)
    return attack.poisoned({"label": label}, byzantine=BYZANTINE, key=None, num_classes=num_classes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: attacks.bit_flip(of="weights"), "of = 'weights'"),
        (lambda: attacks.ipm(np.nan), "scale = nan"),
        (lambda: attacks.alie("max"), "z = 'max'"),
        (lambda: attacks.alie(np.inf), "z = inf"),
        (lambda: attacks.alie(sign=2), "sign = 2"),
        (lambda: attacks.alie(ddof=2), "ddof = 2"),
        (lambda: attacks.mimic("clone"), "variant = 'clone'"),
        (lambda: attacks.mimic("reverse", of="weights"), "of = 'weights'"),
        (lambda: attacks.mimic("reverse", warmup=-1), "warmup = -1"),
        (lambda: attacks.mimic("copy", warmup=0), "warmup = 0"),
        (lambda: attacks.mimic("fixed", worker=-1), "worker = -1"),
        (lambda: strike(attacks.mimic("fixed", worker=9), THREE), "worker = 9"),
        (lambda: attacks.label_flip(map="swap"), "map = 'swap'"),
        (lambda: attacks.label_flip(shift=20, num_classes=10), "shift = 20"),
        (lambda: attacks.label_flip(shift=2.5, num_classes=10), "shift = 2.5 must be an integer"),
        (lambda: attacks.label_flip(shift="5"), "shift = '5' must be a finite number"),
        (lambda: attacks.label_flip(num_classes=2.5), "num_classes = 2.5 must be an integer ≥ 2"),
        (lambda: flip(LABELS), r"number of classes is not known; use label_flip\(num_classes=…\)"),
        (lambda: flip(LABELS, num_classes=5), "shift = 5 changes no label modulo 5"),
        (lambda: flip(LABELS, 10, num_classes=3), "num_classes = 10, but the task has 3 classes"),
        (lambda: flip(LABELS, num_classes=1), "label_flip: the task's num_classes = 1 must be an integer ≥ 2"),
        (lambda: flip(jnp.ones((N, 3)), num_classes=3), r"labels are float32\[5, 3\]"),
        (lambda: attacks.label_flip(num_classes=1), "num_classes = 1"),
        (lambda: attacks.label_flip().poison({"x": THREE}, byzantine=BYZANTINE, key=None), "no 'label'"),
        (lambda: attacks.bit_flip().update(THREE, (), None, byzantine=BYZANTINE), "needs grads"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
