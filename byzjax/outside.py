"""What functions read from outside their arguments: numbers of their modules, closures and objects."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.core
import numpy as np

from byzjax.keys import key_data

_LIBRARIES = ("builtins", "byzjax", "chex", "flax", "functools", "jax", "jaxlib", "numpy", "optax")  # do not change
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_LARGEST = 1 << 20  # bytes of an array whose numbers are looked at


class SameObject:
    """A value that has no hash, as one that has: equal to itself alone.

    >>> SameObject([1]) == SameObject([1])
    False
    """

    def __init__(self, value: Any):
        self._value = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._value(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameObject) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def hashable(function: Any) -> Any:
    """A function as it is, or one of the same that has a hash; also in the fields of a tuple with names.

    >>> hash(hashable({"a": 1}.values)) == hash(hashable(print))
    False
    """
    try:
        hash(function)
        return function
    except TypeError:
        fields = getattr(function, "_fields", None)
        if fields is None:
            return SameObject(function)
        return function._replace(**{name: hashable(getattr(function, name)) for name in fields})


def read_outside(*functions: Any) -> str:
    """A digest of the numbers, texts and arrays that functions can be seen to read beside their arguments.

    Seen are globals and closures by name, defaults, `functools.partial`, attributes of the user's own objects and
    modules, and what functions that are found in this way read in turn.

    >>> scale = {"by": 1.0}
    >>> before = read_outside(lambda x, scale=scale: x * scale["by"])
    >>> scale["by"] = 2.0
    >>> before == read_outside(lambda x, scale=scale: x * scale["by"])
    False
    """
    seen: dict[int, Any] = {}  # what is in it lives on, so that no id is given twice
    said = hashlib.sha256()
    todo = list(functions)
    while todo:
        value = todo.pop()
        if isinstance(value, _PLAIN):
            said.update(f"{type(value).__name__} {value!r};".encode())
        elif isinstance(value, np.ndarray | jax.Array):
            said.update(_bits(value))
        elif id(value) not in seen:
            seen[id(value)] = value
            said.update(f"{type(value).__name__};".encode())
            todo.extend(_parts(value))
    return said.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, set | frozenset):
        yield from sorted(value, key=repr)
    elif isinstance(value, Mapping):
        yield from (part for pair in value.items() for part in pair)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        yield from (value.__defaults__, value.__kwdefaults__)
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        if not _of_a_library(value.__module__):
            yield from _globals(value)
    elif isinstance(value, SameObject):
        yield value._value
    elif not isinstance(value, type | types.ModuleType) and not _of_a_library(type(value).__module__):
        if callable(value):
            yield type(value).__call__
        yield getattr(value, "__dict__", None)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _globals(function: types.FunctionType) -> Iterator[Any]:
    names = set(_names(function.__code__))
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if not isinstance(value, types.ModuleType):
            yield value
        elif not _of_a_library(value.__name__):
            yield from (getattr(value, part) for part in sorted(names) if hasattr(value, part))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _of_a_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES


def _bits(array: Any) -> bytes:
    if (
        isinstance(array, jax.core.Tracer)
        or array.nbytes > _LARGEST
        or not getattr(array, "is_fully_addressable", True)
    ):
        return f"{array.dtype}{array.shape};".encode()
    return np.asarray(key_data(array)).tobytes()
