"""Rules, attacks, methods and tasks as values: what a factory makes of equal arguments is equal.

`value` records on the product which factory made it, and of what. Equality, hash, ``repr`` and pickling follow: a
rule made twice is one static argument of `jax.jit`, hence one program; and it goes to another process as a call.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from byzjax.programs.captured import read_outside

P = ParamSpec("P")
T = TypeVar("T")


class Call(NamedTuple):
    """What made a value.

    Attributes:
      factory: the decorated function.
      arguments: all by name, defaults included; those of ``*args`` are one tuple.
      key: equal for calls that make equal values; None where an argument is an array, traced, or has no hash.
    """

    factory: Callable[..., Any]
    arguments: dict[str, Any]
    key: Any

    def __call__(self) -> Any:
        """Make it again."""
        args, kwargs = [], {}
        for name, parameter in _signature(self.factory).parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(self.arguments[name])
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs.update(self.arguments[name])
            else:
                kwargs[name] = self.arguments[name]
        return self.factory(*args, **kwargs)

    def __repr__(self) -> str:
        shown = []
        for name, parameter in _signature(self.factory).parameters.items():
            argument = self.arguments[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                shown += map(_text, argument)
            elif parameter.kind is parameter.VAR_KEYWORD:
                shown += [f"{key}={_text(one)}" for key, one in argument.items()]
            elif not _same(argument, parameter.default):
                shown.append(f"{name}={_text(argument)}")
        return f"{self.factory.__name__}({', '.join(shown)})"


class Value:
    """What can be the product of a factory; without a `Call` it is what its other bases make of it."""

    _call: Call | None = None

    def __eq__(self, other: object) -> bool:
        mine, theirs = _key(self), _key(other)
        if mine is None and theirs is None:
            return super().__eq__(other)
        return type(self) is type(other) and mine == theirs

    def __ne__(self, other: object) -> bool:  # a tuple has its own
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:
        key = _key(self)
        return super().__hash__() if key is None else hash(key)

    def __repr__(self) -> str:
        return super().__repr__() if self._call is None else repr(self._call)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._call is None:
            return super().__reduce_ex__(protocol)
        return _made_again, (self._call.factory, self._call.arguments)


def value(factory: Callable[P, T]) -> Callable[P, T]:
    """Let a factory make values: equal where its arguments are.

    Arguments are compared with their types, ``krum(1)`` and ``krum(1.0)`` are two rules; functions are equal to
    themselves alone. A product of arrays or of traced numbers is equal to itself alone.

    Args:
      factory: returns a rule, an attack, a method or a task.

    >>> from byzjax import aggregators as agg
    >>> agg.krum(1) == agg.krum(f=1), agg.krum(1) == agg.krum(2), agg.krum(1)
    (True, False, krum(f=1))
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def made(*args: P.args, **kwargs: P.kwargs) -> T:
        product = factory(*args, **kwargs)
        if _AS_ARRAYS.get() and hasattr(made, "program_arguments"):  # again: numbers alone are checked
            return factory(**_with_arrays(signature.bind(*args, **kwargs), made.program_arguments))  # type: ignore[arg-type]
        if any(product is argument for argument in args):  # a chain of one link is that link
            return product
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {name: _copied(argument) for name, argument in bound.arguments.items()}
        # What a user's factory reads may change between two calls.
        outside = "" if _is_own(factory) else read_outside(factory)
        try:
            key = (made, outside, *((name, _token(argument)) for name, argument in arguments.items()))
        except TypeError:
            key = None
        vars(product)["_call"] = Call(made, arguments, key)
        return product

    return made


def takes_as_argument(*names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Say which floats of a factory are arguments of a run's program, and no constants of it.

    Runs that differ in such numbers alone share a program. Fit are numbers that are used as they come: of one with
    which Python computes before (the 1 − β of a momentum) a program would give other bits than of a constant.

    Args:
      *names: of arguments that may be traced.
    """

    def mark(factory: Callable[P, T]) -> Callable[P, T]:
        vars(factory)["program_arguments"] = names
        return factory

    return mark


_AS_ARRAYS: ContextVar[bool] = ContextVar("numbers_as_arrays", default=False)


@contextlib.contextmanager
def numbers_as_arrays() -> Iterator[None]:
    """Inside, floats that a factory `takes_as_argument` are arrays: constants of what is traced, not in its text."""
    token = _AS_ARRAYS.set(True)
    try:
        yield
    finally:
        _AS_ARRAYS.reset(token)


def _with_arrays(bound: inspect.BoundArguments, names: tuple[str, ...]) -> dict[str, Any]:
    bound.apply_defaults()
    arguments = bound.arguments
    return {k: _constant(a) if k in names and type(a) is float else a for k, a in arguments.items()}


def _constant(number: float) -> jax.Array:
    """A number that is a constant of what is traced: JAX writes those of no axis into the text."""
    with jax.ensure_compile_time_eval():
        one = jnp.full((1,), number)  # as weakly typed as the number is
    return one[0]


def with_arrays(value: Any) -> Any:
    """A value made again, its numbers as in `numbers_as_arrays`; anything else as it is."""
    template, numbers = lifted(value)
    return template.filled(list(map(_constant, numbers))) if isinstance(template, Template) else value


class Template:
    """A value without its numbers: what of it a program is compiled for, where those are arguments.

    Numbers are the arguments of type float that a factory `takes_as_argument`: learning rates, scales of attacks.

    >>> from byzjax import attacks
    >>> template, numbers = lifted(attacks.ipm(scale=10.0))
    >>> numbers, template.filled([2.0]), template == lifted(attacks.ipm(scale=3.0))[0]
    ([10.0], ipm(scale=2.0), True)
    """

    def __init__(self, call: Call, key: Any):
        self._call, self._key = call, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def filled(self, numbers: Any) -> Any:
        """The value with these numbers, which may be traced."""
        return _filled(self._call, iter(numbers))

    def constants(self) -> list[Any]:
        """All that is not a number: what the program reads beside it."""
        return [argument for _, _, argument in _walk(self._call) if argument is not _NUMBER]


def lifted(value: Any) -> tuple[Any, list[float]]:
    """A `Template` and the numbers that belong in it; the value itself, and none, where it has no `Call` to compare."""
    call = value._call if isinstance(value, Value) else None
    if call is None or call.key is None or not _is_own(call.factory):
        return value, []
    numbers: list[float] = []
    call = _lift(call, numbers)
    key = tuple((factory, name, _token(argument)) for factory, name, argument in _walk(call))
    return Template(call, key), numbers


class _Number:
    def __repr__(self) -> str:
        return "…"


_NUMBER = _Number()


def _lift(call: Call, numbers: list[float]) -> Call:
    def lift(name: str, argument: Any) -> Any:
        if type(argument) is float and name in getattr(call.factory, "program_arguments", ()):
            numbers.append(argument)
            return _NUMBER
        # A user's factory is not called again: what it reads may have changed.
        if isinstance(argument, Value) and argument._call is not None and _is_own(argument._call.factory):
            return _lift(argument._call, numbers)
        if type(argument) is tuple:
            return tuple(lift(name, one) for one in argument)
        return argument

    return Call(call.factory, {name: lift(name, argument) for name, argument in call.arguments.items()}, None)


def _filled(call: Call, numbers: Iterator[Any]) -> Any:
    def fill(argument: Any) -> Any:
        if argument is _NUMBER:
            return next(numbers)
        if isinstance(argument, Call):
            return _filled(argument, numbers)
        return tuple(map(fill, argument)) if type(argument) is tuple else argument

    return Call(call.factory, {name: fill(argument) for name, argument in call.arguments.items()}, None)()


def _walk(call: Call) -> Iterator[tuple[Any, str, Any]]:
    """Every factory, the name of an argument, and that; calls inside of calls in their place."""

    def walk(name: str, argument: Any) -> Iterator[tuple[Any, str, Any]]:
        if isinstance(argument, Call):
            yield call.factory, name, None
            yield from _walk(argument)
        elif type(argument) is tuple:
            yield call.factory, name, len(argument)
            for one in argument:
                yield from walk(name, one)
        else:
            yield call.factory, name, argument

    for name, argument in call.arguments.items():
        yield from walk(name, argument)


def _is_own(factory: Callable[..., Any]) -> bool:
    return factory.__module__.partition(".")[0] == "byzjax"


def _made_again(factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    return Call(factory, arguments, None)()


@functools.cache
def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(factory)


def _key(product: object) -> Any:
    call = getattr(product, "_call", None) if isinstance(product, Value) else None
    return None if call is None else call.key


def _token(argument: Any) -> Any:
    """Something with a hash that is equal for arguments of which the same is made.

    Raises:
      TypeError: for arrays, traced numbers, and what has no hash.
    """
    if isinstance(argument, jax.Array | np.ndarray):
        raise TypeError
    if isinstance(argument, Value):
        call = argument._call
        if call is not None and call.key is None:
            raise TypeError
        return argument
    if type(argument) is float:
        return float, argument.hex()
    if type(argument) in (tuple, list):
        return type(argument), *map(_token, argument)
    if type(argument) is dict:
        return dict, frozenset((key, _token(one)) for key, one in argument.items())
    hash(argument)
    return type(argument), argument


def _copied(argument: Any) -> Any:
    """Containers anew, so that nobody changes them afterwards."""
    if type(argument) in (tuple, list):
        return type(argument)(map(_copied, argument))
    if type(argument) is dict:
        return {key: _copied(one) for key, one in argument.items()}
    return argument


def _same(argument: Any, default: Any) -> bool:
    if argument is default:
        return True
    try:
        return _token(argument) == _token(default)
    except TypeError:
        return False


def _text(argument: Any) -> str:
    if isinstance(argument, jax.Array | np.ndarray):
        return f"{argument.dtype}[{','.join(map(str, argument.shape))}]"
    if isinstance(argument, types.FunctionType | types.BuiltinFunctionType | type):
        return argument.__name__
    if type(argument) is list:
        return f"[{', '.join(map(_text, argument))}]"
    if type(argument) is tuple:
        return f"({', '.join(map(_text, argument))}{',' if len(argument) == 1 else ''})"
    if isinstance(argument, Mapping):
        return f"{{{', '.join(f'{key!r}: {_text(one)}' for key, one in argument.items())}}}"
    if isinstance(argument, np.generic):
        return str(argument)
    return repr(argument)
