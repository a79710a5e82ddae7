"""What a sweep refuses, and how an error says for which cell."""

import dataclasses
import importlib
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods
from byzjax.sweeps import batch_size
from tests.helpers import QUARTIC, SIMPLE, counting, sweep


def mesh_of(**sizes):
    count = int(np.prod(list(sizes.values())))
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=jax.devices()[:count])


# What does not fit.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": {"seed": [], "x": [1.0]}}, "grid: seed has length 0"),
        ({"grid": {"seed": [0], "x": np.zeros((0,))}}, "grid: x has length 0"),
        ({"grid": {"seed": [0], "x": "0.1"}}, "x = '0.1' must be a list of numbers"),
        ({"grid": {"seed": [0], "x": 0.1}}, "x = 0.1 must be a list of numbers"),
        ({"grid": {"seed": [0], "x": ["a"]}}, "what is not a number, or decides shapes, is a cell"),
        ({"grid": {"seed": [0], "x": [[1.0], [2.0, 3.0]]}}, "must be a list of numbers"),
        ({"grid": {"seed": [0], "x": [1.0, 1.0]}}, "holds a value twice"),
        ({"grid": {"seed": [0], "x": [1.0, 1.0 + 1e-12]}}, "holds a value twice .as float32"),
        ({"grid": {"seed": [-1], "x": [1.0]}}, "seed = .* must be integers between 0"),
        ({"grid": {"seed": [0.5], "x": [1.0]}}, "seed = .* must be integers between 0"),
        ({"grid": {"seed": [0], "x": [2**40]}}, "does not fit into int32"),
        ({"grid": {"seed": [0]}}, "does not take the axes .*missing a required argument: 'x'"),
        ({"grid": {**SIMPLE, "y": [1]}}, "unexpected keyword argument 'y'"),
        ({"cells": {"power": []}}, "cells: power has length 0"),
        ({"cells": {"power": [1, 1]}}, "holds a value twice"),
        ({"cells": {"power": "12"}}, "must be a list of values"),
        ({"cells": {"power": [jnp.sin]}}, "is not its own label"),
        ({"cells": {"x": [1]}}, "are axes of the grid and of the cells"),
        ({"grid": {**SIMPLE, "eval": [1]}}, "'eval' is a name of the data set's own"),
        ({"batch_size": 0}, "batch_size = 0 must be an integer ≥ 1"),
        ({"batch_size": 2.5}, "batch_size = 2.5"),
        ({"fn": lambda seed, x: x}, "must return a Result or a flat dict"),
        ({"fn": lambda seed, x: {"a": {"b": x}}}, "a flat dict of arrays is wanted"),
        ({"fn": lambda seed, x: {"a": jax.random.key(seed)}}, "holds numbers and flags"),
        ({"fn": lambda seed, x: {"a": jnp.zeros((2, 0))}}, "holds nothing"),
        ({"fn": lambda seed, x: {"x": x}}, "fn gives .'x'., which are axes"),
        ({"fn": lambda seed, x: {"diverged": x}}, "'diverged' is the sweep's own"),
        ({"fn": lambda seed, x, n: {"a": jnp.zeros(n)}, "cells": {"n": [1, 2]}}, "cells of one data set must agree"),
        ({"fn": lambda seed, x, n: {"a": x, **({"i": n} if n else {})}, "cells": {"n": [0, 1]}}, "no NaN to say so"),
        ({"config": {"rule": object()}}, "only what JSON can say"),
        ({"config": {"seed": {"count": 3}}}, "attribute seed = .* which netCDF cannot hold"),
        ({"cells": {"power": [1, 1.0]}}, "holds a value twice"),
        ({"cells": {"power": [1, np.int64(1)]}}, "holds a value twice"),
        ({"fn": lambda seed, x: {"train/loss": x}}, "'train/loss' cannot be the name .*'train_loss'"),
        ({"fn": lambda seed, x: {"round": x}}, "'round' is a dimension of a data set"),
        ({"fn": lambda **axes: {"value": 1.0}, "grid": {"a/b": [1.0]}}, "'a/b' cannot be the name of a variable"),
    ],
)
def test_bad_input_is_named(monkeypatch, options, message):
    counted = counting(monkeypatch)
    with pytest.raises(ValueError, match=message):
        sweep(**options)
    assert not counted


def small_run(learning_rate=0.1, beta=0.9, f=1, shift=1, byzantine=0):
    method = methods.byz_nsgdm(learning_rate, beta=beta, aggregator=byzjax.chain(agg.nnm(f), agg.multi_krum(f)))
    mask = jnp.arange(7) >= 7 - byzantine
    attack = attacks.label_flip(shift=shift) if shift != 1 else attacks.none()
    task = dataclasses.replace(QUARTIC, byzantine=None)  # for whomever lies
    return byzjax.simulate(task, method, attack, byzantine=mask, key=jax.random.key(0), num_rounds=2)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            {"learning_rate": [0.1, -0.1]},
            r"learning_rate = -0\.1 must be a finite number > 0\. .*at learning_rate",
        ),
        ({"learning_rate": [0.1], "beta": [0.5, 1.5]}, r"beta = 1\.5 must be .*at learning_rate = 0\.1, beta = 1\.5"),
        ({"f": [1, 4]}, r"f = 4 of n = 7 workers is not a minority \(2f ≥ n\); use f ≤ 3"),
        ({"f": [0, -1]}, r"f = -1 must be an integer ≥ 0"),
        ({"byzantine": [0, 7]}, "all workers are Byzantine; at least one must be honest. .*at byzantine = 7"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit])
def test_what_a_factory_refuses_is_refused_in_a_grid(monkeypatch, grid, message, wrap):
    counted = counting(monkeypatch)
    with pytest.raises(ValueError, match=message) as told:
        sweep(wrap(small_run), grid)
    assert "\n" not in str(told.value)
    assert not counted


def test_what_is_computed_from_an_axis_is_checked_too():
    fn = lambda exponent: small_run(jnp.exp(exponent) - 1)  # noqa: E731
    with pytest.raises(ValueError, match=r"learning_rate = -0\.6.* must be .*at exponent = -1"):
        sweep(fn, {"exponent": [1.0, -1.0]})
    assert not sweep(fn, {"exponent": [1.0]})["diverged"].any()


def test_what_no_axis_changes_is_checked_once():
    def fn(x, liars):
        byzjax.simulation.round.check_byzantine(jnp.asarray(np.arange(7) >= 7 - liars), QUARTIC)
        return {"value": x}

    assert sweep(fn, {"x": [1.0, 2.0, 3.0]}, cells={"liars": [1]})["value"].size == 3
    with pytest.raises(ValueError, match=r"all workers are Byzantine; at least one must be honest\.(\n|$)"):
        sweep(fn, {"x": [1.0, 2.0, 3.0]}, cells={"liars": [7]})


def test_bad_meshes_are_named():
    with pytest.raises(ValueError, match="no 'runs' to lay runs on"):
        sweep(mesh=mesh_of(workers=2))
    with pytest.raises(ValueError, match="batch_size = 3 must be a multiple of the mesh's 'runs' axis, 2"):
        sweep(mesh=mesh_of(runs=2), batch_size=3)


def test_a_data_set_that_cannot_be_held_is_refused_before_it_is_computed(monkeypatch):
    counted = counting(monkeypatch)
    monkeypatch.setattr(importlib.import_module("byzjax.sweeps.planning"), "host_memory", lambda: 18 * 4 * 3)
    with pytest.raises(ValueError, match=r"18 runs give .* most of it 'value'.* record or evaluate less"):
        sweep()
    assert not counted


def test_an_error_inside_the_function_says_for_which_cell():
    def fn(x, power):
        return {"value": x if power == 1 else 1 / (x if x > 0 else 1)}

    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        sweep(fn, {"x": [1.0]}, cells={"power": [1, 2]})
    assert any("traced for power=2" in note for note in caught.value.__notes__)


def test_a_chunk_that_does_not_fit_says_what_to_do(monkeypatch):
    def launch(self, *args):
        def fail(lanes):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

        return fail

    monkeypatch.setattr(batch_size.Compiler, "launch", launch)
    with pytest.raises(ValueError, match="chunk of 4 runs does not fit into memory; pass batch_size=2"):
        sweep()
