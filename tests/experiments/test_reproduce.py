"""The paper's experiments: step by step like an independent NumPy, resumable, and refused where they do not fit."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from byzjax import aggregators as agg
from byzjax import metrics, results, simulate
from byzjax.cli.app import app
from byzjax.experiments.experiment import MEAN, NONE, reduced
from byzjax.experiments.paper import published, quartic, registry
from byzjax.experiments.paper.published import Place
from byzjax.experiments.reproduce import lane, parts, path_of, precision, reproduce
from byzjax.rng import round_keys

N, B, H = 20, 3, 17


def nearest(x, count, exclude_self):
    """Indices of the nearest rows of every row, itself included or not; ties to the lowest index."""
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    if exclude_self:
        d[np.diag_indices(len(x))] = np.inf
    return np.argsort(d, axis=1, kind="stable")[:, :count], np.sort(d, axis=1)[:, :count]


def nnm(x):
    return np.stack([x[row].mean(0) for row in nearest(x, H, False)[0]])


def rfa(x):
    z = np.zeros(x.shape[1])
    for _ in range(8):
        w = 1 / np.maximum(np.linalg.norm(x - z, axis=1), 0.1)
        z = (w[:, None] * x).sum(0) / w.sum()
    return z


def krum(power, neighbors):
    return lambda x: x[np.argmin((nearest(x, neighbors, True)[1] ** power).sum(1))]


def released(method, attack, rule, rate, slopes):
    """What the released quartic does: momentum after normalisation, clipped gradients, a decay of its own."""
    aggregate = {"RFA": rfa, "Krum": krum(1, 16), "CM": lambda x: np.median(x, axis=0)}[rule]
    x, u, norms = np.ones(10), np.zeros(10), []
    for k, slope in enumerate(slopes, 1):
        g = 4 * x * min(np.linalg.norm(x), 100.0) ** 2 + slope
        g = g * np.minimum(1, 1000 / np.linalg.norm(g, axis=1))[:, None]
        honest = g[:H]
        g[H:] = {"BF": -g[H:], "Mimic": np.zeros(10), "ALIE": honest.mean(0) - honest.std(0)}[attack]
        v = aggregate(nnm(g))
        norms.append(np.linalg.norm(v))
        u = 0.9 * u + (v / np.linalg.norm(v) if method == "Byz-NSGDM" else v)
        x = x - (rate if method == "Base" else rate / np.sqrt(k)) * u
    return x, norms


def paper(method, attack, rule, rate, slopes):
    """Algorithm 1, the two baselines, and the attacks of section 6.1."""
    aggregate = {"RFA": rfa, "Krum": krum(2, 15), "CM": lambda x: np.median(x, axis=0)}[rule]
    x, v, norms = np.ones(10), np.zeros((N, 10)), []
    for k, slope in enumerate(slopes, 1):
        g = 4 * x * (x @ x) + slope
        v = 0.9 * v + 0.1 * g
        sent, honest = v.copy(), v[:H]
        if attack == "BF":
            sent[H:] = -g[H:]
        elif attack == "ALIE":
            sent[H:] = honest.mean(0) + honest.std(0)
        elif k > 50:
            sent[H:] = -2 * honest.mean(0)
        a = aggregate(nnm(sent))
        norms.append(np.linalg.norm(a))
        step = a / np.linalg.norm(a) if method == "Byz-NSGDM" else a
        x = x - (rate if method == "Base" else rate / np.sqrt(k)) * step
    return x, norms


REFERENCES = {"released": released, "paper": paper}


@pytest.mark.parametrize("method", ["Base", "Decay", "Byz-NSGDM"])
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_the_quartic_is_an_independent_numpy_step_by_step(variant, method):
    """In float64, every attack and every rule once, on the very same noise."""
    rounds, rate = 80, 0.005
    with precision("float64"):
        experiment = registry.experiment("quartic", variant)
        task, key = experiment.task(), jax.random.key(3)
        slopes = [task.sample(task.data, round_keys(key, jnp.asarray(k)).data)["slope"] for k in range(rounds)]
        slopes = np.asarray(slopes)
        for case in zip(experiment.attacks, experiment.aggregators, strict=True):
            attack, rule = parts(experiment, case, jnp.asarray(0))
            options = {
                "byzantine": jnp.arange(N) >= H,
                "num_rounds": rounds,
                "record": metrics.record("aggregate_norm"),
            }
            build = experiment.methods[method].build
            result = simulate(task, build(rate, rule), attack, key=key, **options)
            x, norms = REFERENCES[variant](method, *case, rate, slopes)
            np.testing.assert_allclose(result.history["aggregate_norm"], norms, rtol=1e-6, err_msg=str(case))
            np.testing.assert_allclose(result.state.params, x, rtol=1e-6, atol=1e-9, err_msg=str(case))


def test_the_released_gradient_is_capped_and_clipped():
    with precision("float64"):
        task = registry.experiment("quartic", "released").task()
        batch = jax.tree.map(lambda leaf: leaf[0], task.sample(task.data, jax.random.key(0)))
        for scale in (1.0, 30.0, 40.0, 1e6):
            x = jnp.full((10,), scale)
            gradient = jax.grad(task.loss)(x, batch, jax.random.key(0))
            expected = 4 * np.asarray(x) * min(np.linalg.norm(x), 100.0) ** 2 + np.asarray(batch["slope"])
            np.testing.assert_allclose(gradient, expected, rtol=1e-12)
            norm = task.evaluate(task.data, x)["gradient_norm"]
            np.testing.assert_allclose(norm, np.linalg.norm(expected - np.asarray(batch["slope"])), rtol=1e-12)


def small(references=False, **options):
    """Of the median, which compiles fastest."""
    options = {"attacks": ("ALIE",), "aggregators": ("CM",), "num_rounds": 40, "num_seeds": 2, **options}
    part = reduced(registry.experiment("quartic", "released"), **options)
    return dataclasses.replace(part, references=references)


def test_a_reproduction_is_its_runs_and_resumes(tmp_path, monkeypatch):
    experiment = small(references=True, learning_rates=(0.005, 0.01), methods=("Base", "Byz-NSGDM"))
    dataset = reproduce(experiment, tmp_path, progress=False, batch_size=4)
    assert path_of(experiment, tmp_path).name == "quartic-released.nc"
    assert dict(dataset.aggregate_norm.sizes) == {"optimizer": 2, "case": 3, "learning_rate": 2, "seed": 2, "eval": 2}
    assert dataset.aggregate_norm.dtype == np.float64
    assert bool(dataset.tried.all())
    assert tuple(zip(dataset.attack.values.tolist(), dataset.aggregator.values.tolist(), strict=True)) == (
        ("ALIE", "CM"), ("none", "mean"), ("ALIE", "mean"),
    )  # fmt: skip
    with precision("float64"):
        run = lane(experiment, experiment.task(), "Byz-NSGDM")
        alone = run(case=("ALIE", "CM"), learning_rate=jnp.asarray(0.01), seed=jnp.asarray(1, jnp.uint32))
    point = {"optimizer": "Byz-NSGDM", "case": "ALIE / CM", "learning_rate": 0.01, "seed": 1}
    np.testing.assert_allclose(dataset.gradient_norm.sel(point), alone.evals["gradient_norm"], rtol=1e-9)

    monkeypatch.setattr("byzjax.sweeps.executor._one", lambda *args: pytest.fail("a finished chunk was computed again"))
    again = reproduce(experiment, tmp_path, progress=False, batch_size=4)
    for name in dataset.data_vars:
        np.testing.assert_array_equal(dataset[name], again[name])


def test_a_data_set_grows_and_is_never_replaced_by_a_part(tmp_path):
    both = small(learning_rates=(0.005, 0.01), methods=("Base", "Byz-NSGDM"))
    options = {"progress": False, "batch_size": 4}
    reproduce(reduced(both, methods=("Byz-NSGDM",)), tmp_path, **options)
    reproduce(reduced(both, methods=("Base",), learning_rates=(0.01,)), tmp_path, **options)
    part = results.load(path_of(both, tmp_path))
    assert part["optimizer"].values.tolist() == ["Base", "Byz-NSGDM"]
    assert part["tried"].isel(case=0, seed=0).values.tolist() == [[False, True], [True, True]]
    whole = reproduce(both, tmp_path, **options)
    assert bool(whole["tried"].all())
    np.testing.assert_array_equal(part["aggregate_norm"][1], whole["aggregate_norm"][1])
    assert part["attack"].values.tolist() == whole["attack"].values.tolist() == ["ALIE"]
    with pytest.raises(
        ValueError, match=r"is of another setting \(num_rounds = 40 there, 20 here.*\); pass another store"
    ):
        reproduce(reduced(both, num_rounds=20), tmp_path, **options)


def test_what_another_process_adds_meanwhile_stays(tmp_path, monkeypatch):
    both = small(learning_rates=(0.01,), methods=("Base", "Byz-NSGDM"))
    options = {"progress": False, "batch_size": 4}
    module = sys.modules[reproduce.__module__]
    joined = module._joined

    def meanwhile(*arguments):
        monkeypatch.setattr(module, "_joined", joined)
        reproduce(reduced(both, methods=("Byz-NSGDM",)), tmp_path, **options)
        return joined(*arguments)

    monkeypatch.setattr(module, "_joined", meanwhile)
    dataset = reproduce(reduced(both, methods=("Base",)), tmp_path, **options)
    assert dataset["optimizer"].values.tolist() == ["Base", "Byz-NSGDM"]
    assert bool(results.load(path_of(both, tmp_path))["tried"].all())


def test_methods_may_have_grids_of_their_own(tmp_path):
    experiment = small(methods=("Base", "Decay"))
    grids = {"Base": (0.002, 0.01), "Decay": (0.01, 0.02)}
    recipes = {name: recipe._replace(learning_rates=grids[name]) for name, recipe in experiment.methods.items()}
    dataset = reproduce(dataclasses.replace(experiment, methods=recipes), tmp_path, progress=False, batch_size=4)
    assert dataset.learning_rate.values.tolist() == [0.002, 0.01, 0.02]
    tried = dataset.tried.isel(case=0, seed=0)
    assert tried.sel(optimizer="Base").values.tolist() == [True, True, False]
    assert tried.sel(optimizer="Decay").values.tolist() == [False, True, True]
    assert bool(np.isnan(dataset.aggregate_norm.sel(optimizer="Base", learning_rate=0.02)).all())


def test_only_what_was_chosen_is_run_with_the_other_seeds(tmp_path):
    """Who chooses a rate does not report it; and what is measured is the run at that rate."""
    experiment = small(methods=("Base",), num_seeds=3, learning_rates=(0.002, 0.01))
    tuning = experiment.tuning._replace(seeds=(experiment.seeds[0],), after=None)
    experiment = dataclasses.replace(experiment, tuning=tuning, chosen_only=True)
    options = {"progress": False, "batch_size": 1}
    dataset = reproduce(experiment, tmp_path, **options).isel(optimizer=0, case=0)
    first, *rest = experiment.seeds
    assert dataset.tried.sel(seed=first).all()
    best = float(dataset.aggregate_norm.isel(eval=-1).sel(seed=first).idxmin("learning_rate"))
    assert dataset.tried.sel(seed=rest, learning_rate=best).all()
    assert not dataset.tried.sel(seed=rest).drop_sel(learning_rate=best).any()
    whole = reproduce(dataclasses.replace(experiment, chosen_only=False), tmp_path / "whole", **options)
    whole = whole.isel(optimizer=0, case=0).sel(learning_rate=best, seed=rest).aggregate_norm
    np.testing.assert_array_equal(dataset.sel(learning_rate=best, seed=rest).aggregate_norm, whole)
    with pytest.raises(ValueError, match="chosen_only has no references"):
        dataclasses.replace(experiment, references=True)


def test_references_are_there():
    cases = registry.experiment("quartic", "paper").cases
    assert len(cases) == 9 + 4
    assert {attack for attack, rule in cases if rule == MEAN} == {NONE, "BF", "Mimic", "ALIE"}


def test_more_seeds_than_the_authors_had():
    assert reduced(registry.experiment("quartic", "released"), num_seeds=5).seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ("XY",)}, "attack = 'XY' is not in this experiment; it has"),
        ({"num_rounds": 3}, "num_rounds = 3 must be between 20"),
        ({"num_seeds": 0}, "num_seeds = 0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        reduced(registry.experiment("quartic", "released"), **options)


def test_unknown_experiments_are_refused():
    with pytest.raises(ValueError, match="experiment = 'quark' is unknown; nearest: quartic"):
        registry.experiment("quark", "paper")
    with pytest.raises(ValueError, match="variant = 'ours' must be one of"):
        registry.experiment("quartic", "ours")


def test_the_released_shifts_balance():
    shifts = quartic.released_shifts()
    assert shifts.shape == (H, 10)
    np.testing.assert_allclose(shifts.sum(0), 0, atol=1e-20)
    assert np.abs(shifts[:-1]).max() < 5e-6


def test_a_recipe_takes_the_momentum_of_a_lane():
    build = registry.experiment("ablation", "paper").methods["Byz-NSGDM"].build
    moved = []
    for beta in (0.3, 0.9):
        worker = build(0.1, agg.mean(), beta=beta).worker
        state = worker.init(jnp.zeros(2))
        moved.append(float(worker.update(jnp.ones(2), state)[0][0]))
    np.testing.assert_allclose(moved, [0.7, 0.1], rtol=1e-6)


def test_the_released_clip_binds():
    """At a rate at which Decay overshoots, as its authors' runs did."""
    with precision("float64"):
        experiment = registry.experiment("quartic", "released")
        task, key = experiment.task(), jax.random.key(3)
        slopes = np.asarray([task.sample(task.data, round_keys(key, jnp.asarray(k)).data)["slope"] for k in range(12)])
        attack, rule = parts(experiment, ("ALIE", "CM"), jnp.asarray(0))
        build = experiment.methods["Decay"].build
        options = {"byzantine": jnp.arange(N) >= H, "num_rounds": 12, "record": metrics.record("aggregate_norm")}
        result = simulate(task, build(0.1, rule), attack, key=key, **options)
        _, norms = released("Decay", "ALIE", "CM", 0.1, slopes)
    assert max(norms) == pytest.approx(1000.0)
    np.testing.assert_allclose(result.history["aggregate_norm"], norms, rtol=1e-5)


def test_the_first_rounds_are_those_of_the_authors_code():
    """Where gradients are so large that noise does not matter, seeds do not either."""
    with precision("float64"):
        experiment = registry.experiment("quartic", "released")
        task = experiment.task()
        for rule in experiment.aggregators:
            place = Place("BF", rule, "Base")
            curve, rate = published.curves("quartic")[place], published.table1("quartic")[place].learning_rate
            attack, rule_ = parts(experiment, ("BF", rule), jnp.asarray(0))
            build = experiment.methods["Base"].build
            options = {"byzantine": jnp.arange(N) >= H, "num_rounds": 61, "record": metrics.record("aggregate_norm")}
            result = simulate(task, build(rate, rule_), attack, key=jax.random.key(0), **options)
            for point in curve[:2]:  # rounds 1 and 61
                ours = result.history["aggregate_norm"][point.round - 1]
                np.testing.assert_allclose(ours, point.values["aggregate_norm"], rtol=1e-4, err_msg=rule)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant", "method", "attack", "aggregator"),
    [
        ("mnist", "paper", "Base", "LF", "Krum"),
        ("shakespeare", "released", "Byz-NSGDM", "ALIE", "RFA"),
        ("ablation", "paper", "Byz-NSGDM", "BF", "RFA"),
    ],
)
def test_the_command_line_runs_pieces(tmp_path, name, variant, method, attack, aggregator):
    store = str(tmp_path)
    command = ["reproduce", name, "--quick", "--no-references", "--store", store, "--batch-size", "1"]
    command += ["--method", method, "--attack", attack, "--aggregator", aggregator]
    command += ["--variant", variant, "--rounds", "14" if name == "shakespeare" else "30"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    dataset = results.load(tmp_path / f"{name}-{variant}.nc")
    config = results.config_of(dataset)
    assert config["piece"]
    assert config["num_rounds"] <= 30
    assert bool(np.isfinite(dataset[config["metric"]["name"]]).all())
    assert 0 <= float(dataset["worker_kept"].min()) <= float(dataset["worker_kept"].max()) <= 1


def test_the_language_model_of_the_text_can_be_run():
    """Traced, not compiled: the piece of the released one runs above."""
    experiment = registry.quick(registry.experiment("shakespeare", "paper"), attacks=("Mimic",), aggregators=("CM",))
    task = experiment.task()
    axes = {"learning_rate": jnp.float32(0.1), "seed": jnp.uint32(0)}
    run = functools.partial(lane(experiment, task, "Byz-NSGDM"), case=("Mimic", "CM"))
    result = jax.eval_shape(lambda axes: run(**axes), axes)
    assert result.evals["test_perplexity"].shape == (experiment.num_rounds // experiment.eval_every,)
    assert result.evals["worker_kept"].shape[1:] == (task.num_workers,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mnist", "--attack", "ALIE"], "attack = 'ALIE' is not in this experiment; it has ['BF', 'LF', 'Mimic']"),
        (["quartic", "--learning-rate", "-0.1"], "learning_rate = -0.1 must be a finite number > 0"),
        (["quartic", "--rounds", "5000"], "num_rounds = 5000 must be between 100"),
        (["quark"], "experiment = 'quark' is unknown; nearest: quartic"),
    ],
)
def test_the_command_line_refuses_in_one_line(tmp_path, options, message):
    done = CliRunner().invoke(app, ["reproduce", *options, "--store", str(tmp_path)])
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1


@pytest.mark.slow
def test_the_released_mnist_keeps_all_attackers_from_the_start():
    """As traced in the authors' code: sorted honest data lie further apart than IID attackers from any of them."""
    experiment = registry.experiment("mnist", "released")
    attack, rule = parts(experiment, ("BF", "RFA"), jnp.asarray(0))
    task = experiment.per_run(experiment.task(), jnp.asarray(0))
    result = simulate(
        task,
        experiment.methods["Byz-NSGDM"].build(0.1, rule),
        attack,
        byzantine=jnp.arange(N) >= H,
        key=jax.random.key(0),
        num_rounds=3,
        record=metrics.record("attackers_kept"),
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(result.state.params)) == 1_199_882
    np.testing.assert_array_equal(result.history["attackers_kept"], [3.0, 3.0, 3.0])


def test_the_released_poison_is_sent_without_momentum():
    experiment = registry.experiment("mnist", "released")
    attack, _ = parts(experiment, ("LF", "RFA"), jnp.asarray(0))
    updates, grads = jnp.ones((N, 2)), jnp.full((N, 2), 5.0)
    sent, _ = attack.update(updates, attack.init(jnp.zeros(2), N), None, byzantine=jnp.arange(N) >= H, grads=grads)
    np.testing.assert_array_equal(sent[:H], 1.0)
    np.testing.assert_array_equal(sent[H:], 5.0)
    batch = {"image": jnp.zeros((N, 3, 1)), "label": jnp.tile(jnp.array([0, 3, 9]), (N, 1))}
    poisoned = attack.poisoned(batch, byzantine=jnp.arange(N) >= H, key=jax.random.key(0), num_classes=10)
    assert poisoned["label"][-1].tolist() == [9, 6, 0]
    assert poisoned["label"][0].tolist() == [0, 3, 9]


@pytest.mark.parametrize(("seed", "worker"), [(0, 6), (42, 2), (123, 14)])
def test_the_released_mimic_copies_whom_it_copied(seed, worker):
    attack, _ = parts(registry.experiment("mnist", "released"), ("Mimic", "CM"), jnp.asarray(seed, jnp.uint32))
    updates = jnp.arange(N * 2.0).reshape(N, 2)
    sent, _ = attack.update(updates, attack.init(jnp.zeros(2), N), None, byzantine=jnp.arange(N) >= H)
    np.testing.assert_array_equal(sent[H:], jnp.tile(updates[worker], (B, 1)))
