"""Every attack in `attacks.REGISTRY`, in every variant, keeps every contract."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import attacks
from byzjax.testing import attack_cases

N, D = 8, 5
BYZANTINE = np.arange(N) >= 6
KEY = jax.random.key(3)

every_attack = pytest.mark.parametrize("case", attack_cases(), ids=lambda case: case.id)


def stack(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(N, D)) + 1, jnp.float32)


def past_the_warm_up(case):
    return 60 if case.options.get("variant") == "reverse" else 2


def strike(attack, updates, *, grads=None, byzantine=BYZANTINE, key=KEY, state=None, steps=1):
    """The updates after ``steps`` calls on the same input."""
    state = attack.init(jax.tree.map(lambda leaf: leaf[0], updates), N) if state is None else state
    grads = jax.tree.map(lambda u: 2 * u, updates) if grads is None else grads
    out = updates
    for _ in range(steps):
        out, state = attack.update(
            updates,
            state,
            None,
            byzantine=jnp.asarray(byzantine),
            key=key,
            grads=grads,
            aggregate=lambda u: u[0],
            unknown=1,
        )
    return out


@every_attack
def test_only_masked_rows_change(case):
    x = stack()
    np.testing.assert_array_equal(strike(case.make(), x, steps=3)[~BYZANTINE], x[~BYZANTINE])


@every_attack
def test_nobody_byzantine_means_nothing_happens(case):
    x = stack()
    np.testing.assert_array_equal(strike(case.make(), x, byzantine=np.zeros(N, bool)), x)


@every_attack
def test_jit_equals_eager_with_a_traced_mask_and_traces_once(case):
    traces = []

    @jax.jit
    def jitted(x, mask, key):
        traces.append(1)
        return strike(case.make(), x, byzantine=mask, key=key, steps=2)

    np.testing.assert_allclose(jitted(stack(), BYZANTINE, KEY), strike(case.make(), stack(), steps=2), rtol=1e-5)
    jitted(stack(1), np.arange(N) < 2, jax.random.key(9))
    assert len(traces) == 1


@every_attack
def test_vmap_over_masks_equals_loop(case):
    masks = np.stack([np.arange(N) >= 6, np.arange(N) < 3, np.arange(N) == 4])
    swept = jax.vmap(lambda m: strike(case.make(), stack(), byzantine=m))(masks)
    looped = np.stack([strike(case.make(), stack(), byzantine=m) for m in masks])
    np.testing.assert_allclose(swept, looped, rtol=1e-5, atol=1e-6)


@every_attack
def test_state_is_scan_stable(case):
    attack = case.make()
    state = attack.init(jnp.zeros(D), N)
    options = {"byzantine": jnp.asarray(BYZANTINE), "key": KEY, "grads": stack(), "aggregate": None}
    _, after = attack.update(stack(), state, None, **options)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    jax.lax.scan(lambda s, _: attack.update(stack(), s, None, **options)[::-1], state, length=3)


@every_attack
def test_what_byzantine_workers_computed_is_not_read_by_adaptive_attacks(case):
    if not case.traits.adaptive:
        pytest.skip("not adaptive: it starts from the Byzantine workers' own vectors")
    x = stack().at[6:].set(jnp.nan)
    assert jnp.isfinite(strike(case.make(), x, steps=past_the_warm_up(case))).all()


@every_attack
def test_what_honest_workers_sent_is_read_by_adaptive_attacks_alone(case):
    stacks = [stack(), stack().at[:6].set(stack(1)[:6])]
    sent, other = (strike(case.make(), x, steps=past_the_warm_up(case))[6:] for x in stacks)
    if case.traits.adaptive:
        assert (sent != other).any(), f"{case.id} reads no honest row: drop adaptive=True from its promises"
    else:
        assert np.array_equal(sent, other, equal_nan=True), f"{case.id} reads honest rows: it promises adaptive=True"


@pytest.mark.parametrize("case", [case for case in attack_cases() if case.traits.noisy], ids=lambda case: case.id)
def test_noisy_attacks_draw_by_their_key(case):
    assert (strike(case.make(), stack()) != strike(case.make(), stack(), key=jax.random.key(4)))[6:].any()
    with pytest.raises(ValueError, match=f"{case.name}.*needs a PRNG key"):
        strike(case.make(), stack(), key=None)


@every_attack
def test_a_pytree_gives_what_its_matrix_gives(case):
    if case.options.get("variant") == "copy":
        pytest.skip("draws its first direction leaf by leaf; tests/attacks/test_mimic.py has its reference")
    if case.traits.noisy:
        pytest.skip("noisy: every leaf draws by a key of its own; its numbers are for a test in tests/attacks")
    x = stack()
    tree = {"a": x[:, :2], "b": x[:, 2:].reshape(N, 3, 1)}
    result = strike(case.make(), tree)
    flat = jnp.concatenate([result["a"], result["b"].reshape(N, 3)], axis=1)
    np.testing.assert_allclose(flat, strike(case.make(), x), rtol=1e-5, atol=1e-6)


@every_attack
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dtype_is_kept(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.asarray(stack()), dtype)
        assert strike(case.make(), x, key=jax.random.key(0)).dtype == x.dtype


@every_attack
def test_poison_touches_masked_rows_only_and_jits(case):
    batch = {"image": jnp.ones((N, 3, 4)), "label": jnp.tile(jnp.arange(3), (N, 1))}
    poisoned = jax.jit(lambda b, m: case.make().poisoned(b, byzantine=m, key=KEY, num_classes=3))(batch, BYZANTINE)
    chex.assert_trees_all_equal_shapes_and_dtypes(batch, poisoned)
    np.testing.assert_array_equal(poisoned["image"], batch["image"])
    np.testing.assert_array_equal(poisoned["label"][~BYZANTINE], batch["label"][~BYZANTINE])
    assert (case.name == "label_flip") == bool((poisoned["label"] != batch["label"]).any())


@every_attack
def test_docstring_has_formula_and_example(case):
    doc = inspect.getdoc(case.factory)
    assert ">>>" in doc
    assert "``" in doc or case.name == "none"


@every_attack
def test_masks_that_are_no_masks_are_refused(case):
    if case.name in ("none", "label_flip"):
        pytest.skip("never looks at the mask of updates")
    for mask in (BYZANTINE.astype(np.int32), BYZANTINE[:-1]):
        with pytest.raises(ValueError, match="is not a mask"):
            strike(case.make(), stack(), byzantine=mask)


def test_registry_is_the_namespace():
    assert set(attacks.REGISTRY) <= set(attacks.__all__)
