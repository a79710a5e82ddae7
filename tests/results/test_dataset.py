"""Data sets and files of results."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import results
from byzjax._version import __version__
from byzjax.configs.run_config import RunConfig, execute
from byzjax.results.reading import believed
from byzjax.simulation.simulate import Result
from byzjax.storage import files

CONFIG = RunConfig(
    aggregator="median", attack="ipm(10.0)", num_workers=5, num_byzantine=1, num_rounds=7, eval_every=3, seed=4
)


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
    assert dataset.attrs["byzjax_version"] == __version__
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

    with pytest.raises(RuntimeError), files.writing(path) as temporary:
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


PARTS = (
    byzjax.tasks.quartic(num_workers=5),
    byzjax.methods.byz_nsgdm(0.1, aggregator=byzjax.aggregators.median()),
    byzjax.attacks.none(),
)
HONEST = jnp.zeros(5, bool)


@pytest.fixture(scope="module")
def run():
    """60 rounds, evaluated every 20."""
    return byzjax.run(*PARTS, byzantine=HONEST, key=jax.random.key(0), num_rounds=60, eval_every=20, progress=False)


def test_the_result_knows_when_it_was_evaluated(run):
    for config in ({}, {"eval_every": 20}, {"eval_every": np.int64(20)}):
        assert results.to_dataset(run, config)["eval"].values.tolist() == [20, 40, 60]
    more = byzjax.simulate(*PARTS, byzantine=HONEST, state=run.state, num_rounds=50, eval_every=20)
    dataset = results.to_dataset(more)
    assert dataset["eval"].values.tolist() == [80, 100]
    assert dataset["round"].values[[0, -1]].tolist() == [61, 110]
    unknown = results.to_dataset(run._replace(eval_rounds=None))
    assert unknown["eval"].attrs["long_name"] == "evaluation, counted from 1"
    for config in ({"eval_every": 30}, {"eval_every": 10}, {"eval_every": 0}):
        with pytest.raises(ValueError, match=r"config says eval_every = .* was evaluated after rounds 20, 40, 60; say"):
            results.to_dataset(run, config)
    thinned = {name: values[::10] for name, values in run.history.items()}
    with pytest.raises(ValueError, match="does not fit 3 evaluations, or the rounds 55 to 60"):
        results.to_dataset(run._replace(history=thinned))


def test_one_of_several_runs_can_be_labelled_and_several_cannot():
    def one(key):
        return byzjax.simulate(*PARTS, byzantine=HONEST, key=key, num_rounds=4, eval_every=2)

    several = jax.vmap(one)(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match=r"of several runs, with the axes \[3\] of a vmap; pass them one by one"):
        results.to_dataset(several)
    dataset = results.to_dataset(jax.tree.map(lambda leaf: leaf[1], several))
    assert (dataset["loss"].dims, dataset["eval"].values.tolist()) == (("round",), [2, 4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evals": {"loss": jnp.zeros(3)}}, r"\['loss'\] are recorded in every round and evaluated too; rename one"),
        ({"history": {"train/loss": jnp.zeros(60)}}, "'train/loss' cannot be the name .*, e.g. 'train_loss'"),
        ({"history": {"round": jnp.zeros(60)}}, "'round' is a dimension of a data set"),
        ({"history": {"a": jnp.zeros(60), "b": jnp.zeros(6)}}, r"one entry per round, .* it has a \[60\], b \[6\]"),
        ({"history": {"z": jnp.zeros(60, complex)}}, "'z' is of dtype complex64; a data set holds numbers and flags"),
    ],
)
def test_what_a_file_cannot_say_is_said_when_it_is_made(run, change, message):
    with pytest.raises(ValueError, match=message):
        results.to_dataset(run._replace(**change))


@pytest.mark.parametrize("value", [None, {"a": 1}, True, [1, "a"], [[1], [2, 3]], 2**70, [True], "a\0"])
def test_attributes_that_netcdf_cannot_hold(run, value, tmp_path):
    with pytest.raises(ValueError, match=r"to_dataset: attribute note = .*, which netCDF cannot hold; pass a text"):
        results.to_dataset(run, note=value)
    dataset = results.to_dataset(run)
    dataset["loss"].attrs["note"] = value
    with pytest.raises(ValueError, match=r"save: attribute note = .*, which netCDF cannot hold"):
        results.save(dataset, tmp_path / "run.nc")
    assert not (tmp_path / "run.nc").exists()


def test_narrow_floats_and_numpys_numbers_are_saved(run, tmp_path):
    kinds = {"a": jnp.bfloat16, "b": jnp.float16, "c": jnp.float8_e4m3fn, "d": jnp.int4, "e": jnp.bool_}
    history = {name: jnp.ones(60, kind) for name, kind in kinds.items()}
    config = {"learning_rate": np.float32(0.5), "n": np.int64(3), "flag": np.bool_(True), "seed": None}
    dataset = results.to_dataset(run._replace(history=history), config, tags=["x", "y"], numbers=np.arange(3))
    assert [str(dataset[name].dtype) for name in kinds] == ["float32", "float32", "float32", "int8", "bool"]
    assert results.config_of(dataset) == {"learning_rate": 0.5, "n": 3, "flag": True, "seed": None}
    assert results.load(results.save(dataset, tmp_path / "run.nc")).identical(dataset)


def test_the_wrong_kinds(run, dataset, tmp_path):
    for call, message in (
        (lambda: results.to_dataset(dataset, {}), "to_dataset: result = .* is a Dataset, not a Result; pass"),
        (lambda: results.to_dataset(run, 3), "to_dataset: config = 3 is an int, not a Mapping; pass a dict"),
        (lambda: results.save(run, tmp_path / "x.nc"), "save: dataset = .* is a Result, not a Dataset; .*to_dataset"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_dimension_of_methods_in_older_files_is_optimizer(tmp_path):
    import xarray

    coords = {"method": ["Base", "Decay"], "seed": [0]}
    old = xarray.Dataset({"loss": (("method", "seed"), [[1.0], [2.0]])}, coords, {"config": "{}"})
    dataset = results.load(results.save(old, tmp_path / "old.nc"))
    assert float(dataset["loss"].sel(optimizer="Decay", seed=0)) == 2.0
    one = results.load(results.save(old.isel({"method": 1}), tmp_path / "one.nc"))
    assert one["optimizer"].item() == "Decay"


def test_numbers_of_diverged_runs_in_older_files_are_missing():
    import xarray

    lost = np.iinfo(np.int32).min
    sweep = xarray.Dataset(
        {
            "count": (("rate", "eval"), np.array([[3, 4], [5, lost]], np.int32)),
            "reached": (("rate", "eval"), [[False, True], [False, True]]),
            "finite": (("rate", "round"), [[True] * 4, [True, True, True, False]]),
            "diverged": ("rate", [False, True]),
        },
        {"rate": [0.1, 1.0], "eval": [2, 4], "round": [1, 2, 3, 4]},
        {"config": '{"eval_every": 2}'},
    )
    read = believed(sweep)
    np.testing.assert_array_equal(read["count"], [[3, 4], [5, np.nan]])
    np.testing.assert_array_equal(read["reached"], [[0, 1], [0, np.nan]])
    unknown = believed(sweep.drop_vars("finite"))  # nobody knows when
    np.testing.assert_array_equal(unknown["reached"], [[0, 1], [np.nan, np.nan]])
    assert unknown["diverged"].dtype == bool
    healthy = sweep.isel(rate=[0])
    assert believed(healthy) is healthy


def test_a_configuration_must_be_json():
    with pytest.raises(ValueError, match="only what JSON can say"):
        results.to_dataset(Result(None, {}, {}), {"rule": object()})
    with pytest.raises(ValueError, match="must be a number"):
        execute(RunConfig(attack="sign_flip(scale=1j)", num_rounds=1), progress=False)


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
