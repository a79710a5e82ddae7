"""One line of error for what is handed in: of the wrong kind, or none of the choices."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

_MOST = 60  # characters of a value that a message shows


def check_kind(
    value: Any, kinds: type | tuple[type, ...], argument: str, where: str, *, fix: str, wanted: str | None = None
) -> Any:
    """Reject what is of none of the kinds; returns it.

    Args:
      value: what was handed in.
      kinds: as for `isinstance`.
      argument: its name.
      where: the function that got it.
      fix: what to do instead, as the end of the sentence.
      wanted: the kinds in words; by default their names.

    Raises:
      ValueError: it is something else.

    >>> check_kind("sgd", int, "server", "Method", fix="pass optax.sgd(0.1).")
    Traceback (most recent call last):
    ValueError: Method: server = 'sgd' is a str, not an int; pass optax.sgd(0.1).
    """
    if isinstance(value, kinds):
        return value
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    wanted = wanted or " or ".join(with_article(kind.__name__) for kind in kinds)
    raise ValueError(
        f"{where}: {argument} = {shown(value)} is {with_article(type(value).__name__)}, not {wanted}; {fix}"
    )


def check_choice(value: Any, choices: Sequence[Any], argument: str, where: str) -> Any:
    """Reject what is none of the choices; returns it. Take them from the hint: ``typing.get_args(Init)``.

    Raises:
      ValueError: it is something else.

    >>> check_choice("mid", ("midpoint", "lower"), "even", "median")
    Traceback (most recent call last):
    ValueError: median: even = 'mid' must be 'midpoint' or 'lower'.
    """
    if any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        return value
    *others, last = map(repr, choices)
    raise ValueError(
        f"{where}: {argument} = {shown(value)} must be {', '.join(others)}{' or ' if others else ''}{last}."
    )


def shown(value: Any) -> str:
    """``repr``, cut where it is long; of one line.

    >>> shown("x" * 100)[-10:]
    'xxxxxxxxx…'
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"


def quoted(text: str) -> str:
    """As one word for a shell, to be pasted: in the quotes that leave it readable.

    >>> print(quoted("nnm,rfa"), quoted("ipm(scale=1)"), quoted("mimic('copy')"))
    nnm,rfa 'ipm(scale=1)' "mimic('copy')"
    """
    return f'"{text}"' if "'" in text and not set('"$`\\!') & set(text) else shlex.quote(text)


def with_article(noun: str) -> str:
    """``a`` or ``an``, and the noun.

    >>> with_article("Attack"), with_article("Task")
    ('an Attack', 'a Task')
    """
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
