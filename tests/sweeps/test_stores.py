"""Sweeps into a store: nothing twice, nothing lost, whatever happens on the way."""

import importlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import byzjax
from byzjax import results
from byzjax.storage import files
from byzjax.storage.chunk_store import ChunkStore, verify
from byzjax.sweeps import executor
from tests.environment import ROOT
from tests.helpers import SIMPLE, TABLE, chunks_in, counting, same_bits, simple, sweep


def mesh_of(**sizes):
    count = int(np.prod(list(sizes.values())))
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=jax.devices()[:count])


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


@pytest.mark.slow
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
    assert len(byzjax.sweeps.tracing.compile_runs(program, lanes, 2, None).as_text()) < 20_000


def test_damaged_chunks_are_computed_again(tmp_path, capsys):
    first = sweep(store=tmp_path)
    victims = chunks_in(tmp_path)[:2]
    victims[0].write_bytes(victims[0].read_bytes()[:500])
    victims[1].write_bytes(b"")
    same_bits(first, sweep(store=tmp_path, progress=True))
    assert len(re.findall("is damaged .* computed again", capsys.readouterr().err)) == 2
    assert verify(ChunkStore(tmp_path)) == (5, [])


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


@pytest.mark.slow
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


@pytest.mark.slow
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
