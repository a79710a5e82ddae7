"""The demo at a tiny size, and programs that several runs share."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators, attacks, methods, results, tasks
from byzjax.configs import run_config
from byzjax.experiments.demo import demo, report
from byzjax.experiments.demo.program import Program
from byzjax.simulation.progress import Progress


def test_a_shared_program_gives_what_run_gives():
    task, byzantine = tasks.quartic(num_workers=6, num_byzantine=2), jnp.arange(6) >= 4
    choices = {"none": attacks.none(), "copy": attacks.mimic("copy"), "reverse": attacks.mimic("reverse", warmup=2)}

    def method(rate):
        return methods.byz_nsgdm(rate, aggregator=aggregators.trimmed_mean(f=2))

    program = Program(task, method, choices, byzantine=byzantine, eval_every=3)
    quiet = Progress(shown=False)
    seen = []
    for name, rate in (("reverse", 0.3), ("copy", 0.1), ("none", 0.3)):
        own = program.run(attack=name, learning_rate=rate, seed=5, num_rounds=8, progress=quiet, name=name)
        alone = byzjax.run(
            task,
            method(rate),
            choices[name],
            byzantine=byzantine,
            key=jax.random.key(5),
            num_rounds=8,
            eval_every=3,
            progress=False,
        )
        for values, expected in ((own.history, alone.history), (own.evals, alone.evals)):
            assert set(values) == set(expected)
            for metric in expected:
                np.testing.assert_allclose(values[metric], expected[metric], rtol=1e-4, atol=1e-6)
        seen.append(np.asarray(own.history["aggregation_error"]))
    assert not np.allclose(seen[0], seen[2])


TINY = demo.Demo(
    num_workers=5,
    num_byzantine=1,
    num_rounds=2,
    eval_every=1,
    entries=(
        demo.Entry(demo.NSGDM, demo.MEAN, demo.NONE, 0.1),
        demo.Entry(demo.NSGDM, demo.MEAN, demo.IPM, 0.1),
        demo.Entry(demo.NSGDM, demo.ROBUST, demo.IPM, 0.1),
    ),
)


@pytest.mark.slow
def test_the_demo_end_to_end_and_again(tmp_path, monkeypatch):
    said = []
    runs = demo.run(TINY, tmp_path, progress=False, say=said.append)
    assert list(runs) == list(TINY.entries)
    assert said == []
    paths = report.write(TINY, runs, tmp_path)
    assert {path.name for path in paths} == {
        *("table.md", "table.csv", "accuracy.png", "accuracy.pdf"),
        *("per_class.png", "per_class.pdf", "kappa.png", "kappa.pdf"),
    }
    with (tmp_path / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in table] == [float(run["test_accuracy"][-1]) for run in runs.values()]
    assert "| plain mean | IPM (scale 10) |" in (tmp_path / "table.md").read_text()

    # A run that is lost or damaged is made again, to the same numbers; what is there is read.
    first, second, third = (TINY.path(entry, tmp_path) for entry in TINY.entries)
    second.unlink()
    third.write_bytes(b"torn")
    made = []
    monkeypatch.setattr(
        results, "save", lambda dataset, path, save=results.save: (made.append(path), save(dataset, path))
    )
    again = demo.run(TINY, tmp_path, progress=False, say=said.append)
    assert made == [second, third]
    assert first.exists()
    assert any("run again" in line for line in said)
    assert any("1 of 3 runs are already in" in line for line in said)
    for entry in TINY.entries:
        assert again[entry].drop_attrs(deep=False).identical(runs[entry].drop_attrs(deep=False))


def test_another_configuration_is_another_file(tmp_path):
    import dataclasses

    entry = TINY.entries[0]
    changed = [
        dataclasses.replace(TINY, seed=1),
        dataclasses.replace(TINY, num_rounds=3),
        dataclasses.replace(TINY, num_byzantine=2),
    ]
    assert len({other.path(entry, tmp_path) for other in (TINY, *changed)}) == 4
    assert TINY.path(entry, tmp_path) == TINY.path(entry, tmp_path)


def test_the_demo_checks_before_it_runs(tmp_path):
    import dataclasses

    with pytest.raises(ValueError, match="no runs"):
        demo.run(dataclasses.replace(TINY, entries=()), tmp_path)
    with pytest.raises(ValueError, match="eval_every = 3"):
        demo.run(dataclasses.replace(TINY, eval_every=3), tmp_path)
    wrong = (*TINY.entries, demo.Entry(demo.NSGDM, "kurm", demo.NONE, 0.1))
    with pytest.raises(ValueError, match="unknown aggregator 'kurm'"):
        demo.run(dataclasses.replace(TINY, entries=wrong), tmp_path)


def test_the_demo_is_what_it_says():
    for entry in demo.ENTRIES:
        parts = demo.Demo().config(entry).calls()
        assert [link.arguments.get("f", 3) for link in parts["aggregator"]] == [3] * len(parts["aggregator"])
    assert len(set(demo.ENTRIES)) == 10
    assert demo.Demo().config(demo.ENTRIES[0]).warnings() == []


@pytest.mark.parametrize(
    ("robust", "plain", "word"), [(0.9, 0.5, "40.0 points better"), (0.5, 0.9, "40.0 points worse")]
)
def test_findings_follow_the_numbers(robust, plain, word):
    def made(entry, accuracy):
        history = {"aggregation_error": jnp.ones(2), "honest_spread": jnp.ones(2), "finite": jnp.ones(2, bool)}
        per_class = jnp.full((1, 10), accuracy).at[0, 3].set(0.1)
        evals = {name: jnp.array([accuracy]) for name in ("test_accuracy", "val_accuracy")}
        result = byzjax.Result(None, history, {**evals, "test_accuracy_per_class": per_class})
        settings = run_config.RunConfig(**entry._asdict(), num_rounds=2, eval_every=2).as_dict()
        return results.to_dataset(result, settings, seconds=1.0, compile_seconds=0.5)

    one, other = (demo.Entry(demo.NSGDM, rule, demo.BIT_FLIP, 0.1) for rule in (demo.ROBUST, demo.MEAN))
    text = " ".join(report.findings({one: made(one, robust), other: made(other, plain)}))
    assert f"NNM + RFA is {word}" in text
    assert "NNM + RFA gets less than half of class 3 right" in text
