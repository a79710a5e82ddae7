"""The transformer, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.tasks._transformer import gpt
from tests.tasks.references import numpy_gpt

KEY = jax.random.key(2)
TINY = {"num_layers": 1, "width": 16, "num_heads": 2, "block_size": 8, "vocab_size": 11}


# --- the transformer


def test_the_paper_s_model_has_818_048_parameters():
    shapes = jax.eval_shape(gpt().init, KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 4 * 198_272 + 8_320 + 16_384 + 256 == 818_048
    assert set(shapes) == {"token", "position", "norm", "block0", "block1", "block2", "block3"}, "no head of its own"


def test_initial_weights_are_n_0_02_and_biases_zero():
    params = gpt(num_layers=1).init(KEY)
    for path, leaf in jax.tree.leaves_with_path(params):
        name = path[-1].key
        if name in ("kernel", "embedding"):
            np.testing.assert_allclose(np.std(leaf), 0.02, rtol=0.05)
            np.testing.assert_allclose(np.mean(leaf), 0.0, atol=0.001)
        else:
            np.testing.assert_array_equal(leaf, 1.0 if name == "scale" else 0.0)


def large(params):
    """Weights so large that attention is far from uniform, and biases that are not zero."""
    keys = iter(jax.random.split(KEY, 99))
    return jax.tree.map(lambda leaf: leaf + 0.5 * jax.random.normal(next(keys), leaf.shape, leaf.dtype), params)


def test_the_transformer_against_numpy_in_float64():
    model = gpt(**TINY | {"num_layers": 2})
    apply = jax.jit(model.apply)
    tokens = np.random.default_rng(0).integers(0, 11, (3, 7))
    params = large(model.init(KEY))
    expected = numpy_gpt(params, tokens, num_heads=2)
    np.testing.assert_allclose(apply(params, jnp.asarray(tokens, jnp.uint8)), expected, rtol=1e-4, atol=1e-4)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # LayerNorm of flax wants it
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        np.testing.assert_allclose(apply(wide, jnp.asarray(tokens, jnp.uint8)), expected, rtol=1e-11, atol=1e-11)


def test_logits_do_not_depend_on_later_characters():
    model = gpt(**TINY)
    params = large(model.init(KEY))
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 11, (1, 8)))
    before = np.asarray(model.apply(params, tokens))
    for place in range(8):
        after = np.asarray(model.apply(params, tokens.at[0, place].set((tokens[0, place] + 3) % 11)))
        np.testing.assert_array_equal(after[0, :place], before[0, :place])
        assert (np.abs(after[0, place:] - before[0, place:]).max(-1) > 1e-4).all(), "and on all earlier ones"


def test_dropout_acts_in_four_places():
    model = gpt(**TINY, dropout=0.25)
    params, tokens = model.init(KEY), jnp.zeros((5, 8), jnp.int32)
    traced = jax.make_jaxpr(lambda key: model.apply(params, tokens, key=key))(KEY)
    masks = [eqn.outvars[0].aval.shape for eqn in all_equations(traced.jaxpr) if eqn.primitive.name == "random_bits"]
    assert sorted(masks) == sorted([(5, 8, 16)] * (1 + 2) + [(5, 2, 8, 8)])
    quiet = jax.make_jaxpr(lambda p: model.apply(p, tokens))(params)
    assert not any(eqn.primitive.name == "random_bits" for eqn in all_equations(quiet.jaxpr))
    one, two = (model.apply(params, tokens, key=jax.random.key(i)) for i in range(2))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(one, model.apply(params, tokens, key=jax.random.key(0)))
    sure = gpt(**TINY, dropout=0.0)
    np.testing.assert_array_equal(sure.apply(params, tokens, key=KEY), sure.apply(params, tokens))


def all_equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for part in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
                yield from all_equations(getattr(part, "jaxpr", part))


def test_bfloat16_computes_and_float32_keeps():
    narrow, wide = gpt(**TINY, compute_dtype="bfloat16"), gpt(**TINY)
    params, tokens = large(wide.init(KEY)), jnp.asarray(np.random.default_rng(2).integers(0, 11, (4, 8)))

    def loss(model, params):
        return jnp.square(model.apply(params, tokens, key=KEY)).mean()

    value, grads = jax.jit(jax.value_and_grad(lambda p: loss(narrow, p)))(params)
    exact, exact_grads = jax.jit(jax.value_and_grad(lambda p: loss(wide, p)))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((value, grads, narrow.init(KEY)))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(value, exact, rtol=0.03)
    assert value != exact
    both = [jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (grads, exact_grads)]
    assert jnp.linalg.norm(both[0] - both[1]) < 0.1 * jnp.linalg.norm(both[1])
    traced = jax.make_jaxpr(lambda p: narrow.apply(p, tokens))(params)
    dots = [eqn.invars[0].aval.dtype for eqn in all_equations(traced.jaxpr) if eqn.primitive.name == "dot_general"]
    assert [str(dtype) for dtype in dots] == ["bfloat16"] * 6 + ["float32"], "all but the head"
