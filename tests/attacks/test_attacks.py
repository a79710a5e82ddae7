"""What single attacks send, against NumPy, and numeric cases from other libraries' tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from byzjax import attacks
from byzjax.attacks._simple import auto_z

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


def test_reverse_mimic_waits_then_turns():
    sent = strike(attacks.mimic("reverse", warmup=3), THREE, rounds=5)
    np.testing.assert_array_equal(sent[2], 5.0)
    np.testing.assert_allclose(sent[3][0], -2 * THREE.mean(0))
    np.testing.assert_allclose(sent[4][1], -2 * THREE.mean(0))


def test_reverse_mimic_turns_the_gradients_of_the_text_or_the_momenta_of_the_code():
    """``strike`` hands in gradients ten times as long as the updates."""
    sent = strike(attacks.mimic("reverse", warmup=1, of="gradient"), THREE, rounds=2)
    np.testing.assert_array_equal(sent[0], 5.0)
    np.testing.assert_allclose(sent[1][0], -20 * THREE.mean(0))
    with pytest.raises(ValueError, match="of = 'gradient' needs grads"):
        attacks.mimic("reverse", of="gradient").update(
            THREE, attacks.mimic("reverse").init(THREE[0], 3), None, byzantine=BYZANTINE[2:]
        )


def test_mimic_remembers_16_bits_in_32():
    state = attacks.mimic("copy").init(jnp.zeros(2, jnp.bfloat16), N)
    assert state.mean.dtype == state.direction.dtype == jnp.float32


def test_mimic_defaults_of_the_paper_and_of_karimireddy():
    still_honest = strike(attacks.mimic("reverse"), THREE, rounds=51)
    np.testing.assert_array_equal(still_honest[49], 5.0)
    np.testing.assert_allclose(still_honest[50][0], -2 * THREE.mean(0))
    with pytest.raises(TypeError):
        attacks.mimic()  # no default variant, on purpose


@pytest.mark.parametrize("warmup", [1, 4])
def test_copying_mimic_against_numpy(warmup):
    """Karimireddy et al.'s power iteration, in float64 from the same first draw."""
    rng = np.random.default_rng(0)
    rounds, d = 7, 6
    honest = rng.normal(size=(rounds, 3, d)).astype(np.float32)
    key = jax.random.key(5)
    sent = strike(attacks.mimic("copy", warmup=warmup), honest, rounds, key)

    first = jax.random.split(jax.random.fold_in(key, 0), 1)[0]
    z = np.asarray(jax.random.normal(first, (d,)), np.float64)
    mu, target = np.zeros(d), None
    for t in range(rounds):
        v = honest[t].astype(np.float64)
        if t < warmup:
            mu = t / (t + 1) * mu + v.mean(0) / (t + 1)
            u = sum(((row - mu) @ z) * (row - mu) for row in v)
            u /= np.linalg.norm(u)
            z = u if t == 0 else t / (t + 1) * z + u / (t + 1)
            z /= np.linalg.norm(z)
            target = int(np.argmax(v @ z))
        np.testing.assert_allclose(sent[t], np.tile(honest[t, target], (2, 1)), rtol=1e-6)


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
