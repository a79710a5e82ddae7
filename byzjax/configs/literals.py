"""Whether a literal in a specification is of the sort that a factory's annotation asks for."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from byzjax.checks import shown

_KINDS: dict[Any, type] = {float: numbers.Real, int: numbers.Integral}
_WORDS = {float: "a number", int: "an integer", bool: "True or False", str: "a text", types.NoneType: "None"}


def hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Those annotations that are more than names to a type checker alone."""
    found = {}
    for name, annotation in getattr(factory, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(NameError, TypeError):
            found |= typing.get_type_hints(alone, getattr(inspect.unwrap(factory), "__globals__", {}))
    return found


def _members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a (nested) union."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(hint) for member in _members(part))
    return (hint,)


def choices(hint: Any) -> list[Any]:
    """The values of its Literals."""
    return [v for part in _members(hint) if typing.get_origin(part) is Literal for v in typing.get_args(part)]


def _fits(value: Any, hint: Any) -> bool:
    """Whether a literal is of the sort that an annotation asks for; what is more than a literal never is."""
    if hint is Any:
        return True
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in parts)
    if origin in (tuple, list, Sequence):
        fixed = origin is tuple and ... not in parts
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(parts)):
            return False
        return all(map(_fits, value, parts if fixed else parts[:1] * len(value)))
    if isinstance(value, bool) and origin is not bool:
        return False
    return isinstance(value, _KINDS.get(origin, origin if isinstance(origin, type) else ()))


def _sorts(hint: Any) -> str:
    """What fits, in words."""
    members = _members(hint)
    words = [_WORDS[part] for part in members if part in _WORDS and not (part is int and float in members)]
    words += [repr(choice) for choice in choices(hint)]
    words += [f"a list like {_example(part)}" for part in members if typing.get_origin(part) in (tuple, list, Sequence)]
    return " or ".join(words)


def _example(hint: Any) -> str:
    parts = [part for part in typing.get_args(hint) if part is not ...]
    return str(tuple(range(1, 1 + len(parts) if typing.get_origin(hint) is tuple else 3)))


def check_literal(value: Any, hint: Any, where: str) -> None:
    """Reject literals of the wrong sort early, by name; ranges are for the factory to check.

    Args:
      value: what was written.
      hint: the annotation; None where there is none that says anything.
      where: of which argument.

    Raises:
      ValueError: it does not fit.

    >>> check_literal("many", int, "mnist: batch_size")
    Traceback (most recent call last):
    ValueError: mnist: batch_size = 'many' must be an integer.
    """
    if hint is None or _fits(value, hint):
        return
    allowed, sorts = choices(hint), _sorts(hint)
    if allowed and all(typing.get_origin(part) is Literal or part is types.NoneType for part in _members(hint)):
        near = difflib.get_close_matches(str(value), [str(choice) for choice in allowed], n=1, cutoff=0.5)
        nearest = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"{where} = {shown(value)} must be one of {', '.join(map(repr, allowed))}{nearest}.")
    if sorts in ("", "None"):
        raise ValueError(f"{where} = {shown(value)}: what it takes cannot be said in a specification; leave it out.")
    raise ValueError(f"{where} = {shown(value)} must be {sorts}.")
