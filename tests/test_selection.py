"""Choosing by a metric's name, and from runs that diverged."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import byzjax
from byzjax.configs import grid_sweep
from byzjax.plotting import choices, tables
from byzjax.results.metric_names import direction, is_test
from byzjax.simulation.simulate import Result

RATES = [0.1, 0.2, 0.3, 0.4]


def made(by, **more):
    """One rule and one seed; the second rate has the least, and the third the most."""
    dims, places = ("learning_rate", "rule", "seed"), {"learning_rate": RATES, "rule": ["krum"], "seed": [0]}
    scores = np.array([0.5, 0.2, 0.9, 0.5])[:, None, None]
    return xarray.Dataset({by: (dims, scores), **more}, places)


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("val_accuracy", "max"),
        ("ValAccuracy", "max"),
        ("val-ACCURACY", "max"),
        ("val/accuracies", "max"),
        ("val.loss", "min"),
        ("gradientNorm", "min"),
        ("val_normalized_score", None),
        ("val_accuracy_loss", None),
        ("val_accuracy_error", None),
        ("glossary", None),
        ("neg_loss", None),
        ("score", None),
    ],
)
def test_whole_words_say_which_end_is_good_and_else_somebody_must(name, best):
    assert direction(name) == best
    dataset = made(name)
    chosen = {"max": 0.3, "min": 0.2}
    if best is None:
        with pytest.raises(ValueError, match=f"not known whether much or little '{name}' is good; pass best="):
            byzjax.select(dataset, over="learning_rate", by=name)
        for end, rate in chosen.items():
            assert byzjax.select(dataset, over="learning_rate", by=name, best=end).learning_rate.item() == rate
    else:
        assert byzjax.select(dataset, over="learning_rate", by=name).learning_rate.item() == chosen[best]


@pytest.mark.parametrize(
    "name", ["Test_accuracy", "test-accuracy", "accuracy.TEST", "testAccuracy", "a test loss", "test/loss", "testloss"]
)
def test_no_spelling_of_test_data_chooses(name):
    with pytest.raises(ValueError, match="is measured on test data"):
        byzjax.select(made(name), over="learning_rate", by=name, best="max")


@pytest.mark.parametrize("name", ["latest_accuracy", "val_attested_loss", "contest", "protest_norm"])
def test_what_only_sounds_like_test_data_may(name):
    assert not is_test(name)
    byzjax.select(made(name), over="learning_rate", by=name, best="max")


def test_plots_ask_too_where_the_name_does_not_say():
    dataset = made("score").assign(val_accuracy=made("val_accuracy")["val_accuracy"])
    dataset = xarray.concat([dataset, dataset], xarray.IndexVariable("attack", ["a", "b"]))
    shown = {"shown": ("rule",), "worst": "attack", "choose": ("learning_rate",)}
    with pytest.raises(ValueError, match=r"score: it is not known whether .*; say --best max or --best min"):
        choices.picture(dataset, "val_accuracy", by="score", **shown)
    picture = choices.picture(dataset, "val_accuracy", by="score", best="min", **shown)
    assert picture.remarks(rule=0)[0] == "γ₀ = 0.2"
    with pytest.raises(ValueError, match="score: it is not known whether"):
        choices.picture(dataset, "score", by="val_accuracy", **shown)
    table = tables.table(dataset, choices.picture(dataset, "score", shown=("learning_rate", "attack")))
    assert not table.best


@pytest.mark.parametrize("value", [{}, Result(None, {}, {})], ids=["dict", "Result"])
def test_what_is_no_data_set(value):
    with pytest.raises(ValueError, match=r"select: dataset = .* is a \w+, not a Dataset; pass what byzjax.sweep"):
        byzjax.select(value, over="learning_rate", by="val_accuracy")


def test_a_diverged_rate_has_reached_nothing():
    lost = np.iinfo(np.int32).min
    flags = [[True, True], [False, False], [True, True], [False, False]]
    dataset = made("reached", diverged=(("learning_rate", "rule", "seed"), np.zeros((4, 1, 1), bool)))
    lanes = ("learning_rate", "rule", "seed", "eval")
    dataset["reached"] = lanes, np.array(flags)[:, None, None]
    dataset["count"] = lanes, np.array([[7, lost], [7, 5], [7, lost], [7, 9]], np.int32)[:, None, None]
    dataset["diverged"][[0, 2]] = True
    dataset = dataset.assign_coords(eval=[1, 2])
    assert byzjax.select(dataset, over="learning_rate", by="reached", best="max").learning_rate.item() == 0.2
    for last in (1, 2):
        best = byzjax.select(dataset, over="learning_rate", by="count", best="min", last=last)
        assert best.learning_rate.item() == 0.2
        assert best["count"].values.ravel().tolist() == [7, 5]


def test_a_grid_that_sweeps_methods_calls_the_axis_optimizer():
    grid = grid_sweep.GridConfig({}, {"method": ("a", "b")}, "store", select=None)
    assert grid_sweep.named(grid.cells) == {"optimizer": ("a", "b")}
    with pytest.raises(ValueError, match=r"'method' is an argument of xarray's sel, .* e.g. optimizer"):
        byzjax.sweep(lambda **_: {}, grid={"seed": [0]}, cells={"method": ["a"]}, progress=False)


def test_a_sweep_is_not_labelled_with_rounds_it_was_not_evaluated_in():
    def run(seed):
        values = seed * jnp.ones(6, jnp.uint32)
        return Result(None, {"loss": values}, {"objective": values[:3]})

    options = {"grid": {"seed": [0]}, "progress": False}
    assert byzjax.sweep(run, config={"eval_every": 2}, **options)["eval"].values.tolist() == [2, 4, 6]
    with pytest.raises(ValueError, match="eval_every = 3, but there are 3 evaluations of 6 rounds"):
        byzjax.sweep(run, config={"eval_every": 3}, **options)
