"""What functions read from outside their arguments: numbers of their modules, closures and objects."""

from __future__ import annotations

import dataclasses
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
    and modules, which functions and objects of libraries are meant, and what functions that are found in this way read
    in turn. Of containers with more than 10,000
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
        yield from vars(value).items() if hasattr(value, "__dict__") else ()  # as of a link, with its kernel
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
        yield from (value.__module__, value.__qualname__, value.__defaults__, value.__kwdefaults__)
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
        yield from (value.__module__, value.__qualname__)
        yield from _attributes(value)
    elif isinstance(value, types.ModuleType):
        yield value.__name__
    elif _of_a_library(type(value).__module__) and hasattr(value, "__wrapped__"):
        yield value.__wrapped__  # as of jax.jit
    elif dataclasses.is_dataclass(value) and not isinstance(value, type) and _of_a_library(type(value).__module__):
        yield from (type(value), *(getattr(value, field.name) for field in dataclasses.fields(value)))  # a task, say
    elif _is_installed(type(value).__module__):
        yield from (type(value), repr(value))  # jnp.float32, a ufunc, a range, a deque, …
    else:
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
        yield from _read_of(function.__globals__[name], names, set())


def _read_of(value: Any, names: set[str], seen: set[int]) -> Iterator[Any]:
    """What a name in a function's code may mean: of a module, what else is named there, be it in a module of it."""
    if not isinstance(value, types.ModuleType):
        yield value
        return
    yield value.__name__
    if id(value) in seen:
        return
    seen.add(id(value))
    for part in sorted(names):
        if hasattr(value, part):
            found = getattr(value, part)
            if _of_a_library(value.__name__) and not isinstance(found, types.ModuleType):
                yield (value.__name__, part)  # of a library what a name means does not change
            else:
                yield from _read_of(found, names, seen)


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
