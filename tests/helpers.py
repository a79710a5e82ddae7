"""What tests of several folders share."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from typer.testing import CliRunner

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, tasks
from byzjax.cli.app import app
from byzjax.programs.compiled import quick_options
from byzjax.sweeps import executor

# Programs.


def compiled_as_runs_are(function):
    """`jax.jit` with the options of `byzjax.run` and `byzjax.sweep`: other options may round otherwise."""
    return jax.jit(function, compiler_options=quick_options())


# Rules.


def rows(n=10, d=4, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) * scale + 2


def steps(rule, stacks, params=None, state=None):
    """The results of a rule over rounds, and its last state."""
    state = rule.init(jnp.zeros(stacks[0].shape[1])) if state is None else state
    results = []
    for k, x in enumerate(stacks):
        at = jnp.zeros(x.shape[1]) if params is None else params[k]
        result, state = rule.update(jnp.asarray(x), state, at, key=jax.random.fold_in(jax.random.key(0), k))
        results.append(np.asarray(result))
    return results, state


def in_their_default(cases):
    """One case for each factory, without its variants and aliases."""
    return list({case.factory: case for case in reversed(cases)}.values())[::-1]


def starting_with(name, cases):
    """The first case of that name, whatever its other options are."""
    return next(case for case in cases if case.id.startswith(name))


# The command line.

SMALL_RUN = ["run", "--task", "quartic", "--num-workers", "7", "--num-byzantine", "1"]
SMALL_RUN += ["--num-rounds", "6", "--eval-every", "3"]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def plain(text):
    """Without colours, boxes and folding."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


# Sweeps of a function that compiles in no time.

TABLE = jnp.arange(5.0)
SIMPLE = {"seed": range(6), "x": [0.5, 1.0, 2.0]}


def simple(seed, x, power=1):
    """It reads an array that it closes over."""
    noise = jax.random.normal(jax.random.key(seed), (3,))
    return {"value": x**power * noise, "place": TABLE[seed.astype(jnp.int32) % 5]}


def sweep(fn=simple, grid=SIMPLE, **options):
    return byzjax.sweep(fn, grid=grid, **{"progress": False, "batch_size": 4, **options})


def same_bits(one, other):
    assert one.variables.keys() == other.variables.keys()
    for name in one.variables:
        assert one[name].dims == other[name].dims
        assert np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes(), name


def chunks_in(path):
    return sorted(Path(path).glob("chunks/??/[!.]*.nc"))


def counting(monkeypatch):
    """A list that every chunk that is computed is added to."""
    counted = []
    inner = executor._one
    monkeypatch.setattr(executor, "_one", lambda *args: counted.append(args) or inner(*args))
    return counted


# Sweeps of runs.

QUARTIC = tasks.quartic(7, 1, noise_scale=0.01)
QUARTIC_GRID = {"seed": [3, 5], "learning_rate": [0.01, 0.1, 1e30], "beta": [0.0, 0.9]}


def quartic(seed, learning_rate, beta, rule="geometric_median"):
    """Twelve rounds with one of seven lying."""
    method = methods.byz_nsgdm(learning_rate, beta=beta, aggregator=byzjax.chain(agg.nnm(1), agg.REGISTRY[rule]()))
    return byzjax.simulate(
        QUARTIC,
        method,
        attacks.bit_flip(),
        byzantine=jnp.arange(7) >= 6,
        key=jax.random.key(seed),
        num_rounds=12,
        eval_every=4,
    )


# A grid of a few runs, as a file.
TOML = """
[run]
aggregator = ["median", "mean"]
attack = "alie"
num_workers = 5
num_byzantine = 1
learning_rate = [0.1, 0.3]
seed = { count = 2 }
num_rounds = 6
eval_every = 3
"""


def written(folder, text=TOML):
    path = folder / "tiny.toml"
    path.write_text(f'{text}\n[sweep]\nstore = "{folder / "store"}"\n')
    return path


# A chunk of a store, with all that a float can be.
ARRAYS = {
    "loss": np.array([[0.5, -np.inf], [np.nan, 1e-42]], np.float32),
    "finite": np.array([True, False]),
    "count": np.array([2**31 - 1, -1], np.int32),
    "wide": np.array([1e300, 5e-324]),
}
