"""The numbers of a sweep are those of single runs, in a data set that says what they are."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, results, tasks
from byzjax.selection import EdgeWarning
from byzjax.sweeps import batch_size
from tests.helpers import QUARTIC_GRID, chunks_in, compiled_as_runs_are, quartic, sweep

# The numbers.


def test_lanes_are_single_runs(swept):
    single = compiled_as_runs_are(quartic)
    for seed, rate, beta in itertools.product(*QUARTIC_GRID.values()):
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
    assert dict(swept.sizes) == {"seed": 2, "learning_rate": 3, "beta": 2, "round": 12, "eval": 3}
    assert swept["objective"].dims == ("seed", "learning_rate", "beta", "eval")
    assert swept["eval"].values.tolist() == [4, 8, 12]
    assert swept["learning_rate"].values.tolist() == [0.01, 0.1, 1e30], "as given, not as rounded to float32"
    for variable in swept.variables.values():
        assert variable.attrs["long_name"]
        assert variable.attrs["units"]


def test_attributes(swept, tmp_path):
    config = results.config_of(swept)
    assert config["task"] == "quartic"
    assert config["grid"] == QUARTIC_GRID
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
    inner = batch_size.compile_runs
    monkeypatch.setattr(batch_size, "compile_runs", lambda *args: compiled.append(args) or inner(*args))

    def fn(x, shape, how):
        called.append((shape, how))
        return {"value": how(jnp.full(shape, x))}

    dataset = sweep(fn, {"x": range(9)}, cells={"shape": [2, 3], "how": {"sum": jnp.sum, "max": jnp.max}}, batch_size=2)
    assert called == [(2, jnp.sum), (2, jnp.max), (3, jnp.sum), (3, jnp.max)]
    assert len(compiled) == 4
    assert dataset["how"].values.tolist() == ["sum", "max"]
    assert dataset["value"].sel(shape=3, how="sum", x=4) == 12
    assert dataset["value"].dtype == np.int32


@pytest.mark.parametrize("how", ["values", "numbers"])
def test_cells_that_differ_in_numbers_share_a_program_and_no_result(how, tmp_path, monkeypatch):
    compiled = []
    inner = batch_size.compile_runs
    monkeypatch.setattr(batch_size, "compile_runs", lambda *args: compiled.append(args) or inner(*args))
    task, mask = tasks.quartic(5, 1), jnp.arange(5) == 4

    def run(attack, rate, seed):
        method = methods.momentum_sgd(rate, aggregator=agg.mean())
        options = {"byzantine": mask, "key": jax.random.key(seed), "num_rounds": 4, "eval_every": 4}
        return byzjax.simulate(task, method, attack, **options)

    scales, rates = (1.0, 2.0, 30.0), (1e-3, 2e-3)
    if how == "values":
        cells = {"attack": {f"{scale}": attacks.ipm(scale) for scale in scales}, "rate": rates}
        swept = sweep(run, {"seed": range(2)}, cells=cells, batch_size=2, store=tmp_path)
    else:
        made = lambda attack, rate, seed: run(attacks.ipm(attack), rate, seed)  # noqa: E731  # in the traced function
        swept = sweep(made, {"seed": range(2)}, cells={"attack": scales, "rate": rates}, batch_size=2, store=tmp_path)
    assert len(compiled) == 1
    assert len(chunks_in(tmp_path)) == 6
    for (i, scale), (j, rate), seed in itertools.product(enumerate(scales), enumerate(rates), range(2)):
        alone = run(attacks.ipm(scale), rate, seed).evals["objective"]
        np.testing.assert_allclose(swept["objective"].isel(attack=i, rate=j, seed=seed), alone, rtol=1e-6)


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


def test_a_sweep_can_be_chosen_from(swept):
    with pytest.warns(EdgeWarning):
        chosen = byzjax.select(swept, over=["learning_rate", "beta"], by="objective")
    assert dict(chosen["objective"].sizes) == {"seed": 2, "eval": 3}
    assert not chosen["diverged"].any()
