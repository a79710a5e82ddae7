"""Estimators: each paper's loop in float64 NumPy, step by step; linear convergence where SGD with momentum stalls."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, metrics, tasks, transforms
from byzjax import methods as m
from byzjax.base import Attack
from byzjax.rng import estimator_key, round_keys
from byzjax.testing import REFERENCES
from byzjax.transforms._compression import compressed

N, B, D, EXAMPLES, ROUNDS, GAMMA, P = 8, 2, 4, 6, 25, 0.3, 0.3
HONEST = np.arange(N) < N - B
KEY = jax.random.key(11)
L2 = 0.1
RULE = byzjax.chain(agg.nnm(B), agg.geometric_median())
SCALE = 1.5  # of the attack


@functools.cache
def task():
    """Of float64, and of heterogeneous workers, so that nothing agrees by chance."""
    return tasks.logistic_regression(
        N, B, num_examples=EXAMPLES, dim=D, l2=L2, heterogeneity=0.5, batch_size=2, data_seed=1
    )


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield
    task.cache_clear()


# What NumPy has of the task: gradients of examples, and what the run draws.


def gradients(x, inputs, labels):
    """Mean gradient of the examples of every worker; x is shared, or one for each."""
    x = np.broadcast_to(x, (N, D))
    chance = 1 / (1 + np.exp(-np.einsum("nkd,nd->nk", inputs, x)))
    return np.einsum("nk,nkd->nd", chance - labels, inputs) / inputs.shape[1] + L2 * x


def full(x):
    return gradients(x, np.asarray(task().data["inputs"]), np.asarray(task().data["labels"]))


def on_batch(x, t):
    batch = task().sample(task().data, round_keys(KEY, t).data)
    return gradients(x, np.asarray(batch["input"]), np.asarray(batch["label"]))


def example(x, chosen):
    """Gradients of one example of each worker."""
    rows = np.arange(N), chosen
    return gradients(
        x, np.asarray(task().data["inputs"])[rows][:, None], np.asarray(task().data["labels"])[rows][:, None]
    )


def top(x, k):
    kept = np.argsort(-np.abs(x), axis=1, kind="stable")[:, :k]
    return np.where((np.arange(D) == kept[:, :, None]).any(1), x, 0.0)


def drawn(t, k):
    """Which coordinates `random_k` keeps, from what it makes of ones."""
    key = jax.random.split(estimator_key(KEY, t))[1]
    return np.asarray(compressed(transforms.random_k(k / D), jnp.ones((N, D)), key)) > 0


def coin(t, key=lambda t: jax.random.split(estimator_key(KEY, t))[0], shape=()):
    return np.asarray(jax.random.bernoulli(key(t), P, shape))


def rule(stack):
    return REFERENCES["geometric_median"](REFERENCES["nnm"](stack, B))


def loop(estimates, aggregate=lambda sent, x: rule(sent)):
    """``x ← x − γ A(g_1, …)`` with the attack in between; ``estimates(t, x, g)`` sees the last aggregate."""
    x, g, path = np.zeros(D), None, []
    for t in range(ROUNDS):
        sent = np.array(estimates(t, x, g))
        sent[~HONEST] = -SCALE * sent[HONEST].mean(0)
        g = aggregate(sent, x)
        x = x - GAMMA * g
        path.append(x)
    return np.stack(path)


def marina(own=False, k=None):
    before, buffer = [None], [None]

    def estimates(t, x, g):
        last, before[0] = before[0], x
        if t == 0 or coin(t):
            result = full(x)
        else:
            step = on_batch(x, t) - on_batch(last, t)
            step = step if k is None else np.where(drawn(t, k), step * D / k, 0.0)
            result = (buffer[0] if own else g) + step
        buffer[0] = result
        return result

    return estimates


def lsvrg(shared=False):
    anchors = np.zeros((N, D))

    def estimates(t, x, g):
        result = on_batch(x, t) - on_batch(anchors, t) + full(anchors)
        anchors[np.broadcast_to(coin(t, lambda t: estimator_key(KEY, t), () if shared else (N,)), N)] = x
        return result

    return estimates


def saga(batch=1, zero=False):
    table = np.zeros((N, EXAMPLES, D))
    if not zero:
        table[:] = np.stack([example(np.zeros(D), np.full(N, j)) for j in range(EXAMPLES)], 1)

    def estimates(t, x, g):
        chosen = np.asarray(
            jax.random.randint(estimator_key(KEY, t), (N, batch), 0, jnp.full((N, 1), EXAMPLES), jnp.int32)
        )
        new = np.stack([example(x, chosen[:, j]) for j in range(batch)], 1)
        old = np.stack([table[np.arange(N), chosen[:, j]] for j in range(batch)], 1)
        result = (new - old).mean(1) + table.mean(1)
        for j in range(batch):
            table[np.arange(N), chosen[:, j]] = new[:, j]
        return result

    return estimates


def feedback(k, beta=None, momenta=0, recursive=False, whole=True):
    state, v, before = [np.zeros((N, D))], [None] * momenta, [None]

    def estimates(t, x, g):
        target = on_batch(x, t) if momenta else full(x)
        fresh = target
        for i in range(momenta):
            if t == 0:
                v[i] = fresh
            elif recursive and i == 0:
                v[i] = fresh + beta * (v[i] - on_batch(before[0], t))
            else:
                v[i] = beta * v[i] + (1 - beta) * target
            target = v[i]
        before[0] = x
        state[0] = target if whole and t == 0 else state[0] + top(target - state[0], k)
        return state[0]

    return estimates


def clipped(scale, whole=False):
    last, t = {}, [-1]

    def aggregate(sent, x):
        t[0] += 1
        if whole and coin(t[0]):
            last.clear()
        apart = sent - last.get("g", 0.0)
        bound = scale * np.linalg.norm(x - last["x"]) if last else np.inf
        lengths = np.linalg.norm(apart, axis=1, keepdims=True)
        last["g"] = last.get("g", 0.0) + rule(apart * np.minimum(1, bound / lengths))
        last["x"] = x
        return last["g"]

    return aggregate


def from_history(tau, beta):
    momenta, v = np.zeros((N, D)), [np.zeros(D)]

    def estimates(t, x, g):
        momenta[:] = beta * momenta + (1 - beta) * on_batch(x, t)
        return momenta

    def aggregate(sent, x):
        apart = sent - v[0]
        shorter = np.minimum(1, tau / np.linalg.norm(apart, axis=1, keepdims=True))
        v[0] = v[0] + (apart * shorter).mean(0)
        return v[0]

    return estimates, aggregate


def with_momentum(inner, beta):
    v = np.zeros((N, D))

    def estimates(t, x, g):
        v[:] = beta * v + (1 - beta) * inner(t, x, g)
        return v

    return estimates


WITH = {"aggregator": RULE}
MARINA = functools.partial(m.byz_vr_marina, GAMMA, **WITH, p=P)
PAPERS = {
    "marina": (MARINA, lambda: [marina()]),
    "marina own": (lambda: MARINA(base="own"), lambda: [marina(own=True)]),
    "marina own, then momentum": (
        lambda: MARINA(base="own")._replace(worker=optax.ema(0.6, debias=False)),
        lambda: [with_momentum(marina(own=True), 0.6)],
    ),
    "marina random_k": (lambda: MARINA(compressor=0.5), lambda: [marina(k=2)]),
    "lsvrg": (lambda: m.byz_lsvrg(GAMMA, **WITH, p=P), lambda: [lsvrg()]),
    "lsvrg shared": (lambda: m.byz_lsvrg(GAMMA, **WITH, p=P, coin="shared"), lambda: [lsvrg(shared=True)]),
    "saga": (lambda: m.byrd_saga(GAMMA, **WITH), lambda: [saga()]),
    "saga of three": (lambda: m.byrd_saga(GAMMA, **WITH, batch_size=3, initial="zero"), lambda: [saga(3, zero=True)]),
    "ef21": (lambda: m.byz_ef21(GAMMA, **WITH, compressor=0.25), lambda: [feedback(1)]),
    "ef21 momentum": (
        lambda: m.byz_ef21(GAMMA, **WITH, compressor=0.5, beta=0.6, initial="compressed"),
        lambda: [feedback(2, 0.6, 1, whole=False)],
    ),
    "dm21": (lambda: m.byz_dm21(GAMMA, **WITH, compressor=0.5, beta=0.6), lambda: [feedback(2, 0.6, 2)]),
    "vr-dm21": (
        lambda: m.byz_dm21(GAMMA, **WITH, compressor=0.5, beta=0.6, variance_reduced=True),
        lambda: [feedback(2, 0.6, 2, recursive=True)],
    ),
    "clipped": (
        lambda: m.clipped_differences(MARINA(), scale=0.7, full="clipped"),
        lambda: [marina(), clipped(0.7)],
    ),
    "marina-pp": (lambda: m.clipped_differences(MARINA(), scale=0.7), lambda: [marina(), clipped(0.7, whole=True)]),
    "history": (lambda: m.learning_from_history(GAMMA, tau=0.1, beta=0.6), lambda: from_history(0.1, 0.6)),
}


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", PAPERS)
def test_it_is_the_paper_s_loop(name):
    make, transcription = PAPERS[name]
    here = dataclasses.replace(task(), evaluate=lambda data, x: {"x": x})
    options = {"byzantine": jnp.asarray(~HONEST), "key": KEY, "num_rounds": ROUNDS, "eval_every": 1}
    result = byzjax.run(here, make(), attacks.ipm(SCALE), **options, record=metrics.record("loss"), progress=False)
    assert result.evals["x"].dtype == np.float64
    np.testing.assert_allclose(result.evals["x"], loop(*transcription()), rtol=1e-9, atol=1e-12)


# Convergence.


def either(flag):
    """Bit flip, or ALIE where the flag is true: so that one program has both."""
    flip, hide = attacks.bit_flip(), attacks.alie(1.0)

    def update(updates, state, params=None, **extra):
        rows = [attack.update(updates, (), params, **extra)[0] for attack in (flip, hide)]
        return jax.tree.map(lambda a, b: jnp.where(flag, b, a), *rows), state

    return Attack(lambda params, num_workers: (), update)


@functools.cache
def finite_sum():
    return tasks.logistic_regression(20, 3, num_examples=20, dim=5, l2=L2)


def norms(make, lanes=((False, 0.0), (True, 0.0)), rounds=500):
    """True gradient norms [lane, evaluation] under bit flip and ALIE, of one program."""
    robust = byzjax.chain(agg.nnm(3), agg.geometric_median())

    def one(task, flag, option):
        result = byzjax.simulate(
            task,
            make(option)(0.5, aggregator=robust),
            either(flag),
            byzantine=jnp.asarray(task.byzantine),
            key=KEY,
            num_rounds=rounds,
            eval_every=rounds // 5,
            record=metrics.record(),
        )
        return result.evals["gradient_norm"]

    flags, options = map(jnp.array, zip(*lanes, strict=True))
    return np.asarray(jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))(finite_sum(), flags, options))


LINEAR = {
    "marina": m.byz_vr_marina,
    "marina own": functools.partial(m.byz_vr_marina, base="own"),
    "lsvrg": m.byz_lsvrg,
    "saga": functools.partial(m.byrd_saga, batch_size=2),
    "ef21": functools.partial(m.byz_ef21, compressor=0.4),
}


def clipped_marina(full):
    return lambda scale: (
        lambda rate, aggregator: m.clipped_differences(
            m.byz_vr_marina(rate, aggregator=aggregator), scale=scale, full=full
        )
    )


def is_linear(seen):
    """Each fifth of the run takes off its factor, down to the rounding of float64."""
    return (seen[..., -1] < 1e-8).all() and (seen[..., 1:] < np.maximum(seen[..., :-1] / 8, 1e-13)).all()


@pytest.fixture
def in_float64():
    finite_sum.cache_clear()
    with jax.enable_x64(True):
        yield
    finite_sum.cache_clear()


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", LINEAR)
def test_variance_reduction_converges_linearly_under_attack(name):
    """Three of twenty lie, all hold the same data: no floor is left but that of float64."""
    assert is_linear(norms(lambda _: LINEAR[name]))


@pytest.mark.usefixtures("in_float64")
def test_clipped_differences_do_so_unless_full_gradients_are_clipped_short():
    """With λ = 3, about the L of single examples, the model stands still where it should not if these are clipped, too:
    steps shrink with the aggregate, and so does how far the aggregate may turn.
    """
    assert is_linear(norms(clipped_marina("whole"), ((True, 3.0), (False, 3.0))))
    long, short = norms(clipped_marina("clipped"), ((True, 20.0), (False, 3.0)))
    assert is_linear(long)
    assert (short > 1e-2).all()
    assert short[-1] > 0.99 * short[-2]


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", ["sgd", "vr-dm21"])
def test_momentum_stalls_where_they_converge(name):
    """The same rule and step. Byz-VR-DM21 keeps a share 1 − β of a batch's noise: that is its theory, too."""
    make = {"sgd": m.momentum_sgd, "vr-dm21": functools.partial(m.byz_dm21, variance_reduced=True)}[name]
    assert (norms(lambda _: make)[:, 1:] > 1e-2).all()
