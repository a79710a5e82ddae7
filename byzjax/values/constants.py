"""Numbers that are constants of what is traced, so that programs which differ in them alone are one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

_AS_CONSTANTS: ContextVar[bool] = ContextVar("numbers_as_constants", default=False)


@contextlib.contextmanager
def numbers_as_constants() -> Iterator[None]:
    """Inside, floats that a factory `takes_as_argument` are constants of what is traced, and not in its text."""
    token = _AS_CONSTANTS.set(True)
    try:
        yield
    finally:
        _AS_CONSTANTS.reset(token)


def as_constant(number: Any) -> Any:
    """A float as a constant of what is traced: JAX writes those of no axis into the text."""
    if type(number) is not float:
        return number
    with jax.ensure_compile_time_eval():
        one = jnp.full((1,), number)  # as weakly typed as the number is
    return one[0]


def within() -> bool:
    """Whether this is inside of `numbers_as_constants`."""
    return _AS_CONSTANTS.get()
