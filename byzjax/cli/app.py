"""The command line: parse, call, print. ``byzjax --help``."""

from __future__ import annotations

from typing import Annotated

import typer

from byzjax._version import __version__
from byzjax.cli import demo, examples, plot, report, reproduce, run, store, sweep
from byzjax.cli import list as list_
from byzjax.cli.console import Commands

app = typer.Typer(
    name="byzjax",
    help="Byzantine-robust distributed optimisation in JAX.",
    no_args_is_help=True,
    cls=Commands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(store.app, name="store")


def main() -> None:
    """The console script."""
    app()


def _version(shown: bool) -> None:
    if shown:
        import jax

        typer.echo(f"byzjax {__version__}, jax {jax.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache", help="Do not keep compiled programs in $BYZJAX_CACHE_DIR, ~/.cache/byzjax/xla by default."
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the versions and exit.")
    ] = False,
) -> None:
    if not no_cache:
        from byzjax.programs.cache import enable_compilation_cache

        enable_compilation_cache()


app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("list")(list_.list_)
app.command("examples")(examples.examples)
app.command("sweep")(sweep.sweep)
app.command("plot")(plot.plot)
app.command("reproduce")(reproduce.reproduce)
app.command("report")(report.report)
