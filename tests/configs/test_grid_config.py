"""Grids in TOML: what may be said, and what is no grid."""

import json

import numpy as np
import pytest

from byzjax import results
from byzjax.configs import grid_config, run_config
from tests.helpers import call, written


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
