"""What a program is: its equations, the arrays that it closes over, and JAX's settings that change its numbers."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from byzjax.rng import key_data
from byzjax.storage.digests import digest

# What decides numbers, and may be changed between two traces of the same text.
_SETTINGS = (
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_random_seed_offset",
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_disable_most_optimizations",
)
_HARMLESS = ("--xla_dump", "--xla_force_host_platform_device_count")


def settings() -> dict[str, Any]:
    """JAX's settings that change numbers, by their names.

    >>> settings()["jax_default_prng_impl"]
    'threefry2x32'
    """
    known = [name for name in _SETTINGS if name in jax.config.values]
    return {name: getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name) for name in known}


def flags() -> list[str]:
    """XLA's flags from the environment, but for those that change no number."""
    given = os.environ.get("XLA_FLAGS", "").split()
    return sorted(flag for flag in given if not flag.startswith(_HARMLESS))


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_programs(equation):
            yield from equations(getattr(inner, "jaxpr", inner))


def inner_programs(equation: Any) -> list[Any]:
    """The programs that an equation calls: bodies, branches, …."""
    leaves = jax.tree.leaves(equation.params, is_leaf=_is_program)
    return [leaf for leaf in leaves if _is_program(leaf)]


def calls_back(jaxpr: Jaxpr) -> bool:
    """Whether Python code that its text does not show gives it numbers. Printing, e.g., gives none.

    >>> show = lambda x: jax.debug.print("{}", x) or x
    >>> ask = lambda x: jax.pure_callback(lambda value: value, x, x)
    >>> [calls_back(jax.make_jaxpr(f)(1.0).jaxpr) for f in (show, ask)]
    [False, True]
    """
    return any("callback" in eqn.primitive.name and eqn.outvars for eqn in equations(jaxpr))


class Kept(NamedTuple):
    """An array that a program closes over, as it was when the program was traced."""

    given: Any  # held, so that nothing else gets its id
    copy: jax.Array
    digest: str


def keep(array: Any, seen: dict[int, Kept]) -> Kept:
    """An array with the hash of its bits, and copied if anybody else may write to it.

    Args:
      array: of JAX or NumPy.
      seen: what was kept before, by the id of the array; it is added to. Equal arrays are held once.
    """
    before = seen.get(id(array))
    owned = isinstance(array, jax.Array) and all(device.platform != "cpu" for device in array.devices())
    if before is not None and before.given is array and (owned or _same_bits(before.copy, array)):
        return before
    found = digest(_bits(array))
    copy = next((kept.copy for kept in seen.values() if kept.digest == found), None)
    if copy is None:
        copy = array if owned else _copied(array)
    kept = Kept(array, copy, found)
    seen[id(array)] = kept
    return kept


def _copied(array: Any) -> jax.Array:
    if isinstance(array, jax.Array):  # which on a CPU may be a view of an array of NumPy
        return jax.device_put(array, array.sharding if array.committed else None, may_alias=False)
    return jnp.array(np.array(array))


def _same_bits(one: Any, other: Any) -> bool:
    a, b = (np.ascontiguousarray(key_data(array)).reshape(-1) for array in (one, other))
    return a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))


def _bits(array: Any) -> bytes:
    values = np.asarray(key_data(array))
    return f"{values.dtype} {values.shape} ".encode() + values.tobytes()


def with_kept(program: Any, seen: dict[int, Kept]) -> tuple[Any, list[str]]:
    """A program whose inner programs hold the arrays that they close over as they are now; and the hashes of those.

    Args:
      program: a Jaxpr, or a ClosedJaxpr, whose own constants are left alone.
      seen: see `keep`.
    """
    found: list[str] = []
    done: dict[int, Any] = {}  # an inner program that is called twice stays one

    def kept(array: Any) -> Any:
        one = keep(array, seen)
        found.append(one.digest)
        return one.copy

    def inner(value: Any) -> Any:
        if not _is_program(value):
            return value
        if id(value) not in done:
            done[id(value)] = opened(value) if isinstance(value, Jaxpr) else closed(value)
        return done[id(value)]

    def closed(value: Any) -> Any:
        constants = [kept(array) if hasattr(array, "dtype") else array for array in value.consts]
        body = inner(value.jaxpr)
        return value if body is value.jaxpr and not constants else value.replace(jaxpr=body, consts=constants)

    def opened(value: Any) -> Any:
        eqns = [equation(eqn) for eqn in value.eqns]
        return value if all(map(operator.is_, eqns, value.eqns)) else value.replace(eqns=eqns)

    def equation(eqn: Any) -> Any:
        invars = [Literal(kept(var.val), var.aval) if is_array(var) else var for var in eqn.invars]
        called = inner_programs(eqn)
        if all(map(operator.is_, invars, eqn.invars)) and all(inner(one) is one for one in called):
            return eqn
        return eqn.replace(invars=invars, params=jax.tree.map(inner, eqn.params, is_leaf=_is_program))

    return inner(program) if isinstance(program, Jaxpr) else program.replace(jaxpr=inner(program.jaxpr)), found


def is_array(var: Any) -> bool:
    """Whether a variable is none, but an array that this JAX keeps in the equation."""
    return isinstance(var, Literal) and np.ndim(var.val) > 0


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)
