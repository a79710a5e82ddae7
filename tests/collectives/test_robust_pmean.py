"""`robust_pmean`: what a rule returns on one device, wherever devices are, and never their gradients on one of them."""

import functools
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType

import byzjax
from byzjax import aggregators as agg
from byzjax import robust_pmean
from byzjax.base import Aggregator, PreAggregator
from byzjax.collectives import _pieces
from byzjax.transforms import robust_aggregate, state_specs
from tests.environment import ROOT, environment
from tests.test_sharding import (
    CASES,
    ELEVEN,
    TWO_ROUNDS,
    assert_close,
    collectives,
    stacks,
    two_rounds,
    two_rounds_on_one_device,
)

N, P = 8, jax.P
DATA, ALL = P("data"), P()
KEY = jax.random.key(7)
NNM_RFA = byzjax.chain(agg.nnm(1), agg.geometric_median())
SHAPES = {"matrix": (3, 7), "vector": (40,), "number": ()}
DRAWN = {"dp_clipping"}  # noise of another key for every share


@functools.cache
def mesh(*shape, kind="Auto"):
    names = ("data", "model", "more")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(AxisType[kind],) * len(shape))


def stack(seed=0, n=N, shapes=SHAPES):
    return jax.tree.map(lambda leaf: leaf[0], stacks(n, shapes, seed))


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def inside(function, where=None, takes=DATA, gives=ALL, **options):
    """A function of every device's own gradient, on the mesh."""
    where = mesh(8) if where is None else where
    return jax.shard_map(lambda tree: function(first(tree)), mesh=where, in_specs=(takes,), out_specs=gives, **options)


def on_one_device(rule, x):
    return byzjax.aggregate(rule, x, key=KEY)


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "deepsight"], ids=lambda case: case.id)
def test_every_rule_is_the_same_as_on_one_device(case):
    """Two rounds, so that states count; seventeen coordinates, which eleven workers do not divide."""
    rule = case.make(2, ELEVEN)
    rule = byzjax.chain(rule, agg.mean()) if isinstance(rule, PreAggregator) else rule
    link = robust_aggregate(rule, axis_name="data")
    run = jax.vmap(lambda own: two_rounds(link, own)[1], in_axes=1, axis_name="data")
    shared, alone = jax.jit(run)(TWO_ROUNDS), two_rounds_on_one_device(rule)[1]
    for one, other in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        assert (one == one[:1]).all()
        assert one.shape[1:] == other.shape
    if case.name not in DRAWN:
        assert_close(first(shared), alone, tolerance=2e-6)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("rule", [agg.median(), NNM_RFA], ids=["median", "nnm+rfa"])
def test_it_takes_the_place_of_pmean(kind, rule):
    """The result leaves by ``out_specs=P()``, which the types of values have to allow."""
    x = stack(shapes={**SHAPES, "wide": (3000,)})
    where = mesh(8, kind=kind)
    placed = jax.device_put(x, jax.NamedSharding(where, P("data")))
    for reduce in (lambda own: jax.lax.pmean(own, "data"), lambda own: robust_pmean(own, "data", rule)):
        out = jax.jit(inside(reduce, where))(placed)
    assert_close(out, on_one_device(rule, x))


def test_under_pmap_and_without_types():
    x = stack()
    expected = on_one_device(NNM_RFA, x)
    assert_close(first(jax.pmap(lambda own: robust_pmean(own, "data", NNM_RFA), axis_name="data")(x)), expected)
    assert_close(jax.jit(inside(lambda own: robust_pmean(own, "data", NNM_RFA), check_vma=False))(x), expected)


STATES = [case for case in CASES if jax.tree.leaves(case.make(1, N).init(jnp.zeros(3)))]
SEVERAL = {"foolsgold", "fldetector", "byzantine_sgd", "safeguard"}


@pytest.mark.parametrize("case", STATES, ids=lambda case: case.id)
def test_the_state_keeps_its_type(case):
    """Inside of `jax.lax.scan`, and out again; only what holds every worker's gradient varies from device to device."""
    rule, shapes = case.make(1, N), {"a": (3, 5), "b": (3000,)}
    x = stack(shapes=shapes)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), x)
    link = robust_aggregate(
        byzjax.chain(rule, agg.median()) if isinstance(rule, PreAggregator) else rule, key=KEY, axis_name="data"
    )

    def run(own):
        def step(state, _):
            return link.update(own, state, params)[::-1]

        return jax.lax.scan(step, link.init(params), length=2)

    specs = state_specs(link, params, mesh(8))
    state, results = jax.eval_shape(inside(run, gives=(specs, P())), x)
    assert jax.tree.map(lambda leaf: leaf.shape, results) == {"a": (2, 3, 5), "b": (2, 3000)}
    if case.name in SEVERAL:
        assert DATA in jax.tree.leaves(specs)
    else:
        assert set(jax.tree.leaves(specs)) == {ALL}
        chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(link.init, params))


LARGE = 80_000


@pytest.mark.parametrize(
    ("rule", "dim", "summed"),
    [(agg.median(), LARGE, 0), (agg.krum(1), LARGE, N**2), (NNM_RFA, 2_000, (N + 1) ** 2)],
    ids=["median", "krum", "nnm+rfa, small"],
)
def test_no_device_sees_the_gradients_of_others(rule, dim, summed):
    x = {"w": jnp.zeros((N, dim)), "b": jnp.zeros((N, 8))}
    program = jax.jit(inside(lambda own: robust_pmean(own, "data", rule))).lower(x).compile()
    found = collectives(program.as_text())
    largest = {
        kind: max((size for _, operation, size in found if operation == kind), default=0)
        for kind in ("all-to-all", "all-gather", "all-reduce")
    }
    small = 8 * (dim < LARGE)  # joined with the other leaf
    assert largest["all-to-all"] == (dim + small) // N  # what a device hands to each other one
    assert largest["all-gather"] == dim + small  # the result
    assert largest["all-reduce"] == summed
    if dim == LARGE:
        memory = program.memory_analysis()
        assert memory.temp_size_in_bytes < 3.5 * 4 * dim, "its share of all gradients, and copies on the way"


def test_the_counting_can_fail():
    def gathering(own):
        return jax.lax.psum(agg.median().update(jax.lax.all_gather(own, "data"), ())[0], "data") / N

    text = jax.jit(inside(gathering)).lower(jnp.zeros((N, LARGE))).compile().as_text()
    assert max(size for _, operation, size in collectives(text) if operation == "all-gather") == N * LARGE


@pytest.mark.parametrize("rule", [agg.median(), agg.trimmed_mean(1), NNM_RFA], ids=["median", "trimmed", "nnm+rfa"])
def test_large_gradients_travel_in_pieces(rule, limit):
    x = stack(shapes={"v": (5,), "w": (2501,)})
    params = first(jax.tree.map(jnp.zeros_like, x))
    reduce = inside(lambda own: robust_pmean(own, "data", rule, params=params))
    expected = on_one_device(rule, x)
    limit(_pieces, "MOST", 1000)
    program = jax.jit(reduce).lower(x).compile()
    assert max(size for _, operation, size in collectives(program.as_text()) if operation == "all-to-all") <= 125
    assert_close(program(x), expected)


def test_sixteen_bits_are_decided_upon_in_float32():
    x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), stack(shapes={"a": (700,), "b": (3, 5)}))
    assert_close(jax.jit(inside(lambda own: robust_pmean(own, "data", NNM_RFA)))(x), on_one_device(NNM_RFA, x), 2**-8)


def test_sixteen_bits_travel_as_such_in_large_leaves():
    x = {"large": stack(shapes={"large": (70_000,)})["large"].astype(jnp.bfloat16)}
    program = jax.jit(inside(lambda own: robust_pmean(own, "data", agg.mean()))).lower(x)
    assert re.search(r"all_to_all.*: \(tensor<8x8750xbf16>\)", program.as_text())
    assert_close(program.compile()(x), on_one_device(agg.mean(), x), 2**-8)


def test_several_axes_are_one_and_a_group_of_devices_averages_first():
    x, where = stack(), mesh(4, 2)
    nested = jax.vmap(jax.vmap(lambda own: robust_pmean(own, ("a", "b"), agg.median()), axis_name="b"), axis_name="a")
    pairs = nested(jax.tree.map(lambda leaf: leaf.reshape(4, 2, *leaf.shape[1:]), x))
    assert_close(first(first(pairs)), on_one_device(agg.median(), x))
    both = inside(lambda own: robust_pmean(own, ("data", "model"), NNM_RFA), where, P(("data", "model")))
    assert_close(jax.jit(both)(x), on_one_device(NNM_RFA, x))

    def together(own):
        return robust_pmean(jax.lax.pmean(own, "model"), "data", NNM_RFA)

    pairs = jax.tree.map(lambda leaf: leaf.reshape(4, 2, *leaf.shape[1:]).mean(1), x)
    assert_close(jax.jit(inside(together, where, P(("data", "model"))))(x), on_one_device(NNM_RFA, pairs))


@pytest.mark.parametrize("rule", [NNM_RFA, agg.dnc(1, sub_dim=20)], ids=["nnm+rfa", "dnc"])
def test_axes_that_shard_parameters(rule):
    """Lengths are those of whole gradients; a leaf that every device has whole counts once."""
    x, where = stack(n=4, shapes={"cut": (6, 300), "whole": (50,)}), mesh(4, 2)
    x = jax.tree.map(lambda leaf: leaf.at[3].mul(-30.0), x)
    specs = {"cut": P("data", None, "model"), "whole": P("data")}
    gives = {"cut": P(None, "model"), "whole": P()}
    reduce = functools.partial(robust_pmean, axis_name="data", rule=rule, key=KEY)
    manual = inside(functools.partial(reduce, parameter_axes="model"), where, specs, gives)
    expected = on_one_device(rule, x)
    if rule == NNM_RFA:
        assert_close(jax.jit(manual)(x), expected)
        placed = jax.tree.map(lambda leaf, spec: jax.device_put(leaf, jax.NamedSharding(where, spec)), x, specs)
        left_to_the_compiler = inside(reduce, where, axis_names={"data"})
        assert_close(jax.jit(left_to_the_compiler)(placed), expected)
        return
    honest = jax.tree.map(lambda leaf: leaf[:3].mean(0), x)  # which coordinates it samples is another draw
    assert_close(jax.jit(manual)(x), honest)


def test_an_optax_chain_that_remembers():
    x = stack(shapes={"w": (30,)})
    tx = optax.chain(robust_aggregate(agg.centered_clipping(tau=2.0), axis_name="data"), optax.trace(0.9))
    alone = optax.chain(robust_aggregate(agg.centered_clipping(tau=2.0)), optax.trace(0.9))
    params = {"w": jnp.zeros(30)}

    def twice(tx, updates):
        state = tx.init(params)
        for _ in range(2):
            out, state = tx.update(updates, state, params)
        return out, state[1]

    assert_close(jax.jit(inside(functools.partial(twice, tx)))(x), twice(alone, x))


def test_what_is_refused():
    x, rule = stack(), agg.median()
    with pytest.raises(ValueError, match=r"robust_pmean: axis_name = 'data' is no axis here; call it inside jax."):
        robust_pmean(first(x), "data", rule)
    with pytest.raises(ValueError, match=r"robust_aggregate: foolsgold.* call init where the devices are"):
        robust_aggregate(agg.foolsgold(N), axis_name="data").init(first(x))

    def tried(function, takes=DATA):
        jax.eval_shape(inside(function, takes=takes), x)

    for reduce, message in {
        lambda own: robust_pmean(own, "data", agg.krum(4)): "over 8 devices along 'data': krum: f = 4 of n = 8",
        lambda own: robust_pmean(own, "data", agg.foolsgold(5)): "remembers earlier rounds; pass state=",
        lambda own: robust_pmean(own, "data", agg.deepsight()): "8 devices along 'data': deepsight: looks at whole",
        lambda own: robust_pmean(own, "data", agg.centered_clipping(), state=()): "state.* is not there where",
        lambda own: robust_pmean(own, 3, rule): "axis_name = 3 is no axis",
        lambda own: robust_pmean(own, "data", agg.dnc(1)): "dnc: needs a PRNG key",
        lambda own: robust_pmean(own, "data", agg.nnm(1)): "rule = nnm",
        lambda own: robust_pmean(own, "data", Aggregator(rule.init, rule.update)): "not one of byzjax.aggregators",
        lambda own: robust_pmean(own, "model", rule): "axis_name = 'model' is no axis",
        lambda own: robust_pmean(own, "data", rule, parameter_axes="more"): "parameter_axes = 'more' is no axis",
        lambda own: robust_pmean(jnp.arange(3), "data", rule): "dtype int32",
        lambda own: robust_pmean(own, "data", agg.dnc(1), key=own_key()): "key differs along 'data'",
        lambda own: robust_pmean(own, "data", agg.median(), params=own): "params.* differs along 'data'",
    }.items():
        with pytest.raises(ValueError, match=message):
            tried(reduce)
    with pytest.raises(ValueError, match=r"grads\['matrix'\] is the same on all devices along 'data', so jax.grad"):
        tried(lambda own: robust_pmean(own, "data", rule), takes=P())


def test_axes_of_vmap_inside_shard_map():
    """JAX has collectives along them where types are not checked, and none along axes of both kinds."""

    def run(axis_name, **options):
        vmapped = jax.vmap(lambda own: robust_pmean(own, axis_name, agg.median()), axis_name="inner")
        twice = jax.vmap(vmapped, axis_name="outer")
        return jax.jit(jax.shard_map(twice, mesh=mesh(8), in_specs=DATA, out_specs=DATA, **options))

    x = jax.random.normal(KEY, (16, 3, 5))
    for axes, options, message in (
        ("inner", {}, "'inner' is an axis of jax.vmap inside jax.shard_map, along which.*pass that"),
        (("data", "inner"), {}, "has an axis of the mesh, 'data', and one of jax.vmap, 'inner'"),
        (("data", "inner"), {"check_vma": False}, "has an axis of the mesh, 'data', and one of jax.vmap, 'inner'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(axes, **options)(x)
    expected = jnp.median(x.reshape(8, 6, 5), axis=1)[:, None, None]
    got = run(("outer", "inner"), check_vma=False)(x).reshape(8, 2, 3, 5)
    assert_close(got, jnp.broadcast_to(expected, got.shape), tolerance=1e-6)


@pytest.mark.parametrize(
    ("axis_name", "parameter_axes", "message"),
    [
        (("data", "data"), (), r"robust_pmean: axis_name = \('data', 'data'\) names an axis twice"),
        ("data", ("data",), "robust_pmean: 'data' is in axis_name and in parameter_axes"),
    ],
)
def test_no_axis_is_named_twice(axis_name, parameter_axes, message):
    with pytest.raises(ValueError, match=message):
        jax.vmap(
            lambda own: robust_pmean(own, axis_name, agg.median(), parameter_axes=parameter_axes), axis_name="data"
        )(jnp.arange(12.0).reshape(4, 3))


def own_key():
    return jax.random.fold_in(KEY, jax.lax.axis_index("data"))


@pytest.mark.slow
def test_the_example_trains_with_a_broken_device_and_fails_with_pmean():
    """Shorter; the last loss that is printed."""
    code = (ROOT / "examples" / "robust_data_parallel.py").read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 60

    def last(*flags):
        command = [sys.executable, "-c", code.replace("sys.argv, 100", "sys.argv, 30"), *flags]
        told = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        return float(told.stdout.split()[-1])

    assert last() < 3.1
    assert not last("--pmean") < 4.1  # ln 63, which knowing nothing gives
