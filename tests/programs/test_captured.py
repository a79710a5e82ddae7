"""What functions are seen to read beside their arguments, and when it has changed."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators as agg
from byzjax import attacks, methods, metrics, tasks
from byzjax.programs import compiled
from byzjax.programs.captured import read_outside
from byzjax.programs.compiled import Compiled


def defined(source, **names):
    """``reader`` of a module of its own, in which ``source`` was run."""
    names["__name__"] = "somebodys"
    exec(f"{source}\ndef reader(x):\n    return helper(x) if callable(helper) else helper['f'](x)", names)
    return names["reader"]


class Slotted:
    __slots__ = ("__own", "scale")

    def __init__(self, scale, own=0):
        self.scale, self.__own = scale, own

    def __call__(self, x):
        return self.scale * x + self.__own


def with_class(scale, by="return x"):
    return defined(f"class Helper:\n    scale = {scale}\n    def of(self, x): {by}\nhelper = Helper()")


def closed_over(value):
    return lambda x: value


PAIRS = {
    "constant": (defined("def helper(x): return 2 * x"), defined("def helper(x): return 3 * x")),
    "operation": (defined("def helper(x): return 2 * x"), defined("def helper(x): return 2 + x")),
    "nested": (defined("def helper(x): return (lambda: x)()"), defined("def helper(x): return (lambda: -x)()")),
    "in a dict": (defined("helper = {'f': lambda x: x}"), defined("helper = {'f': lambda x: -x}")),
    "compiled": (defined("helper = jit(lambda x: x)", jit=jax.jit), defined("helper = jit(lambda x: -x)", jit=jax.jit)),
    "dtype": (closed_over(np.float32([1.0])), closed_over(np.float32([1.0]).view(np.int32))),
    "shape": (closed_over(np.ones((2, 3))), closed_over(np.ones((3, 2)))),
    "array of objects": (closed_over(np.array([1, "a"], object)), closed_over(np.array([2, "a"], object))),
    "slot": (Slotted(1.0), Slotted(2.0)),
    "class attribute": (with_class(1), with_class(2)),
    "method": (with_class(1), with_class(1, "return -x")),
    "nesting": (closed_over([[1, [2]], 3]), closed_over([[1, [2], 3]])),
    "which of two": (closed_over([a := [1], b := [2], a]), closed_over([a, b, b])),
    "length of a long list": (closed_over([0] * 20_000), closed_over([0] * 20_001)),
}


@pytest.mark.parametrize(("before", "after"), PAIRS.values(), ids=PAIRS.keys())
def test_what_has_changed_is_seen(before, after):
    assert read_outside(before) != read_outside(after)
    assert read_outside(before) == read_outside(before)


def test_what_is_equal_is_not_taken_for_changed():
    assert read_outside(with_class(1)) == read_outside(with_class(1))
    assert read_outside(Slotted(1.0)) == read_outside(Slotted(1.0))
    assert read_outside(closed_over([1, {"a": (2.0,)}])) == read_outside(closed_over([1, {"a": (2.0,)}]))


def test_a_helper_that_is_redefined_is_run():
    names = {}
    exec("def scaled(x): return x\ndef record(info): return {'scaled': scaled(info.losses.mean())}", names)
    go = functools.partial(
        byzjax.run, tasks.quartic(num_workers=3), methods.momentum_sgd(0.1, aggregator=agg.mean()), attacks.none(),
        byzantine=jnp.zeros(3, bool), key=jax.random.key(0), num_rounds=1, progress=False, record=names["record"],
    )  # fmt: skip
    before = go().history["scaled"]
    exec("def scaled(x): return 2 * x", names)
    np.testing.assert_array_equal(go().history["scaled"], 2 * before)


def test_looking_takes_milliseconds():
    task, rule = tasks.mnist(num_workers=20, num_byzantine=3), byzjax.chain(agg.nnm(3), agg.median())
    parts = task.init, task.sample, task.loss, task.evaluate, methods.byz_nsgdm(0.1, aggregator=rule), attacks.ipm()
    long = closed_over([object()] * 10**6)
    read_outside(*parts, long, metrics.default_record)
    start = time.perf_counter()
    read_outside(*parts, long, metrics.default_record)
    assert time.perf_counter() - start < 0.1


def test_where_memory_maps_run_out_the_older_half_goes(monkeypatch):
    scale = Compiled(lambda x, *, times: times * x, most=8)
    for times in range(6):
        scale(jnp.ones(()), times=times)
    assert len(scale) == 6
    monkeypatch.setattr(compiled, "_is_crowded", lambda: True)
    assert scale(jnp.ones(()), times=5).item() == 5.0
    assert len(scale) == 6
    assert scale(jnp.ones(()), times=7).item() == 7.0
    assert len(scale) == 4
