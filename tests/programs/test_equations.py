"""What a program is, read from its text: nothing is served, and nothing goes on, that another program made."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import attacks, metrics, tasks
from byzjax.base import Aggregator
from byzjax.methods import momentum_sgd
from byzjax.programs import equations
from byzjax.simulation.checkpoint import Checkpoint
from byzjax.storage.chunk_store import ChunkStore

SCALAR = jax.ShapeDtypeStruct((), np.float32)


def sweep(fn, store=None, **options):
    return byzjax.sweep(fn, grid={"x": [1.0, 2.0]}, batch_size=2, store=store, progress=False, **options)["value"]


@pytest.fixture(params=[False, True], ids=["constants", "literals"])
def either(request):
    """Arrays that a function closes over are constants of the program, or stand in its equations, as JAX will."""
    before = jax.config.jax_use_simplified_jaxpr_constants
    jax.config.update("jax_use_simplified_jaxpr_constants", request.param)
    yield
    jax.config.update("jax_use_simplified_jaxpr_constants", before)


def asking(factor):
    """Multiplies where the program's text does not show it."""

    def ask(value):
        return np.asarray(value * factor, np.float32)

    return lambda x: {"value": jax.pure_callback(ask, SCALAR, x, vmap_method="sequential")}


def asking_in_order(factor):
    def ask(value):
        return np.asarray(value * factor, np.float32)

    def body(_, x):
        return jax.experimental.io_callback(ask, SCALAR, x)

    return lambda x, n=1: {"value": jax.lax.fori_loop(0, n, body, x)}


@pytest.mark.parametrize("ask", [asking, asking_in_order])
def test_what_calls_back_into_python_is_never_kept(tmp_path, ask):
    assert sweep(ask(1), tmp_path).values.tolist() == [1, 2]
    assert sweep(ask(7), tmp_path).values.tolist() == [7, 14]
    assert list(ChunkStore(tmp_path)) == []
    cells = sweep(lambda x, factor: ask(factor)(x), cells={"factor": [1, 7]})
    assert cells.values.tolist() == [[1, 2], [7, 14]], "nor is it taken for another cell's"


def test_the_rest_of_a_sweep_is_kept(tmp_path):
    def fn(x, ask):
        return asking(7)(x) if ask else {"value": 7 * x}

    for _ in range(2):
        assert sweep(fn, tmp_path, cells={"ask": [False, True]}).values.tolist() == [[7, 14]] * 2
    assert len(list(ChunkStore(tmp_path))) == 1


def test_what_only_prints_is_kept(tmp_path):
    def fn(x):
        jax.debug.callback(lambda value: None, x)
        return {"value": x}

    sweep(fn, tmp_path)
    sweep(fn, tmp_path)
    assert len(list(ChunkStore(tmp_path))) == 1


def closed_over(buffer, number):
    return jnp.asarray(buffer)


def inside_a_program(buffer, number):
    return jax.jit(lambda zero: zero + jnp.asarray(buffer))(jnp.float32(0))


def inside_a_loop(buffer, number):
    return jax.lax.fori_loop(0, 1, lambda _, total: total + jnp.asarray(buffer), jnp.zeros(3))


@pytest.mark.parametrize("read", [closed_over, inside_a_program, inside_a_loop])
def test_a_buffer_that_is_filled_anew_is_read_when_the_function_is_traced(tmp_path, either, read):
    buffer = np.zeros(3, np.float32)

    def fn(x, number):
        buffer[:] = number
        return {"value": x * read(buffer, number).max()}

    expected = [[1000, 2000], [2000, 4000], [3000, 6000]]
    assert sweep(fn, tmp_path, cells={"number": [1000, 2000, 3000]}).values.tolist() == expected
    right = lambda x, number: {"value": x * read(np.full(3, number, np.float32), number).max()}  # noqa: E731
    assert sweep(right, tmp_path, cells={"number": [1000, 2000, 3000]}).values.tolist() == expected
    buffer[:] = -1
    assert sweep(fn, tmp_path, cells={"number": [1000, 2000, 3000]}).values.tolist() == expected


def test_a_view_of_a_buffer_is_no_array_of_its_own():
    memory = np.zeros(4096 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    buffer = memory[start : start + 4096].view(np.float32)
    view = jax.device_put(buffer)  # which JAX does not copy, since it is aligned

    def fn(x, number):
        buffer[:] = number
        return {"value": x * view.max()}

    assert sweep(fn, cells={"number": [1, 2]}).values.tolist() == [[1, 2], [2, 4]]


def test_arrays_that_cells_share_are_held_once():
    table = jnp.arange(5000.0)
    lanes, seen = {"x": np.zeros(2, np.float32)}, {}
    programs = [
        byzjax.sweeps.tracing.trace(lambda x, k=k: {"value": x + k * table[0]}, {}, lanes, seen) for k in (1, 2)
    ]
    one, other = (program.constants[0] for program in programs)
    assert one is other
    np.testing.assert_array_equal(one, table)


@pytest.mark.parametrize("name", ["jax_threefry_partitionable", "jax_disable_most_optimizations"])
def test_a_store_tells_settings_apart(tmp_path, name):
    fn = lambda x: {"value": x + jax.random.uniform(jax.random.key(0), (3,)).sum()}  # noqa: E731
    here = sweep(fn, tmp_path)
    before = equations.settings()[name]
    try:
        jax.config.update(name, not before)
        there = sweep(fn, tmp_path)
    finally:
        jax.config.update(name, before)
    assert len(list(ChunkStore(tmp_path))) == 2
    assert (here == there).all() == (name == "jax_disable_most_optimizations")


# Checkpoints.


def rule(how):
    """A rule of NumPy."""

    def update(updates, state, params=None, **extra):
        shape = jax.ShapeDtypeStruct(updates.shape[1:], updates.dtype)
        return jax.pure_callback(lambda rows: how(np.asarray(rows), axis=0), shape, updates), state

    return Aggregator(lambda params: (), update)


def run(folder, aggregator, num_rounds=2, **checkpoint):
    return byzjax.run(
        tasks.quartic(3, noise_scale=0.1),
        momentum_sgd(0.1, aggregator=aggregator),
        attacks.none(),
        byzantine=jnp.zeros(3, bool),
        key=jax.random.key(0),
        num_rounds=num_rounds,
        record=metrics.record(),
        progress=False,
        checkpoint=Checkpoint(folder, **checkpoint),
    )


def test_a_run_that_calls_back_says_what_it_is(tmp_path):
    with pytest.raises(ValueError, match=r"calls back into Python .*config=\{…\}.*or run without a checkpoint") as told:
        run(tmp_path, rule(np.median))
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())
    run(tmp_path, rule(np.median), config={"rule": "median"})
    run(tmp_path, rule(np.median), 4, config={"rule": "median"})
    with pytest.raises(ValueError, match="holds another run, which differs in config"):
        run(tmp_path, rule(np.mean), 6, config={"rule": "mean"})


def test_a_checkpoint_of_another_stream_is_refused(tmp_path):
    rule = byzjax.aggregators.median()
    run(tmp_path, rule)
    with (
        jax.threefry_partitionable(not jax.config.jax_threefry_partitionable),
        pytest.raises(ValueError, match=r"differs in settings \(jax_threefry_partitionable: True there, False here\)"),
    ):
        run(tmp_path, rule, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path, rule, 4)
