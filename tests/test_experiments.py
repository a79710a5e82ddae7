"""The paper's experiments: step by step like an independent NumPy, resumable, and refused where they do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byzjax import methods, metrics, simulate
from byzjax.experiments import quartic, registry
from byzjax.experiments.experiment import MEAN, NONE, reduced
from byzjax.experiments.reproduce import lane, parts, path_of, precision, reproduce
from byzjax.keys import round_keys

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


def small(**options):
    options = {"attacks": ("ALIE",), "aggregators": ("RFA", "CM"), "num_rounds": 40, "num_seeds": 2, **options}
    return reduced(registry.experiment("quartic", "released"), **options)


def test_a_reproduction_is_its_runs_and_resumes(tmp_path, monkeypatch):
    experiment = small(learning_rates=(0.005, 0.01), methods=("Base", "Byz-NSGDM"))
    dataset = reproduce(experiment, tmp_path, progress=False)
    assert path_of(experiment, tmp_path).name == "quartic-released.nc"
    assert dict(dataset.aggregate_norm.sizes) == {"method": 2, "case": 4, "learning_rate": 2, "seed": 2, "eval": 2}
    assert dataset.aggregate_norm.dtype == np.float64
    assert bool(dataset.tried.all())
    assert tuple(zip(dataset.attack.values.tolist(), dataset.aggregator.values.tolist(), strict=True)) == (
        ("ALIE", "RFA"), ("ALIE", "CM"), ("none", "mean"), ("ALIE", "mean"),
    )  # fmt: skip
    with precision("float64"):
        run = lane(experiment, experiment.task(), "Byz-NSGDM")
        alone = run(case=("ALIE", "CM"), learning_rate=jnp.asarray(0.01), seed=jnp.asarray(1, jnp.uint32))
    point = {"method": "Byz-NSGDM", "case": "ALIE / CM", "learning_rate": 0.01, "seed": 1}
    np.testing.assert_allclose(dataset.gradient_norm.sel(point), alone.evals["gradient_norm"], rtol=1e-9)

    monkeypatch.setattr("byzjax.chunks._one", lambda *args: pytest.fail("a finished chunk was computed again"))
    again = reproduce(experiment, tmp_path, progress=False)
    for name in dataset.data_vars:
        np.testing.assert_array_equal(dataset[name], again[name])


def test_methods_may_have_grids_of_their_own(tmp_path):
    experiment = small(methods=("Base", "Decay"))
    grids = {"Base": (0.002, 0.01), "Decay": (0.01, 0.02)}
    recipes = {name: recipe._replace(learning_rates=grids[name]) for name, recipe in experiment.methods.items()}
    dataset = reproduce(dataclasses.replace(experiment, methods=recipes), tmp_path, progress=False)
    assert dataset.learning_rate.values.tolist() == [0.002, 0.01, 0.02]
    tried = dataset.tried.isel(case=0, seed=0)
    assert tried.sel({"method": "Base"}).values.tolist() == [True, True, False]
    assert tried.sel({"method": "Decay"}).values.tolist() == [False, True, True]
    assert bool(np.isnan(dataset.aggregate_norm.sel({"method": "Base", "learning_rate": 0.02})).all())


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
        ({"num_rounds": 3}, "num_rounds = 3 must be at least 20"),
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
    experiment = registry.experiment("ablation", "paper")
    rule = experiment.aggregators["RFA"]
    assert isinstance(experiment.methods["Byz-NSGDM"].build(0.1, rule, beta=0.3), methods.Method)
