"""Eigenvalues under vmap: right, and one matrix at a time on a CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax.stacked import eigen
from byzjax.testing import rule_cases

SPECTRAL = [case for case in rule_cases() if case.id.split("(")[0] in ("smea", "caf", "dnc", "fldetector", "flanders")]


def batch(count=6, n=5):
    x = np.random.default_rng(0).normal(size=(count, n, n)).astype(np.float32)
    return jnp.asarray(x + x.swapaxes(1, 2))


def test_a_batch_is_right():
    matrices = batch()
    values, vectors = jax.vmap(eigen.eigh)(matrices)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrices), atol=1e-5)
    again = np.einsum("bij,bj,bkj->bik", vectors, values, vectors)
    np.testing.assert_allclose(again, matrices, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.vmap(eigen.eigvalsh))(matrices[None])[0], values, atol=1e-5)
    positive = jnp.einsum("bij,bkj->bik", matrices, matrices) + jnp.eye(5)[None]
    solved = jax.vmap(eigen.solve)(positive, matrices)
    np.testing.assert_allclose(solved, np.linalg.solve(positive, matrices), atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_ritz_values_are_close_and_not_above(rank):
    """Also where fewer directions are there than steps, and rounding is all that later steps see."""
    rows = np.random.default_rng(rank).normal(size=(40, 12, rank)).astype(np.float32)
    matrices = jnp.asarray(rows @ rows.swapaxes(1, 2))
    exact = np.linalg.eigvalsh(np.asarray(matrices, np.float64))[:, -1]

    def apply(v):
        return jnp.einsum("cij,jc->ic", matrices, v)

    found = {k: np.asarray(eigen.largest_ritz_value(apply, jnp.ones((12, 40)), k)) for k in (1, 6, 12)}
    assert (found[1] <= found[6] * (1 + 1e-5)).all()
    assert (found[6] <= found[12] * (1 + 1e-5)).all()
    assert (found[12] <= exact * (1 + 1e-5)).all()
    np.testing.assert_allclose(found[12], exact, rtol=1e-4)
    assert rank == 1 or (found[1] < 0.9 * exact).any()


@pytest.mark.parametrize("case", SPECTRAL, ids=lambda case: case.id)
def test_rules_hand_lapack_one_matrix_at_a_time(case):
    """Batches deadlock where several devices or programs share a thread pool, see `eigen.eigh`."""
    rule, stacks = case.make(2, 9), jnp.ones((3, 9, 4))
    text = jax.jit(jax.vmap(lambda x: rule.update(x, rule.init(x[0]), x[0], key=jax.random.key(0))[0])).lower(stacks)
    calls = re.findall(r"lapack_s(?:syevd|potrf|trsm)_ffi\(.*?: \((tensor<[\dx]+xf32>)[,)]", text.as_text())
    assert calls, "the rule does not use LAPACK; then this test is not needed"
    assert all(re.fullmatch(r"tensor<\d+x\d+xf32>", call) for call in calls), calls


@pytest.mark.parametrize("name", ["smea", "caf", "dnc"])
def test_rules_have_a_jacobian(name):
    """Where one matrix has many tangents."""
    x = jnp.asarray(np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32))
    rule = getattr(agg, name)(f=1)

    def aggregate(x):
        return byzjax.aggregate(rule, x, key=jax.random.key(0))

    jacobian = jax.jacfwd(aggregate)(x)
    tangent = jnp.asarray(np.random.default_rng(4).normal(size=(6, 3)).astype(np.float32))
    expected = (aggregate(x + 1e-2 * tangent) - aggregate(x - 1e-2 * tangent)) / 2e-2
    np.testing.assert_allclose(jnp.tensordot(jacobian, tangent, 2), expected, atol=2e-3)


def test_the_rules_are_there():
    assert {case.id.split("(")[0] for case in SPECTRAL} == {"smea", "caf", "dnc", "fldetector", "flanders"}
    assert agg.REGISTRY["smea"] is agg.smea
