"""The robustness coefficients: Definition 1 holds with them, and no other is made up."""

import jax
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.theory import kappa, kappa_after_nnm, kappa_squared


@pytest.mark.parametrize("rule", ["geometric_median", "median"])
@pytest.mark.parametrize("mixed", [False, True])
def test_definition_1_holds_with_the_kappa_of_the_paper(rule, mixed):
    n, f, d = 10, 3, 4
    factory = agg.median() if rule == "median" else agg.geometric_median(300, 1e-5, init="mean")
    chain = jax.jit(lambda x: byzjax.aggregate(byzjax.chain(agg.nnm(f), factory) if mixed else factory, x))
    rng = np.random.default_rng(0)
    tight = []
    for trial in range(200):
        honest = rng.normal(size=(n - f, d)) * 10.0 ** rng.uniform(-1, 1, size=d)
        direction = rng.normal(size=d)
        hostile = [
            np.tile(direction * 10.0 ** rng.uniform(-2, 6), (f, 1)),
            np.tile(honest[0], (f, 1)),
            honest.mean(0) + rng.normal(size=(f, d)) * 10.0 ** rng.uniform(-2, 3),
            -10 * np.tile(honest.mean(0), (f, 1)),
        ][trial % 4]
        x = np.concatenate([honest, hostile]).astype(np.float32)
        centre = honest.mean(0)
        deviations = np.linalg.norm(honest - centre, axis=1)
        bound = kappa(rule, num_workers=n, f=f, dim=d)
        if mixed:
            leverage = deviations.max() / deviations.mean()
            bound = kappa_after_nnm(bound, num_workers=n, f=f, leverage=leverage)
        ratio = np.linalg.norm(np.asarray(chain(x)) - centre) / deviations.mean()
        assert ratio <= bound * 1.001
        tight.append(ratio / bound)
    assert max(tight) > 0.02, "inputs too tame to test the bound"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: kappa("krum", num_workers=5, f=1), "no linear coefficient"),
        (lambda: kappa("median", num_workers=4, f=2), "2f < n"),
        (lambda: kappa("median", num_workers=9, f=2, dim=0), "kappa: dim = 0"),
        (lambda: kappa("median", num_workers=9, f=2, dim=-4), "kappa: dim = -4"),
        (lambda: kappa("median", num_workers=9, f=2.5), "kappa: f = 2.5"),
        (lambda: kappa("median", num_workers=np.inf, f=2), "kappa: num_workers = inf"),
        (lambda: kappa_squared("krum", num_workers=9, f=np.nan), "kappa_squared: f = nan"),
        (lambda: kappa_squared("krum", num_workers=9, f=-1), "kappa_squared: f = -1"),
        (lambda: kappa_after_nnm(-1.0, num_workers=9, f=2, leverage=2.0), "kappa = -1.0"),
        (lambda: kappa_after_nnm(np.nan, num_workers=9, f=2, leverage=2.0), "kappa = nan"),
        (lambda: kappa_after_nnm(1.0, num_workers=9, f=2.5, leverage=2.0), "kappa_after_nnm: f = 2.5"),
        (lambda: kappa_after_nnm(1.0, num_workers=9, f=2, leverage=0.1), "leverage = 0.1 must lie between 1 and n − f"),
        (lambda: kappa_after_nnm(1.0, num_workers=9, f=2, leverage=7.1), "leverage = 7.1"),
        (lambda: kappa_after_nnm(1.0, num_workers=9, f=2, leverage=np.nan), "leverage = nan"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
