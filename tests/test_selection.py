"""Choosing by a metric's name, and from runs that diverged."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import byzjax
from byzjax.configs import grid_sweep
from byzjax.plotting import choices, tables
from byzjax.results.metric_names import direction, is_test
from byzjax.selection import DivergedWarning, EdgeWarning
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


# Selection.


def scored(values, rates=(0.1, 1.0, 10.0), **more):
    """``val_accuracy[rule, learning_rate, seed, eval]``, whose last evaluation counts."""
    values = np.asarray(values, float)
    accuracy = np.stack([np.zeros_like(values), values], -1)
    dims = ("rule", "learning_rate", "seed", "eval")
    dataset = xarray.Dataset(
        {"val_accuracy": (dims, accuracy), "test_accuracy": (dims, 1 - accuracy), **more},
        {"rule": ["krum", "median"][: len(values)], "learning_rate": list(rates), "seed": [0, 1], "eval": [5, 10]},
    )
    return dataset.assign(diverged=(dims[:-1], np.isnan(values)))


INSIDE = [[[0.2, 0.2], [0.9, 0.7], [0.8, 0.3]], [[0.5, 0.1], [0.3, 0.5], [0.0, 0.3]]]


def choose(dataset, **options):
    return byzjax.select(dataset, **{"over": "learning_rate", "by": "val_accuracy", **options})


def test_the_best_mean_over_seeds_is_chosen_per_combination():
    chosen = choose(scored(INSIDE))
    assert chosen["learning_rate"].dims == ("rule",)
    assert chosen["learning_rate"].values.tolist() == [1.0, 1.0]
    assert chosen["test_accuracy"].dims == ("rule", "seed", "eval")
    np.testing.assert_allclose(chosen["test_accuracy"].sel(rule="krum", eval=10), [0.1, 0.3])


def test_a_value_on_the_edge_is_warned_about():
    with pytest.warns(EdgeWarning, match=r"best learning_rate is the smallest of its grid, 0.1, for rule=median;"):
        chosen = choose(scored([INSIDE[0], [[0.9, 0.9], [0.3, 0.5], [0.0, 0.3]]]))
    assert chosen["learning_rate"].values.tolist() == [1.0, 0.1]
    with pytest.warns(EdgeWarning, match="largest of its grid, 10"):
        choose(scored([INSIDE[0], [[0.1, 0.1], [0.2, 0.1], [0.3, 0.3]]]))


def test_the_edge_is_that_of_the_numbers_not_of_the_list():
    with pytest.warns(EdgeWarning, match="largest of its grid, 10"):
        chosen = choose(scored(INSIDE[:1], rates=(0.1, 10.0, 1.0)))
    assert float(chosen["learning_rate"][0]) == 10.0


def test_inside_the_grid_nothing_is_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose(scored(INSIDE))
        choose(scored([[[0.5, 0.5]]], rates=(1.0,)))


@pytest.mark.parametrize("by", ["test_accuracy", "test_loss", "accuracy_test", "test"])
def test_test_data_choose_nothing(by):
    with pytest.raises(ValueError, match="is measured on test data"):
        choose(scored(INSIDE), by=by)


def test_a_diverged_lane_disqualifies_and_is_not_averaged_away():
    values = np.array(INSIDE)
    values[0, 1, 0] = np.nan
    with pytest.warns(EdgeWarning):
        assert choose(scored(values))["learning_rate"].values.tolist() == [10.0, 1.0]
    hidden = scored(values).assign(val_accuracy=scored(INSIDE)["val_accuracy"])
    with pytest.warns(EdgeWarning):
        assert choose(hidden)["learning_rate"].values.tolist() == [10.0, 1.0], "the flag counts, whatever the number"


def test_when_all_candidates_diverged_it_is_said():
    values = np.array(INSIDE)
    values[1, :, 1] = np.nan
    with pytest.warns(DivergedWarning, match="all candidates diverged, for rule=median"):
        chosen = choose(scored(values))
    assert chosen["learning_rate"].values.tolist() == [1.0, 0.1]


def test_what_was_not_run_did_not_diverge():
    values = np.array(INSIDE)
    values[1] = np.nan
    dataset = scored(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = choose(dataset.assign_coords(ran=("rule", [True, False])))
    assert chosen["learning_rate"].values.tolist() == [1.0, 0.1]
    with pytest.warns(DivergedWarning, match="for rule=median"):
        choose(dataset.assign_coords(ran=("rule", [True, True])))


def test_equal_scores_give_the_smaller_value():
    tied = scored([[[0.1, 0.1], [0.5, 0.5], [0.5, 0.5], [0.2, 0.2]]], rates=(0.1, 10.0, 1.0, 100.0))
    assert float(choose(tied)["learning_rate"][0]) == 1.0


def test_direction_reduction_last_and_several_axes():
    dataset = scored(INSIDE)
    dataset["val_loss"] = -dataset["val_accuracy"]
    dataset["mine"] = dataset["val_accuracy"]
    assert choose(dataset, by="val_loss")["learning_rate"].values.tolist() == [1.0, 1.0]
    assert choose(dataset, by="mine", best="max")["learning_rate"].values.tolist() == [1.0, 1.0]
    with pytest.warns(EdgeWarning):
        per_seed = choose(dataset, reduce=None)["learning_rate"]
    assert per_seed.dims == ("rule", "seed")
    assert per_seed.values.tolist() == [[1.0, 1.0], [0.1, 1.0]]
    assert choose(dataset, reduce="min over seed")["learning_rate"].values.tolist() == [1.0, 1.0]
    assert choose(dataset, last=2)["learning_rate"].values.tolist() == [1.0, 1.0]
    both = choose(dataset, over=["rule", "learning_rate"])
    assert (str(both["rule"].values), float(both["learning_rate"])) == ("krum", 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "accuracy"}, "is not in the data set"),
        ({"over": "beta"}, "is not an axis"),
        ({"over": "eval"}, "is not an axis"),
        ({"by": "unknown_direction"}, "pass best='max' or 'min'"),
        ({"best": "most"}, "must be 'max' or 'min'"),
        ({"reduce": "mean"}, "like 'mean over seeds'"),
        ({"reduce": "nanmean over seeds"}, "like 'mean over seeds'"),
        ({"reduce": "mean over runs"}, "there is no axis 'runs'"),
        ({"reduce": "mean over learning_rate"}, "cannot be averaged away too"),
        ({"last": 0}, "last = 0"),
        ({"last": 3}, "last = 3 must be between 1 and the 2 .* pass last=2 or less"),
    ],
)
def test_bad_selections_are_named(options, message):
    dataset = scored(INSIDE)
    dataset["unknown_direction"] = dataset["val_accuracy"]
    with pytest.raises(ValueError, match=message):
        choose(dataset, **options)
