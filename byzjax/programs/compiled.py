"""Compiled programs, a bounded number of them: each holds memory maps, of which a process may have only so many."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jaxlib.version

from byzjax.programs.captured import hashable

_MANY = 40_000  # memory maps


class Compiled:
    """`jax.jit` that keeps the programs used last, and frees the others.

    Linux allows a process 65,530 memory maps, and a run's programs take 70 to some 450. Inside of `jax.jit` they are
    never freed while the function lives; so there is one for every kind of call, and it goes with its programs. Where
    the process holds more than 40,000 maps, the older half goes, however few they are.

    On a CPU it may be told to compile quickly: XLA's fusion emitters of jaxlib before 0.12 take a third of the time to
    compile a run, whose rounds are as fast without them (benchmarks/startup.py).

    Args:
      fn: to compile; keyword-only arguments are static, the others are trees of arrays.
      most: how many kinds of calls are kept: of static arguments, structures, shapes and types.
      donate: names of arguments whose memory may be used again.
      quick: compile quickly; such a function cannot be called inside of another one's program.

    >>> scale = Compiled(lambda x, *, times: times * x, most=2)
    >>> [scale(jax.numpy.ones(()), times=k).item() for k in (1, 2, 3)], len(scale)
    ([1.0, 2.0, 3.0], 2)
    """

    def __init__(self, fn: Callable[..., Any], *, most: int, donate: Sequence[str] = (), quick: bool = False):
        functools.update_wrapper(self, fn)
        self.most, self._fn, self._donate, self._quick = most, fn, tuple(donate), quick
        self._jitted: collections.OrderedDict[Any, jax.stages.Wrapped] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._jitted)

    def __call__(self, *arrays: Any, outside: str = "", **static: Any) -> Any:
        """Call it; ``outside`` tells programs apart that read other things beside their arguments."""
        return self._of(arrays, static, outside)(*arrays)

    def lower(self, *arrays: Any, outside: str = "", **static: Any) -> jax.stages.Lowered:
        """As that of `jax.jit`."""
        return self._of(arrays, static, outside).lower(*arrays)

    def _of(self, arrays: Any, static: dict[str, Any], outside: str) -> jax.stages.Wrapped:
        leaves, structure = jax.tree.flatten(arrays)
        kinds = [(getattr(leaf, "shape", ()), getattr(leaf, "dtype", type(leaf))) for leaf in leaves]
        key = (outside, structure, *kinds, *((name, hashable(static[name])) for name in sorted(static)))
        dropped = []
        with self._lock:
            jitted = self._jitted.pop(key, None)
            known = jitted is not None
            if jitted is None:
                fn = functools.partial(self._fn, **static)  # JAX keeps what belongs to one function together
                fn.__name__ = getattr(self._fn, "__name__", "fn")  # type: ignore[attr-defined]
                options = quick_options() if self._quick else None
                jitted = jax.jit(fn, donate_argnames=self._donate, compiler_options=options)
            self._jitted[key] = jitted
            most = self.most if known or not _is_crowded() else min(self.most, (len(self._jitted) + 1) // 2)
            while len(self._jitted) > most:
                dropped.append(self._jitted.popitem(last=False)[1])
        for one in dropped:
            one.clear_cache()  # type: ignore[attr-defined]
        return jitted


QUICK: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}


def quick_options() -> dict[str, Any] | None:
    """Options of XLA with which large programs compile in less time and run as fast; None for its own."""
    if jax.default_backend() != "cpu" or jaxlib.version.__version_info__ >= (0, 12):
        return None
    return dict(QUICK)


def _is_crowded() -> bool:
    """Whether the process holds so many memory maps that compiling more could fail; False where nobody counts them."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps) > _MANY
    except OSError:
        return False
