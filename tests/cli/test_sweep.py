"""`byzjax sweep` and `byzjax plot` of grids."""

import re

import numpy as np
import pytest

from byzjax import results
from byzjax.cli import plot
from byzjax.configs import grid_config
from tests.environment import ROOT
from tests.helpers import call, written

EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))


@pytest.mark.slow
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
