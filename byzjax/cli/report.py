"""``byzjax report``: the report of a store of experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from byzjax.cli.console import console, polite
from byzjax.storage.files import writing


@polite
def report(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="With data sets like quartic-released.nc.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default="STORE/report")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write every number, at every learning rate, to FILE.")] = None,
) -> None:
    """Table 1, the paper's figures, and what the paper does not show, from the experiments in a store.

    Writes report.md, table1.md, table1.tex and figures as PNG and PDF. What the store lacks is said to be missing.
    Where the store holds the study of server steps, lmo.md and its figures.
    """
    from byzjax.experiments.lmo import report as lmo
    from byzjax.experiments.paper import studies
    from byzjax.experiments.paper.report import report as reports

    folder = out or store / "report"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder.")
    if lmo.found(store):
        paths = lmo.report(store, folder)
        console().print(f"Written: {paths[0]}, and {len(paths) - 1} files beside it", soft_wrap=True)
        if not studies.found(store) and csv is None:
            return
    if csv is not None:
        rows = reports.csv_rows(store)
        with writing(csv) as temporary:
            temporary.write_text(reports.comma_separated(rows), encoding="utf-8")
        console().print(f"Written: {csv}, {len(rows)} rows", soft_wrap=True)
    paths = reports.report(store, folder)
    console().print(f"Written: {paths[0]}, and {len(paths) - 1} files beside it", soft_wrap=True)
