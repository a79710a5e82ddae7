"""Long runs: cut anywhere, killed at any moment, they give the bits of the run that nothing happened to."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, results, tasks
from byzjax.cli.app import app
from byzjax.configs import run_config
from byzjax.data.base import Dataset
from byzjax.simulation.checkpoint import Checkpoint, Saved, Store
from byzjax.simulation.fingerprint import Fingerprint
from byzjax.simulation.progress import Progress
from byzjax.storage.leases import Leases

N, B = 7, 2
MASK = jnp.arange(N) >= N - B
TASK = tasks.quartic(N, B, noise_scale=0.1, shift_scale=0.1)
# Everything that has a state or draws: momenta, a rule that starts from its last result, an attack with a memory.
RULE = byzjax.chain(agg.bucketing(1), agg.centered_clipping(tau=1.0, num_iters=2))
METHOD = methods.byz_nsgdm(0.1, aggregator=RULE)
ATTACK = attacks.mimic("copy", warmup=3)
KEY = jax.random.key(3)


def go(folder=None, task=TASK, method=METHOD, attack=ATTACK, *, num_rounds=40, every=1, keep=2, config=None, **options):
    options = {"byzantine": MASK, "key": KEY, "eval_every": 5, "progress": False, **options}
    checkpoint = None if folder is None else Checkpoint(folder, every, keep, config)
    return byzjax.run(task, method, attack, num_rounds=num_rounds, checkpoint=checkpoint, **options)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape, type(x)) == (y.dtype, y.shape, type(y))
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(x) == jax.random.key_impl(y)
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


class Interrupting(Progress):
    """Ctrl-C after so many rounds."""

    def __init__(self, rounds, act):
        super().__init__(shown=False)
        self.left, self.act = rounds, act

    def task(self, name, num_rounds, done=0):
        import contextlib

        @contextlib.contextmanager
        def counting():
            def advance(rounds, evaluation):
                self.left -= rounds
                if self.left <= 0:
                    self.act()

            yield advance

        return counting()


def interrupt():
    raise KeyboardInterrupt


def rounds_in(folder):
    return sorted(int(path.name.removeprefix("round_")) for path in folder.glob("round_*"))


@pytest.mark.parametrize(
    ("key", "eval_every"),
    [(KEY, 30), (KEY, 0), (jax.random.key(3, impl="rbg"), 0), (jax.random.PRNGKey(3), 0)],
    ids=["evaluated", "threefry", "rbg", "raw"],
)
def test_two_halves_with_a_restart_are_the_whole_bit_for_bit(tmp_path, key, eval_every):
    options = {"key": key, "eval_every": eval_every, "every": 7}
    first = go(tmp_path, num_rounds=500, **options)
    assert int(first.state.step) == 500
    second = go(tmp_path, num_rounds=1000, **options)
    whole = go(num_rounds=1000, **options)
    assert_same_bits(second, whole)
    assert whole.history["loss"].shape == (1000,)
    assert int(first.state.step) == 500, "what was given back lives on"


def test_it_does_not_matter_how_often_it_is_saved_or_interrupted(tmp_path):
    whole = go()
    for every in (1, 3, 100):
        folder = tmp_path / str(every)
        for rounds in (10, 15, 5):
            with pytest.raises(KeyboardInterrupt):
                go(folder, every=every, progress=Interrupting(rounds, interrupt))
        assert rounds_in(folder) == {1: [10, 15], 3: [], 100: []}[every]
        assert_same_bits(go(folder, every=every), whole)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_checkpoint as t
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
t.go(sys.argv[2], progress=t.Interrupting(int(sys.argv[3]), die), every=2)
"""


@pytest.mark.slow
def test_kill_9_costs_what_came_after_the_last_checkpoint(tmp_path):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), "25"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert rounds_in(tmp_path) == [10, 20]
    seen = []
    bar = Progress(shown=False)
    bar.say = seen.append
    assert_same_bits(go(tmp_path, progress=bar), go())
    assert seen == [f"quartic: goes on after round 20 of 40 from {tmp_path}"]


def test_a_finished_run_is_read_and_a_longer_one_is_not_cut(tmp_path):
    whole = go(tmp_path)
    compiled = []
    listener = lambda event, *args, **kwargs: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        assert_same_bits(go(tmp_path), whole)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert not [event for event in compiled if "backend_compile" in event]
    with pytest.raises(ValueError, match=r"num_rounds = 39, but .* after 40 rounds; ask for at least as many"):
        go(tmp_path, num_rounds=39)


def test_the_last_few_are_kept(tmp_path):
    for keep, left in ((1, [40]), (3, [30, 35, 40])):
        go(tmp_path / str(keep), keep=keep)
        assert rounds_in(tmp_path / str(keep)) == left
        assert Checkpoint(tmp_path / str(keep)).latest() == 40
    go(tmp_path / "rare", num_rounds=43, every=3, keep=9)
    assert rounds_in(tmp_path / "rare") == [15, 30, 43], "every third evaluation, and the end"


def largest_file(folder):
    return max(
        (path for path in (folder / "arrays").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def flip_a_bit(folder):
    data = bytearray(largest_file(folder).read_bytes())
    data[len(data) // 2] ^= 1
    largest_file(folder).write_bytes(data)


DAMAGE = {
    "a file cut short": lambda folder: os.truncate(largest_file(folder), 100),
    "a bit flipped": flip_a_bit,
    "a file lost": lambda folder: largest_file(folder).unlink(),
    "never finished": lambda folder: (folder / "about.json").unlink(),
    "half a description": lambda folder: os.truncate(folder / "about.json", 20),
    "an empty description": lambda folder: (folder / "about.json").write_text("{}"),
    "killed while writing": lambda folder: (
        (folder / "about.json").unlink(),
        (folder / "arrays").rename(folder / "arrays.orbax-checkpoint-tmp"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_torn_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Interrupting(25, interrupt))
    assert rounds_in(tmp_path) == [15, 20]
    DAMAGE[damage](tmp_path / "round_000000020")
    seen = []
    bar = Progress(shown=False)
    bar.say = seen.append
    with pytest.warns(UserWarning, match=r"round_000000020 is torn \(.*\) and passed over"):
        resumed = go(tmp_path, num_rounds=30, every=3, progress=bar)
    assert "goes on after round 15" in seen[0]
    assert_same_bits(resumed, go(num_rounds=30))
    assert rounds_in(tmp_path) == [15, 30], "the torn one is gone, and counts for nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go(tmp_path, num_rounds=30)


def test_without_a_whole_checkpoint_a_run_begins_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Interrupting(15, interrupt))
    for folder in tmp_path.glob("round_*"):
        flip_a_bit(folder)
    with pytest.warns(UserWarning, match="passed over") as told:
        assert_same_bits(go(tmp_path), go())
    assert len(told) == 2
    assert_same_bits(go(tmp_path), go())


def other_task(**options):
    return tasks.quartic(N, B, **{"noise_scale": 0.1, "shift_scale": 0.1, **options})


ARRAY = jnp.array([0.1, 0.2])
FOREIGN = {
    "key": ({"key": jax.random.key(4)}, "key "),
    "kind of key": ({"key": jax.random.key(3, impl="rbg")}, "threefry2x32 there, rbg here"),
    "mask": (
        {"byzantine": jnp.arange(N) < 2, "task": dataclasses.replace(TASK, byzantine=None)},
        r"byzantine: \[5, 6\] there, \[0, 1\] here",
    ),
    "evaluations": ({"eval_every": 4}, "eval_every: 5 there, 4 here"),
    "task": ({"task": tasks.quartic(N, B, dim=4)}, r"data \(\['shifts'\]: float32\[7, 10\] there, float32\[7, 4\]"),
    "data": ({"task": other_task(shift_scale=0.2)}, "the contents of its data"),
    "state": ({"attack": attacks.ipm(2.0)}, r"state .*\.attack"),
    "recorder": ({"record": metrics.record("loss")}, "history"),
    "learning rate": ({"method": METHOD._replace(server=methods.byz_nsgdm(0.2, aggregator=RULE).server)}, "a number"),
    "schedule": (
        {"method": methods.byz_nsgdm(lambda k: ARRAY[k % 2], aggregator=RULE)},
        "a number or a part of its task, method, attack or recorder",
    ),
    "rule": ({"method": methods.byz_nsgdm(0.1, aggregator=agg.centered_clipping(tau=1.0, num_iters=2))}, "a number"),
    "config": ({"config": {"batch": 8}}, r"config: None there, \{'batch': 8\} here"),
}


@pytest.fixture(scope="module")
def ten_rounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ten")
    go(folder, num_rounds=10)
    return folder


@pytest.mark.parametrize("what", FOREIGN)
def test_another_runs_checkpoint_is_refused(ten_rounds, what):
    options, message = FOREIGN[what]
    before = sorted(ten_rounds.rglob("*"))
    with pytest.raises(ValueError, match=f"holds another run, which differs in .*{message}") as told:
        go(ten_rounds, **options)
    assert str(told.value).count("\n") == 0
    assert sorted(ten_rounds.rglob("*")) == before


def test_numbers_of_numpy_may_be_in_a_configuration(tmp_path):
    go(tmp_path, num_rounds=5, config={"batch": np.int64(8)})
    go(tmp_path, num_rounds=5, config={"batch": 8})


def test_arrays_inside_a_program_are_told_apart(tmp_path):
    def method(rates):
        return methods.byz_nsgdm(lambda k: rates[k % 2], aggregator=RULE)

    go(tmp_path, method=method(jnp.array([0.1, 0.2])), num_rounds=5)
    go(tmp_path, method=method(jnp.array([0.1, 0.2])), num_rounds=5)
    with pytest.raises(ValueError, match="a number or a part"):
        go(tmp_path, method=method(jnp.array([0.1, 0.3])), num_rounds=5)


def test_another_version_goes_on_with_a_warning(tmp_path):
    go(tmp_path, num_rounds=10)
    (about,) = tmp_path.glob("round_000000010/about.json")
    written = json.loads(about.read_text())
    written["made_with"]["jax"], written["exact"] = "0.0.1", {}
    about.write_text(json.dumps(written))
    with pytest.warns(UserWarning, match=r"made with .*jax 0\.0\.1.*and this is .*jax"):
        assert_same_bits(go(tmp_path), go())


def test_divergence_survives_a_restart(tmp_path):
    method = methods.momentum_sgd(10.0, aggregator=agg.mean())
    first = go(tmp_path, method=method, num_rounds=20)
    assert not first.state.finite
    second = go(tmp_path, method=method)
    assert_same_bits(second, go(method=method))
    assert np.isnan(second.history["loss"][-1])
    assert not second.history["finite"][-1]


def test_initial_momenta_and_bare_recorders(tmp_path):
    method = methods.byz_nsgdm(0.1, aggregator=agg.median(), initial_momentum=jnp.ones((N, 10)))
    options = {"method": method, "record": metrics.record(), "eval_every": 0}
    go(tmp_path, num_rounds=20, **options)
    assert_same_bits(go(tmp_path, **options), go(**options))


def test_a_model_goes_on_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 4, 4)).astype(np.uint8), (np.arange(60) % 10).astype(np.int32)
    model = tasks.models.mlp((16, 8, 10))
    task = tasks.classification(
        Dataset(images, labels, images, labels, 10), N, B, model=model, batch_size=4, val_size=5
    )
    options = {"task": task, "method": methods.byz_nsgdm(0.1, aggregator=agg.median()), "attack": attacks.label_flip()}
    go(tmp_path, num_rounds=13, **options)
    assert_same_bits(go(tmp_path, **options), go(**options))


def some_state(**leaves):
    empty = {"params": {}, "worker": (), "attack": (), "aggregator": (), "server": ()}
    return byzjax.RoundState(**{"step": jnp.int32(4), "key": KEY, "finite": jnp.array(True), **empty, **leaves})


def store(folder, history):
    shapes = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), history)
    return Store(folder, Fingerprint({}, {}, {}, lambda rounds: (shapes, {})))


def test_every_kind_of_leaf_comes_back_where_a_fresh_one_lies(tmp_path):
    mesh = jax.make_mesh((8,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.P("workers"))
    rng = np.random.default_rng(0)
    state = some_state(
        params={"half": jnp.asarray(rng.normal(size=5), jnp.bfloat16), "none": jnp.zeros((0, 3))},
        worker=jax.device_put(rng.normal(size=(16, 3)).astype(np.float32), spread),
        attack=(jax.random.split(KEY, 3), jax.random.key(1, impl="rbg"), None),
        aggregator=jnp.array([True, False]),
        server=jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45]),
    )
    history = {"counts": np.arange(4), "flags": np.array([True, False, True, True])}
    store(tmp_path, history).save(Saved(state, history, {}))

    def fresh(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.zeros_like(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        zeros = jnp.zeros(leaf.shape, leaf.dtype)
        return jax.device_put(zeros, leaf.sharding) if leaf.committed else zeros

    saved = store(tmp_path, history).restore(jax.tree.map(fresh, state))
    assert_same_bits(saved, Saved(state, history, {}))
    assert saved.state.worker.sharding == spread
    assert np.signbit(saved.state.server[1])
    for x, y in zip(jax.tree.leaves(saved.state), jax.tree.leaves(state), strict=True):
        assert x.committed == y.committed


def test_no_thread_stays_behind(tmp_path):
    before = set(threading.enumerate())
    go(tmp_path, num_rounds=10)
    go(tmp_path, num_rounds=15)
    assert not set(threading.enumerate()) - before


@pytest.mark.slow
def test_without_checkpoints_orbax_is_not_loaded():
    code = """
import sys, jax, jax.numpy as jnp, byzjax
from byzjax import aggregators, attacks, methods, tasks
method = methods.byz_nsgdm(0.1, aggregator=aggregators.mean())
byzjax.run(tasks.quartic(3), method, attacks.none(), byzantine=jnp.zeros(3, bool), key=jax.random.key(0), num_rounds=2)
assert "orbax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every": 0}, "every = 0"), ({"keep": 0}, "keep = 0"), ({"every": 1.5}, "every = 1.5")],
)
def test_bad_numbers_are_named(options, message):
    with pytest.raises(ValueError, match=f"Checkpoint: {message}"):
        Checkpoint("folder", **options)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        go(tmp_path / "file")


def call(folder, *arguments):
    small = ["run", "--num-workers", "7", "--num-byzantine", "1", "--eval-every", "3", "--aggregator", "median"]
    return CliRunner().invoke(app, [*small, "--out", str(folder), *arguments])


def test_the_command_line_resumes_and_says_so(tmp_path, monkeypatch):
    whole = call(tmp_path / "whole", "--num-rounds", "12")
    assert whole.exit_code == 0, whole.output
    assert not (tmp_path / "whole" / "checkpoints").exists(), "nobody asked for any"

    folder = tmp_path / "cut"
    first = call(folder, "--num-rounds", "6", "--resume")
    assert first.exit_code == 0, first.output
    assert f"quartic: begins in {folder / 'checkpoints'}" in first.stderr
    second = call(folder, "--num-rounds", "12", "--resume")
    assert second.exit_code == 0, second.output
    assert f"quartic: goes on after round 6 of 12 from {folder / 'checkpoints'}" in second.stderr
    expected, got = results.load(tmp_path / "whole" / "run.nc"), results.load(folder / "run.nc")
    assert got.drop_attrs().identical(expected.drop_attrs())
    assert got.attrs["config"] == expected.attrs["config"]
    assert got.attrs["resumed_after"] == 6
    again = call(folder, "--num-rounds", "12", "--resume")
    assert again.exit_code == 0, again.output
    assert "quartic: all 12 rounds were done before" in again.stderr


def test_the_command_line_does_not_mix_runs(tmp_path):
    assert call(tmp_path, "--num-rounds", "6", "--checkpoint-every", "1").exit_code == 0
    assert Checkpoint(tmp_path / "checkpoints").latest() == 6

    refused = call(tmp_path, "--num-rounds", "6", "--checkpoint-every", "1")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {tmp_path / 'checkpoints'} holds a checkpoint after round 6; --resume")
    shorter = call(tmp_path, "--num-rounds", "5", "--resume")
    assert shorter.exit_code == 2
    assert "num_rounds: 6 there, 5 here" in shorter.stderr
    other = call(tmp_path, "--num-rounds", "6", "--resume", "--seed", "1", "--overwrite")
    assert other.exit_code == 2
    assert "holds another run, which differs in" in other.stderr
    assert "seed" in other.stderr
    assert len(other.stderr.splitlines()) == 1
    anew = call(tmp_path, "--num-rounds", "3", "--seed", "1", "--checkpoint-every", "1", "--overwrite")
    assert anew.exit_code == 0, anew.output
    assert rounds_in(tmp_path / "checkpoints") == [3]


def test_ctrl_c_on_the_command_line_tells_how_to_go_on(tmp_path, monkeypatch):
    run = byzjax.run
    monkeypatch.setattr(run_config, "run", lambda *a, **k: run(*a, **{**k, "progress": Interrupting(6, interrupt)}))
    stopped = call(tmp_path, "--num-rounds", "9", "--resume", "--checkpoint-every", "1")
    assert stopped.exit_code == 130
    assert stopped.stderr.splitlines()[-1] == (
        "interrupted: saved after round 3; the same with --resume goes on from there"
    )
    monkeypatch.undo()
    resumed = call(tmp_path, "--num-rounds", "9", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert results.load(tmp_path / "run.nc").sizes["round"] == 9


# Two processes.

HOLDING = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_checkpoint as t

def wait():
    print("at work", flush=True)
    sys.stdin.readline()

t.go(sys.argv[2], progress=t.Interrupting(15, wait), every=1)
"""


@pytest.mark.slow
def test_a_second_process_is_refused_and_harms_nothing(tmp_path):
    command = [sys.executable, "-c", HOLDING, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "at work\n"
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=f"{tmp_path} is in use by process {first.pid} on .*; wait until") as told:
            go(tmp_path)
        assert "\n" not in str(told.value)
        with pytest.raises(ValueError, match=f"is in use by process {first.pid} on .*; wait until that run ends"):
            Checkpoint(tmp_path).clear()
        assert sorted(tmp_path.rglob("*")) == before
        first.stdin.write("\n" * 9)
        first.communicate()
    assert first.returncode == 0
    assert not list(tmp_path.glob("lease*"))
    assert rounds_in(tmp_path) == [35, 40]
    assert_same_bits(go(tmp_path), go())


def test_a_job_that_is_put_back_into_the_queue_waits_for_the_machine_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(Leases.__init__, "__defaults__", (0.4,))
    gone = {"machine": "another", "pid": 1, "started": None}
    (tmp_path / "lease.0").write_text(json.dumps(gone))
    start = time.monotonic()
    go(tmp_path, num_rounds=5)
    assert time.monotonic() - start > 0.3
    assert not list(tmp_path.glob("lease.*"))

    (tmp_path / "lease.0").write_text(json.dumps(gone))
    with ThreadPoolExecutor(1) as pool:
        ended = threading.Event()

        def live():
            while not ended.wait(0.05):
                os.utime(tmp_path / "lease.0")

        living = pool.submit(live)
        with pytest.raises(ValueError, match="is in use by process 1 on another"):
            go(tmp_path, num_rounds=10)
        ended.set()
        living.result()


def test_who_stood_still_does_not_write_over_who_took_over(tmp_path, monkeypatch):
    def take_over():
        for path in tmp_path.glob("lease.*"):
            os.utime(path, (0, 0))
        assert Leases(tmp_path).acquire("lease")

    with pytest.raises(OSError, match=r"was taken over by process \d+ on .*, since this process stood still"):
        go(tmp_path, progress=Interrupting(15, take_over))
    assert rounds_in(tmp_path) == [5, 10]


def test_a_finished_run_can_be_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    whole = go(tmp_path)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Leases, "acquire", refuse)
    assert_same_bits(go(tmp_path), whole)
