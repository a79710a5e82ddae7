"""`byzjax plot`."""

import jax.numpy as jnp
import pytest

import byzjax
from byzjax import results
from tests.helpers import call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--y", "seed"], "--y says nothing about --kind curves"),
        (["--worst", "attack"], "--worst says nothing about --kind curves"),
        (["--by", "loss"], "--by says nothing without --choose"),
        (["--kind", "heatmap", "--panels", "seed"], "--panels says nothing about --kind heatmap"),
        (["--kind", "table", "--title", "t"], "--title says nothing about --kind table"),
        (["--over", "nothing"], "--over: 'nothing' is not an axis here; nearest:"),
    ],
)
def test_options_of_a_figure_are_not_dropped(options, message, tmp_path):
    dataset = results.to_dataset(byzjax.Result(None, {"loss": jnp.ones(6)}, {}), {"seed": 0})
    path = results.save(dataset, tmp_path / "run.nc")
    result = call("plot", str(path), "--metric", "loss", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_figure_is_put_into_a_folder(tmp_path):
    dataset = results.to_dataset(byzjax.Result(None, {"loss": jnp.ones(6)}, {}), {"seed": 0})
    path = results.save(dataset, tmp_path / "run.nc")
    (tmp_path / "figures").mkdir()
    assert call("plot", str(path), "--metric", "loss", "--out", str(tmp_path / "figures")).exit_code == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"curves-loss.png", "curves-loss.pdf"}
