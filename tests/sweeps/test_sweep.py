"""Sweeps: the numbers of single runs, the same bits whatever happens on the way, and choices that are not fooled."""

import dataclasses
import importlib
import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from jax.sharding import AxisType

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, results, tasks
from byzjax.selection import DivergedWarning, EdgeWarning
from byzjax.storage import files
from byzjax.storage.chunk_store import Store, verify
from byzjax.sweeps import batch_size, executor
from tests.environment import ROOT

N, B, ROUNDS = 7, 1, 12
TASK = tasks.quartic(N, B, noise_scale=0.01)
GRID = {"seed": [3, 5], "learning_rate": [0.01, 0.1, 1e30], "beta": [0.0, 0.9]}
TABLE = jnp.arange(5.0)


def quartic(seed, learning_rate, beta, rule="geometric_median"):
    method = methods.byz_nsgdm(learning_rate, beta=beta, aggregator=byzjax.chain(agg.nnm(B), agg.REGISTRY[rule]()))
    return byzjax.simulate(
        TASK,
        method,
        attacks.bit_flip(),
        byzantine=jnp.arange(N) >= N - B,
        key=jax.random.key(seed),
        num_rounds=ROUNDS,
        eval_every=4,
    )


def simple(seed, x, power=1):
    """Compiles in no time, and reads an array that it closes over."""
    noise = jax.random.normal(jax.random.key(seed), (3,))
    return {"value": x**power * noise, "place": TABLE[seed.astype(jnp.int32) % 5]}


SIMPLE = {"seed": range(6), "x": [0.5, 1.0, 2.0]}


def sweep(fn=simple, grid=SIMPLE, **options):
    return byzjax.sweep(fn, grid=grid, **{"progress": False, "batch_size": 4, **options})


def same_bits(one, other):
    assert one.variables.keys() == other.variables.keys()
    for name in one.variables:
        assert one[name].dims == other[name].dims
        assert np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes(), name


def chunks_in(path):
    return sorted(Path(path).glob("chunks/??/[!.]*.nc"))


@pytest.fixture(scope="module")
def swept():
    return sweep(quartic, GRID, batch_size=4, config={"eval_every": 4, "task": "quartic"})


# The numbers.


def test_lanes_are_single_runs(swept):
    single = jax.jit(quartic)
    for seed, rate, beta in itertools.product(*GRID.values()):
        result = single(jnp.uint32(seed), jnp.float32(rate), jnp.float32(beta))
        lane = swept.sel(seed=seed, learning_rate=rate, beta=beta)
        for name, value in {**result.history, **result.evals}.items():
            np.testing.assert_allclose(lane[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        assert bool(lane["diverged"]) == (not result.state.finite)


def test_a_seed_axis_is_the_key_of_that_seed():
    drawn = sweep(lambda seed: {"x": jax.random.normal(jax.random.key(seed), (2,))}, {"seed": [0, 7, 2**32 - 1]})["x"]
    for seed in (0, 7, 2**32 - 1):
        expected = jax.random.normal(jax.random.key(np.uint32(seed)), (2,))
        np.testing.assert_array_equal(drawn.sel(seed=seed), expected)
    np.testing.assert_array_equal(drawn.sel(seed=7), jax.random.normal(jax.random.key(7), (2,)))


def test_dimensions_coordinates_units(swept):
    assert dict(swept.sizes) == {"seed": 2, "learning_rate": 3, "beta": 2, "round": ROUNDS, "eval": 3}
    assert swept["objective"].dims == ("seed", "learning_rate", "beta", "eval")
    assert swept["eval"].values.tolist() == [4, 8, 12]
    assert swept["learning_rate"].values.tolist() == [0.01, 0.1, 1e30], "as given, not as rounded to float32"
    for variable in swept.variables.values():
        assert variable.attrs["long_name"]
        assert variable.attrs["units"]


def test_attributes(swept, tmp_path):
    config = results.config_of(swept)
    assert config["task"] == "quartic"
    assert config["grid"] == GRID
    assert swept.attrs["jax_version"] == jax.__version__
    assert swept.attrs["device_kind"] == jax.devices()[0].device_kind
    assert swept.attrs["lanes"] == 12
    assert json.loads(swept.attrs["batch_size"]) == {"": 4}
    assert swept.attrs["compile_seconds"] > 0
    assert swept.attrs["run_seconds"] > 0
    assert results.load(results.save(swept, tmp_path / "sweep.nc")).identical(swept)


def test_a_diverged_lane_is_frozen_flagged_counted(swept):
    lost = swept["diverged"].sel(learning_rate=1e30)
    assert lost.all()
    assert swept.attrs["diverged"] == int(swept["diverged"].sum()) == lost.size
    assert np.isnan(swept["objective"].sel(learning_rate=1e30).isel(eval=-1)).all()
    assert np.isfinite(swept["objective"].sel(learning_rate=[0.01, 0.1])).all()


def test_what_a_dict_says_of_divergence():
    value = sweep(lambda x: {"value": 1 / x}, {"x": [0.0, 1.0]})
    assert value["diverged"].values.tolist() == [True, False]
    said = sweep(lambda x: {"value": 1 / x, "finite": x < 1}, {"x": [0.0, 1.0]})
    assert said["diverged"].values.tolist() == [False, True]


def test_cells_are_python_values_and_compiled_once(monkeypatch):
    compiled, called = [], []
    inner = batch_size.compile_lanes
    monkeypatch.setattr(batch_size, "compile_lanes", lambda *args: compiled.append(args) or inner(*args))

    def fn(x, shape, how):
        called.append((shape, how))
        return {"value": how(jnp.full(shape, x))}

    dataset = sweep(fn, {"x": range(9)}, cells={"shape": [2, 3], "how": {"sum": jnp.sum, "max": jnp.max}}, batch_size=2)
    assert called == [(2, jnp.sum), (2, jnp.max), (3, jnp.sum), (3, jnp.max)]
    assert len(compiled) == 4
    assert dataset["how"].values.tolist() == ["sum", "max"]
    assert dataset["value"].sel(shape=3, how="sum", x=4) == 12
    assert dataset["value"].dtype == np.int32


def test_what_a_cell_lacks_is_nan():
    dataset = sweep(lambda x, more: {"a": x} | ({"b": x} if more else {}), {"x": [1.0]}, cells={"more": [False, True]})
    assert np.isnan(dataset["b"].sel(more="False")).all()
    assert (dataset["b"].sel(more="True") == 1).all()


def test_equal_cells_are_computed_once(tmp_path):
    dataset = sweep(cells={"power": {"one": 1, "also one": 1}}, store=tmp_path)
    assert len(chunks_in(tmp_path)) == 5
    np.testing.assert_array_equal(dataset["value"].sel(power="one"), dataset["value"].sel(power="also one"))


@pytest.mark.parametrize(("given", "labels"), [([0, False, 5], ["0", "False", "5"]), ([True, 1], ["True", "1"])])
def test_no_cell_is_lost(given, labels):
    fn = lambda x, cell: {"value": x + 10 * int(cell), "flag": isinstance(cell, bool)}  # noqa: E731
    dataset = sweep(fn, {"x": [1.0]}, cells={"cell": given})
    assert dataset["cell"].values.tolist() == labels
    assert dataset["value"].sel(x=1.0).values.tolist() == [1 + 10 * int(cell) for cell in given]
    assert dataset["flag"].sel(x=1.0).values.tolist() == [isinstance(cell, bool) for cell in given]


def test_labels_with_commas_are_cells_of_their_own():
    cells = {"a": {"1, b=2": 1, "1": 2}, "b": {"3": 3, "2, b=3": 4}}
    dataset = sweep(lambda x, a, b: {"value": x * (10 * a + b)}, {"x": [1.0]}, cells=cells)
    assert dataset["value"].values.squeeze().tolist() == [[13, 14], [23, 24]]


def test_scalars_of_numpy_are_what_they_are(tmp_path):
    dataset = sweep(
        lambda x, rate, size: {"value": x * rate + jnp.ones(size).sum(), "twice": np.int32(2 * size)},
        {"x": [np.float32(1.0), np.float32(2.0)]},
        cells={"rate": [np.float32(0.5), np.float32(0.25)], "size": [np.int64(2), np.int64(3)]},
        config={"rule": "median", "f": np.int64(3), "rates": (np.float32(0.5),), "eval_every": np.int64(4)},
        store=tmp_path / "store",
    )
    assert dataset["rate"].values.tolist() == [0.5, 0.25]
    assert float(dataset["value"].sel(x=2.0, rate=0.25, size=3)) == 3.5
    saved = results.load(results.save(dataset, tmp_path / "sweep.nc"))
    assert saved.identical(dataset)
    config = results.config_of(saved)
    assert (config["f"], config["rates"], config["cells"]["rate"]) == (3, [0.5], [0.5, 0.25])


def test_without_a_grid():
    assert sweep(lambda power: {"value": jnp.ones(2) * power}, {}, cells={"power": [2, 3]})["value"].shape == (2, 2)


def test_narrow_floats_are_widened():
    dataset = sweep(lambda x: {"value": x.astype(jnp.bfloat16)}, {"x": [0.5]})
    assert dataset["value"].dtype == np.float32


# Batches and devices.


def test_chunks_of_another_size_agree_up_to_rounding(swept):
    for size in (1, 100):
        other = sweep(quartic, GRID, batch_size=size, config={"eval_every": 4})
        for name in swept:
            np.testing.assert_allclose(other[name], swept[name], rtol=1e-4, atol=1e-6)


def mesh_of(**sizes):
    count = int(np.prod(list(sizes.values())))
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=jax.devices()[:count])


@pytest.mark.parametrize("sizes", [{"runs": 8}, {"runs": 4, "workers": 2}])
def test_a_mesh_changes_no_bit_of_a_lane(sizes):
    mesh = mesh_of(**sizes)
    grid = {"seed": range(8), "learning_rate": [0.01, 0.1], "beta": [0.9]}
    laid = sweep(quartic, grid, mesh=mesh, batch_size=2 * sizes["runs"])
    same_bits(laid, sweep(quartic, grid, batch_size=2))
    other = sweep(quartic, grid, batch_size=16)
    for name in laid:
        np.testing.assert_allclose(laid[name], other[name], rtol=1e-6, atol=1e-6)


def test_lanes_are_really_on_all_devices():
    traced = byzjax.sweeps.tracing.trace(simple, {}, {"seed": np.zeros(8, np.uint32), "x": np.zeros(8, np.float32)}, {})
    lanes = {"seed": np.arange(8, dtype=np.uint32), "x": np.ones(8, np.float32)}
    mesh = mesh_of(runs=8)
    compiled = byzjax.sweeps.tracing.compile_lanes(traced, lanes, 8, mesh)
    values = compiled(jax.device_put(traced.constants, jax.NamedSharding(mesh, jax.P())), lanes)["value"]
    assert [shard.data.shape for shard in values.addressable_shards] == [(1, 3)] * 8
    assert len({shard.device for shard in values.addressable_shards}) == 8
    text = compiled.as_text()
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective-permute", text)


@pytest.mark.parametrize("fixed", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("slope", [0.3, 0.01, 0.0007])
@pytest.mark.parametrize("first", [1, 8, 1024])
def test_the_largest_batch_that_fits_is_found(fixed, slope, first):
    tried = []
    size, compiled = batch_size.fitting(
        lambda lanes: tried.append(lanes) or lanes, lambda lanes: fixed + slope * lanes, first=first, most=256
    )
    assert compiled == size
    assert size & (size - 1) == 0
    assert size == 1 or fixed + slope * size <= 1
    best = min(256, batch_size.power_of_two((1 - fixed) / slope))
    assert best / 2 <= size <= best, "three compilations find it, or half of it"
    assert len(tried) <= 4
    assert len(set(tried)) == len(tried)


def test_the_batch_follows_from_the_analysis_of_the_program(monkeypatch):
    def hungry(x):
        return {"value": jnp.sort(jnp.sin(x + jnp.arange(4096.0)))[::64].sum()}

    sizes = []
    for free in (1 << 18, 1 << 20, 1 << 40):
        monkeypatch.setattr(batch_size, "free_memory", lambda device, free=free: free)
        dataset = sweep(hungry, {"x": np.arange(512.0)}, batch_size="auto")
        sizes.append(json.loads(dataset.attrs["batch_size"])[""])
    assert sizes[0] < sizes[1] <= sizes[2]
    assert sizes[2] <= 512 / batch_size.MIN_CHUNKS
    lanes = {"x": np.zeros(1, np.float32)}
    program = byzjax.sweeps.tracing.trace(hungry, {}, lanes, {})
    workers = batch_size.concurrency(jax.devices()[0], None, 100)
    budget = batch_size.HEADROOM * (1 << 18) / workers
    loads = [
        batch_size.load(byzjax.sweeps.tracing.compile_lanes(program, lanes, size, None), jax.devices()[0], budget)
        for size in (sizes[0], 2 * sizes[0])
    ]
    assert loads[0] <= 1 or sizes[0] == 1
    assert loads[1] > 1


def test_a_resumed_sweep_is_cut_as_before(tmp_path, monkeypatch):
    options = {"grid": {"seed": range(32), "x": [0.5, 1.0]}, "batch_size": "auto", "store": tmp_path}
    before = sweep(**options)
    for path in chunks_in(tmp_path)[::2]:
        path.unlink()
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 1)
    after = sweep(**options)
    assert after.attrs["batch_size"] == before.attrs["batch_size"]
    same_bits(before, after)


def test_free_memory_is_plausible():
    free = batch_size.free_memory(jax.devices()[0])
    assert 1 << 20 < free < 1 << 50


# The store.


def counting(monkeypatch):
    counted = []
    inner = executor._one
    monkeypatch.setattr(executor, "_one", lambda *args: counted.append(args) or inner(*args))
    return counted


def test_what_is_there_is_not_computed(tmp_path, monkeypatch):
    counted = counting(monkeypatch)
    first = sweep(store=tmp_path)
    assert len(counted) == 5
    same_bits(first, sweep(store=tmp_path))
    same_bits(first, sweep())
    counted.clear()
    more = sweep(grid={"seed": range(8), "x": [0.5, 1.0, 2.0]}, store=tmp_path)
    assert len(counted) == 2, "seeds were added: only the chunks with new lanes are computed"
    np.testing.assert_array_equal(more["value"][:6], first["value"])


def test_a_finished_sweep_is_put_into_its_store(tmp_path):
    first = sweep(store=tmp_path, config={"kind": "first"})
    assert results.load(tmp_path / "dataset.nc").identical(first)
    sweep(store=tmp_path, config={"kind": "first"})
    assert [path.name for path in tmp_path.glob("*.nc")] == ["dataset.nc"]
    second = sweep(store=tmp_path, config={"kind": "second"})
    assert results.load(tmp_path / "dataset.nc").identical(second)
    (kept,) = tmp_path.glob("dataset-*.nc")
    assert results.config_of(results.load(kept))["kind"] == "first"


def test_a_file_that_is_no_data_set_is_not_written_over(tmp_path):
    sweep(store=tmp_path)
    (tmp_path / "dataset.nc").write_text("mine")
    sweep(store=tmp_path)
    assert [path.read_text() for path in tmp_path.glob("dataset-*.nc")] == ["mine"]


def keys_of(folder, **options):
    sweep(store=folder, **options)
    return {path.name for path in chunks_in(folder)}


def test_everything_that_determines_a_chunk_is_in_its_name(tmp_path):
    base = keys_of(tmp_path / "base")
    other_table = lambda seed, x: {**simple(seed, x), "place": (TABLE + 1)[seed.astype(jnp.int32) % 5]}  # noqa: E731
    variants = {
        "batch size": {"batch_size": 2},
        "grid": {"grid": {**SIMPLE, "x": [0.25, 1.5, 3.0]}},
        "function": {"fn": lambda seed, x: {"value": simple(seed, x)["value"] * 2}},
        "constants": {"fn": other_table},
        "code": {"code_version": "mine"},
        "mesh": {"mesh": mesh_of(runs=2)},
    }
    for name, options in variants.items():
        assert keys_of(tmp_path / name, **options).isdisjoint(base), name
    assert keys_of(tmp_path / "again") == base
    assert keys_of(tmp_path / "renamed", fn=lambda seed, x: simple(seed, x), name="other") == base


CHILD = """
import sys
import threading
import jax, jax.numpy as jnp, numpy as np
import byzjax

def fn(seed, x, table):
    table = jnp.asarray(np.arange(4000.0, dtype=np.float32) + table)
    return {"value": x * jax.random.normal(jax.random.key(seed), (3,)) + table[(x + 17).astype(jnp.int32)]}

dataset = byzjax.sweep(fn, grid={"seed": range(3), "x": [1.0, 2.0]}, cells={"table": [0.0, 1.0]}, batch_size=2,
                       store=sys.argv[1], progress=False)
assert (dataset["value"][1] - dataset["value"][0] > 0.9).all()
"""


@pytest.mark.parametrize("simplified", ["0", "1"])
def test_names_are_the_same_in_every_process(tmp_path, simplified):
    found = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS": simplified}
        subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / seed)], check=True, env=env)
        found.append([path.name for path in chunks_in(tmp_path / seed)])
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_arrays_closed_over_are_not_compiled_in():
    table = jnp.arange(1_000_000.0)
    lanes = {"x": np.zeros(2, np.float32)}
    program = byzjax.sweeps.tracing.trace(lambda x: {"value": x + table[0]}, {}, lanes, {})
    assert [constant.shape for constant in program.constants] == [(1_000_000,)]
    assert len(byzjax.sweeps.tracing.compile_lanes(program, lanes, 2, None).as_text()) < 20_000


def test_damaged_chunks_are_computed_again(tmp_path, capsys):
    first = sweep(store=tmp_path)
    victims = chunks_in(tmp_path)[:2]
    victims[0].write_bytes(victims[0].read_bytes()[:500])
    victims[1].write_bytes(b"")
    same_bits(first, sweep(store=tmp_path, progress=True))
    assert len(re.findall("is damaged .* computed again", capsys.readouterr().err)) == 2
    assert verify(Store(tmp_path)) == (5, [])


def test_another_code_version_is_said_and_computed_anew(tmp_path, capsys):
    first = sweep(store=tmp_path, code_version="old")
    again = sweep(store=tmp_path, progress=True)
    said = capsys.readouterr().err
    assert "holds this sweep as another version made it (code old there, " in said
    assert "Its 5 chunks are kept and not used" in said
    assert len(chunks_in(tmp_path)) == 10
    same_bits(first, again)
    sweep(store=tmp_path, progress=True)
    assert "another version" not in capsys.readouterr().err, "nothing is missing any more"


def test_another_function_under_the_same_name_is_said(tmp_path, capsys):
    sweep(store=tmp_path, name="s")
    sweep(lambda seed, x: {"value": x}, store=tmp_path, name="s", progress=True)
    assert "what the function computes, or its data, was different" in capsys.readouterr().err


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def fills_up(handle):
        calls.append(handle)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills_up)
        with pytest.raises(OSError, match=r"cannot be written.*No space left on device.*call again to resume"):
            sweep(store=tmp_path)
    kept = len(chunks_in(tmp_path))
    assert 0 < kept < 5
    assert list(tmp_path.glob("claims/*")) == []
    counted = counting(monkeypatch)
    same_bits(sweep(), sweep(store=tmp_path))
    assert len(counted) == 5 + 5 - kept


def test_a_complete_store_needs_no_writing(tmp_path, monkeypatch):
    first = sweep(store=tmp_path)

    def read_only(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "mkstemp", read_only)
    same_bits(first, sweep(store=tmp_path))
    with pytest.raises(OSError, match="Read-only file system"):
        sweep(grid={"seed": [9], "x": [1.0]}, store=tmp_path)


def test_an_interrupted_sweep_finishes_what_is_in_flight_and_resumes(tmp_path, monkeypatch):
    inner, pressed = executor._one, threading.Lock()

    def one(*args):
        arrays = inner(*args)
        if len(chunks_in(tmp_path)) >= 2 and pressed.acquire(blocking=False):  # once: the second stops at once
            os.kill(os.getpid(), signal.SIGINT)
        return arrays

    with monkeypatch.context() as patch:
        patch.setattr(executor, "_one", one)
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match=r"of 18 chunks are kept in .*; make the same call again to resume"):
            sweep(store=tmp_path, batch_size=1)
        assert signal.getsignal(signal.SIGINT) is handler
    kept = len(chunks_in(tmp_path))
    assert 2 <= kept < 18
    assert list(tmp_path.glob("claims/*")) == []
    counted = counting(monkeypatch)
    same_bits(sweep(batch_size=1), sweep(batch_size=1, store=tmp_path))
    assert len(counted) == 18 + 18 - kept


WORKER = """
import json, sys, time
import jax, jax.numpy as jnp
rank, port, store = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if port != "0":
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
import byzjax
from byzjax.sweeps import executor

mine = []
inner = executor._one
def one(launch, chunk, store):
    mine.append(chunk.key)
    time.sleep(0.05)  # so that both find work
    return inner(launch, chunk, store)
executor._one = one

def fn(seed, x, power):
    return {"value": x**power * jax.random.normal(jax.random.key(seed), (3,))}

grid, cells = {"seed": range(12), "x": [1.0, 2.0]}, {"power": [1, 2]}
dataset = byzjax.sweep(fn, grid=grid, cells=cells, batch_size=2, store=store, progress=False)
print(json.dumps({"mine": mine, "sum": dataset["value"].values.tobytes().hex(), "of": jax.process_count()}))
"""


@pytest.mark.parametrize("distributed", [False, True])
def test_two_processes_share_a_store(tmp_path, distributed):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1] if distributed else 0
    command = [sys.executable, "-c", WORKER]
    pair = [
        subprocess.Popen([*command, str(rank), str(port), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert said[0]["of"] == (2 if distributed else 1)
    assert said[0]["sum"] == said[1]["sum"]
    computed = said[0]["mine"] + said[1]["mine"]
    assert len(computed) == len(set(computed)) == len(chunks_in(tmp_path)) == 24, "nothing twice, nothing lost"
    assert list(tmp_path.glob("claims/*")) == []


def test_killed_and_resumed_is_bit_identical():
    path = ROOT / "benchmarks" / "kill_resume.py"
    spec = importlib.util.spec_from_file_location("kill_resume", path)
    kill_resume = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill_resume)
    report = kill_resume.experiment(kills=2, rules=1, rounds=500, seed=0, say=lambda line: None)
    assert report["identical"]
    assert report["kills"] == 2
    assert report["damaged"] == 0
    assert report["chunks_in_the_end"] == report["chunks"] == 12
    assert report["diverged_lanes"] == 16


# What is shown.


def test_plain_lines_where_there_is_no_terminal(capsys):
    sweep(progress=True, cells={"power": [1, 2]}, name="powers")
    lines = capsys.readouterr().err.splitlines()
    assert re.match(r"powers: cell 2/2, chunk 10/10, 36/36 lanes, \S+ lanes/s, ETA 0 s, 0 diverged", lines[-2])
    assert re.match(r"powers: 36 lanes in \S+ s, and \S+ s of compilation", lines[-1])
    assert len(lines) <= 11


def test_rounds_and_divergence_are_shown(capsys):
    sweep(quartic, GRID, progress=True)
    shown = capsys.readouterr().err
    assert "rounds/s" in shown
    assert "4 diverged" in shown
    assert "4 lanes diverged" in shown


def test_a_bar_where_there_is_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    sweep(progress=True, name="powers")
    shown = capsys.readouterr().err
    assert "chunk 5/5, 18/18 lanes" in shown
    assert "0 diverged" in shown


def test_silence(capsys, tmp_path):
    sweep(store=tmp_path)
    sweep(store=tmp_path)
    assert capsys.readouterr() == ("", "")


# What does not fit.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": {"seed": [], "x": [1.0]}}, "grid: seed has length 0"),
        ({"grid": {"seed": [0], "x": np.zeros((0,))}}, "grid: x has length 0"),
        ({"grid": {"seed": [0], "x": "0.1"}}, "x = '0.1' must be a list of numbers"),
        ({"grid": {"seed": [0], "x": 0.1}}, "x = 0.1 must be a list of numbers"),
        ({"grid": {"seed": [0], "x": ["a"]}}, "what is not a number, or decides shapes, is a cell"),
        ({"grid": {"seed": [0], "x": [[1.0], [2.0, 3.0]]}}, "must be a list of numbers"),
        ({"grid": {"seed": [0], "x": [1.0, 1.0]}}, "holds a value twice"),
        ({"grid": {"seed": [0], "x": [1.0, 1.0 + 1e-12]}}, "holds a value twice .as float32"),
        ({"grid": {"seed": [-1], "x": [1.0]}}, "seed = .* must be integers between 0"),
        ({"grid": {"seed": [0.5], "x": [1.0]}}, "seed = .* must be integers between 0"),
        ({"grid": {"seed": [0], "x": [2**40]}}, "does not fit into int32"),
        ({"grid": {"seed": [0]}}, "does not take the axes .*missing a required argument: 'x'"),
        ({"grid": {**SIMPLE, "y": [1]}}, "unexpected keyword argument 'y'"),
        ({"cells": {"power": []}}, "cells: power has length 0"),
        ({"cells": {"power": [1, 1]}}, "holds a value twice"),
        ({"cells": {"power": "12"}}, "must be a list of values"),
        ({"cells": {"power": [jnp.sin]}}, "is not its own label"),
        ({"cells": {"x": [1]}}, "are axes of the grid and of the cells"),
        ({"grid": {**SIMPLE, "eval": [1]}}, "'eval' is a name of the data set's own"),
        ({"batch_size": 0}, "batch_size = 0 must be an integer ≥ 1"),
        ({"batch_size": 2.5}, "batch_size = 2.5"),
        ({"fn": lambda seed, x: x}, "must return a Result or a flat dict"),
        ({"fn": lambda seed, x: {"a": {"b": x}}}, "a flat dict of arrays is wanted"),
        ({"fn": lambda seed, x: {"a": jax.random.key(seed)}}, "holds numbers and flags"),
        ({"fn": lambda seed, x: {"a": jnp.zeros((2, 0))}}, "holds nothing"),
        ({"fn": lambda seed, x: {"x": x}}, "fn gives .'x'., which are axes"),
        ({"fn": lambda seed, x: {"diverged": x}}, "'diverged' is the sweep's own"),
        ({"fn": lambda seed, x, n: {"a": jnp.zeros(n)}, "cells": {"n": [1, 2]}}, "cells of one data set must agree"),
        ({"fn": lambda seed, x, n: {"a": x, **({"i": n} if n else {})}, "cells": {"n": [0, 1]}}, "no NaN to say so"),
        ({"config": {"rule": object()}}, "only what JSON can say"),
        ({"config": {"seed": {"count": 3}}}, "attribute seed = .* which netCDF cannot hold"),
        ({"cells": {"power": [1, 1.0]}}, "holds a value twice"),
        ({"cells": {"power": [1, np.int64(1)]}}, "holds a value twice"),
        ({"fn": lambda seed, x: {"train/loss": x}}, "'train/loss' cannot be the name .*'train_loss'"),
        ({"fn": lambda seed, x: {"round": x}}, "'round' is a dimension of a data set"),
        ({"fn": lambda **axes: {"value": 1.0}, "grid": {"a/b": [1.0]}}, "'a/b' cannot be the name of a variable"),
    ],
)
def test_bad_input_is_named(monkeypatch, options, message):
    counted = counting(monkeypatch)
    with pytest.raises(ValueError, match=message):
        sweep(**options)
    assert not counted


def small_run(learning_rate=0.1, beta=0.9, f=1, shift=1, byzantine=0):
    method = methods.byz_nsgdm(learning_rate, beta=beta, aggregator=byzjax.chain(agg.nnm(f), agg.multi_krum(f)))
    mask = jnp.arange(N) >= N - byzantine
    attack = attacks.label_flip(shift=shift) if shift != 1 else attacks.none()
    task = dataclasses.replace(TASK, byzantine=None)  # for whomever lies
    return byzjax.simulate(task, method, attack, byzantine=mask, key=jax.random.key(0), num_rounds=2)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            {"learning_rate": [0.1, -0.1]},
            r"learning_rate = -0\.1 must be a finite number > 0\. .*at learning_rate",
        ),
        ({"learning_rate": [0.1], "beta": [0.5, 1.5]}, r"beta = 1\.5 must be .*at learning_rate = 0\.1, beta = 1\.5"),
        ({"f": [1, 4]}, r"f = 4 of n = 7 workers is not a minority \(2f ≥ n\); use f ≤ 3"),
        ({"f": [0, -1]}, r"f = -1 must be an integer ≥ 0"),
        ({"byzantine": [0, 7]}, "all workers are Byzantine; at least one must be honest. .*at byzantine = 7"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit])
def test_what_a_factory_refuses_is_refused_in_a_grid(monkeypatch, grid, message, wrap):
    counted = counting(monkeypatch)
    with pytest.raises(ValueError, match=message) as told:
        sweep(wrap(small_run), grid)
    assert "\n" not in str(told.value)
    assert not counted


def test_what_is_computed_from_an_axis_is_checked_too():
    fn = lambda exponent: small_run(jnp.exp(exponent) - 1)  # noqa: E731
    with pytest.raises(ValueError, match=r"learning_rate = -0\.6.* must be .*at exponent = -1"):
        sweep(fn, {"exponent": [1.0, -1.0]})
    assert not sweep(fn, {"exponent": [1.0]})["diverged"].any()


def test_what_no_axis_changes_is_checked_once():
    def fn(x, liars):
        byzjax.simulation.round.check_byzantine(jnp.asarray(np.arange(N) >= N - liars), TASK)
        return {"value": x}

    assert sweep(fn, {"x": [1.0, 2.0, 3.0]}, cells={"liars": [1]})["value"].size == 3
    with pytest.raises(ValueError, match=r"all workers are Byzantine; at least one must be honest\.(\n|$)"):
        sweep(fn, {"x": [1.0, 2.0, 3.0]}, cells={"liars": [N]})


def test_bad_meshes_are_named():
    with pytest.raises(ValueError, match="no 'runs' to lay lanes on"):
        sweep(mesh=mesh_of(workers=2))
    with pytest.raises(ValueError, match="batch_size = 3 must be a multiple of the mesh's 'runs' axis, 2"):
        sweep(mesh=mesh_of(runs=2), batch_size=3)


def test_a_data_set_that_cannot_be_held_is_refused_before_it_is_computed(monkeypatch):
    counted = counting(monkeypatch)
    monkeypatch.setattr(importlib.import_module("byzjax.sweeps.sweep"), "host_memory", lambda: 18 * 4 * 3)
    with pytest.raises(ValueError, match=r"18 lanes give .* most of it 'value'.* record or evaluate less"):
        sweep()
    assert not counted


def test_an_error_inside_the_function_says_for_which_cell():
    def fn(x, power):
        return {"value": x if power == 1 else 1 / (x if x > 0 else 1)}

    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        sweep(fn, {"x": [1.0]}, cells={"power": [1, 2]})
    assert any("traced for power=2" in note for note in caught.value.__notes__)


def test_a_chunk_that_does_not_fit_says_what_to_do(monkeypatch):
    def launch(self, *args):
        def fail(lanes):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

        return fail

    monkeypatch.setattr(batch_size.Compiler, "launch", launch)
    with pytest.raises(ValueError, match="chunk of 4 lanes does not fit into memory; pass batch_size=2"):
        sweep()


# Selection.


def scored(values, rates=(0.1, 1.0, 10.0), **more):
    """``val_accuracy[rule, learning_rate, seed, eval]``, whose last evaluation counts."""
    values = np.asarray(values, float)
    accuracy = np.stack([np.zeros_like(values), values], -1)
    dims = ("rule", "learning_rate", "seed", "eval")
    dataset = xarray.Dataset(
        {"val_accuracy": (dims, accuracy), "test_accuracy": (dims, 1 - accuracy), **more},
        {"rule": ["krum", "median"][: len(values)], "learning_rate": list(rates), "seed": [0, 1], "eval": [5, 10]},
    )
    return dataset.assign(diverged=(dims[:-1], np.isnan(values)))


INSIDE = [[[0.2, 0.2], [0.9, 0.7], [0.8, 0.3]], [[0.5, 0.1], [0.3, 0.5], [0.0, 0.3]]]


def choose(dataset, **options):
    return byzjax.select(dataset, **{"over": "learning_rate", "by": "val_accuracy", **options})


def test_the_best_mean_over_seeds_is_chosen_per_combination():
    chosen = choose(scored(INSIDE))
    assert chosen["learning_rate"].dims == ("rule",)
    assert chosen["learning_rate"].values.tolist() == [1.0, 1.0]
    assert chosen["test_accuracy"].dims == ("rule", "seed", "eval")
    np.testing.assert_allclose(chosen["test_accuracy"].sel(rule="krum", eval=10), [0.1, 0.3])


def test_a_value_on_the_edge_is_warned_about():
    with pytest.warns(EdgeWarning, match=r"best learning_rate is the smallest of its grid, 0.1, for rule=median;"):
        chosen = choose(scored([INSIDE[0], [[0.9, 0.9], [0.3, 0.5], [0.0, 0.3]]]))
    assert chosen["learning_rate"].values.tolist() == [1.0, 0.1]
    with pytest.warns(EdgeWarning, match="largest of its grid, 10"):
        choose(scored([INSIDE[0], [[0.1, 0.1], [0.2, 0.1], [0.3, 0.3]]]))


def test_the_edge_is_that_of_the_numbers_not_of_the_list():
    with pytest.warns(EdgeWarning, match="largest of its grid, 10"):
        chosen = choose(scored(INSIDE[:1], rates=(0.1, 10.0, 1.0)))
    assert float(chosen["learning_rate"][0]) == 10.0


def test_inside_the_grid_nothing_is_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose(scored(INSIDE))
        choose(scored([[[0.5, 0.5]]], rates=(1.0,)))


@pytest.mark.parametrize("by", ["test_accuracy", "test_loss", "accuracy_test", "test"])
def test_test_data_choose_nothing(by):
    with pytest.raises(ValueError, match="is measured on test data"):
        choose(scored(INSIDE), by=by)


def test_a_diverged_lane_disqualifies_and_is_not_averaged_away():
    values = np.array(INSIDE)
    values[0, 1, 0] = np.nan
    with pytest.warns(EdgeWarning):
        assert choose(scored(values))["learning_rate"].values.tolist() == [10.0, 1.0]
    hidden = scored(values).assign(val_accuracy=scored(INSIDE)["val_accuracy"])
    with pytest.warns(EdgeWarning):
        assert choose(hidden)["learning_rate"].values.tolist() == [10.0, 1.0], "the flag counts, whatever the number"


def test_when_all_candidates_diverged_it_is_said():
    values = np.array(INSIDE)
    values[1, :, 1] = np.nan
    with pytest.warns(DivergedWarning, match="all candidates diverged, for rule=median"):
        chosen = choose(scored(values))
    assert chosen["learning_rate"].values.tolist() == [1.0, 0.1]


def test_what_was_not_run_did_not_diverge():
    values = np.array(INSIDE)
    values[1] = np.nan
    dataset = scored(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = choose(dataset.assign_coords(ran=("rule", [True, False])))
    assert chosen["learning_rate"].values.tolist() == [1.0, 0.1]
    with pytest.warns(DivergedWarning, match="for rule=median"):
        choose(dataset.assign_coords(ran=("rule", [True, True])))


def test_equal_scores_give_the_smaller_value():
    tied = scored([[[0.1, 0.1], [0.5, 0.5], [0.5, 0.5], [0.2, 0.2]]], rates=(0.1, 10.0, 1.0, 100.0))
    assert float(choose(tied)["learning_rate"][0]) == 1.0


def test_direction_reduction_last_and_several_axes():
    dataset = scored(INSIDE)
    dataset["val_loss"] = -dataset["val_accuracy"]
    dataset["mine"] = dataset["val_accuracy"]
    assert choose(dataset, by="val_loss")["learning_rate"].values.tolist() == [1.0, 1.0]
    assert choose(dataset, by="mine", best="max")["learning_rate"].values.tolist() == [1.0, 1.0]
    with pytest.warns(EdgeWarning):
        per_seed = choose(dataset, reduce=None)["learning_rate"]
    assert per_seed.dims == ("rule", "seed")
    assert per_seed.values.tolist() == [[1.0, 1.0], [0.1, 1.0]]
    assert choose(dataset, reduce="min over seed")["learning_rate"].values.tolist() == [1.0, 1.0]
    assert choose(dataset, last=2)["learning_rate"].values.tolist() == [1.0, 1.0]
    both = choose(dataset, over=["rule", "learning_rate"])
    assert (str(both["rule"].values), float(both["learning_rate"])) == ("krum", 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "accuracy"}, "is not in the data set"),
        ({"over": "beta"}, "is not an axis"),
        ({"over": "eval"}, "is not an axis"),
        ({"by": "unknown_direction"}, "pass best='max' or 'min'"),
        ({"best": "most"}, "must be 'max' or 'min'"),
        ({"reduce": "mean"}, "like 'mean over seeds'"),
        ({"reduce": "nanmean over seeds"}, "like 'mean over seeds'"),
        ({"reduce": "mean over runs"}, "there is no axis 'runs'"),
        ({"reduce": "mean over learning_rate"}, "cannot be averaged away too"),
        ({"last": 0}, "last = 0"),
        ({"last": 3}, "last = 3 must be between 1 and the 2 .* pass last=2 or less"),
    ],
)
def test_bad_selections_are_named(options, message):
    dataset = scored(INSIDE)
    dataset["unknown_direction"] = dataset["val_accuracy"]
    with pytest.raises(ValueError, match=message):
        choose(dataset, **options)


def test_a_sweep_can_be_chosen_from(swept):
    with pytest.warns(EdgeWarning):
        chosen = byzjax.select(swept, over=["learning_rate", "beta"], by="objective")
    assert dict(chosen["objective"].sizes) == {"seed": 2, "eval": 3}
    assert not chosen["diverged"].any()
