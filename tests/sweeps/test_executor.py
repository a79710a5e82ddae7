"""Batches and devices of a sweep: the same bits however it is cut, and the largest batch that fits."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import byzjax
from byzjax.sweeps import batch_size
from tests.helpers import QUARTIC_GRID, chunks_in, quartic, same_bits, simple, sweep

# Batches and devices.


def test_chunks_of_another_size_agree_up_to_rounding(swept):
    for size in (1, 100):
        other = sweep(quartic, QUARTIC_GRID, batch_size=size, config={"eval_every": 4})
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
    compiled = byzjax.sweeps.tracing.compile_runs(traced, lanes, 8, mesh)
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
        batch_size.load(byzjax.sweeps.tracing.compile_runs(program, lanes, size, None), jax.devices()[0], budget)
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
