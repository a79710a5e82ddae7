"""Grids in TOML: what may be said, what cannot run, and that a lane is the run that it stands for."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from byzjax import results
from byzjax.cli import plot
from byzjax.cli.app import app
from byzjax.configs import grid_config, grid_sweep, run_config

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))
RUN = {"num_workers": 5, "num_byzantine": 1, "num_rounds": 6, "eval_every": 3, "aggregator": "median"}
TOML = """
[run]
aggregator = ["median", "mean"]
attack = "alie"
num_workers = 5
num_byzantine = 1
learning_rate = [0.1, 0.3]
seed = { count = 2 }
num_rounds = 6
eval_every = 3
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def written(folder, text=TOML):
    path = folder / "tiny.toml"
    path.write_text(f'{text}\n[sweep]\nstore = "{folder / "store"}"\n')
    return path


def test_a_value_fixes_and_a_list_is_an_axis():
    made = grid_config.parse(
        {
            "run": {"attack": ["none", "ipm( scale = 10.0 )"], "f": [1, 2], "beta": [0, 0.9], "learning_rate": 1},
            "sweep": {"batch_size": 8, "store": "there", "select": {"over": "beta", "by": "objective"}},
        },
        name="mine",
    )
    assert made.cells == {"attack": ("none", "ipm(scale=10.0)"), "f": (1, 2)}
    assert made.traced == {"beta": (0.0, 0.9), "seed": (0,)}
    assert made.fixed == {"learning_rate": 1.0}
    assert (made.num_cells, made.runs_per_cell, made.batch_size, made.store) == (4, 2, 8, "there")
    assert made.select == grid_config.Selection(("beta",), "objective")
    assert list(made.points())[1] == {"attack": "none", "f": 2}
    assert made.config(f=2) == run_config.RunConfig(attack="none", f=2, beta=0.0, learning_rate=1.0)
    assert json.loads(results.encode(made.as_dict()))["run"]["beta"] == [0.0, 0.9]


def test_seeds_may_be_counted():
    assert grid_config.parse({"run": {"seed": {"first": 3, "count": 2}}}).traced == {"seed": (3, 4)}
    assert grid_config.parse({}).traced == {"seed": (0,)}
    assert grid_config.parse({}, name="mine").store == "results/mine"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"rum": {}}, "unknown key 'rum' in the grid; nearest: run"),
        ({"run": {"atack": "alie"}}, r"unknown key 'atack' in \[run\]; nearest: attack"),
        ({"sweep": {"batchsize": 3}}, r"unknown key 'batchsize' in \[sweep\]; nearest: batch_size"),
        ({"sweep": {"select": {"ovr": "seed"}}}, r"unknown key 'ovr' in \[sweep.select\]; nearest: over"),
        ({"run": {"seed": {"start": 1}}}, "unknown key 'start' in run.seed; nearest: "),
        ({"run": {"seed": {"first": 1}}}, "run.seed: count is missing"),
        ({"run": {"seed": {"first": 2**32 - 1, "count": 2}}}, "run.seed.count = 2 must be an integer ≥ 1 and < 2"),
        ({"run": {"seed": -1}}, "run.seed = -1 must be an integer ≥ 0"),
        ({"run": {"num_workers": 5.0}}, "run.num_workers = 5.0 must be an integer ≥ 1"),
        ({"run": {"num_workers": True}}, "run.num_workers = True must be an integer"),
        ({"run": {"f": [1, "2"]}}, "run.f = '2' must be an integer ≥ 0"),
        ({"run": {"beta": "0.9"}}, "run.beta = '0.9' must be a finite number"),
        ({"run": {"learning_rate": [0.1, float("nan")]}}, "run.learning_rate = nan must be a finite number"),
        ({"run": {"attack": 3}}, "run.attack = 3 must be a text"),
        ({"run": {"attack": [["alie"]]}}, r"run.attack = \['alie'\] must be a text"),
        ({"run": {"beta": {"first": 0.1}}}, "run.beta = {'first': 0.1} must be a finite number"),
        ({"run": {"attack": []}}, r"run.attack = \[\] is an axis without values"),
        ({"run": {"learning_rate": [1, 1.0]}}, "run.learning_rate: 1.0 is given twice"),
        ({"run": {"attack": ["ipm(scale=1)", "ipm( scale = 1 )"]}}, "run.attack: ipm.scale=1. is given twice"),
        ({"run": {"attack": ["alie", "ali"]}}, "run.attack: unknown attack 'ali'; nearest: alie"),
        ({"run": {"task": "quartic(dmi=3)"}}, "run.task: .*no argument 'dmi'; nearest: dim"),
        ({"run": {"aggregator": "nnm rfa"}}, "is not a specification"),
        ({"run": {"num_rounds": [10, 20]}}, "run.num_rounds = .* cannot be an axis"),
        ({"run": 3}, r"run = 3 must be a table: write \[run\]"),
        ({"sweep": {"batch_size": 0}}, "sweep.batch_size = 0 must be an integer ≥ 1"),
        ({"sweep": {"skip_invalid": 1}}, "sweep.skip_invalid = 1 must be true or false"),
        ({"sweep": {"store": ""}}, "sweep.store = '' must be a text"),
        ({"sweep": {"select": {"by": "loss"}}}, "sweep.select: over is missing"),
        ({"sweep": {"select": {"over": "beta", "by": "loss"}}}, "'beta' is not an axis of this grid; nearest: "),
        ({"sweep": {"select": {"over": "seed", "by": "loss", "best": "low"}}}, "best = 'low' must be 'max' or 'min'"),
    ],
)
def test_what_is_not_a_grid(document, message):
    with pytest.raises(ValueError, match=message):
        grid_config.parse(document)


def test_overrides_are_toml_or_plain_text(tmp_path):
    path = written(tmp_path)
    made = grid_config.load(
        path, ["run.learning_rate=[1, 2]", "run.attack=ipm(scale=10)", "run.beta=0.5", "sweep.batch_size = 64"]
    )
    assert made.traced["learning_rate"] == (1.0, 2.0)
    assert made.fixed["attack"] == "ipm(scale=10)"
    assert (made.fixed["beta"], made.batch_size) == (0.5, 64)
    assert grid_config.load(path, ["run.seed={ count = 3 }"]).traced["seed"] == (0, 1, 2)
    for wrong, message in (
        ("learning_rate=1", "write table.key=value"),
        ("run.seed", "write table.key=value"),
        ("run.attack.z=1", "attack is 'alie', not a table"),
        ("runs.seed=1", "unknown key 'runs' in the grid; nearest: run"),
    ):
        with pytest.raises(ValueError, match=message):
            grid_config.load(path, [wrong])


def test_what_is_not_toml(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        grid_config.load(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("[run\nseed = 1")
    with pytest.raises(ValueError, match=r"is not TOML: .*line 1"):
        grid_config.load(tmp_path / "bad.toml")


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


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_commands_in_examples_draw_what_their_sweeps_give(path, tmp_path):
    import xarray

    made, rng = grid_config.load(path), np.random.default_rng(0)
    names = ("gradient_norm", "objective") if made.config().task == "quartic" else ("test_accuracy", "val_accuracy")
    sizes = [len(values) for values in made.axes.values()]
    coords = {name: list(values) for name, values in made.axes.items()}
    variables = {name: ((*made.axes, "eval"), rng.uniform(0.1, 1.0, (*sizes, 6))) for name in names}
    dataset = xarray.Dataset(variables, {**coords, "eval": [1, 2, 3, 4, 5, 6]}, {"config": "{}"})
    results.save(dataset, tmp_path / "dataset.nc")
    commands = re.findall(r"byzjax plot (\S+)(.*)", path.read_text())
    assert {store for store, _ in commands} == {made.store}
    for _, options in commands:
        result = call("plot", tmp_path, *re.split(r"  +", options)[0].split())
        assert result.exit_code == 0, result.output


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


def test_sweep_and_plot_from_the_command_line(tmp_path):
    path = written(tmp_path)
    first = call("sweep", path)
    assert first.exit_code == 0, first.output
    store = tmp_path / "store"
    assert f"Written: {store / 'dataset.nc'}" in first.stdout
    again = call("sweep", path)
    assert again.exit_code == 0
    assert re.search(r"(\d+) of \1 chunks are in .* already", again.stderr)

    for arguments, files in (
        ([], ["curves-gradient_norm.png", "curves-gradient_norm.pdf"]),
        (
            ["--kind", "heatmap", "--metric", "loss", "--x", "learning_rate"],
            [f"heatmap-loss-x=learning_rate.{suffix}" for suffix in ("png", "pdf")],
        ),
        (
            ["--kind", "table", "--x", "aggregator"],
            [f"table-gradient_norm-x=aggregator.{suffix}" for suffix in ("md", "tex")],
        ),
    ):
        result = call("plot", store, *arguments)
        assert result.exit_code == 0, result.output
        assert all((store / name).stat().st_size > 100 for name in files)
    assert "| learning rate γ₀ | median | plain mean |" in result.stdout
    assert (store / "table-gradient_norm-x=aggregator.md").read_text() in result.stdout
    one = call("plot", store / "dataset.nc", "--where", "aggregator=mean", "--every-seed", "--out", tmp_path / "x")
    assert one.exit_code == 0
    assert (tmp_path / "x.png").exists()


def test_a_folder_is_no_grid(tmp_path):
    result = call("sweep", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [f"error: {tmp_path} is a folder; name a grid in TOML, as examples/ has some."]


def test_a_sweep_of_ones_own_is_plotted_and_no_figure_replaces_another(tmp_path):
    import xarray

    rules, rates = ["my rule", "krum(", "nnm,rfa"], [0.5, 1.0]
    values = np.random.default_rng(0).uniform(1, 2, (3, 2, 2, 2, 3))
    places = {"rule": rules, "attack": ["theirs!", "alie"], "tau": rates, "seed": [0, 1], "eval": [1, 2, 3]}
    made = xarray.Dataset({"objective": (tuple(places), values)}, places, {"config": "{}"})
    results.save(made, tmp_path / "dataset.nc")
    names = []
    for arguments in (
        ["--kind", "heatmap", "--x", "attack", "--y", "rule", "--where", "tau=1"],
        ["--kind", "heatmap", "--x", "attack", "--y", "rule", "--where", "tau=0.5"],
        ["--kind", "heatmap", "--x", "attack", "--y", "tau", "--where", "rule=my rule"],
        ["--panels", "tau", "--where", "attack=theirs!"],
        ["--x", "tau", "--where", "attack=theirs!"],
        ["--kind", "table", "--x", "attack", "--where", "tau=1"],
        ["--where", "tau=1", *(f"--where=rule={rule}" for rule in rules), "--every-seed", "--title", "Mine"],
    ):
        result = call("plot", tmp_path, *arguments)
        assert result.exit_code == 0, result.output
        names += result.stderr.strip().removeprefix("Written: ").split(", ")
    assert len(set(names)) == len(names) == 14
    assert all((tmp_path / name).stat().st_size > 100 for name in names)
    assert str(tmp_path / "heatmap-objective-x=attack-y=rule-tau=1.png") in names


def test_long_names_of_figures_are_cut_and_told_apart():
    names = {plot._file_name("curves-loss", {"attack": [f"my attack {i}" * 20]}) for i in range(3)}
    assert len(names) == 3
    assert max(map(len, names)) == 200


def test_methods_are_found_by_their_old_name(tmp_path):
    import xarray

    places = {"method": ["byz_nsgdm", "momentum_sgd"], "attack": ["none", "alie"], "seed": [0, 1]}
    old = xarray.Dataset({"loss": (tuple(places), np.ones((2, 2, 2)))}, places, {"config": "{}"})
    results.save(old, tmp_path / "dataset.nc")
    for name in ("method", "optimizer"):
        result = call("plot", tmp_path, "--kind", "table", "--y", name)
        assert "| method | no attack | ALIE |" in result.stdout
        result = call("plot", tmp_path, "--x", "attack", "--where", f"{name}=byz_nsgdm")
        assert result.exit_code == 0, result.output


def test_a_dry_run_from_the_command_line(tmp_path):
    path = written(tmp_path)
    result = call("sweep", path, "--dry-run", "--set", "run.aggregator=['median', 'nnm,rfa']", "--set", "run.f=[1, 3]")
    assert result.exit_code == 0, result.output
    assert re.search(r"nnm,rfa +3 +– +nnm: f = 3 of n = 5 workers is not a minority", result.stdout)
    assert "3 cells × 4 points (2 learning_rate × 2 seed) = 12 runs" in result.stdout
    assert "2 programs to compile; 1 cell with the program of another" in result.stdout
    assert re.search(r"memory: 0.204 kB of data, and [\d.]+ [kM]B per chunk", result.stdout)
    assert "warning: 1 cell cannot run" in result.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "{grid}", "--set", "run.atack=alie"], "error: unknown key 'atack' in [run]; nearest: attack"),
        (["sweep", "{grid}", "--set", "run.attack=ali"], "error: run.attack: unknown attack 'ali'; nearest: alie"),
        (["sweep", "no.toml"], "error: no.toml does not exist."),
        (["plot", "{folder}"], "error: {folder} holds no dataset.nc"),
        (["plot", "{data}", "--metric", "los"], "error: metric: no variable 'los' in this data set; nearest: loss"),
        (["plot", "{data}", "--x", "learning_rte"], "error: x: 'learning_rte' is not an axis here; nearest: learning"),
        (["plot", "{data}", "--where", "attack"], "error: --where attack: write axis=value"),
        (["plot", "{data}", "--where", "rule=a"], "error: where: 'rule' is not an axis here; nearest: "),
        (["plot", "{data}", "--where", "rate=3"], "error: where: rate is never 3; nearest: 0.3"),
        (["plot", "{data}", "--choose", "rate"], "error: by: there is no val_accuracy to choose hyperparameters by"),
        (["plot", "{data}", "--choose", "rate", "--by", "test_loss"], "error: select: by = 'test_loss' is measured"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    import xarray

    data = tmp_path / "data.nc"
    values = np.ones((2, 2), np.float32)
    dims, places = ("rate", "seed"), {"rate": [0.1, 0.3], "seed": [0, 1], "learning_rate": 1.0}
    made = xarray.Dataset({"loss": (dims, values), "test_loss": (dims, values)}, places, {"config": "{}"})
    results.save(made.expand_dims("learning_rate"), data)
    names = {"grid": written(tmp_path), "folder": tmp_path, "data": data}
    result = call(*(argument.format(**names) for argument in arguments))
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith(message.format(**names))


def test_invalid_cells_from_the_command_line_are_a_line_each(tmp_path):
    result = call("sweep", written(tmp_path), "--set", "run.num_byzantine=[1, 3]", "--set", "run.aggregator=nnm,rfa")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0].startswith("cannot run: num_byzantine = 3: nnm: f = 3 of n = 5 workers")
    assert lines[1].startswith("error: 1 of 2 cells cannot run")
    assert len(lines) == 2
