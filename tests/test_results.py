"""Data sets and files of results."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import results
from byzjax.experiments.config import RunConfig, execute
from byzjax.simulate import Result

CONFIG = RunConfig("quartic", "byz_nsgdm", "median", "ipm(10.0)", 5, 1, num_rounds=7, eval_every=3, seed=4)


@pytest.fixture(scope="module")
def dataset():
    return execute(CONFIG, progress=False)


def test_dimensions_and_coordinates(dataset):
    assert dict(dataset.sizes) == {"round": 7, "eval": 2}
    assert dataset["round"].values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert dataset["eval"].values.tolist() == [3, 6]
    assert dataset["finite"].dtype == bool
    assert dataset["gradient_norm"].dims == ("eval",)


def test_every_variable_says_what_it_is(dataset):
    for variable in dataset.variables.values():
        assert variable.attrs["long_name"]
        assert variable.attrs["units"]


def test_attributes(dataset):
    assert json.loads(dataset.attrs["config"]) == json.loads(json.dumps(CONFIG.as_dict()))
    assert dataset.attrs["seed"] == 4
    assert dataset.attrs["jax_version"] == jax.__version__
    assert dataset.attrs["byzjax_version"] == byzjax.__version__
    assert dataset.attrs["device_kind"] == jax.devices()[0].device_kind
    assert dataset.attrs["seconds"] >= dataset.attrs["compile_seconds"]


def test_numbers_are_those_of_run(dataset):
    task, method, attack, byzantine = CONFIG.build()
    result = byzjax.run(
        task,
        method,
        attack,
        byzantine=byzantine,
        key=jax.random.key(4),
        num_rounds=7,
        eval_every=3,
        progress=False,
    )
    np.testing.assert_array_equal(dataset["aggregation_error"], result.history["aggregation_error"])
    np.testing.assert_array_equal(dataset["objective"], result.evals["objective"])


def test_round_trip(dataset, tmp_path):
    path = results.save(dataset, tmp_path / "new" / "run.nc")
    loaded = results.load(path)
    assert loaded.identical(dataset)
    assert loaded["finite"].dtype == bool
    assert [p.name for p in path.parent.iterdir()] == ["run.nc"]


def test_a_failed_save_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "run.nc"
    path.write_text("old")

    def die(temporary):
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), results.writing(path) as temporary:
        die(temporary)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]


def test_classes_and_unknown_axes():
    result = Result(None, {"mine": jnp.zeros((4, 3))}, {"test_accuracy_per_class": jnp.zeros((2, 10))})
    dataset = results.to_dataset(result, {"eval_every": 2})
    assert dataset["test_accuracy_per_class"].dims == ("eval", "class")
    assert dataset["class"].values.tolist() == list(range(10))
    assert dataset["mine"].dims == ("round", "mine_axis1")
    assert "seed" not in dataset.attrs


def test_empirical_kappa_and_divergence():
    history = {
        "aggregation_error": jnp.array([1.0, 3.0, 1.0, jnp.nan]),
        "honest_spread": jnp.array([2.0, 1.0, 0.0, jnp.nan]),
        "finite": jnp.array([True, True, True, False]),
    }
    dataset = results.to_dataset(Result(None, history, {}), {})
    np.testing.assert_array_equal(results.empirical_kappa(dataset), [0.5, 3.0, np.nan, np.nan])
    assert results.diverged_at(dataset) == 4
    assert results.diverged_at(dataset.isel(round=slice(3))) is None


def test_a_configuration_must_be_json():
    with pytest.raises(ValueError, match="only what JSON can say"):
        results.to_dataset(Result(None, {}, {}), {"rule": object()})
    with pytest.raises(ValueError, match="must be a number"):
        execute(RunConfig("quartic", "byz_nsgdm", "median", "sign_flip(scale=1j)", 5, 1, num_rounds=1), progress=False)


def test_what_is_no_result(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        results.load(tmp_path / "none.nc")
    damaged = tmp_path / "damaged.nc"
    damaged.write_bytes(b"not netCDF")
    with pytest.raises(ValueError, match="cannot be read as netCDF"):
        results.load(damaged)
    stranger = dataset.drop_attrs()
    with pytest.raises(ValueError, match="not a result of byzjax"):
        results.load(results.save(stranger, tmp_path / "stranger.nc"))
