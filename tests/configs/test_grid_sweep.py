"""Sweeps of grids: what cannot run is said before anything does, and a lane is the run that it stands for."""

import json

import numpy as np
import pytest

from byzjax import results
from byzjax.configs import grid_config, grid_sweep, run_config
from tests.environment import ROOT
from tests.helpers import call

EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
RUN = {"num_workers": 5, "num_byzantine": 1, "num_rounds": 6, "eval_every": 3, "aggregator": "median"}


def test_a_lane_is_the_run_that_it_stands_for(tmp_path):
    document = {
        "run": {**RUN, "method": ["byz_nsgdm", "momentum_sgd"], "learning_rate": [0.1, 0.01], "beta": [0.5, 0.9]},
        "sweep": {"store": str(tmp_path / "store")},
    }
    made = grid_config.parse({**document, "run": {**document["run"], "seed": [7, 2**32 - 1], "attack": "alie"}})
    dataset = grid_sweep.execute(made, progress=False)
    assert dict(dataset["objective"].sizes) == {"optimizer": 2, "learning_rate": 2, "beta": 2, "seed": 2, "eval": 2}
    assert dataset["eval"].values.tolist() == [3, 6]
    assert dataset["ran"].all()
    for point in (
        {"optimizer": 0, "learning_rate": 1, "beta": 0, "seed": 1},
        {"optimizer": 1, "learning_rate": 0, "beta": 1},
    ):
        lane = dataset.isel({**dict.fromkeys(dataset["diverged"].dims, 0), **point})
        said = {
            name: lane[grid_config.AXES.get(name, name)].item() for name in ("method", "learning_rate", "beta", "seed")
        }
        alone = run_config.execute(made.config(**said), progress=False)
        for name in ("loss", "aggregation_error", "objective", "gradient_norm"):
            np.testing.assert_allclose(lane[name], alone[name], rtol=2e-4, atol=1e-6)
    assert float(dataset["objective"].std()) > 0


def test_invalid_cells_are_found_before_anything_runs(tmp_path):
    document = {
        "run": {**RUN, "aggregator": ["median", "nnm,rfa"], "num_byzantine": [1, 3], "learning_rate": [0.1, 0.2]},
        "sweep": {"store": str(tmp_path / "store")},
    }
    said = []
    with pytest.raises(ValueError, match=r"1 of 4 cells cannot run, the first is .*sweep.skip_invalid"):
        grid_sweep.execute(grid_config.parse(document), progress=False, say=said.append)
    (line,) = said
    assert line.startswith("cannot run: aggregator = nnm,rfa, num_byzantine = 3: nnm: f = 3 of n = 5 workers")
    assert not (tmp_path / "store").exists()

    document["sweep"]["skip_invalid"] = True
    dataset = grid_sweep.execute(grid_config.parse(document), progress=False)
    left_out = {"aggregator": "nnm,rfa", "num_byzantine": 3}
    assert dataset["ran"].sum() == 3
    assert not dataset["ran"].sel(left_out)
    assert dataset["objective"].sel(left_out).isnull().all()
    assert not dataset["diverged"].any()
    assert dataset["objective"].where(dataset["ran"], 0.0).notnull().all()
    assert json.loads(dataset.attrs["skipped"])[0]["cell"] == left_out


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"learning_rate": [0.1, -1.0]}, "learning_rate = -1.0 must be"),
        ({"beta": [0.5, 1.0]}, "beta = 1.0 must be"),
        ({"attack": "label_flip"}, "label_flip: .*no 'label' to flip"),
        ({"num_byzantine": 5}, "num_byzantine = 5 must be between"),
        ({"aggregator": "nnm"}, "nnm is a pre-aggregation"),
    ],
)
def test_numbers_that_no_factory_takes_are_found_although_they_are_traced(run, message):
    with pytest.raises(ValueError, match=f"no cell of the grid can run; .*{message}"):
        grid_sweep.check(grid_config.parse({"run": {**RUN, **run}}), grid_sweep.Tasks())


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"over": "learning_rate", "by": "objectiv"}, "'objectiv' is not reported by these runs; nearest: objective"),
        ({"over": "learning_rate", "by": "objective", "last": 3}, r"^sweep.select.last = 3 must be .* the 2 of 'eval'"),
        ({"over": "learning_rate", "by": "objective", "reduce": "mean of seeds"}, "must be like 'mean over seeds'"),
        ({"over": "seed", "by": "objective"}, "'seed' is chosen from, and cannot be averaged away too"),
        ({"over": "learning_rate", "by": "aggregate_norm", "best": "max"}, None),
        ({"over": ["learning_rate", "seed"], "by": "objective", "reduce": "none"}, None),
    ],
)
def test_a_choice_that_does_not_fit_is_said_before_the_sweep(select, message):
    made = grid_config.parse({"run": {**RUN, "learning_rate": [0.1, 0.3]}, "sweep": {"select": select}})
    if message is None:
        assert grid_sweep.check(made, grid_sweep.Tasks()) == []
        return
    with pytest.raises(ValueError, match=message):
        grid_sweep.check(made, grid_sweep.Tasks())


def test_tasks_are_built_once_and_share_their_arrays():
    tasks = grid_sweep.Tasks()
    unlike, alike = (tasks[run_config.RunConfig(task=task)] for task in ("mnist", "mnist(scheme='iid')"))
    assert tasks[run_config.RunConfig(task="mnist", attack="alie", learning_rate=3.0)] is unlike
    assert unlike.data["images"] is alike.data["images"]
    assert not np.array_equal(unlike.data["table"], alike.data["table"])
    one = sum(array.nbytes for array in unlike.data.values())
    assert one < tasks.num_bytes() < 1.05 * one


def test_a_dry_run_counts_and_runs_nothing(tmp_path):
    run = {**RUN, "aggregator": ["median", "nnm,rfa"], "f": [1, 3], "seed": [0, 1, 2], "learning_rate": [0.1, 0.3]}
    made = grid_config.parse({"run": run, "sweep": {"store": str(tmp_path / "store"), "batch_size": 4}})
    plan = grid_sweep.plan(made, progress=False)
    assert [one.cell for one in plan.invalid] == [{"aggregator": "nnm,rfa", "f": 3}]
    assert len(plan.cells) == 3
    assert plan.programs == 2  # the median takes no f
    assert (plan.runs_per_cell, plan.batch_size, plan.chunks) == (6, 4, 6)
    assert plan.chunk_bytes > 0
    assert plan.data_bytes == 5 * 10 * 4 + 4  # the quartic's shifts and its noise scale
    per_lane = 6 * (4 * 4 + 1) + 2 * 3 * 4 + 1  # four numbers and a flag per round, three per evaluation, diverged
    assert plan.result_bytes == 3 * 6 * per_lane
    assert not (tmp_path / "store").exists()


def test_an_automatic_batch_size_is_a_power_of_two():
    plan = grid_sweep.plan(grid_config.parse({"run": {**RUN, "seed": {"count": 64}}}), progress=False)
    assert plan.batch_size in (1, 2, 4, 8, 16, 32, 64)
    assert plan.chunks == 64 // plan.batch_size


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_parse_and_dry_run(path):
    made = grid_config.load(path)
    assert made.store == f"results/{path.stem}"
    for axis in made.cells:
        made.axes[axis] = made.axes[axis][-1:]  # one cell of each: they differ in nothing that costs time here
    plan = grid_sweep.plan(made, progress=False)
    assert plan.invalid == []
    assert (len(plan.cells), plan.runs_per_cell) == (1, made.runs_per_cell)


@pytest.mark.slow
def test_an_example_runs_at_a_tiny_size(tmp_path):
    example = next(path for path in EXAMPLES if path.stem == "quartic_rates")
    tiny = ["run.num_rounds=6", "run.eval_every=1", "run.seed=[0, 1]", "run.beta=[0.0, 0.9]", "run.num_workers=7"]
    options = [part for text in [*tiny, f"sweep.store={tmp_path / 'store'}"] for part in ("--set", text)]
    result = call("sweep", example, *options)
    assert result.exit_code == 0, result.output
    dataset, chosen = (results.load(tmp_path / "store" / name) for name in ("dataset.nc", "selected.nc"))
    assert dict(dataset["objective"].sizes) == {"attack": 2, "learning_rate": 6, "beta": 2, "seed": 2, "eval": 6}
    assert dict(chosen["objective"].sizes) == {"attack": 2, "seed": 2, "eval": 6}
    scores = dataset["objective"].isel(eval=slice(-5, None)).mean(["eval", "seed"])
    best = scores.isel(attack=0).argmin(["learning_rate", "beta"])
    assert float(chosen["learning_rate"][0]) == dataset["learning_rate"].values[int(best["learning_rate"])]
    assert f"{float(chosen['objective'][0, :, -1].mean()):.4g}" in result.stdout
