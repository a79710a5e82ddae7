"""The study of server steps: what it runs, κ̂ in the norm of a step, and its page."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks, transforms
from byzjax.cli.app import app
from byzjax.experiments import registry
from byzjax.experiments.experiment import Metric, Tuning, reduced
from byzjax.experiments.lmo.kappa import kappa_of
from byzjax.experiments.lmo.report import report
from byzjax.experiments.reproduce import lane, reproduce

N, B = 7, 2


def dual(norm, rows):
    """Of vectors, in NumPy."""
    return np.abs(rows).sum(-1) if norm == "linf" else np.linalg.norm(rows, axis=-1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_kappa_is_that_of_definition_1_in_the_dual_norm(norm):
    """Against NumPy, from what was received in the rounds that are measured."""
    measured = kappa_of(transforms.scale_by_lmo(norm), every=2)

    def record(info):
        return {**measured(info), "updates": info.updates, "aggregate": info.aggregate}

    task, who = tasks.quartic(N, B, dim=3, noise_scale=0.5, shift_scale=0.5), jnp.arange(N) >= N - B
    method, attack = methods.byz_nsgdm(0.1, aggregator=agg.median()), attacks.ipm(2.0)
    history = byzjax.simulate(
        task, method, attack, byzantine=who, key=jax.random.key(0), num_rounds=4, record=record
    ).history
    assert np.isnan(history["kappa"][::2]).all()
    for t in (1, 3):
        honest, aggregate = np.asarray(history["updates"][t][: N - B], np.float64), history["aggregate"][t]
        mean = honest.mean(0)
        expected = dual(norm, aggregate - mean) / dual(norm, honest - mean).mean()
        np.testing.assert_allclose(history["kappa"][t], expected, rtol=1e-5)


def test_every_part_can_be_traced():
    """Every geometry with its κ̂, every rule and every attack once on MNIST, Scion on text; without compiling."""
    for experiment in registry.experiments("lmo", "paper"):
        assert experiment.tuning.seeds is not None
        assert set(experiment.tuning.seeds) < set(experiment.seeds)
        task, axes = experiment.task(), {"learning_rate": jnp.float32(0.1), "seed": jnp.uint32(0)}
        names = [*itertools.zip_longest(experiment.methods, experiment.attacks, experiment.aggregators)]
        names = names if experiment.variant == "mnist" else names[-1:]  # the GPT takes seconds
        first = next(iter(experiment.methods)), next(iter(experiment.attacks)), next(iter(experiment.aggregators))
        for given in names:
            method, *case = (one or other for one, other in zip(given, first, strict=True))
            run = lane(experiment, task, method)
            result = jax.eval_shape(lambda axes, run=run, case=case: run(case=tuple(case), **axes), axes)
            assert {experiment.metric.name, experiment.tuning.by, "kappa"} <= set(result.evals)


def test_who_chooses_cannot_be_all(tmp_path):
    whole, _ = registry.experiments("lmo", "paper")
    with pytest.raises(ValueError, match="num_seeds = 2 are all needed to choose"):
        reproduce(reduced(whole, num_seeds=2), tmp_path)


def test_the_page_says_what_was_run(tmp_path):
    """A small stand-in with the study's methods, on the quartic."""
    whole, _ = registry.experiments("lmo", "paper")
    part = reduced(whole, methods=("Euclidean", "sign"), attacks=("ALIE",), aggregators=("mean",))
    part = dataclasses.replace(
        reduced(part, learning_rates=(0.01, 0.1), num_seeds=4, num_rounds=100),
        task=lambda: tasks.quartic(20, 3),
        metric=Metric("objective", "objective", "min", digits=3),
        tuning=Tuning("objective", "min", seeds=whole.tuning.seeds),
    )
    dataset = reproduce(part, tmp_path, progress=False, batch_size=1)
    page, png, pdf = report(tmp_path, tmp_path / "out")
    assert png.stat().st_size > 10_000
    assert pdf.is_file()
    text = page.read_text()
    assert "mean ± standard deviation over 2 seeds" in text
    assert "![objective of every step, rule and attack](lmo-mnist.png)" in text
    rows = [line for line in text.splitlines() if line.startswith("| plain mean | ALIE |")]
    assert len(rows) == 3  # the metric, the rates, κ̂
    cell = dataset.sel(case="ALIE / mean", optimizer="Euclidean")
    choose, rest = list(part.seeds[:2]), list(part.seeds[2:])
    rate = float(cell.objective.isel(eval=-1).sel(seed=choose).mean("seed").idxmin("learning_rate"))
    mean = float(cell.objective.isel(eval=-1).sel(seed=rest, learning_rate=rate).mean())
    assert rows[0].split("|")[3].split("±")[0].strip() == f"{mean:.3f}"
    assert rows[1].split("|")[3].split()[0] == f"{rate:g}"
    more = dataclasses.replace(part, methods={"sign": part.methods["sign"]._replace(learning_rates=(0.03,))})
    grown = reproduce(more, tmp_path, progress=False, batch_size=1).sel(optimizer="sign", case="ALIE / mean")
    report(tmp_path, tmp_path / "grown")
    best = float(grown.objective.isel(eval=-1).sel(seed=choose).mean("seed").idxmin("learning_rate"))
    assert grown.tried.sel(learning_rate=best).all()  # chosen among all that the store holds, and run there
    text = (tmp_path / "grown" / "lmo.md").read_text()
    assert "2 seeds |" not in text  # no cell has fewer than the others
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "again" / "lmo.md").read_text() == text
