"""Values without their numbers: what a program is compiled for, where those are its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from byzjax.values.arguments import token
from byzjax.values.constants import as_constant
from byzjax.values.made import Call, Value, is_own

P = ParamSpec("P")
T = TypeVar("T")


def takes_as_argument(*names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Say which floats of a factory are arguments of a run's program, and no constants of it.

    Runs that differ in such numbers alone share a program. Fit are numbers that are used as they come: of one with
    which Python computes before (the 1 − β of a momentum) a program would give other bits than of a constant. In
    float16 such a number is rounded twice, to float32 first.

    Args:
      *names: of arguments that may be traced.
    """

    def mark(factory: Callable[P, T]) -> Callable[P, T]:
        vars(factory)["program_arguments"] = names
        return factory

    return mark


class Template:
    """A value without its numbers: what of it a program is compiled for, where those are arguments.

    Numbers are the arguments of type float that a factory `takes_as_argument`: learning rates, scales of attacks.

    >>> from byzjax import attacks
    >>> template, numbers = lifted(attacks.ipm(scale=10.0))
    >>> numbers, template.filled([2.0]), template == lifted(attacks.ipm(scale=3.0))[0]
    ([10.0], ipm(scale=2.0), True)
    """

    def __init__(self, call: Call, numbers: list[float]):
        self._made, self._key = call, (call.factory, *self._lift(call, numbers))

    def _lift(self, call: Call, numbers: list[float]) -> Iterator[Any]:
        for name, argument in call.arguments.items():
            if _is_number(call, name):
                numbers.append(argument)
                yield name
            else:
                # Numbers of what it is made of, say of a rule, stay: no factory of byzjax takes such.
                yield name, token(argument)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def filled(self, numbers: Any) -> Any:
        """The value with these numbers, which may be traced."""
        left = iter(numbers)
        call = self._made
        return call({name: next(left) if _is_number(call, name) else a for name, a in call.arguments.items()})

    def parts(self) -> list[Any]:
        """What else it is made of, which may read something outside."""
        return [] if self._made.plain else list(self._made.arguments.values())


def lifted(value: Any) -> tuple[Any, list[float]]:
    """A `Template` and its numbers; the value itself, and none, where nothing can be told from its `Call`.

    A user's factory is not called again: what it reads may have changed.
    """
    call = value._call if isinstance(value, Value) else None
    if call is None or call.key is None or not is_own(call.factory):
        return value, []
    numbers: list[float] = []
    template = Template(call, numbers)
    return (template, numbers) if numbers else (value, [])


def with_constants(value: Any) -> Any:
    """A value whose numbers, if it has some, are as in `numbers_as_constants`."""
    template, numbers = lifted(value)
    return template.filled(list(map(as_constant, numbers))) if numbers else value


def _is_number(call: Call, name: str) -> bool:
    return name in getattr(call.factory, "program_arguments", ()) and type(call.arguments[name]) is float
