"""What functions read from outside their arguments: numbers of their modules, closures and objects."""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.core
import numpy as np

from byzjax.rng import key_data

_LIBRARIES = ("builtins", "byzjax", "chex", "flax", "functools", "jax", "jaxlib", "numpy", "optax")  # do not change
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_ATOMS = {bool, int, float, complex, str, bytes, type(None)}  # a container of such is looked at in one go
_CONTAINERS = (tuple, list, set, frozenset, Mapping)
_LARGEST = 1 << 20  # bytes of an array whose numbers are looked at
_LONGEST = 10_000  # elements of a container that is looked into


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
    """A digest of the code, numbers, texts and arrays that functions can be seen to read beside their arguments.

    Seen are globals and closures by name, defaults, `functools.partial`, attributes of the user's own objects, classes
    and modules, and what functions that are found in this way read in turn. Of containers with more than 10,000
    elements, and of arrays beyond 1 MiB, only the type and the size are.

    >>> scale = {"by": 1.0}
    >>> before = read_outside(lambda x, scale=scale: x * scale["by"])
    >>> scale["by"] = 2.0
    >>> before == read_outside(lambda x, scale=scale: x * scale["by"])
    False
    """
    seen: dict[int, tuple[int, Any]] = {}  # what is in it lives on, so that no id is given twice
    said = hashlib.sha256()
    todo = list(functions)
    while todo:
        value = todo.pop()
        if isinstance(value, _PLAIN):
            said.update(f"{type(value).__name__} {value!r};".encode())
        elif isinstance(value, np.ndarray | jax.Array) and value.dtype != object:
            said.update(_bits(value))
        elif isinstance(value, tuple | list) and len(value) <= _LONGEST and _ATOMS.issuperset(map(type, value)):
            said.update(f"{type(value).__name__} {tuple(value)!r};".encode())
        elif id(value) in seen:
            said.update(f"again {seen[id(value)][0]};".encode())
        else:
            seen[id(value)] = len(seen), value
            parts = [] if isinstance(value, _CONTAINERS) and len(value) > _LONGEST else list(_parts(value))
            size = len(value) if isinstance(value, _CONTAINERS) else len(parts)
            said.update(f"{type(value).__name__} of {size};".encode())
            todo.extend(parts)
    return said.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, set | frozenset):
        yield from sorted(value, key=repr)
    elif isinstance(value, Mapping):
        yield from (part for pair in value.items() for part in pair)
    elif isinstance(value, np.ndarray):
        yield from (value.shape, value.ravel().tolist())
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        yield from (value.__defaults__, value.__kwdefaults__)
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        if not _of_a_library(value.__globals__.get("__name__")):
            yield value.__code__
            yield from _globals(value)
    elif isinstance(value, types.CodeType):
        yield from (value.co_code, value.co_names, value.co_varnames, value.co_consts)
    elif isinstance(value, property):
        yield value.fget
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, functools.cached_property):
        yield value.func
    elif isinstance(value, SameObject):
        yield value._value
    elif isinstance(value, type):
        yield from _attributes(value)
    elif _of_a_library(type(value).__module__):
        yield getattr(value, "__wrapped__", None)  # as of jax.jit
    elif not isinstance(value, types.ModuleType):
        if callable(value):
            yield type(value).__call__
        yield from (type(value), getattr(value, "__dict__", None))
        yield from _slots(value)


def _attributes(cls: type) -> Iterator[Any]:
    """Of the user's own class, and of such bases: what is not Python's own bookkeeping."""
    for base in cls.__mro__:
        if not _is_installed(base.__module__):
            for name, value in vars(base).items():
                if isinstance(value, types.FunctionType) or not name.startswith(("__", "_abc_")):
                    yield from (name, value)


def _slots(value: Any) -> Iterator[Any]:
    for base in type(value).__mro__:
        if not _is_installed(base.__module__):
            for name, member in vars(base).items():
                if isinstance(member, types.MemberDescriptorType) and hasattr(value, name):
                    yield from (name, getattr(value, name))


@functools.cache
def _is_installed(module: str | None) -> bool:
    """Whether a module is Python's, or lies where packages are installed; the classes of those are not looked into."""
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    top = (module or "").partition(".")[0]
    return _of_a_library(module) or top in sys.stdlib_module_names or "-packages" in file


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
    kind = f"{array.dtype}{array.shape};".encode()
    if (
        isinstance(array, jax.core.Tracer)
        or array.nbytes > _LARGEST
        or not getattr(array, "is_fully_addressable", True)
    ):
        return kind
    return kind + np.asarray(key_data(array)).tobytes()
