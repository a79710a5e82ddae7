"""Arguments of factories: compared, remembered, shown."""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.core
import numpy as np

_LARGEST = 1 << 16  # bytes of an array that a call remembers
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


class Forgotten:
    """In place of an argument that a call does not keep alive: a large array, a data set, a traced number."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.text} is not remembered, so that what was made of it cannot be pickled.")

    __hash__ = None  # type: ignore[assignment]


def is_plain(argument: Any) -> bool:
    """Whether an argument can be seen to read nothing from outside."""
    if type(argument) in (tuple, list):
        return all(map(is_plain, argument))
    return isinstance(argument, _PLAIN) or bool(getattr(getattr(argument, "_call", None), "plain", False))


def is_traced(argument: Any) -> bool:
    """Whether an argument, or what it is made of, belongs to a trace."""
    if type(argument) in (tuple, list):
        return any(map(is_traced, argument))
    made = getattr(argument, "_call", None)
    return isinstance(argument, jax.core.Tracer) or bool(getattr(made, "traced", False))


def is_among(product: Any, arguments: list[Any]) -> bool:
    """Whether a product was handed in, also in ``*args``."""
    return any(product is one or (type(one) is tuple and is_among(product, list(one))) for one in arguments)


def token(argument: Any) -> Any:
    """Something with a hash that is equal for arguments of which the same is made.

    Raises:
      TypeError: for arrays, traced numbers, and what has no hash.
    """
    if isinstance(argument, jax.Array | np.ndarray):
        raise TypeError
    if hasattr(argument, "_call"):  # a value
        if argument._call is not None and argument._key() is None:
            raise TypeError
        hash(argument)
        return argument
    kind = type(argument)
    if isinstance(argument, np.generic):
        return kind, argument.tobytes()
    if kind is float:
        return kind, argument.hex()
    if kind is complex:
        return kind, argument.real.hex(), argument.imag.hex()
    if isinstance(argument, tuple | list):
        return kind, *map(token, argument)
    if isinstance(argument, set | frozenset):
        return kind, frozenset(map(token, argument))
    if kind is dict:
        return kind, *((token(key), token(one)) for key, one in argument.items())
    hash(argument)
    return kind, argument


def copied(argument: Any) -> Any:
    """Containers anew, so that nobody changes them afterwards."""
    if type(argument) in (tuple, list):
        return type(argument)(map(copied, argument))
    if type(argument) is dict:
        return {key: copied(one) for key, one in argument.items()}
    return argument


def remembered(argument: Any) -> Any:
    """What a call keeps of an argument: small arrays as they are now, and nothing that is large or traced."""
    if type(argument) in (tuple, list):
        return type(argument)(map(remembered, argument))
    if type(argument) is dict:
        return {key: remembered(one) for key, one in argument.items()}
    if isinstance(argument, jax.core.Tracer):
        return Forgotten(text(argument))
    if isinstance(argument, jax.Array | np.ndarray):
        small = argument.nbytes <= _LARGEST and getattr(argument, "is_fully_addressable", True)
        return (
            (np.array(argument) if isinstance(argument, np.ndarray) else argument)
            if small
            else Forgotten(text(argument))
        )
    try:
        hash(argument)
    except TypeError:
        return Forgotten(f"<{type(argument).__name__}>")
    return argument


def same(argument: Any, default: Any) -> bool:
    """Whether an argument is its default."""
    if argument is default:
        return True
    try:
        return token(argument) == token(default)
    except TypeError:
        return False


def text(argument: Any) -> str:
    """As in the call that is shown; an array by its type."""
    if isinstance(argument, jax.Array | np.ndarray):
        return f"{argument.dtype}[{','.join(map(str, argument.shape))}]"
    if isinstance(argument, types.FunctionType | types.BuiltinFunctionType | type):
        return argument.__name__
    if type(argument) is list:
        return f"[{', '.join(map(text, argument))}]"
    if type(argument) is tuple:
        return f"({', '.join(map(text, argument))}{',' if len(argument) == 1 else ''})"
    if type(argument) is dict:
        return f"{{{', '.join(f'{key!r}: {text(one)}' for key, one in argument.items())}}}"
    return repr(argument)
