"""Tables of sweeps in Markdown and LaTeX: the same cells as a heat map's, and as many axes as wanted."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from byzjax.checks import check_dataset
from byzjax.plotting.choices import Picture
from byzjax.plotting.style import capitalized
from byzjax.plotting.summaries import AXES, axis_labels, metric_label
from byzjax.results.metric_names import direction
from byzjax.storage.files import write_all

if TYPE_CHECKING:
    import xarray

_COMPETING = ("optimizer", "aggregator", "f", "learning_rate", "beta")  # what a defender chooses; the rest is given
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "%&_#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "γ₀": r"$\gamma_0$",
    "β": r"$\beta$",
    "κ": r"$\kappa$",
    "≥": r"$\geq$",
    "×": r"$\times$",
}
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_SPECIAL = re.compile("|".join(["[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", *map(re.escape, _LATEX)]))


class Table(NamedTuple):
    """A table, not yet in any language.

    Attributes:
      heads: of the leading columns, one per axis of rows, and then of the columns.
      rows: each the labels of its place, and then its cells.
      best: places of cells that are the best of their column.
      caption: sentences.
    """

    heads: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    caption: tuple[str, ...]


def table(dataset: xarray.Dataset, picture: Picture) -> Table:
    """A picture as a table: its last axis across, all others down.

    The best mean is marked among those that compete: rules, methods and what they are told, for the same task and the
    same attack. A cell of which runs diverged is never marked.

    Args:
      dataset: of a sweep.
      picture: what `byzjax.plotting.choices.picture` made of it.
    """
    check_dataset(dataset, "table")
    *down, across = picture.shown
    named = {axis: axis_labels(dataset, axis) for axis in picture.shown}
    columns = named[across][1]
    best, competing = _best(picture)
    rows, marked = [], set()
    for row, places in enumerate(itertools.product(*(range(dataset.sizes[axis]) for axis in down))):
        place = dict(zip(down, places, strict=True))
        cells = [_cell(picture, {**place, across: column}) for column in range(len(columns))]
        rows.append([named[axis][1][index] for axis, index in place.items()] + cells)
        marked |= {(row, len(down) + int(column)) for column in np.flatnonzero(best.isel(place))}
    heads = [named[axis][0] for axis in down] + columns
    same = "".join(f", {one}" for one in picture.fixed)
    sentence = f"{capitalized(metric_label(dataset, picture.metric))} by {named[across][0]}{same}."
    bold = (f"Bold: the best {' and '.join(AXES.get(axis, axis) for axis in competing)}.",) if marked else ()
    return Table(heads, rows, marked, (sentence, *picture.caption, *bold))


def _best(picture: Picture) -> tuple[xarray.DataArray, list[str]]:
    """Which cells are the best of those that they compete with, and along which axes they do."""
    competing = [axis for axis in picture.shown if axis in _COMPETING and picture.summary.mean.sizes[axis] > 1]
    mean = picture.summary.mean.where(picture.summary.diverged == 0)
    if not competing or direction(picture.metric) is None:
        return mean.isnull() & False, competing
    signed = mean if direction(picture.metric) == "max" else -mean
    return signed == signed.max(competing), competing


def _cell(picture: Picture, place: dict[str, int]) -> str:
    remarks = picture.remarks(**place)
    return picture.number(**place) + (f" ({', '.join(remarks)})" if remarks else "")


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown.

    >>> print(markdown(Table(["rule", "ALIE"], [["Krum", "90.0"], ["RFA", "91.0"]], {(1, 1)}, ("Accuracy.",))))
    | rule | ALIE |
    |---|---|
    | Krum | 90.0 |
    | RFA | **91.0** |
    <BLANKLINE>
    Accuracy.
    <BLANKLINE>
    """
    rows = [[_bold(text, place in table.best, "**", "**") for place, text in row] for row in _placed(table)]
    lines = [f"| {' | '.join(row)} |" for row in [table.heads, *rows]]
    lines.insert(1, "|" + "---|" * len(table.heads))
    return "\n".join([*lines, "", " ".join(table.caption), ""])


def latex(table: Table) -> str:
    """A table in LaTeX, for the package booktabs.

    >>> print(latex(Table(["rule", "ALIE"], [["Krum", "90 ± 1"], ["RFA", "91 ± 1"]], {(1, 1)}, ("In %.",))))
    % needs \\usepackage{booktabs}
    \\begin{table}
      \\centering
      \\caption{In \\%.}
      \\begin{tabular}{ll}
        \\toprule
        rule & ALIE \\\\
        \\midrule
        Krum & 90 $\\pm$ 1 \\\\
        RFA & \\textbf{91 $\\pm$ 1} \\\\
        \\bottomrule
      \\end{tabular}
    \\end{table}
    <BLANKLINE>
    """
    rows = [[_bold(_tex(text), place in table.best, r"\textbf{", "}") for place, text in row] for row in _placed(table)]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(' '.join(table.caption))}}}",
            rf"  \begin{{tabular}}{{{'l' * len(table.heads)}}}",
            r"    \toprule",
            rf"    {' & '.join(map(_tex, table.heads))} \\",
            r"    \midrule",
            *(rf"    {' & '.join(row)} \\" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def save(table: Table, path_without_suffix: str | Path) -> list[Path]:
    """Write a table as Markdown and as LaTeX.

    Args:
      table: which.
      path_without_suffix: ``"out/table"`` gives ``out/table.md`` and ``out/table.tex``.

    Returns:
      The two paths.
    """
    return write_all(path_without_suffix, {".md": markdown(table).encode(), ".tex": latex(table).encode()})


def _placed(table: Table) -> list[list[tuple[tuple[int, int], str]]]:
    return [[((r, c), text) for c, text in enumerate(row)] for r, row in enumerate(table.rows)]


def _bold(text: str, bold: bool, before: str, after: str) -> str:
    return f"{before}{text}{after}" if bold else text


def _tex(text: str) -> str:
    return _SPECIAL.sub(lambda match: _LATEX.get(match[0]) or f"$^{{{match[0].translate(_RAISED)}}}$", text)
