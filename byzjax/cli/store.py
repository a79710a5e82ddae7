"""``byzjax store``: what a store holds, whether it is sound, and what can go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from byzjax.cli.console import console, polite, several, table

app = typer.Typer(help="Look after the store of a sweep.", no_args_is_help=True)

_Path = Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the store.", show_default=False)]


@app.command()
@polite
def ls(path: _Path) -> None:
    """The sweeps in a store: how far they are, and what made them."""
    from byzjax.storage.digests import code_version

    store = _existing(path)
    sweeps = store.sweeps()
    shown = table("sweep", "axes", "chunks", "runs", "MB", "made by", "begun")
    for sweep in sweeps.values():
        config, keys = sweep["config"], sweep["chunks"]
        files = [store.path_of(key) for key in keys if key in store]
        axes = {**config.get("cells", {}), **config.get("grid", {})}
        shown.add_row(
            sweep["name"],
            " × ".join(f"{len(values)} {axis}" for axis, values in axes.items()),
            f"{len(files)}/{len(keys)}",
            str(sweep["lanes"]),
            f"{sum(file.stat().st_size for file in files) / 1e6:.1f}",
            f"byzjax {sweep['code']}{' (this)' if sweep['code'] == code_version() else ''}, jax {sweep['jax']}, "
            f"{sweep['device_kind']}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep["begun"])),
        )
    console().print(shown)
    needed = {key for sweep in sweeps.values() for key in sweep["chunks"]}
    spare = sum(key not in needed for key in store)
    aside = len(list((store.path / "aside").glob("*")))
    busy = len(store.leases.held_by_others())
    console().print(
        f"{several(len(sweeps), 'sweep')}; {several(busy, 'chunk')} being computed, {spare} of no sweep, "
        f"{several(aside, 'file')} set aside"
    )


@app.command()
@polite
def verify(path: _Path) -> None:
    """Read every chunk and check its checksum; set damaged ones aside. Exit code 1 if there are any."""
    from byzjax.storage import chunk_store as stores

    report = stores.verify(_existing(path), say=lambda line: typer.echo(line, err=True))
    sound = f"{several(report.sound, 'chunk')} {'is' if report.sound == 1 else 'are'} sound"
    typer.echo(f"{sound}, {len(report.damaged)} {'was' if len(report.damaged) == 1 else 'were'} damaged")
    if report.damaged:
        raise typer.Exit(1)


@app.command()
@polite
def gc(
    path: _Path,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Also sweeps that another version of byzjax made.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove what nobody needs: left-overs of killed processes, damaged files, chunks of no sweep."""
    from byzjax.storage import chunk_store as stores

    store = _existing(path)
    removed = stores.gc(store, other_versions=other_versions, dry=dry_run)
    for file in removed:
        typer.echo(file.relative_to(store.path))
    done = "would be" if dry_run else "was" if len(removed) == 1 else "were"
    typer.echo(f"{several(len(removed), 'file')} {done} removed", err=True)


def _existing(path: Path):
    from byzjax.storage.chunk_store import MARKER, ChunkStore

    if not (path / MARKER).exists():
        raise ValueError(f"{path} is not a store: there is no {MARKER} in it.")
    return ChunkStore(path)
