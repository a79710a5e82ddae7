"""Steps of a norm's length: the linear minimisation oracle, its dual norm, and what Newton–Schulz makes of it."""

import pickle
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

from byzjax import transforms
from byzjax.tasks import models
from byzjax.tasks._transformer import gpt
from byzjax.transforms._lmo import _SCALED, NORMS

AXES = optax.contrib.MuonDimensionNumbers
MATRICES = [norm for norm in NORMS if norm not in ("l2", "linf", "l1", "rms")]
SHAPE = (24, 10)


def step(norm, tree, **options):
    tx = transforms.scale_by_lmo(norm, **options)
    return tx.update(tree, tx.init(tree))[0]


def size(norm, d):
    """‖d‖ of a matrix ``[d_in, d_out]``, by its definition in float64."""
    d = np.asarray(d, np.float64)
    rows, columns = d.shape
    base, factor = _SCALED.get(norm, (norm, None))
    values = np.linalg.svd(d, compute_uv=False)
    sizes = {
        "l2": np.sqrt((d**2).sum()),
        "linf": np.abs(d).max(),
        "l1": np.abs(d).sum(),
        "rms": np.sqrt((d**2).mean()),
        "spectral": values.max(),
        "nuclear": values.sum(),
        "colnorm": np.sqrt((d**2).sum(1)).max(),
        "rownorm": np.sqrt((d**2).sum(0)).max(),
        "sign": np.abs(d).max(),
    }
    factors = {
        "scion_spectral": np.sqrt(columns / rows),
        "scion_spectral_max": max(1, np.sqrt(columns / rows)),
        "scion_spectral_input": np.sqrt(columns),
        "scion_conv": np.sqrt(columns / rows),
        "scion_colnorm": np.sqrt(columns),
        "scion_colnorm_hidden": np.sqrt(columns) / rows,
        "scion_rownorm": 1 / np.sqrt(rows),
        "scion_sign": 1 / rows,
        "scion_sign_tied": 1 / columns,
        "muon_rms": 0.2 * np.sqrt(max(rows, columns)),
    }
    return sizes[base] / (1 if factor is None else factors[norm])


def dual(norm, v):
    """``max ⟨v, d⟩`` of ‖d‖ ≤ 1, in float64: of a norm that is another's multiple, by as much less."""
    v = np.asarray(v, np.float64)
    values = np.linalg.svd(v, compute_uv=False)
    base, factor = _SCALED.get(norm, (norm, None))
    duals = {
        "l2": np.sqrt((v**2).sum()),
        "linf": np.abs(v).sum(),
        "l1": np.abs(v).max(),
        "rms": np.sqrt((v**2).sum() * v.size),
        "spectral": values.sum(),
        "nuclear": values.max(),
        "colnorm": np.sqrt((v**2).sum(1)).sum(),
        "rownorm": np.sqrt((v**2).sum(0)).sum(),
        "sign": np.abs(v).sum(),
    }
    return duals[base] * (1 if factor is None else size(base, np.eye(*v.shape)) / size(norm, np.eye(*v.shape)))


def matrices(shape=SHAPE):
    rng = np.random.default_rng(0)
    random = rng.normal(size=shape)
    return {
        "random": random,
        "wide": random.T.copy(),
        "rank one": np.outer(rng.normal(size=shape[0]), rng.normal(size=shape[1])),
        "dead units": random * (np.arange(shape[0]) > 3)[:, None] * (np.arange(shape[1]) > 1),
        "zero": np.zeros(shape),
        "tiny": 1e-30 * random,
        "huge": 1e30 * random,
        "uneven": random * 10.0 ** -np.arange(shape[1]),
    }


EXACT = [
    *((norm, "svd") for norm in NORMS),
    *((norm, "polar") for norm in MATRICES if _SCALED.get(norm, (norm,))[0] == "spectral"),
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("norm", "method"), EXACT, ids=["-".join(case) for case in EXACT])
def test_a_step_is_the_longest(norm, method, dtype):
    """⟨v, u⟩ = radius · ‖v‖_* and ‖u‖ = radius to 1e-5.

    A step of bfloat16 is computed in float32 and rounded once, each entry by up to 2⁻⁸ of it; so ⟨v, u⟩ may be off by
    2⁻⁸ ⟨|v|, |u|⟩, and the step has to be the rounded one of float32 to a last place.
    """
    tx = transforms.scale_by_lmo(norm, radius=0.75, method=method)
    update = jax.jit(lambda v: (tx.update(v, tx.init(v))[0], transforms.dual_norm(norm, v)))
    for name, v in matrices().items():
        if dtype == jnp.bfloat16 and name == "wide":
            continue  # another program each
        v = jnp.asarray(v, dtype)
        exact = np.asarray(v, np.float64)
        u, measured = update(v)
        assert u.dtype == dtype
        assert measured.dtype == jnp.float32
        u, best = np.asarray(u, np.float64), dual(norm, exact)
        np.testing.assert_allclose(measured, best, rtol=1e-5, err_msg=name)
        if name == "zero":
            assert not u.any()
            continue
        rounding = 0 if dtype == jnp.float32 else 2**-8
        gained, most = (exact * u).sum(), np.abs(exact * u).sum()
        assert abs(gained - 0.75 * best) <= 1e-5 * 0.75 * best + rounding * most, name
        if not rounding:
            np.testing.assert_allclose(size(norm, u), 0.75, rtol=1e-5, err_msg=name)
        else:
            wide, _ = update(v.astype(jnp.float32))
            np.testing.assert_allclose(u, np.asarray(wide).astype(ml_dtypes.bfloat16), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_float64(norm):
    with jax.enable_x64(True):
        for v in matrices().values():
            v = jnp.asarray(v)
            u = step(norm, v)
            assert u.dtype == jnp.float64
            np.testing.assert_allclose((v * u).sum(), dual(norm, v), rtol=1e-12)
            np.testing.assert_allclose(transforms.dual_norm(norm, v), dual(norm, v), rtol=1e-12)


def test_l2_is_the_normalisation_bit_for_bit():
    rng = np.random.default_rng(1)

    def before(tree):
        """What the link was before it knew of other norms."""
        parts = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
        largest = jnp.stack([jnp.abs(part).max() for part in parts]).max()
        _, exponent = jnp.frexp(largest)
        shrink = jnp.ldexp(jnp.ones((), jnp.float32), jnp.clip(2 - exponent, -125, 125))
        norm = jnp.sqrt(jnp.stack([jnp.square(part * shrink).sum() for part in parts]).sum())

        def scale(x):
            return (x.astype(jnp.float32) * shrink / jnp.where(norm == 0, 1.0, norm)).astype(x.dtype)

        return jax.tree.map(scale, tree)

    for scale in (1e-36, 1e-8, 1.0, 1e30, 0.0):
        tree = {"w": jnp.asarray(scale * rng.normal(size=(5, 3)), jnp.float32), "b": jnp.full(4, scale, jnp.bfloat16)}
        for run in (jax.jit, lambda function: function):
            jax.tree.map(np.testing.assert_array_equal, run(lambda v: step("l2", v))(tree), run(before)(tree))
    assert transforms.normalize_by_global_norm() == transforms.normalize_by_global_norm()


TREE = {
    "a": jnp.array([[3.0, 0.0], [0.0, 4.0]]),
    "b": jnp.array([-4.0, 1.0]),
    "c": jnp.array([[0.5]]),
}


def test_a_tree_is_one_vector_or_one_block_diagonal_matrix():
    whole = step("l1", TREE)
    assert whole["a"].tolist() == [[0, 0], [0, 1]]  # 4 and −4: the first leaf's
    assert not whole["b"].any()
    assert not whole["c"].any()
    assert float(transforms.dual_norm("l1", TREE)) == 4
    each = step("l1", TREE, per_leaf=True)
    assert each["b"].tolist() == [-1, 0]
    assert each["c"].tolist() == [[1]]
    assert float(transforms.dual_norm("l1", TREE, per_leaf=True)) == 8.5

    nuclear = step("nuclear", TREE, vectors="linf")
    np.testing.assert_allclose(nuclear["b"], [-1, 1])  # ‖b‖₁ = 5 is more than σ₁ = 4
    assert not nuclear["a"].any()
    np.testing.assert_allclose(step("nuclear", TREE, vectors="l2", per_leaf=True)["a"], [[0, 0], [0, 1]], atol=1e-6)
    assert float(transforms.dual_norm("nuclear", TREE, vectors="linf")) == 5

    spectral = step("spectral", TREE, vectors="l2")
    np.testing.assert_allclose(spectral["a"], np.eye(2), atol=1e-6)
    np.testing.assert_allclose(spectral["b"], TREE["b"] / np.sqrt(17), rtol=1e-6)
    np.testing.assert_allclose(transforms.dual_norm("spectral", TREE, vectors="l2"), 7 + np.sqrt(17) + 0.5, rtol=1e-6)

    rms = step("rms", TREE)
    entries = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(rms)])
    np.testing.assert_allclose(np.square(entries).mean(), 1.0, rtol=1e-6)
    assert float(jnp.square(step("rms", TREE, per_leaf=True)["c"]).mean()) == 1.0
    np.testing.assert_allclose(transforms.dual_norm("rms", TREE, per_leaf=True), 10 + np.sqrt(34) + 0.5, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_not_finite_gives_nan(norm):
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        v = jnp.asarray(matrices()["random"], jnp.float32).at[2, 3].set(bad)
        assert jnp.isnan(step(norm, v)).any()
        assert jnp.isnan(transforms.dual_norm(norm, v))


def test_polar_and_newton_schulz_of_what_is_not_finite_end():
    v = jnp.full((4, 3), jnp.nan)
    for method in ("polar", "newton_schulz"):
        assert jnp.isnan(step("spectral", v, method=method)).all()


@pytest.mark.parametrize(
    ("coefficients", "gained", "least", "most"),
    [
        ("classic", 0.853, 0.68, 1.135),
        ("dion", 0.996, 0.965, 1.036),
        ("polar_express", 1.0, 1 - 1e-5, 1 + 1e-5),
    ],
)
def test_newton_schulz_is_within_what_is_said_of_it(coefficients, gained, least, most):
    gains = []
    for seed in range(5):
        v = np.random.default_rng(seed).normal(size=(64, 128)).astype(np.float32)
        u = step("spectral", jnp.asarray(v), method="newton_schulz", coefficients=coefficients)
        values = np.linalg.svd(np.asarray(u), compute_uv=False)
        assert least < values.min()
        assert values.max() < most
        gains.append((v * u).sum() / np.linalg.svd(v, compute_uv=False).sum())
    np.testing.assert_allclose(np.mean(gains), gained, atol=1e-5 if coefficients == "polar_express" else 4e-3)


def test_polar_express_is_the_lmo_but_for_small_singular_values():
    left, right = (np.linalg.qr(np.random.default_rng(k).normal(size=(30, 30)))[0] for k in range(2))
    values = 10.0 ** -np.linspace(0, 6, 30)
    v = jnp.asarray(left * values @ right, jnp.float32)
    u = np.asarray(step("spectral", v, method="newton_schulz", coefficients="polar_express"), np.float64)
    left_over = np.diag(left.T @ u @ right.T)
    large = values > 1.05e-3 * np.linalg.norm(values)
    np.testing.assert_allclose(left_over[large], 1.0, atol=2e-4)
    assert np.linalg.norm(u, 2) <= 1 + 1e-5
    np.testing.assert_allclose((v * u).sum(), values.sum(), rtol=2e-3)


def test_newton_schulz_is_that_of_optax():
    v = jnp.asarray(matrices()["random"], jnp.float32)
    muon = optax.contrib.scale_by_muon(beta=0.0, nesterov=False)
    with jax.numpy_dtype_promotion("standard"):
        expected = muon.update(v, muon.init(v))[0]
    np.testing.assert_allclose(step("spectral", v, method="newton_schulz"), expected, atol=1e-5)
    triples = [(1.5, -0.5, 0.0)] * 12  # the classical cubic iteration, which converges
    np.testing.assert_allclose(
        step("spectral", v, method="newton_schulz", coefficients=triples), step("spectral", v), atol=1e-4
    )
    cubic = step("spectral", v, method="newton_schulz", coefficients=(1.5, -0.5, 0.0), steps=12)
    np.testing.assert_array_equal(cubic, step("spectral", v, method="newton_schulz", coefficients=triples))


def test_units_without_gradient_stay():
    v = jnp.asarray(matrices()["dead units"], jnp.float32)
    for method in ("svd", "polar"):
        u = np.asarray(step("spectral", v, method=method))
        assert not u[:4].any() or np.abs(u[:4]).max() < 1e-6
        np.testing.assert_allclose(u, step("spectral", v), atol=2e-5)


def test_small_singular_values_of_a_tall_matrix_count():
    """A bound on rounding that grew with the size, max(m, n) ε σ₁, would leave out all directions but one."""
    rng, shape = np.random.default_rng(0), (4096, 16)
    values = np.r_[1.0, np.full(15, 0.9 * max(shape) * 2.0**-23)]
    left, right = np.linalg.qr(rng.normal(size=shape))[0], np.linalg.qr(rng.normal(size=(16, 16)))[0]
    v = jnp.asarray(left * values @ right, jnp.float32).at[:, 3].set(0).at[7].set(0)
    exact = np.asarray(v, np.float64)
    u = np.asarray(step("spectral", v), np.float64)
    np.testing.assert_allclose((exact * u).sum(), np.linalg.svd(exact, compute_uv=False).sum(), rtol=1e-5)
    assert np.linalg.norm(u, 2) <= 1 + 1e-5
    assert not u[:, 3].any()
    assert not u[7].any()


# Which leaves are matrices


def test_kernels_of_convolutions_and_heads():
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": rng.normal(size=(3, 3, 2, 5)), "bias": rng.normal(size=5)},
        "attention": {
            "query": {"kernel": rng.normal(size=(6, 2, 3)), "bias": rng.normal(size=(2, 3))},
            "out": {"kernel": rng.normal(size=(2, 3, 6)), "bias": rng.normal(size=6)},
        },
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    u = step("spectral", params, vectors="linf", dimension_numbers="flax")

    def flat(leaf, rows):
        return np.asarray(step("spectral", leaf.reshape(rows, -1))).reshape(leaf.shape)

    np.testing.assert_allclose(u["conv"]["kernel"], flat(params["conv"]["kernel"], 18), atol=1e-6)
    for name in ("query", "out"):
        kernel = params["attention"][name]["kernel"]
        np.testing.assert_allclose(u["attention"][name]["kernel"], flat(kernel, 6), atol=1e-6)
        bias = params["attention"][name]["bias"]
        np.testing.assert_array_equal(u["attention"][name]["bias"], jnp.sign(bias))
    assert jax.tree.map(jnp.shape, u) == jax.tree.map(jnp.shape, params)
    assert transforms.flax_layers(params)["attention"]["query"] == {"bias": "bias", "kernel": "last"}  # the last name

    heads = params["attention"]["query"]["kernel"]  # one matrix for each head, from axes in another order
    u = step("spectral", heads, dimension_numbers=AXES((2,), (0,)))
    for head in range(2):
        np.testing.assert_allclose(u[:, head].T, step("spectral", heads[:, head].T), atol=1e-6)
    np.testing.assert_allclose(
        step("scion_conv", params["conv"]["kernel"], dimension_numbers=AXES((0, 1, 2), (3,))),
        flat(params["conv"]["kernel"], 18) * np.sqrt(5 / 2) / 9,
        atol=1e-6,
    )


NAMED = {
    "attention": {
        **{name: {"kernel": np.zeros((6, 2, 3)), "bias": np.zeros((2, 3))} for name in ("query", "key", "value")},
        "out": {"kernel": np.zeros((2, 3, 6)), "bias": np.zeros(6)},
    },
    "conv": {"kernel": np.zeros((3, 4, 5)), "bias": np.zeros(5)},
    "embed": {"embedding": np.zeros((7, 6))},
    "head": {"kernel": np.zeros((6, 7)), "bias": np.zeros(7)},
}


def is_axes(one):
    return one is None or isinstance(one, AXES)


def test_a_state_of_nnx_is_named_as_its_dict():
    """Paths of its leaves end in the attribute "value", which is also a part of attention."""
    state = nnx.State(jax.tree.map(nnx.Param, NAMED))
    assert jax.tree.structure(transforms.flax_layers(state)) == jax.tree.structure(state)
    for rule in (transforms.flax_matrices, transforms.flax_layers):
        given, wanted = (jax.tree.leaves(rule(tree), is_leaf=is_axes) for tree in (state, NAMED))
        assert given == wanted
    axes = transforms.flax_matrices(NAMED)
    assert axes["attention"]["value"]["kernel"] == AXES((0,), (1, 2))
    assert axes["conv"]["kernel"] == AXES((0, 1), (2,))
    labels = transforms.flax_layers(NAMED)
    assert labels["embed"] == {"embedding": "embedding"}
    assert [labels[name]["kernel"] for name in ("conv", "head")] == ["conv", "last"]
    assert labels["attention"]["value"] == {"kernel": "hidden", "bias": "bias"}


MODELS = {"mlp": models.mlp, "cnn": models.cnn, "gpt": lambda: gpt(1, 8, 2, block_size=4, vocab_size=5)}
LABELS = {
    "mlp": {"dense0": "first", "dense1": "hidden", "dense2": "last"},
    "cnn": {"conv0": "conv", "conv1": "conv", "dense0": "hidden", "dense1": "last"},
    "gpt": {"token": "tied", "position": "embedding"},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_models_of_the_package(name):
    params = jax.eval_shape(MODELS[name]().init, jax.random.key(0))
    axes = jax.tree.leaves(transforms.flax_matrices(params), is_leaf=is_axes)
    for one, leaf in zip(axes, jax.tree.leaves(params), strict=True):
        assert (one is None) == (leaf.ndim < 2)
    labels = transforms.flax_layers(params)
    assert transforms.flax_layers({"params": params}) == {"params": labels}  # as linen has them
    for layer, label in LABELS[name].items():
        assert labels[layer].get("kernel", labels[layer].get("embedding")) == label
        assert labels[layer].get("bias", "bias") == "bias"
    if name == "gpt":
        assert labels["block0"]["attention"] == {part: {"bias": "bias", "kernel": "hidden"} for part in
                                                 ("output", "project")}  # fmt: skip
        untied = transforms.flax_layers({**params, "head": params["block0"]["widen"]})
        assert (untied["token"]["embedding"], untied["head"]["kernel"]) == ("embedding", "last")
        wrapped = {"params": {"composed": {**params, "head": params["block0"]["widen"]}}}
        assert transforms.flax_layers(wrapped) == {"params": {"composed": untied}}


# Scion


def test_scion_by_hand():
    """The steps of the authors' code on transposed arrays, theirs being [d_out, d_in]."""
    rng = np.random.default_rng(0)
    shapes = {"dense0": (9, 4), "dense1": (4, 6), "dense2": (6, 3)}
    v = {name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])} for name, shape in shapes.items()}
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), v)
    expected = {}
    for name, leaf in v.items():
        left, _, right = np.linalg.svd(leaf["kernel"].T, full_matrices=False)
        d_out, d_in = leaf["kernel"].T.shape
        kernel = {
            "dense0": 2 * max(1, np.sqrt(d_out / d_in)) * (left @ right),
            "dense1": 2 * np.sqrt(d_out / d_in) * (left @ right),
            "dense2": 7 * np.sign(leaf["kernel"].T) / d_in,
        }[name]
        bias = 2 * leaf["bias"] / np.sqrt((leaf["bias"] ** 2).mean())
        expected[name] = {"kernel": kernel.T, "bias": bias}
    v = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), v)
    tx = transforms.scale_by_scion(radii={"others": 2.0, "last": 7.0})
    u, state = jax.jit(tx.update)(v, tx.init(params), params)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), u, expected)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))

    constrained = transforms.scale_by_scion(radii={"others": 2.0, "last": 7.0}, constrained=True)
    u = constrained.update(v, constrained.init(params), params)[0]
    jax.tree.map(lambda one, x, other: np.testing.assert_allclose(one, x + other, atol=1e-5), u, params, expected)
    with pytest.raises(ValueError, match="need params"):
        constrained.update(v, constrained.init(params))


def test_embeddings_of_scion():
    v = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8)), jnp.float32)
    labels = {"token": "embedding", "head": "tied"}
    tx = transforms.scale_by_scion(layers=types.MappingProxyType(labels), radii="char_gpt")
    u = tx.update({"token": v, "head": v}, tx.init({"token": v, "head": v}))[0]
    np.testing.assert_allclose(np.square(u["token"]).mean(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(u["head"], 10 * np.sign(v) / 8, rtol=1e-6)


# As links


def test_radius_by_vmap():
    v = jnp.asarray(matrices()["random"], jnp.float32)
    radii = jnp.array([0.5, 2.0])
    for norm, method in (("l1", "svd"), ("spectral", "svd"), ("spectral", "polar")):
        both = jax.jit(jax.vmap(lambda radius: step(norm, radius * v, radius=radius, method=method)))(radii)  # noqa: B023
        one = step(norm, v, method=method)
        np.testing.assert_allclose(both, radii[:, None, None] * one[None], rtol=1e-5, atol=1e-5)


def test_sharded_parameters():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    v = jnp.asarray(matrices((16, 8))["random"], jnp.float32)
    for norm in ("l2", "l1", "spectral"):
        expected = step(norm, v)
        with jax.set_mesh(mesh):
            spread = jax.device_put(v, jax.NamedSharding(mesh, jax.P("x", None)))
            u = jax.jit(lambda v: step(norm, v))(spread)  # noqa: B023
            assert jax.typeof(u) == jax.typeof(spread)
            measured = transforms.dual_norm(norm, spread)
        np.testing.assert_allclose(measured, transforms.dual_norm(norm, v), rtol=1e-5)
        np.testing.assert_allclose(u, expected, atol=1e-5)


def test_groups_of_a_partition():
    v = {"w": jnp.asarray(matrices()["random"], jnp.float32), "b": jnp.ones(3)}
    links = {
        "matrix": transforms.scale_by_lmo("spectral"),
        "vector": transforms.scale_by_lmo("linf", radius=0.5),
        "nobody": transforms.scale_by_lmo("nuclear"),
    }
    tx = optax.partition(links, {"w": "matrix", "b": "vector"})
    u, _ = jax.jit(tx.update)(v, tx.init(v))
    np.testing.assert_allclose(u["w"], step("spectral", v["w"]), atol=1e-6)
    assert u["b"].tolist() == [0.5] * 3


LINKS = [
    transforms.scale_by_lmo("spectral", radius=2.0, vectors="linf", dimension_numbers=AXES(0, 1)),
    transforms.scale_by_lmo("spectral", method="newton_schulz", coefficients=((1.5, -0.5, 0.0),)),
    transforms.normalize_by_global_norm(),
    transforms.scale_by_scion(radii={"others": 2.0}, norms={"last": "scion_rownorm"}),
    transforms.clip_by_global_norm(2.0),
    transforms.scale_by_fedopt("yogi", tau=0.1),
    transforms.momentum(0.5, kind="heavy_ball"),
]


@pytest.mark.parametrize("link", LINKS, ids=str)
def test_links_are_values(link):
    assert pickle.loads(pickle.dumps(link)) == link
    assert hash(pickle.loads(pickle.dumps(link))) == hash(link)
    assert eval(repr(link), {**vars(transforms), "MuonDimensionNumbers": AXES}) == link
    assert len({*LINKS}) == len(LINKS)


W, B = jnp.ones((2, 3)), {"dense": {"bias": jnp.ones(3)}}


def newton_schulz(**options):
    return step("spectral", W, method="newton_schulz", **options)


def scion(**options):
    tx = transforms.scale_by_scion(**options)
    return tx.update({"dense0": W, "dense1": W}, tx.init({"dense0": W, "dense1": W}))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: step("spectrall", W), "norm = 'spectrall' is unknown; nearest: spectral"),
        (lambda: step(2, W), "norm = 2 is unknown"),
        (lambda: transforms.dual_norm("nucleus", W), "dual_norm: norm = 'nucleus' is unknown; nearest: nuclear"),
        (lambda: step("l2", W, radius=0.0), "radius = 0.0"),
        (lambda: step("spectral", W, radius=-1.0), "radius = -1.0"),
        (lambda: step("spectral", B), r"leaf \['dense'\]\['bias'\] of shape \(3,\) is no matrix.*vectors='l2'"),
        (lambda: step("spectral", B, vectors="spectral"), "vectors = 'spectral' is unknown"),
        (lambda: step("l2", B, vectors="l2"), "vectors = 'l2' is for norms of matrices"),
        (lambda: step("spectral", W[None]), r"shape \(1, 2, 3\).*dimension_numbers='flax'"),
        (lambda: step("spectral", W, dimension_numbers=AXES(0, 2)), "no disjoint axes"),
        (lambda: step("spectral", W, dimension_numbers=AXES(1, 1)), "no disjoint axes"),
        (lambda: step("spectral", {"a": W}, dimension_numbers={"b": AXES()}), "say nothing of leaf"),
        (lambda: step("spectral", W, dimension_numbers="linen"), "dimension_numbers = 'linen'"),
        (lambda: step("spectral", W, method="qr"), "method = 'qr' must be 'svd'"),
        (lambda: newton_schulz(coefficients="polar"), "coefficients = 'polar' must be"),
        (lambda: newton_schulz(coefficients=(1.0, 2.0)), "no triples"),
        (lambda: newton_schulz(coefficients=[(1.5, -0.5, 0.0), 2.0]), "no triples"),
        (lambda: newton_schulz(coefficients="dion", steps=6), "steps = 6, but coefficients = 'dion' are of 5"),
        (lambda: newton_schulz(steps=0), "steps = 0"),
        (lambda: step("spectral", W, coefficients="dion"), "coefficients = 'dion' is for method='newton_schulz'"),
        (lambda: step("scion_conv", W, method="polar", steps=5), "steps = 5 is for method='newton_schulz'.*'polar'"),
        (
            lambda: step("nuclear", W, method="polar"),
            "method = 'polar' is for spectral norms, norm = 'nuclear' is none",
        ),
        (lambda: step("linf", W.astype(jnp.complex64)), "complex64"),
        (lambda: step("l2", W.astype(jnp.complex64), per_leaf=True), "'l2' and 'rms' without per_leaf take complex"),
        (lambda: step("linf", {"a": jnp.arange(3)}), r"scale_by_lmo: leaf \['a'\] is int32; updates must be floating"),
        (lambda: jax.jit(lambda r: step("l2", W, radius=r))(jnp.ones(3)), r"radius is a traced array of shape \(3,\)"),
        (lambda: transforms.scale_by_scion(radii="cnm"), "radii = 'cnm' is unknown; nearest: cnn"),
        (lambda: transforms.scale_by_scion(radii={"las": 1.0}), "'las' is unknown; nearest: last"),
        (lambda: transforms.scale_by_scion(radii={"last": 0.0}), r"radii\['last'\] = 0.0"),
        (lambda: transforms.scale_by_scion(norms={"last": "sgn"}), r"norms\['last'\] = 'sgn' is unknown"),
        (lambda: transforms.scale_by_scion(layers={"w": "lst"}).init({"w": W}), "'lst' is unknown; nearest: last"),
        (lambda: scion(radii={"last": 2.0}), "label 'first' has no radius; add it to radii"),
        (lambda: scion(constrained="no"), "constrained = 'no' must be False or True"),
        (lambda: scion(steps=5), "scale_by_scion: steps = 5 is for method='newton_schulz'"),
        (lambda: scion(layers="last", radii={"last": 1.0}, method="polar"), "spectral norms, and no label has one"),
        (lambda: scion(layers={"dense0": "hidden"}), "layers = .* do not fit leaves .*dense1.*label every leaf"),
        (lambda: transforms.clip_by_global_norm(0.0), "threshold = 0.0"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_traced_number_out_of_range_gives_nan():
    """Nobody can raise of it."""

    def both(number):
        links = (
            transforms.scale_by_lmo("linf", radius=number),
            transforms.scale_by_lmo("l2", radius=number),
            transforms.clip_by_global_norm(number),
            transforms.momentum(number / 2),
            transforms.scale_by_fedopt("adagrad", tau=number),
        )
        return [link.update(W, link.init(W))[0] for link in links]

    for steps in jax.jit(jax.vmap(both))(jnp.array([1.0, -1.0, jnp.nan])):
        assert jnp.isfinite(steps[0]).all()
        assert jnp.isnan(steps[1:]).all()


def test_numbers_of_python_and_leaves_of_two_precisions():
    assert float(transforms.dual_norm("l2", [3.0, 4.0])) == 5
    assert float(transforms.dual_norm("l1", [3.0, -4.0])) == 4
    assert step("l1", {"a": 3.0, "b": -4.0}) == {"a": 0, "b": -1}
    with jax.enable_x64(True):
        tree = {"a": jnp.ones((2, 2), jnp.float64), "b": 3 * jnp.eye(2, dtype=jnp.float32)}
        for norm in ("l1", "nuclear"):
            u = step(norm, tree)
            assert [str(leaf.dtype) for leaf in u.values()] == ["float64", "float32"]
            assert not u["a"].any()
            np.testing.assert_allclose((u["b"] * tree["b"]).sum(), transforms.dual_norm(norm, tree), rtol=1e-6)


# Clipping


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_clipping_at_every_scale(scale):
    v = {"a": jnp.array([3.0 * scale, 0.0]), "b": jnp.array([4.0 * scale])}
    for threshold in (2.5 * scale, 5.1 * scale):
        tx = transforms.clip_by_global_norm(threshold)
        u = tx.update(v, tx.init(v))[0]
        if threshold > 5 * scale:
            jax.tree.map(np.testing.assert_array_equal, u, v)
        else:
            np.testing.assert_allclose(u["a"], [1.5 * scale, 0], rtol=1e-5)
            np.testing.assert_allclose(u["b"], [2 * scale], rtol=1e-5)
    assert not tx.update(jnp.zeros(3), tx.init(jnp.zeros(3)))[0].any()
