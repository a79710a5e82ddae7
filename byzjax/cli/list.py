"""``byzjax list``: all that specifications can name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from byzjax.cli.console import console, polite, table


class Listed(StrEnum):
    """What `byzjax list` can list."""

    tasks = "tasks"
    methods = "methods"
    aggregators = "aggregators"
    attacks = "attacks"
    metrics = "metrics"


def choices(kind: str) -> str:
    """The names of a registry, for help texts."""
    return ", ".join(registries()[kind])


def completed(kind: str) -> Callable[[str], list[str]]:
    """What a shell may put in place of the beginning of a name."""
    return lambda incomplete: [name for name in registries()[kind] if name.startswith(incomplete)]


def registries() -> dict[str, dict[str, Callable[..., Any]]]:
    from byzjax import aggregators, attacks, methods, metrics, tasks

    modules = {"tasks": tasks, "methods": methods, "aggregators": aggregators, "attacks": attacks, "metrics": metrics}
    return {kind.value: modules[kind.value].REGISTRY for kind in Listed}


@polite
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar=f"[{'|'.join(Listed)}]",
            help="Only these.",
            show_default="all",
            autocompletion=lambda incomplete: [kind.value for kind in Listed if kind.startswith(incomplete)],
        ),
    ] = None,
) -> None:
    """All tasks, methods, aggregators, attacks and metrics, with their arguments."""
    from byzjax.configs.specs import nearest, signature

    known = registries()
    if kind is not None:
        several = kind if kind in known else f"{kind}s"  # one attack is meant as all are
        if several not in known:
            raise ValueError(f"{kind!r} cannot be listed; {nearest(kind, known)}.")
        known = {several: known[several]}
    for name, registry in known.items():
        entries = [
            (entry if name == "metrics" else signature(entry, factory), (inspect.getdoc(factory) or "").split("\n")[0])
            for entry, factory in registry.items()
        ]
        if sys.stdout.isatty():
            shown = table(name, "", title=None)
            for entry in entries:
                shown.add_row(*entry)
            console().print(shown)
        else:  # one line each, for grep
            for called, line in entries:
                typer.echo(f"{name}: {called}  {line}")
