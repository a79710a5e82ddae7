"""Figures: what they show is what the data sets hold. How they look is for people to judge."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colors

from byzjax import plotting, results
from byzjax.simulation.simulate import Result


def made(method="byz_nsgdm", aggregator="nnm,rfa", attack="bit_flip", accuracy=(0.2, 0.9)):
    history = {
        "loss": jnp.array([4.0, 2.0, 1.0, 0.5]),
        "aggregate_norm": jnp.array([4.0, 2.0, 1.0, 0.5]),
        "aggregation_error": jnp.array([1.0, 1.0, 1.0, 1.0]),
        "honest_spread": jnp.array([2.0, 2.0, 2.0, 2.0]),
    }
    per_class = jnp.stack([jnp.linspace(0.0, 1.0, 10)] * 2)
    evals = {
        "test_accuracy": jnp.array(accuracy),
        "val_accuracy": jnp.array(accuracy),
        "test_accuracy_per_class": per_class,
    }
    config = {"method": method, "aggregator": aggregator, "attack": attack, "eval_every": 2}
    return results.to_dataset(Result(None, history, evals), config)


RUNS = {
    "a": made(),
    "b": made(aggregator="mean"),
    "c": made("momentum_sgd"),
    "d": made("sgd_of_tomorrow"),
}


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_curves_show_percent_over_rounds():
    figure = plotting.curves(RUNS, "test_accuracy", title="All of them")
    (ax,) = figure.axes
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [2, 4])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [20.0, 90.0], rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("round", "test accuracy (%)", "All of them")
    assert ax.get_yscale() == "linear"
    assert legend_texts(figure) == ["a", "b", "c", "d"]


def test_losses_and_norms_are_logarithmic():
    assert plotting.curves(RUNS, "loss").axes[0].get_yscale() == "log"
    assert plotting.curves(RUNS, "loss", log=False).axes[0].get_yscale() == "linear"


def test_a_colour_per_method_and_a_line_per_rule():
    style = plotting.styles(RUNS)
    assert style["a"].color == style["b"].color
    assert style["a"].linestyle != style["b"].linestyle
    assert style["a"].linestyle == style["c"].linestyle
    assert len({style[label].color for label in "acd"}) == 3
    assert plotting.styles({"alone": RUNS["c"]})["alone"].color == style["c"].color
    assert all(colors.is_color_like(one.color) for one in style.values())


def test_running_mean():
    figure, axes = plotting.new_figure()
    run = RUNS["a"].assign(loss=RUNS["a"]["loss"].copy(data=[1.0, 9.0, 2.0, 4.0]))
    plotting.draw_curves(axes[0, 0], {"a": run}, "loss", style=plotting.styles({"a": run}), smooth=3)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [5.0, 4.0, 5.0, 3.0])


def test_a_running_mean_has_the_length_that_it_says():
    _, axes = plotting.new_figure()
    run = RUNS["a"].assign(loss=RUNS["a"]["loss"].copy(data=[1.0, 9.0, 2.0, 4.0]))
    plotting.draw_curves(axes[0, 0], {"a": run}, "loss", style=plotting.styles({"a": run}), smooth=2)
    np.testing.assert_array_equal(axes[0, 0].lines[0].get_ydata(), [5.0, 5.5, 3.0, 4.0])
    with pytest.raises(ValueError, match="smooth = 5 entries are more than the 4 of 'loss' that 'a' has"):
        plotting.draw_curves(axes[0, 0], {"a": run}, "loss", style=plotting.styles({"a": run}), smooth=5)


def test_runs_of_ones_own_without_a_method_can_be_drawn():
    result = Result(None, {"loss": jnp.arange(1.0, 46.0)}, {"objective": jnp.arange(1.0, 4.0)})
    runs = {name: results.to_dataset(result, {"name": name}) for name in ("my run", "another")}
    figure = plotting.curves(runs, "objective")
    assert figure.axes[0].get_xlabel() == "evaluation"
    assert len({style.color for style in plotting.styles(runs).values()}) == 2
    figure = plotting.curves(runs, "loss")
    figure.canvas.draw()
    assert figure.axes[0].get_xlabel() == "round"
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
    plotting.overview(runs["my run"]).canvas.draw()


def test_a_flag_of_an_older_file_is_not_believed_after_divergence():
    run = RUNS["a"].assign(finite=("round", [True, True, True, False]), reached=("eval", [False, True]))
    _, axes = plotting.new_figure()
    plotting.draw_curves(axes[0, 0], {"a": run}, "reached", style=plotting.styles({"a": run}))
    np.testing.assert_array_equal(axes[0, 0].lines[0].get_ydata(), [0.0, np.nan])


def test_per_class_has_a_row_per_run_and_a_heading_per_group():
    figure = plotting.per_class({"one | first": RUNS["a"], "one | second": RUNS["b"], "two | third": RUNS["c"]})
    tables = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in tables] == ["one", "two"]
    assert [label.get_text() for label in tables[0].get_yticklabels()] == ["first", "second"]
    np.testing.assert_allclose(tables[1].images[0].get_array(), 100 * np.linspace(0, 1, 10)[None], rtol=1e-6)
    assert [text.get_text() for text in tables[1].texts][:2] == ["0", "11"]


def test_overview_puts_the_true_norm_beside_the_reported_one():
    run = RUNS["a"].drop_vars(["test_accuracy", "val_accuracy"])
    run = run.assign(gradient_norm=("eval", np.array([3.0, 1.0])))
    left, right = plotting.overview(run, title="t").axes
    assert [line.get_label() for line in left.lines] == ["true gradient norm", "norm of the aggregate"]
    assert [line.get_label() for line in right.lines] == ["error of the aggregate", "spread of honest updates"]
    assert left.get_yscale() == "log"


def test_overview_of_a_run_that_was_never_evaluated():
    run = RUNS["a"].isel(eval=slice(0))
    left, _ = plotting.overview(run, title="t").axes
    assert [line.get_label() for line in left.lines] == ["loss"]


def test_a_diverged_run_can_be_drawn():
    run = made(accuracy=(jnp.nan, jnp.nan))
    run = run.assign(loss=run["loss"] * np.nan)
    plotting.curves({"a": run}, "loss").canvas.draw()
    plotting.per_class({"a": run}).canvas.draw()


def test_save_writes_png_and_pdf_and_nothing_else(tmp_path):
    paths = plotting.save(plotting.curves(RUNS, "loss"), tmp_path / "new" / "loss")
    assert [path.name for path in paths] == ["loss.png", "loss.pdf"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["loss.pdf", "loss.png"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plotting.curves({}, "loss"), "no runs"),
        (lambda: plotting.curves(RUNS, "los"), "'a' has no variable 'los'; it has .*loss"),
        (lambda: plotting.per_class({}), "no runs"),
        (
            lambda: plotting.overview(Result(None, {}, {}), title="t"),
            "overview: dataset = .* is a Result, .*to_dataset",
        ),
        (lambda: plotting.curves({"a": Result(None, {}, {})}, "loss"), r"curves: runs\['a'\] = .* is a Result"),
        (lambda: plotting.curves(RUNS["a"], "loss"), r"curves: runs\['\w+'\] = .* is a DataArray, not a Dataset"),
        (lambda: plotting.curves(3, "loss"), "curves: runs = 3 is an int, not a Mapping; pass a dict"),
        (lambda: plotting.styles({"a": 3}), r"styles: runs\['a'\] = 3 is an int"),
        (lambda: plotting.per_class({"a": RUNS["a"].isel(eval=slice(0))}), "no evaluation"),
    ],
)
def test_what_cannot_be_drawn(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_no_global_state_and_no_display():
    code = "import sys; from byzjax import plotting; plotting.new_figure(); print('matplotlib.pyplot' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
