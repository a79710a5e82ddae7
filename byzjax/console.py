"""What the commands of the command line share: errors in one line, consoles, tables."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def polite(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user can cause into one line on stderr and an exit code; bugs keep their traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            if os.environ.get("BYZJAX_TRACEBACK"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as interrupt:
            said = str(interrupt) or "finished runs are saved, this one is not"
            typer.echo(f"interrupted: {said}", err=True)
            raise typer.Exit(130) from None

    return wrapped


def warn(line: str) -> None:
    """A line on stderr that is no error."""
    typer.echo(f"warning: {line}", err=True)


def console() -> Console:
    """Of the terminal's width; wide and without colours where there is none, so that no table is folded."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)


def table(*columns: str, title: str | None = None) -> Table:
    """A table that is not wider than it must be; names are not broken."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(column, no_wrap=column in ("method", "rule", "attack"))
    return made


def several(number: int, what: str) -> str:
    """A number of things.

    >>> several(1, "sweep"), several(0, "chunk")
    ('1 sweep', '0 chunks')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"
