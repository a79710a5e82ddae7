"""A method as one optax link, under everything that takes one; and what goes wrong says so in one line."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks, transforms

N, STEPS = 5, 4
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "b": jnp.ones(2)}
ROWS = [
    jax.tree.map(lambda p, t=t: jnp.asarray(np.random.default_rng(t).normal(size=(N, *p.shape)), p.dtype), PARAMS)
    for t in range(STEPS)
]


def method(learning_rate=0.1, **options):
    return methods.byz_nsgdm(learning_rate, aggregator=byzjax.chain(agg.nnm(1), agg.geometric_median()), **options)


def link(learning_rate=0.1, **options):
    return transforms.as_transformation(method(learning_rate, **options), N)


def trained(tx, params=PARAMS, rows=ROWS, step=None):
    """The parameters after a step for each stack."""
    state = tx.init(params)
    step = step or jax.jit(tx.update)
    for row in rows:
        updates, state = step(row, state, params)
        params = optax.apply_updates(params, updates)
    return params


@functools.cache
def plain():
    return trained(link())


def same(params, expected=None):
    chex.assert_trees_all_close(params, plain() if expected is None else expected, rtol=1e-6, atol=1e-7)


def test_it_is_what_a_round_does_bit_for_bit():
    task, who = tasks.quartic(N, noise_scale=0.1, shift_scale=0.1), jnp.zeros(N, bool)
    grads = []

    def gradients(info):
        return {"params": info.params}

    result = byzjax.simulate(
        task, method(), attacks.none(), byzantine=who, key=jax.random.key(0), num_rounds=6, record=gradients
    )
    tx, key = link(), jax.random.key(0)
    params = task.init(key)
    state = tx.init(params)

    @jax.jit
    def step(params, state, t):
        keys = byzjax.simulation.round.round_keys(key, t)
        batch = task.sample(task.data, keys.data)
        grads = jax.vmap(jax.grad(task.loss), in_axes=(None, 0, 0))(params, batch, jax.random.split(keys.model, N))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for t in range(6):
        grads.append(params)
        params, state = step(params, state, t)
    np.testing.assert_array_equal(jnp.stack(grads), result.history["params"])
    np.testing.assert_array_equal(params, result.state.params)


@jax.numpy_dtype_promotion("standard")  # optax's own arithmetic
def test_the_server_is_told_the_mean_loss_and_the_aggregate():
    """Polyak's step is (f − f*)/‖g‖²: given n losses it would be n steps, broadcast along an axis of parameters."""
    task, who = tasks.quartic(N, noise_scale=0.1, shift_scale=0.1), jnp.zeros(N, bool)
    polyak = methods.momentum_sgd(0.1, aggregator=agg.median())._replace(server=optax.polyak_sgd(10.0))

    def said(info):
        return {"losses": info.losses, "params": info.params}

    options = {"byzantine": who, "key": jax.random.key(0), "num_rounds": 3, "record": said}
    result = byzjax.simulate(task, polyak, attacks.none(), **options)
    tx = transforms.as_transformation(polyak, N)
    state = tx.init(result.history["params"][0])

    @jax.jit
    def step(params, state, losses, t):
        keys = byzjax.simulation.round.round_keys(jax.random.key(0), t)
        batch = task.sample(task.data, keys.data)
        grads = jax.vmap(jax.grad(task.loss), in_axes=(None, 0, 0))(params, batch, jax.random.split(keys.model, N))
        updates, state = tx.update(grads, state, params, value=losses)
        return optax.apply_updates(params, updates), state

    points = [*result.history["params"], result.state.params]
    for t in range(3):
        params, state = step(points[t], state, result.history["losses"][t], t)
        np.testing.assert_allclose(params, points[t + 1], rtol=1e-5)
        assert not jnp.allclose(params, points[t], rtol=1e-3)

    spy = optax.GradientTransformationExtraArgs(
        lambda params: (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)),
        lambda updates, state, params=None, *, value, grad, **extra: (updates, (value, grad)),
    )
    both = transforms.as_transformation(method()._replace(worker=spy, server=spy), N)
    _, (worker, rule, server) = both.update(ROWS[0], both.init(PARAMS), PARAMS, value=jnp.arange(float(N)))
    chex.assert_trees_all_equal(worker, (jnp.arange(float(N)), ROWS[0]))
    aggregate, _ = method().aggregator.update(ROWS[0], rule.rule, PARAMS)
    assert server[0] == (N - 1) / 2
    same(server[1], aggregate)


def test_names_and_groups():
    same(trained(optax.named_chain(("byzjax", link()), ("nothing", optax.identity()))))
    parts = {"all": link(), "nobody": link()}
    same(trained(optax.partition(parts, {"w": "all", "b": "all"})))
    each = trained(optax.partition({"w": link(), "b": link()}, {"w": "w", "b": "b"}))
    for leaf in PARAMS:  # a group is a model of its own: its step has the length γ
        same({leaf: each[leaf]}, trained(link(), {leaf: PARAMS[leaf]}, [{leaf: row[leaf]} for row in ROWS]))


def test_what_is_masked_after_the_rule_stays():
    frozen = optax.chain(link(), optax.masked(optax.set_to_zero(), {"w": False, "b": True}))
    after = trained(frozen)
    chex.assert_trees_all_equal(after["b"], PARAMS["b"])
    assert not jnp.array_equal(after["w"], PARAMS["w"])


def test_hyperparameters_in_the_state():
    tx = optax.inject_hyperparams(lambda learning_rate: link(learning_rate))(learning_rate=0.1)
    same(trained(tx))
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = jnp.asarray(0.2)
    twice, _ = tx.update(ROWS[0], state, PARAMS)
    once, _ = link().update(ROWS[0], link().init(PARAMS), PARAMS)
    same(twice, jax.tree.map(lambda u: 2 * u, once))


@jax.numpy_dtype_promotion("standard")  # optax's own arithmetic
def test_wrappers_that_keep_a_gradient_stand_after_the_rule():
    server = optax.MultiSteps(optax.apply_if_finite(method().server, 2), 2)
    waiting = trained(transforms.as_transformation(method()._replace(server=server), N))
    momentum = transforms.as_transformation(method()._replace(server=optax.identity()), N)
    state, sums = momentum.init(PARAMS), []
    for row in ROWS:
        aggregate, state = momentum.update(row, state, PARAMS)
        sums.append(aggregate)
    pairs = [jax.tree.map(lambda a, b: (a + b) / 2, *sums[k : k + 2]) for k in (0, 2)]
    same(waiting, trained(method().server, rows=pairs))


@jax.numpy_dtype_promotion("standard")  # optax's own arithmetic
def test_lookahead():
    tx = optax.lookahead(link(), sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    state = tx.init(params)
    for row in ROWS:
        updates, state = jax.jit(tx.update)(row, state, params)
        params = optax.apply_updates(params, updates)

    inner, step = link(), jax.jit(link().update)
    slow, state = PARAMS, inner.init(PARAMS)
    for k in (0, 2):  # two steps of the link from where the slow parameters are, and half of the way there
        fast = slow
        for row in ROWS[k : k + 2]:
            updates, state = step(row, state, fast)
            fast = optax.apply_updates(fast, updates)
        slow = jax.tree.map(lambda a, b: a + 0.5 * (b - a), slow, fast)
    same(params.slow, slow)
    same(params.fast, slow)  # after a whole number of periods
    assert not jnp.array_equal(slow["w"], PARAMS["w"])


def test_scan_vmap_and_shapes():
    tx = link()
    rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ROWS)

    def step(carry, row):
        params, state = carry
        updates, state = tx.update(row, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), rows)
    same(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, PARAMS))

    rates = jnp.array([0.1, 0.3])
    lanes = jax.jit(jax.vmap(lambda rate: trained(link(rate), step=link(rate).update)))(rates)
    for k, rate in enumerate((0.1, 0.3)):
        same(jax.tree.map(lambda leaf, k=k: leaf[k], lanes), trained(link(rate)))


def test_orbax_gives_the_state_back(tmp_path):
    tx = link()
    _, state = tx.update(ROWS[0], tx.init(PARAMS), PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        chex.assert_trees_all_equal(checkpointer.restore(tmp_path / "state", tx.init(PARAMS)), state)


def test_train_state_of_flax():
    state = TrainState.create(apply_fn=lambda: None, params=PARAMS, tx=link())
    for row in ROWS:
        state = state.apply_gradients(grads=row)
    same(state.params)


def test_optimizer_of_nnx():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, link(), wrt=nnx.Param)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(N, 4, 3)), jnp.float32)
    graph, params = nnx.split(model, nnx.Param)

    def loss(params, x):
        return jnp.square(nnx.merge(graph, params)(x)).sum()

    before = nnx.to_pure_dict(params)
    grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, x)
    optimizer.update(model, grads)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    expected = trained(link(), before, [nnx.to_pure_dict(grads)])
    same(after, expected)


MEAN = jax.tree.map(lambda row: row.mean(0), ROWS[0])
TWICE = optax.chain(link(), transforms.robust_aggregate(agg.median()))


@pytest.mark.parametrize(
    ("tx", "rows", "message"),
    [
        (link(), MEAN, r"per_worker: updates have leading axes \[\(2,\), \(3,\)\], not num_workers = 5"),
        (link(), jax.tree.map(lambda row: row[:4], ROWS[0]), r"leading axes \[\(4,\)\], not num_workers = 5"),
        (TWICE, ROWS[0], "robust_aggregate: updates have shapes .* no rows for parameters"),
        (optax.MultiSteps(link(), 2), ROWS[0], "put optax.MultiSteps, .* inside per_worker"),
    ],
    ids=["averaged", "wrong n", "rule twice", "MultiSteps around"],
)
def test_a_mistake_is_named(tx, rows, message):
    with pytest.raises(ValueError, match=message):
        tx.update(rows, tx.init(PARAMS), PARAMS)


def test_only_a_method_is_one():
    with pytest.raises(ValueError, match=r"method = .* not a Method; call a factory"):
        transforms.as_transformation(optax.sgd(0.1), N)
