"""``byzjax examples``: the grids and programs that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from byzjax.checks import quoted
from byzjax.cli.console import console, polite, table
from byzjax.storage.files import check_room

_PACKAGE = Path(__file__).parents[1]


def paths() -> list[Path]:
    """The files: in the package where it was installed, beside the package in a checkout."""
    folders = _PACKAGE / "examples", _PACKAGE.parent / "examples"
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return sorted([*folder.glob("*.toml"), *folder.glob("*.py")])


@polite
def examples(
    out: Annotated[
        Path | None, typer.Option(help="Copy them into this folder.", show_default="none, only show them")
    ] = None,
) -> None:
    """Grids for `byzjax sweep`, and programs in Python, to run and to change."""
    shown = table("file", "what it is")
    for path in paths():
        shown.add_row(path.name, path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip('"'))
    console().print(shown)
    if out is None:
        console().print("Copy them with: byzjax examples --out examples")
        return
    check_room(out, sum(path.stat().st_size for path in paths()))
    copies = [out / path.name for path in paths()]
    for path, copy in zip(paths(), copies, strict=True):
        if copy.exists() and (copy.is_dir() or copy.read_bytes() != path.read_bytes()):
            raise ValueError(f"{copy} is there and is another file; choose another --out, or move it away.")
    for path, copy in zip(paths(), copies, strict=True):
        copy.write_bytes(path.read_bytes())
    grid = [copy for copy in copies if copy.suffix == ".toml"][-1]
    hint = f"byzjax sweep {quoted(str(grid))} --dry-run"
    console().print(f"Written: {len(copies)} files in {out}. Next: {hint}", soft_wrap=True)
