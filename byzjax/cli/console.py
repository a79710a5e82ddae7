"""What the commands of the command line share: errors in one line, consoles, tables."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from byzjax.storage.files import expanded

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_Refusal = typer.BadParameter.__mro__[1]  # UsageError of click, or of typer where it brings its own


def polite(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user can cause into one line on stderr and an exit code; bugs keep their traceback.

    Paths arrive with the home folder in place of ``~``.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with _in_one_line():
                paths = {name: expanded(path, name) for name, path in kwargs.items() if isinstance(path, Path)}
                command(*args, **{**kwargs, **paths})
        except KeyboardInterrupt as interrupt:
            said = str(interrupt) or "finished runs are saved, this one is not"
            typer.echo(f"interrupted: {said}", err=True)
            raise typer.Exit(130) from None

    return wrapped


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Errors of users, and what the parser refuses, as one line on stderr and exit code 2."""
    try:
        yield
    except (BrokenPipeError, typer.Exit, typer.Abort):
        raise
    except Exception as error:
        line = _refused(error) if isinstance(error, _Refusal) else _line(error)
        if line is None or os.environ.get("BYZJAX_TRACEBACK"):
            raise
        typer.echo(f"error: {' '.join(line.split())}", err=True)
        raise typer.Exit(2) from None


def _line(error: Exception) -> str | None:
    """What to say of an error that a user or the machine caused; None of a bug."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory: {str(error) or 'nothing is left'}"
    if "home directory" in str(error):  # a RuntimeError of pathlib's, in the code that installs completion
        return f"{error} Set $HOME."
    if isinstance(error, ValueError | OSError | OverflowError):
        return str(error)
    return _no_device()


def _no_device() -> str | None:
    """Why JAX cannot start, if it cannot: what it raises then has many forms."""
    import jax

    try:
        jax.local_devices()
    except Exception as error:
        chosen = os.environ.get("JAX_PLATFORMS", "")
        reason = f": {error}" if str(error) else ""
        return (
            f"JAX finds no device for JAX_PLATFORMS={chosen}{reason.rstrip('.')}. Write JAX_PLATFORMS=cpu, or unset it."
        )
    return None


class Commands(typer.core.TyperGroup):
    """The commands of a command line, whose parser says what it refuses as everything else is said: in one line."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """As typer does."""
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """As typer does."""
        with _in_one_line():
            return super().invoke(ctx)


def _refused(refusal: Any) -> str | None:
    """What the parser says; None where it is the help."""
    if type(refusal).__name__ == "NoArgsIsHelpError":
        return None
    context, option = refusal.ctx, getattr(refusal, "option_name", None)
    said = refusal.format_message().replace("Value error, ", "")  # pydantic's own words, which newer typers pass on
    for wrong in refusal.__cause__.errors()[:1] if hasattr(refusal.__cause__, "errors") else ():
        said = said if repr(wrong["input"]) in said else f"{said}, not {wrong['input']!r}"
    if context is None:
        return said
    if type(refusal).__name__ == "NoSuchOption":
        known = [name for parameter in context.command.get_params(context) for name in parameter.opts]
        near = nearest_option(str(option), [name for name in known if name.startswith("--")])
        said = f"no option {option}{f'; nearest: {near}' if near else ''}"
    return f"{said if said.endswith(('.', '?')) else said + '.'} See {context.command_path} --help."


def nearest_option(given: str, known: Sequence[str]) -> str | None:
    """The option that was meant: by its initials, by a part of its name, or by a typing error.

    >>> names = ["--learning-rate", "--num-rounds", "--help"]
    >>> [nearest_option(given, names) for given in ("--lr", "--rounds", "--num_round", "--colour")]
    ['--learning-rate', '--num-rounds', '--num-rounds', None]
    """
    wanted = given.lstrip("-").replace("_", "-").lower()
    initials = [
        name for name in known if "".join(word[0] for word in name[2:].split("-")) == wanted and "-" in name[2:]
    ]
    parts = [name for name in known if len(wanted) > 2 and wanted in name[2:]]
    near = difflib.get_close_matches(f"--{wanted}", known, n=1, cutoff=0.7)
    return next(iter([*initials, *parts, *near]), None)


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


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """What a choice warns of, once each, as lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for line in dict.fromkeys(str(one.message) for one in caught):
        warn(line)
