"""Values that may be traced: looked at now, or noted so that a sweep looks at all of them before it runs."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np


class Later(NamedTuple):
    """A check of a value that is traced now: ``check(value)`` raises a ValueError when it is known and wrong."""

    value: jax.core.Tracer
    check: Callable[[Any], Any]


_noted: contextvars.ContextVar[list[Later] | None] = contextvars.ContextVar("checks of traced values", default=None)


def concrete(value: Any, check: Callable[[Any], Any] | None = None) -> np.ndarray | None:
    """``value`` as NumPy if Python may look at it, None if it is traced.

    Checks go through NumPy, since inside a traced function even ``jnp.isfinite(1.0)`` is a tracer.

    Args:
      value: to look at.
      check: of a traced value, for when it is known: a sweep calls it with the value of every run before any is made.

    >>> concrete(2.5).item(), jax.jit(lambda x: jax.numpy.isnan(x) if concrete(x) is None else x)(2.5).item()
    (2.5, False)
    """
    if not isinstance(value, jax.core.Tracer):
        return np.asarray(value)
    noted = _noted.get()
    if noted is not None and check is not None:
        noted.append(Later(value, check))
    return None


@contextlib.contextmanager
def noting() -> Iterator[list[Later]]:
    """Collect the checks of traced values that are made inside."""
    noted: list[Later] = []
    before = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(before)
