"""Metrics of trust: the weight of attackers, and how many of them are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, tasks

KEY = jax.random.key(0)


def history(rule, names, attack=None, num_byzantine=3):
    n = 20
    return byzjax.run(
        tasks.quartic(num_workers=n, num_byzantine=num_byzantine),
        methods.byz_nsgdm(0.1, aggregator=rule),
        attack or attacks.sign_flip(),
        byzantine=jnp.arange(n) >= n - num_byzantine,
        key=KEY,
        num_rounds=5,
        record=metrics.record(*names),
        progress=False,
    ).history


def test_attacker_weight_is_their_share():
    np.testing.assert_allclose(history(agg.multi_krum(f=0), ["attacker_weight"])["attacker_weight"], 0.15, rtol=1e-6)
    assert (history(agg.krum(f=3), ["attacker_weight"])["attacker_weight"] == 0).all()


def test_attackers_kept_counts_them_in_honest_rows():
    record = ["attackers_kept", "attacker_weight"]
    far = history(byzjax.chain(agg.nnm(f=3), agg.geometric_median()), record, attacks.ipm(scale=1e6))
    assert (far["attackers_kept"] == 0).all()
    all_of_them = history(byzjax.chain(agg.nnm(f=0), agg.median()), ["attackers_kept"], attacks.ipm(scale=1e6))
    assert (all_of_them["attackers_kept"] == 3).all()
    buckets = history(byzjax.chain(agg.bucketing(bucket_size=2), agg.krum(f=3)), record)
    np.testing.assert_allclose(buckets["attackers_kept"], 0.3, rtol=1e-6)


@pytest.mark.parametrize(("rule", "name"), [(agg.median(), "attacker_weight"), (agg.krum(f=3), "attackers_kept")])
def test_what_a_rule_cannot_tell_is_said(rule, name):
    with pytest.raises(ValueError, match=name):
        history(rule, [name])
