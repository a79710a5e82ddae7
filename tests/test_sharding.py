"""One run on several devices and in several processes: the same numbers, and no stack gathered on the way."""

import functools
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, sharding, stacked, tasks
from byzjax.base import Aggregator
from byzjax.simulation.round import init_state, make_round
from byzjax.simulation.run import _chunk, _without_numbers
from byzjax.stacked.coordinate_sharding import shard_coordinates
from byzjax.testing import rule_cases
from tests.environment import environment
from tests.helpers import in_their_default, starting_with

KEY = jax.random.key(7)
N, B = 16, 2
# More than lie: otherwise every honest row becomes the honest mean, and rules after it see nothing but rounding.
F = 4
MASK = jnp.arange(N) >= N - B
NNM_RFA = byzjax.chain(agg.nnm(F), agg.geometric_median())


@functools.cache
def mesh(workers=8, runs=1):
    assert len(jax.devices()) >= 8, "conftest.py asks for 8 virtual devices"
    return sharding.make_mesh(runs, workers)


def task(n=N, dim=37):
    # Noise as large as the gradients 4 x ‖x‖², or else differences between workers are rounding alone.
    return tasks.quartic(n, B, dim=dim, noise_scale=4.0 * dim, shift_scale=4.0 * dim)


def go(rule, *, n=N, dim=37, attack=None, **options):
    options = {"num_rounds": 6, "eval_every": 3, "progress": False, "key": KEY, **options}
    method = methods.byz_nsgdm(0.01, aggregator=rule)
    return byzjax.run(task(n, dim), method, attack or attacks.ipm(2.0), byzantine=jnp.arange(n) >= n - B, **options)


def assert_same_run(got, expected):
    assert_close(got.state, expected.state, tolerance=1e-6)
    # A norm over thousands of coordinates is itself no more exact than this, on one device as on several.
    assert_close((got.history, got.evals), (expected.history, expected.evals), tolerance=1e-5)


def assert_close(got, expected, tolerance=1e-6):
    """Relative to the largest entry of each array."""
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            continue
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        scale = np.abs(y[np.isfinite(y)]).max(initial=0.0)
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale)


def both_ways(function, *arrays, workers=8):
    """What a function of stacks gives on one device, and on several."""

    def spread(*arrays):
        with shard_coordinates(mesh(workers)):
            return function(*arrays)

    return jax.jit(spread)(*arrays), jax.jit(lambda *arrays: function(*arrays))(*arrays)


def stacks(n, shapes, seed=0, rounds=2):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=(rounds, n, *shape)) + 2.0, jnp.float32) for name, shape in shapes.items()
    }


# Options change numbers and not where they lie; but for the point that a rule is anchored at.
CASES = [*in_their_default(rule_cases()), starting_with("centered_clipping-start=median", rule_cases())]


ELEVEN, TWO_ROUNDS = 11, stacks(11, {"a": (3, 5), "b": (2,)})


def two_rounds(rule, updates):
    """The last state and the results."""
    params = jax.tree.map(lambda x: jnp.zeros(x.shape[2:]), TWO_ROUNDS)

    def step(state, updates):
        result, state = rule.update(updates, state, params, key=KEY)
        return state, result

    return jax.lax.scan(step, rule.init(params), updates)


@functools.cache
def two_rounds_on_one_device(rule):
    return jax.jit(lambda updates: two_rounds(rule, updates))(TWO_ROUNDS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_rule_is_the_same_on_eight_devices(case):
    """Two rounds, so that states count; eleven workers and seventeen coordinates, which eight does not divide."""
    rule = case.make(2, ELEVEN)

    @jax.jit
    def spread(updates):
        with shard_coordinates(mesh()):
            return two_rounds(rule, updates)

    assert_close(spread(TWO_ROUNDS), two_rounds_on_one_device(rule), tolerance=2e-6)


@pytest.mark.parametrize(
    "rule",
    [
        agg.mean(),
        byzjax.chain(agg.nnm(F), agg.trimmed_mean(F)),
        NNM_RFA,
        agg.centered_clipping(tau=1.0, num_iters=3),
        agg.dnc(F, sub_dim=50),
        byzjax.chain(agg.dp_clipping(noise_multiplier=0.1), agg.median()),
    ],
    ids=["mean", "nnm+trimmed", "nnm+rfa", "clipping", "dnc", "noise"],
)
def test_runs_agree_with_one_device(rule):
    assert_same_run(go(rule, dim=8000, mesh=mesh()), go(rule, dim=8000))


ATTACKS = {"flip": attacks.bit_flip(), "alie": attacks.alie(1.5), "copy": attacks.mimic("copy", warmup=2)}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_agree_with_one_device(attack):
    attack = ATTACKS[attack]
    assert_same_run(go(NNM_RFA, attack=attack, mesh=mesh()), go(NNM_RFA, attack=attack))


def test_workers_that_do_not_divide_evenly_are_spread_all_the_same():
    rule = NNM_RFA
    result = go(rule, n=10, dim=40, mesh=mesh())
    assert_same_run(result, go(rule, n=10, dim=40))
    assert result.state.worker.ema.sharding.spec == jax.P(None, "workers"), "between chunks, by coordinates"


def test_a_mesh_of_one_device_changes_nothing():
    assert_close(go(NNM_RFA, mesh=mesh(1)), go(NNM_RFA), tolerance=0.0)


def test_state_stays_with_its_workers():
    result = go(agg.centered_clipping(), mesh=mesh())
    assert result.state.worker.ema.sharding.spec == jax.P("workers")
    assert {shard.data.shape for shard in result.state.worker.ema.addressable_shards} == {(N // 8, 37)}
    assert result.state.params.sharding.is_fully_replicated
    placed = sharding.place_task(task(), mesh())
    assert placed.data["shifts"].sharding.spec == jax.P("workers")
    assert placed.data["noise_scale"].sharding.is_fully_replicated


def test_a_second_sharded_run_compiles_nothing():
    method, attack, chosen = methods.byz_nsgdm(0.1, aggregator=agg.median()), attacks.ipm(2.0), task()
    options = {"byzantine": MASK, "num_rounds": 20, "eval_every": 5, "progress": False, "mesh": mesh()}
    compiled = []
    listener = lambda event, *args, **kwargs: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        byzjax.run(chosen, method, attack, key=KEY, **options)
        assert [event for event in compiled if "backend_compile" in event], "the listener hears nothing"
        compiled.clear()
        byzjax.run(chosen, method, attack, key=jax.random.key(1), **options)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert not [event for event in compiled if "backend_compile" in event]


OPERATIONS = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"


def collectives(text):
    """``(computation, operation, elements of the largest result)`` of a compiled program."""
    found, where = [], ""
    for line in text.splitlines():
        if re.match(r"(ENTRY )?%?[\w.\-]+ .*\{$", line):
            where = line.split()[0]
        match = re.search(rf"= (.*?) ({OPERATIONS})(-start)?\(", line)
        if match:
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [int(np.prod([int(size) for size in shape.split(",") if size])) for shape in shapes]
            found.append((where, match[2], max(sizes)))
    return found


LARGE = 8000  # large enough that the geometry does not form all differences


@functools.cache
def compiled_round(rule, attack, n=N, dim=LARGE):
    chosen, mask = sharding.place_task(task(n, dim), mesh()), jnp.arange(n) >= n - B
    method = methods.byz_nsgdm(0.01, aggregator=rule)
    state = init_state(chosen, method, attack, key=KEY)

    def step(chosen, state):
        return make_round(chosen, method, attack, byzantine=mask, mesh=mesh())(state)

    return jax.jit(step).lower(chosen, state).compile().as_text()


GRAM_RULES = {
    "krum": agg.krum(F),
    "nnm+rfa": NNM_RFA,
}


@pytest.mark.parametrize("rule", GRAM_RULES)
def test_a_round_exchanges_the_stack_once_and_sums_one_gram_matrix(rule):
    found = collectives(compiled_round(GRAM_RULES[rule], attacks.ipm(2.0)))
    gathered = [size for _, operation, size in found if operation in ("all-gather", "collective-permute")]
    assert max(gathered) <= LARGE, "the aggregate and what attackers send, not the stack"
    # What a device gives to each other one, in one exchange.
    assert [size for _, operation, size in found if operation == "all-to-all"] == [N // 8 * LARGE // 8]
    ordinary = [size for where, operation, size in found if operation == "all-reduce" and where == "ENTRY"]
    points = N if rule == "krum" else N + 1  # of the rows, and of the origin for rules that start there
    assert [size for size in ordinary if size > N] == [points**2]
    # Loops that run where the scale is extraordinary or rows nearly coincide: no more than a Gram matrix a turn.
    assert max(size for _, operation, size in found if operation == "all-reduce") == points**2


def test_coordinate_rules_need_no_sum_and_the_counting_can_fail():
    found = collectives(compiled_round(agg.median(), attacks.none()))
    assert not [size for _, operation, size in found if operation == "all-reduce" and size > N]
    assert len([size for _, operation, size in found if operation == "all-to-all"]) == 1
    assert max(size for _, operation, size in found if operation == "all-gather") == LARGE

    def gathering(updates, state, params=None, **extra):
        whole = jax.lax.with_sharding_constraint(updates, jax.NamedSharding(mesh(), jax.P()))
        return jnp.linalg.qr(whole)[1].sum(0), state

    custom = Aggregator(agg.median().init, gathering)
    found = collectives(compiled_round(custom, attacks.none(), dim=100))
    assert max(size for _, operation, size in found if operation == "all-gather") >= N * 100


def test_the_stack_is_not_gathered_inside_a_run_where_workers_do_not_divide():
    n, method, attack = 10, methods.byz_nsgdm(0.01, aggregator=GRAM_RULES["krum"]), attacks.ipm(2.0)
    d = 1_600  # a smaller stack is measured whole on every device
    chosen, mask = sharding.place_task(task(n, d), mesh()), jnp.arange(n) >= n - B
    state = init_state(chosen, method, attack, key=KEY)
    parts, numbers = _without_numbers(method, attack)
    static = {"parts": parts, "record": metrics.default_record, "mesh": mesh(), "most": 3, "evaluates": False}
    text = _chunk.lower(chosen, state, mask, numbers, 3, **static).compile().as_text()
    assert not [size for _, operation, size in collectives(text) if operation == "all-gather" and size >= n * d]


HOSTILE = {
    "ordinary": lambda x: x,
    "copies": lambda x: x.at[12:].set(x[3]),
    "clusters": lambda x: x.at[8:].set(x[:1] + 1e-4 * x[8:]).at[:2].set(x[1:2] + 1e-6 * x[:2]),
    "not finite": lambda x: x.at[1, 7].set(jnp.nan).at[2, 7999].set(jnp.inf).at[3].set(-jnp.inf),
    "far": lambda x: x.at[14:].mul(1e30).at[0].set(3e38),
    "tiny": lambda x: 1e-25 * x,
    "huge": lambda x: 1e25 * x,
    "one coordinate": lambda x: jnp.zeros_like(x).at[:, 4321].set(x[:, 0]),
}


def test_geometry_is_the_same_for_every_kind_of_rows():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(N, LARGE)) + 1.0, jnp.float32)

    def measured(x, reference):
        geometry, frame = stacked.measure(x, reference)
        lengths, _ = stacked.measure_lengths(x, "previous", reference)
        return geometry.distances, geometry.gram, geometry.unit, frame.sizes, frame.reach, lengths.squares

    def measured_apart(*arrays):
        with shard_coordinates(mesh()):
            return measured(*arrays)

    apart, alone = jax.jit(measured_apart), jax.jit(measured)
    for name, change in HOSTILE.items():
        rows = change(x)
        reference = jnp.where(jnp.isfinite(rows[5]), rows[5], 0.0) * 0.5
        for got, expected in zip(apart(rows, reference), alone(rows, reference), strict=True):
            np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected), name)
            assert_close(got, expected, tolerance=1e-5)


def test_trees_of_all_sizes_and_dtypes():
    shapes = {"large": (70_000,), "matrix": (3, 7), "number": (), "half": (5,)}
    x = jax.tree.map(lambda leaf: leaf[0], stacks(6, shapes))
    x["half"] = x["half"].astype(jnp.bfloat16)
    rule = byzjax.chain(agg.clipping(max_norm=300.0), agg.nnm(1), agg.median())
    params = jax.tree.map(lambda leaf: leaf[0], x)

    def several(x):
        mean, deviations = stacked.mean_and_deviations(x, jnp.arange(6) < 4)
        row = stacked.replace_rows(x, jnp.arange(6) == 5, mean)
        rows = stacked.replace_rows(x, jnp.arange(6) == 5, jax.tree.map(jnp.negative, x))
        sample = stacked.sample_coordinates(x, 40, KEY)
        return rule.update(x, rule.init(params), params)[0], mean, deviations, row, rows, sample, stacked.inner(x, mean)

    got, expected = both_ways(several, x, workers=4)
    halves = jax.tree.leaves([tree.pop("half") for tree in got if isinstance(tree, dict)])
    others = jax.tree.leaves([tree.pop("half") for tree in expected if isinstance(tree, dict)])
    assert_close(halves, others, tolerance=2**-7)
    assert_close(got, expected)


def test_what_users_write_is_right_without_knowing_of_it():
    """Norms over all coordinates, in a rule, an attack and a recorder of plain JAX."""

    def shortest(updates, state, params=None, **extra):
        return updates[jnp.argmin(jnp.linalg.norm(updates, axis=1))], state

    @jax.jit  # traced with a mesh, then without: neither must meet the other's program
    def longer(updates):
        mean = stacked.masked_mean(updates, ~MASK)
        return mean * jnp.linalg.norm(updates, axis=1).max() / jnp.linalg.norm(mean)

    def update(updates, state, params=None, *, byzantine, **extra):
        return stacked.replace_rows(updates, byzantine, longer(updates)), state

    rule = Aggregator(agg.median().init, shortest)
    attack = attacks.none()._replace(update=update)

    def record(info):
        return {"lengths": jnp.linalg.norm(info.updates, axis=1), "kept": info.aggregate}

    options = {"attack": attack, "record": record}
    spread = go(rule, mesh=mesh(), **options)
    assert_same_run(spread, go(rule, **options))
    assert_same_run(go(rule, mesh=mesh(4), **options), spread)


def test_lanes_and_workers_on_one_mesh():
    method = methods.byz_nsgdm(0.01, aggregator=GRAM_RULES["nnm+rfa"])
    keys = jax.random.split(KEY, 4)
    both = mesh(4, runs=2)

    def final(task, key, mesh=None):
        options = {"byzantine": MASK, "num_rounds": 3, "mesh": mesh}
        return byzjax.simulate(task, method, attacks.ipm(2.0), key=key, **options).state.params

    lanes = jax.vmap(functools.partial(final, mesh=both), in_axes=(None, 0), spmd_axis_name="runs")
    placed = jax.device_put(keys, jax.NamedSharding(both, jax.P("runs")))
    assert_close(jax.jit(lanes)(task(), placed), jax.jit(jax.vmap(final, in_axes=(None, 0)))(task(), keys))


def test_lanes_of_large_stacks_see_all_coordinates():
    """From some size on, stacks are measured one after the other under vmap, which must not lose where they lie."""
    method = methods.byz_nsgdm(0.01, aggregator=agg.krum(F))
    large = tasks.quartic(N, B, dim=LARGE, noise_scale=4.0 * LARGE, shift_scale=4.0 * LARGE)

    def final(key, mesh=None):
        options = {"byzantine": MASK, "num_rounds": 2, "mesh": mesh}
        return byzjax.simulate(large, method, attacks.ipm(2.0), key=key, **options).state.params

    keys = jax.random.split(KEY, 2)
    spread = jax.jit(jax.vmap(functools.partial(final, mesh=mesh(4))))(keys)
    assert_close(spread, jax.jit(jax.vmap(final))(keys))


def test_a_sweep_of_spread_runs_is_the_sweep():
    both = mesh(4, runs=2)

    def lane(learning_rate, seed, mesh):
        method = methods.byz_nsgdm(learning_rate, aggregator=NNM_RFA)
        options = {"byzantine": MASK, "key": jax.random.key(seed), "num_rounds": 3, "mesh": mesh}
        return byzjax.simulate(task(), method, attacks.ipm(2.0), **options).history

    grid = {"learning_rate": jnp.array([0.01, 0.02]), "seed": jnp.arange(2)}
    spread = byzjax.sweep(functools.partial(lane, mesh=both), grid=grid, mesh=both, progress=False)
    alone = byzjax.sweep(functools.partial(lane, mesh=None), grid=grid, progress=False)
    for name in alone:
        assert_close(spread[name].values, alone[name].values, tolerance=1e-5)


def test_a_checkpoint_goes_on_with_other_devices(tmp_path):
    rule = agg.centered_clipping(tau=1.0)
    whole = go(rule, num_rounds=9, mesh=mesh())
    go(rule, num_rounds=6, mesh=mesh(), checkpoint=tmp_path)
    fewer = go(rule, num_rounds=9, checkpoint=tmp_path)
    assert_same_run(fewer, whole)

    go(rule, num_rounds=6, mesh=mesh(), checkpoint=tmp_path / "same")
    same = go(rule, num_rounds=9, mesh=mesh(), checkpoint=tmp_path / "same")
    assert_close(same, whole, tolerance=0.0)
    for x, y in zip(jax.tree.leaves(same.state), jax.tree.leaves(whole.state), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


PROCESS = """
import sys
import jax
number, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)
import jax.numpy as jnp, numpy as np, byzjax
from byzjax import aggregators as agg, attacks, methods, sharding, tasks
mesh = sharding.make_mesh()
assert mesh.shape["workers"] == 4, mesh
method = methods.byz_nsgdm(0.01, aggregator=byzjax.chain(agg.nnm(4), agg.geometric_median()))
for rounds in (3, 6):
    result = byzjax.run(
        tasks.quartic(16, 2, dim=37, noise_scale=148.0, shift_scale=148.0), method, attacks.ipm(2.0), mesh=mesh,
        byzantine=jnp.arange(16) >= 14, key=jax.random.key(7), num_rounds=rounds, eval_every=3, checkpoint=out,
    )
np.savez(f"{out}/process{number}.npz", params=result.state.params, **result.history, **result.evals)
"""


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path):
    """Over loopback, with a restart in between."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = environment(XLA_FLAGS="--xla_force_host_platform_device_count=2", JAX_PLATFORMS="cpu")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(number), port, str(tmp_path)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        told = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, told, strict=True):
        assert process.returncode == 0, errors
    assert "goes on after round 3 of 6" in told[0][1]
    assert "goes on" not in told[1][1], "one of them speaks"
    expected = go(GRAM_RULES["nnm+rfa"])
    for number in range(2):
        got = np.load(tmp_path / f"process{number}.npz")
        assert_close(got["params"], expected.state.params)
        for name, values in {**expected.history, **expected.evals}.items():
            assert_close(got[name], values, tolerance=1e-5)


def test_make_mesh_uses_what_there_is():
    assert dict(sharding.make_mesh().shape) == {"runs": 1, "workers": len(jax.devices())}
    assert dict(sharding.make_mesh(runs=2).shape) == {"runs": 2, "workers": len(jax.devices()) // 2}
    chosen = jax.devices()[4:6]
    assert sharding.make_mesh(devices=chosen).devices.flatten().tolist() == chosen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 9}, "runs = 1 times workers = 9 needs 9 devices, and there are 8"),
        ({"runs": 9}, "needs 9 devices"),
        ({"workers": 0}, "workers = 0"),
        ({"runs": 1.5}, "runs = 1.5"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(**options, devices=jax.devices()[:8])


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_other_meshes_are_refused(kind):
    axis = "d" if kind is jax.sharding.AxisType.Auto else "workers"
    other = jax.make_mesh((8,), (axis,), axis_types=(kind,))
    for runner in (byzjax.run, byzjax.simulate):
        with pytest.raises(ValueError, match="is not a mesh with an axis 'workers' and axes of type Auto"):
            runner(
                task(),
                methods.byz_nsgdm(0.1, aggregator=agg.mean()),
                attacks.none(),
                byzantine=MASK,
                key=KEY,
                num_rounds=1,
                mesh=other,
            )
