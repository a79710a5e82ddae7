"""Figures and tables of sweeps: their numbers, against plain loops. How they look is for people to judge."""

import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray
from matplotlib.colors import to_hex

from byzjax.plotting import choices, summaries, sweeps, tables
from byzjax.plotting import layout as layouts
from byzjax.selection import DivergedWarning, EdgeWarning

AXES = {
    "task": ["mnist(scheme='iid')", "mnist(scheme='label_sorted')"],
    "aggregator": ["nnm,rfa", "trimmed_mean"],
    "attack": ["bit_flip", "ipm(scale=10.0)", "alie"],
    "num_byzantine": [1, 4],
    "learning_rate": [0.01, 0.1, 1.0],
    "seed": [0, 1, 2, 3],
}
SHAPE = tuple(len(values) for values in AXES.values())
EVALS = [30, 60, 90]


def made(seed=0, diverged=()):
    """A sweep of random accuracies; ``diverged`` are places of runs that diverge after the first evaluation."""
    rng = np.random.default_rng(seed)
    test, val = rng.uniform(0.2, 0.9, (2, *SHAPE, 3))
    flags = np.zeros(SHAPE, bool)
    for place in diverged:
        test[(*place, slice(1, None))] = val[(*place, slice(1, None))] = np.nan
        flags[place] = True
    dims = (*AXES, "eval")
    return xarray.Dataset(
        {
            "test_accuracy": (dims, test, {"long_name": "test accuracy", "units": "1"}),
            "val_accuracy": (dims, val, {"long_name": "validation accuracy", "units": "1"}),
            "gradient_norm": (dims, 10.0 ** (-5 * test), {"long_name": "true gradient norm", "units": "1"}),
            "diverged": (tuple(AXES), flags),
        },
        {**AXES, "eval": EVALS},
    )


@pytest.fixture(autouse=True)
def _edges_do_not_matter():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgeWarning)
        yield


def small(**kwargs):
    """Two rules and three attacks."""
    return made(**kwargs).isel(task=0, num_byzantine=0, learning_rate=0)


def caption(figure):
    return " ".join(figure.texts[-1].get_text().split())


# Student's t at 97.5 %, from printed tables: degrees of freedom -> quantile.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 9: 2.262}


@pytest.mark.parametrize("number", [2, 3, 4, 10])
def test_the_interval_is_students(number):
    values = np.random.default_rng(number).normal(size=number)
    summary = summaries.summarize(xarray.DataArray(values, dims="seed"))
    half = STUDENT[number - 1] * np.std(values, ddof=1) / np.sqrt(number)
    np.testing.assert_allclose([summary.mean, summary.half_width], [np.mean(values), half], rtol=2e-4)
    assert (int(summary.finite), int(summary.diverged)) == (number, 0)


def test_the_interval_covers_the_truth_in_95_percent_of_cases():
    draws = xarray.DataArray(np.random.default_rng(0).normal(3.0, 2.0, (4000, 5)), dims=("case", "seed"))
    summary = summaries.summarize(draws)
    covered = float((abs(summary.mean - 3.0) <= summary.half_width).mean())
    assert abs(covered - 0.95) < 0.0103  # three standard deviations of the frequency


def test_diverged_runs_are_counted_and_not_averaged():
    values = xarray.DataArray([[1.0, np.nan, 3.0], [np.nan, np.inf, 2.0], [np.nan] * 3], dims=("rule", "seed"))
    summary = summaries.summarize(values)
    np.testing.assert_array_equal(summary.mean, [2.0, 2.0, np.nan])
    np.testing.assert_array_equal(summary.finite, [2, 1, 0])
    np.testing.assert_array_equal(summary.diverged, [1, 2, 3])
    np.testing.assert_array_equal(np.isnan(summary.half_width), [False, True, True])
    skipped = summaries.summarize(values.assign_coords(ran=("rule", [True, True, False])))
    np.testing.assert_array_equal(skipped.diverged, [1, 2, 0])


def test_without_seeds_a_value_is_its_own_mean():
    summary = summaries.summarize(xarray.DataArray([1.0, np.nan], dims="rule"))
    np.testing.assert_array_equal(summary.mean, [1.0, np.nan])
    assert np.isnan(summary.half_width).all()
    np.testing.assert_array_equal(summary.diverged, [0, 1])


def test_curves_show_the_mean_and_the_band():
    dataset = small()
    figure = sweeps.curves(dataset, "test_accuracy")
    (ax,) = figure.axes
    labels = [line.get_label() for line in ax.lines]
    rules, attacks = ["NNM + RFA", "trimmed mean"], ["bit flip", "IPM (scale 10)", "ALIE"]
    assert labels == [f"{rule}, {attack}" for rule, attack in itertools.product(rules, attacks)]
    values = 100 * dataset["test_accuracy"].values[1, 2]  # [seed, eval]
    half = STUDENT[3] * values.std(0, ddof=1) / 2
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), EVALS)
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), values.mean(0), rtol=1e-6)
    band = ax.collections[-1].get_paths()[0].vertices
    low = [band[band[:, 0] == x, 1].min() for x in EVALS]
    np.testing.assert_allclose(values.mean(0) - low, half, rtol=2e-4)  # as exact as the printed quantile
    assert ax.get_ylabel() == "test accuracy (%)"
    assert "95 % confidence interval (Student's t)" in caption(figure)
    assert "diverged" not in caption(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels


def test_curves_tell_rules_by_colour_and_attacks_by_dashes():
    (ax,) = sweeps.curves(small(), "test_accuracy").axes
    assert len({to_hex(line.get_color()) for line in ax.lines[:3]}) == 1
    assert len({line.get_linestyle() for line in ax.lines[:3]}) == 3
    assert ax.lines[0].get_color() != ax.lines[3].get_color()


def test_every_seed_when_asked():
    dataset = small().isel(attack=0)
    (ax,) = sweeps.curves(dataset, "test_accuracy", every_seed=True).axes
    thin = [line for line in ax.lines if line.get_linewidth() < 1]
    assert len(thin) == 2 * 4
    np.testing.assert_allclose(thin[5].get_ydata(), 100 * dataset["test_accuracy"].values[1, 1], rtol=1e-6)
    figure = sweeps.curves(dataset.isel(seed=[0]), "test_accuracy")
    assert "no confidence band" in caption(figure)


def test_a_diverged_run_stops_and_is_named():
    dataset = small(diverged=[(0, 1, 2, 0, 0, 3), (0, 1, 2, 0, 0, 1), (0, 0, 0, 0, 0, 0)])
    figure = sweeps.curves(dataset, "test_accuracy")
    values = 100 * dataset["test_accuracy"].values[1, 2]
    expected = [values[:, 0].mean(), *values[[0, 2], 1:].mean(0)]
    np.testing.assert_allclose(figure.axes[0].lines[-1].get_ydata(), expected, rtol=1e-6)
    text = caption(figure)
    assert "3 of 24 runs diverged (NNM + RFA, bit flip: 1; trimmed mean, ALIE: 2) and stop there." in text


def test_curves_over_another_axis_in_panels():
    dataset = made().isel(task=0, num_byzantine=0)
    figure = sweeps.curves(dataset, "gradient_norm", x="learning_rate", panels="attack")
    assert [ax.get_title() for ax in figure.axes] == ["bit flip", "IPM (scale 10)", "ALIE"]
    for index, ax in enumerate(figure.axes):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        expected = dataset["gradient_norm"].values[1, index, :, :, -1].mean(-1)
        np.testing.assert_allclose(ax.lines[1].get_ydata(), expected, rtol=1e-6)
    by_name = sweeps.curves(dataset.isel(learning_rate=0), "test_accuracy", x="attack").axes[0]
    assert [label.get_text() for label in by_name.get_xticklabels()] == ["bit flip", "IPM (scale 10)", "ALIE"]


def test_curves_at_the_chosen_rate_say_it():
    dataset = made().isel(task=0, num_byzantine=0, attack=[0, 2])
    best, note = choices.chosen_lines(dataset, "test_accuracy", choose=["learning_rate"], by=None, last=2)
    figure = sweeps.curves(best, "test_accuracy", note=note)
    for line, (rule, attack) in zip(figure.axes[0].lines, itertools.product(range(2), range(2)), strict=True):
        scores = dataset["val_accuracy"].values[rule, attack, :, :, -2:].mean((-1, -2))
        chosen = int(scores.argmax())
        assert line.get_label().endswith(f"γ₀ = {AXES['learning_rate'][chosen]:g}")
        expected = 100 * dataset["test_accuracy"].values[rule, attack, chosen].mean(0)
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-6)
    assert "learning rate γ₀ of the best validation accuracy, mean of the last 2 evaluations" in note


def worst_by_loops(dataset, task, byzantine):
    """The value, rule, rate and attack of one cell, as the figure is defined."""
    test, val = (dataset[name].values[task, ..., -1] for name in ("test_accuracy", "val_accuracy"))
    candidates = {}
    for rule, rate in itertools.product(range(2), range(3)):
        scores = [val[rule, attack, byzantine, rate].mean() for attack in range(3)]
        if not np.isnan(scores).any():
            candidates[rule, rate] = min(scores)
    rule, rate = max(candidates, key=candidates.get)
    means = [np.nanmean(test[rule, attack, byzantine, rate]) for attack in range(3)]
    attack = int(np.argmin(means))
    return 100 * means[attack], rule, rate, attack


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_worst_attack_at_what_is_best_on_validation_data(seed):
    dataset = made(seed, diverged=[(0, 0, 1, 0, 2, 1), (1, 1, 2, 1, 0, 3)])
    laid = layouts.layout(dataset, "test_accuracy")
    assert laid == layouts.Layout(("task", "num_byzantine"), "attack", ("aggregator", "learning_rate"))
    picture = choices.picture(dataset, "test_accuracy", **laid._asdict())
    figure = sweeps.heatmap(dataset, picture)
    ax = figure.axes[0]
    image = ax.images[0].get_array()
    texts = [text.get_text() for text in ax.texts]
    for task, byzantine in itertools.product(range(2), range(2)):
        value, rule, rate, attack = worst_by_loops(dataset, task, byzantine)
        assert image[task, byzantine] == pytest.approx(value, rel=1e-6)
        place = {"task": task, "num_byzantine": byzantine}
        assert picture.remarks(**place) == [
            ["NNM + RFA", "trimmed mean"][rule],
            f"γ₀ = {AXES['learning_rate'][rate]:g}",
            ["bit flip", "IPM (scale 10)", "ALIE"][attack],
        ]
        assert picture.number(**place) in texts
    assert [label.get_text() for label in ax.get_yticklabels()] == ["iid", "label sorted"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("MNIST: scheme", "Byzantine workers b")
    assert "worst attack" in figure.get_suptitle()


def test_attack_by_rule_and_a_cell_that_diverged():
    lost = [(0, 1, 2, 0, rate, seed) for rate in range(3) for seed in range(4)]
    dataset = made(diverged=[*lost, (0, 0, 0, 0, 1, 2)]).isel(task=0, num_byzantine=0, learning_rate=1)
    picture = choices.picture(dataset, "test_accuracy", shown=("aggregator", "attack"))
    assert layouts.layout(dataset, "test_accuracy").shown == ("aggregator", "attack")
    assert picture.number(aggregator=1, attack=2) == "diverged"
    assert picture.remarks(aggregator=0, attack=0) == ["1 of 4 diverged"]
    assert any("5 runs diverged" in sentence for sentence in picture.caption)
    ax = sweeps.heatmap(dataset, picture).axes[0]
    assert np.ma.is_masked(ax.images[0].get_array()[1, 2])
    hatched = {patch.get_xy() for patch in ax.patches if patch.get_hatch()}
    assert hatched == {(-0.5, -0.5), (1.5, 0.5)}
    # An attack under which no run is finite is the worst, however good the others are.
    worst = choices.picture(dataset, "test_accuracy", shown=("aggregator",), worst="attack")
    assert np.isnan(worst.summary.mean[1])
    assert worst.number(aggregator=1) == "diverged"
    assert worst.remarks(aggregator=1) == ["ALIE"]
    assert worst.remarks(aggregator=0)[0] == "1 of 12 diverged"


@pytest.mark.parametrize(
    ("values", "kind"), [([[1e-3, 1.0]], "LogNorm"), ([[3.0, 4.0]], "Normalize"), ([[3.0, 3.0]], "Normalize")]
)
def test_colours_are_logarithmic_where_numbers_span_much(values, kind):
    axes = {"aggregator": ["mean"], "attack": ["none", "alie"]}
    dataset = xarray.Dataset({"objective": (tuple(axes), np.array(values))}, axes)
    figure = sweeps.heatmap(dataset, choices.picture(dataset, "objective", shown=tuple(axes)))
    figure.canvas.draw()
    norm = figure.axes[0].images[0].norm
    assert type(norm).__name__ == kind
    assert norm.vmax > norm.vmin


def test_a_cell_that_was_not_run_is_neither_diverged_nor_the_worst():
    dataset = small()
    ran = np.ones((2, 3), bool)
    ran[1, 0] = False
    dataset = dataset.where(xarray.DataArray(ran, dims=("aggregator", "attack"))).assign(
        diverged=dataset["diverged"].astype(bool)
    )
    dataset = dataset.assign_coords(ran=(("aggregator", "attack"), ran))
    picture = choices.picture(dataset, "test_accuracy", shown=("aggregator", "attack"))
    assert picture.number(aggregator=1, attack=0) == "not run"
    assert not any("diverged" in sentence for sentence in picture.caption)
    worst = choices.picture(dataset, "test_accuracy", shown=("aggregator",), worst="attack")
    expected = 100 * dataset["test_accuracy"].values[1, 1:, :, -1].mean(-1).min()
    assert worst.number(aggregator=1).startswith(f"{expected:.1f} ±")
    sweeps.heatmap(dataset, picture).canvas.draw()


def test_nothing_is_chosen_where_nothing_was_run():
    dataset = made().isel(task=0, num_byzantine=0)
    ran = xarray.DataArray([[True, True, True], [False, False, False]], dims=("aggregator", "attack"))
    numbers = dataset[["test_accuracy", "val_accuracy"]].where(ran)
    dataset = dataset.assign(numbers).assign_coords(ran=ran)
    shown = {"shown": ("aggregator", "attack"), "choose": ("learning_rate",)}
    picture = choices.picture(dataset, "test_accuracy", **shown)  # a warning would be an error
    assert picture.number(aggregator=1, attack=1) == "not run"
    assert picture.remarks(aggregator=1, attack=1) == []
    assert picture.remarks(aggregator=0, attack=1)[0].startswith("γ₀ = ")
    lost = dataset.assign(diverged=dataset["diverged"] | ~ran).drop_vars("ran")
    with pytest.warns(DivergedWarning, match="all candidates diverged"):
        picture = choices.picture(lost, "test_accuracy", **shown)
    assert (picture.number(aggregator=1, attack=1), picture.remarks(aggregator=1, attack=1)) == ("diverged", [])


def test_test_data_choose_nothing():
    dataset, shown = made().isel(task=0, num_byzantine=0), ("aggregator", "attack")
    with pytest.raises(ValueError, match="test data, which must not choose"):
        choices.picture(dataset, "test_accuracy", shown=shown, choose=("learning_rate",), by="test_accuracy")
    blind = dataset.drop_vars("val_accuracy")
    with pytest.raises(ValueError, match="no val_accuracy to choose"):
        choices.picture(blind, "test_accuracy", shown=shown, choose=("learning_rate",))


def test_tables_mark_the_best_of_what_competes():
    dataset = made(diverged=[(0, 0, 0, 0, 0, 0)]).isel(task=0, learning_rate=0)
    laid = layouts.layout(dataset, "test_accuracy", table=True)
    assert laid.shown == ("aggregator", "num_byzantine", "attack")
    picture = choices.picture(dataset, "test_accuracy", **laid._asdict())
    table = tables.table(dataset, picture)
    assert table.heads == ["rule", "Byzantine workers b", "bit flip", "IPM (scale 10)", "ALIE"]
    assert [row[:2] for row in table.rows] == [
        ["NNM + RFA", "1"],
        ["NNM + RFA", "4"],
        ["trimmed mean", "1"],
        ["trimmed mean", "4"],
    ]
    values = dataset["test_accuracy"].values[..., -1]  # [rule, attack, b, seed]
    means = np.nanmean(values, -1)
    for attack, byzantine in itertools.product(range(3), range(2)):
        marked = [rule for rule in range(2) if (2 * rule + byzantine, 2 + attack) in table.best]
        if (attack, byzantine) == (0, 0):
            assert marked == [1]  # runs of the other rule diverged there, so it is not judged by those that did not
        else:
            assert marked == [int(means[:, attack, byzantine].argmax())]
    assert table.rows[0][2].startswith(f"{100 * means[0, 0, 0]:.1f} ± ")
    assert table.rows[0][2].endswith("(1 of 4 diverged)")
    assert "Bold: the best rule." in table.caption

    text = tables.markdown(table)
    lines = text.splitlines()
    assert lines[0] == "| rule | Byzantine workers b | bit flip | IPM (scale 10) | ALIE |"
    assert text.count("**") == 2 * len(table.best)
    assert tables.latex(table).count(r"\textbf{") == len(table.best)
    assert r"\%" in tables.latex(table)


def test_latex_escapes_what_is_special():
    table = tables.Table(["a_b", "50 %"], [["x & y", r"\1 ± 2 {γ₀}"]], set(), ("#1 $ ~ ^",))
    text = tables.latex(table)
    for piece in (r"a\_b & 50 \%", r"x \& y", r"\textbackslash{}1 $\pm$ 2 \{$\gamma_0$\}"):
        assert piece in text
    assert r"\#1 \$ \textasciitilde{} \textasciicircum{}" in text


def test_tables_are_written_as_markdown_and_latex(tmp_path):
    dataset = small()
    picture = choices.picture(dataset, "gradient_norm", shown=("aggregator", "attack"))
    paths = tables.save(tables.table(dataset, picture), tmp_path / "new" / "table")
    assert [path.name for path in paths] == ["table.md", "table.tex"]
    assert paths[0].read_text().startswith("| rule | bit flip |")
    assert "booktabs" in paths[1].read_text()


def test_where_takes_one_value_or_several():
    dataset = made()
    one = summaries.where(dataset, {"task": ["mnist( scheme=iid )"], "learning_rate": ["1e-1"]})
    assert one["task"].item() == AXES["task"][0]
    assert float(one["learning_rate"]) == 0.1
    two = summaries.where(dataset, {"num_byzantine": ["4"], "seed": ["0", "2"]})
    assert two["seed"].values.tolist() == [0, 2]
    with pytest.raises(ValueError, match="where: attack is never ali; nearest: alie"):
        summaries.where(dataset, {"attack": ["ali"]})


def test_labels_that_would_be_the_same_are_told_apart():
    texts, rates = ["ipm(scale=10)", "ipm(scale=10.0)"], [0.12345671, 0.12345672]
    axes = xarray.Dataset(coords={"attack": texts, "learning_rate": rates})
    assert len(set(summaries.axis_labels(axes, "attack")[1])) == 2
    assert summaries.axis_labels(axes, "learning_rate") == ("learning rate γ₀", ["0.12345671", "0.12345672"])


def test_many_lines_of_one_axis_get_a_colour_each():
    rates = np.geomspace(0.001, 1, 12)
    values = np.random.default_rng(0).uniform(size=(2, 12, 3, 2))
    places = {"attack": ["none", "alie"], "learning_rate": rates, "seed": [0, 1, 2], "eval": [1, 2]}
    dataset = xarray.Dataset({"test_accuracy": (tuple(places), values)}, places)
    (ax,) = sweeps.curves(dataset, "test_accuracy").axes
    looks = {(to_hex(line.get_color()), str(line.get_linestyle())) for line in ax.lines}
    assert len(looks) == len(ax.lines) == 24


def test_figures_and_tables_say_what_was_fixed():
    dataset = made().isel(num_byzantine=[0])
    part = summaries.where(dataset, {"task": ["mnist(scheme=iid)"], "attack": ["alie"], "learning_rate": ["0.1"]})
    same = {"task = MNIST (scheme iid)", "attack = ALIE", "b = 1", "γ₀ = 0.1"}
    title = sweeps.curves(part, "test_accuracy").get_suptitle().replace("\n", " ")
    assert title.startswith("Test accuracy, ")
    assert set(title.split(", ")[1:]) == same
    table = tables.table(part, choices.picture(part, "test_accuracy", shown=("num_byzantine", "aggregator")))
    (said,) = [sentence for sentence in table.caption if "Test accuracy (%) by rule, " in sentence]
    assert set(said[:-1].split(", ")[1:]) == same - {"b = 1"}
    two = summaries.where(made(), {"task": ["mnist(scheme=iid)"], "learning_rate": ["0.1"]})
    worst = choices.picture(two, "test_accuracy", shown=("aggregator", "num_byzantine"), worst="attack")
    title = sweeps.heatmap(two, worst).get_suptitle().replace("\n", " ")
    assert title.startswith("Test accuracy under the worst attack, ")
    assert set(title.split(", ")[1:]) == {"task = MNIST (scheme iid)", "γ₀ = 0.1"}
    assert sweeps.heatmap(two, worst, title="Mine").get_suptitle() == "Mine"


def test_panels_and_lines_of_numbers_say_of_what():
    dataset = made().isel(task=0, learning_rate=0, attack=[0])
    figure = sweeps.curves(dataset, "test_accuracy", panels="num_byzantine")
    assert [ax.get_title() for ax in figure.axes] == ["b = 1", "b = 4"]
    scales = (
        made()
        .isel(task=0, learning_rate=0, num_byzantine=0)
        .assign_coords(attack=[f"ipm(scale={scale})" for scale in (1, 2, 3)])
    )
    figure = sweeps.curves(scales, "test_accuracy", panels="attack")
    assert [ax.get_title() for ax in figure.axes] == [f"IPM: scale = {scale}" for scale in (1, 2, 3)]


def test_labels_that_are_no_specifications_are_shown_as_they_are():
    labels = ["my rule", "1 + 1", "krum(", "a, b c", "é!", "BF / RFA"]
    values = np.random.default_rng(0).uniform(size=(6, 2, 3))
    places = {"rule": labels, "attack": ["theirs!", "alie"], "seed": [0, 1, 2]}
    dataset = xarray.Dataset({"objective": (tuple(places), values)}, places)
    figure = sweeps.heatmap(dataset, choices.picture(dataset, "objective", shown=("rule", "attack")))
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == labels
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["theirs!", "ALIE"]
    assert (
        tables.table(dataset, choices.picture(dataset, "objective", shown=("rule", "attack"))).rows[0][0] == "my rule"
    )
    best = choices.picture(dataset, "objective", shown=("attack",), choose=("rule",), by="objective")
    assert best.remarks(attack=0)[0] in labels
    drawn = sweeps.curves(dataset, "objective", x="attack")
    assert [line.get_label() for line in drawn.axes[0].lines] == labels
    assert (
        "rule = my rule"
        in sweeps.curves(summaries.where(dataset, {"rule": ["my rule"]}), "objective", x="attack").get_suptitle()
    )


def test_ticks_are_whole_rounds_and_few_on_short_logarithmic_axes():
    rounds = np.arange(1, 46)
    for low, high in ((1.0, 1.3), (20.0, 70.0), (2e-6, 3e-5), (0.5, 900.0)):
        values = np.geomspace(low, high, 45)[:, None]
        dataset = xarray.Dataset({"loss": (("round", "seed"), values)}, {"round": rounds, "seed": [0]})
        figure = sweeps.curves(dataset, "loss")
        figure.canvas.draw()
        (ax,) = figure.axes
        assert all(float(tick).is_integer() for tick in ax.get_xticks())
        (bottom, top), labels = ax.get_ylim(), ax.get_yticklabels() + ax.get_yticklabels(minor=True)
        places = [*ax.get_yticks(), *ax.get_yticks(minor=True)]
        written = [
            tick for tick, place in zip(labels, places, strict=True) if tick.get_text() and bottom <= place <= top
        ]
        assert 2 <= len(written) <= 8, (low, high)


def test_bands_of_accuracies_end_at_0_and_100_per_cent():
    values = np.array([[0.99, 0.02], [0.95, 0.01], [0.999, 0.2]])
    dataset = xarray.Dataset({"test_accuracy": (("seed", "eval"), values)}, {"seed": [0, 1, 2], "eval": [1, 2]})
    (ax,) = sweeps.curves(dataset, "test_accuracy").axes
    band = ax.collections[-1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.0, 100.0)


def test_evaluations_that_nobody_dated_are_counted():
    said = {"long_name": "evaluation, counted from 1"}
    dataset = small().assign_coords(eval=("eval", [1, 2, 3], said))
    assert sweeps.curves(dataset, "test_accuracy").axes[0].get_xlabel() == "evaluation"
    picture = choices.picture(dataset, "test_accuracy", shown=("aggregator", "attack"))
    assert picture.caption[0].startswith("Evaluation 3; mean over")


def test_counts_and_flags_of_diverged_runs_are_missing():
    dataset = small(diverged=[(0, 0, 0, 0, 0, seed) for seed in range(4)] + [(0, 1, 1, 0, 0, 2)])
    lost = dataset["diverged"].expand_dims(eval=dataset["eval"], axis=-1)
    count = dataset["test_accuracy"].copy(data=np.full(lost.shape, 7)).astype(np.int32)
    dataset["count"] = count.where(~lost, np.iinfo(np.int32).min).astype(np.int32)
    dataset["reached"] = lost  # true wherever the run diverged
    for metric in ("count", "reached"):
        picture = choices.picture(dataset, metric, shown=("aggregator", "attack"))
        assert picture.number(aggregator=0, attack=0) == "diverged"
        assert picture.remarks(aggregator=1, attack=1) == ["1 of 4 diverged"]
        assert float(picture.summary.mean[1, 1]) == {"count": 7, "reached": 0}[metric]
        sweeps.heatmap(dataset, picture).canvas.draw()
        lines = sweeps.curves(dataset, metric).axes[0].lines
        assert np.nanmin([line.get_ydata() for line in lines]) >= 0
        assert np.nanmax([line.get_ydata() for line in lines]) <= 7


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda d: sweeps.curves(d, "test_accuracy"), "72 lines .*cannot be told apart"),
        (lambda d: sweeps.curves(d, "test_accuracy", x="atack"), "x: 'atack' is not an axis here; nearest: attack"),
        (lambda d: sweeps.curves(d, "test_accuracy", panels="rule"), "panels: 'rule' is not an axis here"),
        (lambda d: layouts.layout(d, "test_accuracy", x="f"), "x: 'f' is not an axis here"),
        (lambda d: choices.picture(d, "test_accuracy", shown=("task",)), "also has the axis aggregator with 2 values"),
        (lambda d: choices.picture(d, "test_accuracy", shown=("seed", "task")), "seed cannot be shown, chosen"),
        (lambda d: choices.picture(d, "test_accuracy", shown=("eval", "task")), "eval cannot be shown"),
        (lambda d: summaries.metric_of(d, "tset_accuracy"), "no variable 'tset_accuracy' .*nearest: test_accuracy"),
        (lambda d: layouts.layout(d.isel({axis: [0] for axis in AXES}), "test_accuracy"), "two axes with several"),
        (lambda d: sweeps.curves({"a": d}, "test_accuracy"), "curves: dataset = .* is a dict, not a Dataset; pass"),
        (lambda d: layouts.layout(d["test_accuracy"], "test_accuracy"), "dataset = .* is a DataArray, not a Dataset"),
    ],
)
def test_what_cannot_be_drawn(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(made())


def test_nothing_touches_a_display():
    code = "import sys; from byzjax.plotting import sweeps, tables; print('matplotlib.pyplot' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
