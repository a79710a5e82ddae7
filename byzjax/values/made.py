"""`value`: what a factory makes remembers the call."""

from __future__ import annotations

import copy
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from byzjax.programs.captured import read_outside
from byzjax.values.arguments import copied, is_among, is_plain, is_traced, remembered, same, text, token
from byzjax.values.constants import as_constant, within

P = ParamSpec("P")
T = TypeVar("T")


class Call:
    """What made a value.

    Args:
      factory: the decorated function.
      arguments: all by name, defaults included; those of ``*args`` are one tuple.

    Attributes:
      key: equal for calls that make equal values; None where an argument is an array, traced, or has no hash.
      outside: a digest of what a user's factory reads beside its arguments; empty for those of byzjax.
      traced: whether an argument belongs to a trace.
      plain: whether nothing that it is made of can read anything outside: factories of byzjax, numbers and texts.
    """

    def __init__(self, factory: Callable[..., Any], arguments: Mapping[str, Any]):
        self.factory = factory
        self.arguments = {name: remembered(argument) for name, argument in arguments.items()}
        own = is_own(factory)
        # What a user's factory reads may be another thing the next time.
        self.outside = "" if own else read_outside(factory, *arguments.values())
        self.traced = any(map(is_traced, arguments.values()))
        self.plain = own and all(map(is_plain, self.arguments.values()))
        try:
            self.key = factory, self.outside, *((name, token(a)) for name, a in self.arguments.items())
        except TypeError:
            self.key = None

    def __call__(self, arguments: Mapping[str, Any] | None = None) -> Any:
        """Make it again, with these arguments in place of its own."""
        signature = _signature(self.factory)
        bound = inspect.BoundArguments(signature, OrderedDict(self.arguments if arguments is None else arguments))
        return self.factory(*bound.args, **bound.kwargs)

    def __repr__(self) -> str:
        parameters, shown = _signature(self.factory).parameters, []
        several = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values())
        for name, parameter in parameters.items():
            argument = self.arguments[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                shown += map(text, argument)
            elif parameter.kind is parameter.VAR_KEYWORD:
                shown += [f"{key}={text(one)}" for key, one in argument.items()]
            elif parameter.kind is parameter.POSITIONAL_ONLY or (
                several and parameter.kind is not parameter.KEYWORD_ONLY
            ):
                shown.append(text(argument))
            elif not same(argument, parameter.default):
                shown.append(f"{name}={text(argument)}")
        return f"{self.factory.__name__}({', '.join(shown)})"


class Value:
    """What can be the product of a factory. Without a `Call` it is compared and printed as its other base is."""

    _call: Call | None = None

    def _key(self) -> Any:
        """What makes it equal to others; None where nothing but itself is."""
        return None if self._call is None else self._call.key

    def __eq__(self, other: object) -> bool:
        mine, theirs = self._key(), other._key() if isinstance(other, Value) else None
        if mine is None and theirs is None:
            return super().__eq__(other)
        return type(self) is type(other) and mine == theirs

    def __ne__(self, other: object) -> bool:  # a tuple has its own
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:
        key = self._key()
        return super().__hash__() if key is None else hash(key)

    def __repr__(self) -> str:
        return super().__repr__() if self._call is None else repr(self._call)

    def __copy__(self) -> Any:
        """The same functions: a factory that is called again may make others."""
        same: Any = tuple.__new__(type(self), self) if isinstance(self, tuple) else object.__new__(type(self))
        vars(same).update(vars(self))
        return same

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        del memo
        return self  # of functions, which nobody changes

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._call is None:
            return super().__reduce_ex__(protocol)
        return made_again, (self._call.factory, self._call.arguments, self._call.outside)


def made_again(factory: Callable[..., Any], arguments: dict[str, Any], outside: str) -> Any:
    """What was pickled.

    Raises:
      ValueError: a user's factory reads something else here, and would make something else.
    """
    product = Call(factory, arguments)()
    if product._call.outside != outside:
        raise ValueError(
            f"{product!r} cannot be made again: what its factory reads beside its arguments was something else where "
            "it was pickled; pass that as an argument."
        )
    return product


def value(factory: Callable[P, T]) -> Callable[P, T]:
    """Let a factory make values: equal where its arguments are.

    Arguments are compared with their types, ``krum(1)`` and ``krum(1.0)`` are two rules; functions are equal to
    themselves alone. A product of arrays or of traced numbers is equal to itself alone.

    Args:
      factory: returns a rule, an attack, a method or a task. Lists and dicts among its arguments are copies.

    >>> from byzjax import aggregators as agg
    >>> agg.krum(1) == agg.krum(f=1), agg.krum(1) == agg.krum(2), agg.krum(1)
    (True, False, krum(f=1))
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def made(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return factory(*args, **kwargs)  # which says what is missing
        bound.apply_defaults()
        given = list(bound.arguments.values())
        for name, argument in bound.arguments.items():
            bound.arguments[name] = copied(argument)
        product = factory(*bound.args, **bound.kwargs)
        numbers = getattr(made, "program_arguments", ())
        if numbers and within():  # what was made first has checked the numbers, which now cannot be seen
            for name in numbers:
                bound.arguments[name] = as_constant(bound.arguments[name])
            return factory(*bound.args, **bound.kwargs)
        if is_among(product, given):  # a chain of one link is that link
            return product
        product = copy.copy(product)  # a factory may return what it has returned before
        vars(product)["_call"] = Call(made, bound.arguments)
        return product

    return made


def plain(value: Any) -> bool:
    """Whether a value can be seen to read nothing beside its arguments."""
    return isinstance(value, Value) and value._call is not None and value._call.plain


def is_own(factory: Callable[..., Any]) -> bool:
    """Whether it is one of byzjax, which read nothing that changes."""
    return factory.__module__.partition(".")[0] == "byzjax"


@functools.cache
def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(factory)
