"""How figures look: colours, lines, names, axes, files. Nothing touches pyplot or a display.

The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from byzjax.results.metric_names import is_logarithmic, is_share
from byzjax.storage.files import write_all

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from byzjax.configs.specs import Spec

METHOD_COLORS = {"byz_nsgdm": "#0072B2", "momentum_sgd": "#D55E00", "momentum_sgd(decay=True)": "#009E73"}
OTHER_COLORS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_NAMES = {
    "byz_nsgdm": "Byz-NSGDM",
    "momentum_sgd": "Baseline",
    "momentum_sgd(decay=True)": "Baseline-Decay",
    "nnm": "NNM",
    "rfa": "RFA",
    "mean": "plain mean",
    "none": "no attack",
    "bit_flip": "bit flip",
    "label_flip": "label flip",
    "sign_flip": "sign flip",
    "ipm": "IPM",
    "alie": "ALIE",
    "mnist": "MNIST",
    "krum": "Krum",
    "multi_krum": "Multi-Krum",
    "meamed": "MeaMed",
    "mda": "MDA",
    "smea": "SMEA",
    "monna": "MoNNA",
    "fltrust": "FLTrust",
    "signguard": "SignGuard",
    "flame": "FLAME",
    "lasa": "LASA",
    "auror": "AUROR",
    "foolsgold": "FoolsGold",
    "deepsight": "DeepSight",
    "fldetector": "FLDetector",
    "flanders": "FLANDERS",
    "caf": "CAF",
    "cge": "CGE",
    "arc": "ARC",
}
_WIDTH = 2.0
_LETTERS = 9  # of a title in an inch


class Style(NamedTuple):
    """How a run is drawn."""

    color: Any
    linestyle: Any = "-"
    linewidth: float = _WIDTH


def display_name(spec: str) -> str:
    """A specification in words for readers; a label that is none as it is.

    >>> display_name("nnm,rfa"), display_name("ipm(scale=10.0)"), display_name("momentum_sgd(decay=True)")
    ('NNM + RFA', 'IPM (scale 10)', 'Baseline-Decay')
    >>> display_name("my rule")
    'my rule'
    """
    if spec in _NAMES:
        return _NAMES[spec]
    words = []
    for part in calls_of(spec) or ():
        given = [plain(value) for value in part.args]
        given += [f"{name.replace('_', ' ')} {plain(value)}" for name, value in part.kwargs.items()]
        words.append(_NAMES.get(part.name, part.name.replace("_", " ")) + (f" ({', '.join(given)})" if given else ""))
    return " + ".join(words) or spec


def calls_of(label: str) -> list[Spec] | None:
    """What a label specifies; None where it is a name of its own."""
    from byzjax.configs.specs import parse_chain

    try:
        return parse_chain(label)
    except ValueError:
        return None


def plain(value: Any) -> str:
    """A value without superfluous digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 4.2, **layout: Any
) -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes ``[rows, columns]``.

    Args:
      rows: of panels.
      columns: of panels.
      width: in inches.
      height: in inches.
      **layout: of ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)  # inches
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def describe(
    ax: Axes, variable: str, long_name: str, units: str, log: bool | None = None, xlabel: str = "round"
) -> None:
    """Label both axes, and choose the scale of the vertical one."""
    ax.set_xlabel(xlabel)
    count_from(ax)
    if is_share(variable):
        ax.set_ylim(-2, 102)
        ax.set_ylabel(f"{long_name} (%)")
        return
    ax.set_ylabel(long_name if units == "1" else f"{long_name} ({units})")
    positive = any((np.asarray(line.get_ydata(), float) > 0).any() for line in ax.lines)
    if positive and (is_logarithmic(variable) if log is None else log):
        ax.set_yscale("log")
        ticks_of_powers(ax.yaxis, *ax.get_ylim())


def count_from(ax: Axes) -> None:
    """Whole numbers along the horizontal axis: there is no round 22.5."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))


def ticks_of_powers(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis: powers of ten, and where it spans less than two of them, numbers between.

    Args:
      axis: ``ax.xaxis`` or ``ax.yaxis``.
      low, high: its ends.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.set_minor_formatter(NullFormatter())
    if high >= 100 * low:
        return
    if high >= 4 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high >= 15 * low else (1.0, 2.0, 3.0, 5.0, 7.0)))
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain_or_power(value)))


def _plain_or_power(value: float) -> str:
    """
    >>> _plain_or_power(0.02), _plain_or_power(2e-6)
    ('0.02', '$2\\\\times10^{-6}$')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    digits, power = f"{value:.3e}".split("e")
    return rf"${float(digits):g}\times10^{{{int(power)}}}$"


def band(middle: np.ndarray, half: np.ndarray, variable: str) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a band, in the units of a figure: no accuracy is below 0 or above 100 per cent."""
    ends = middle - half, middle + half
    return (np.clip(ends[0], 0.0, 100.0), np.clip(ends[1], 0.0, 100.0)) if is_share(variable) else ends


def legend_below(figure: Figure, ax: Axes, columns: int | None = None) -> None:
    """A legend under the panels, where it covers no data.

    Args:
      figure: which reserves the room.
      ax: whose lines are explained.
      columns: of the legend.
    """
    handles, labels = ax.get_legend_handles_labels()
    width = columns or min(len(labels), 3)
    figure.legend(handles, labels, loc="outside lower center", ncols=width, frameon=False, handlelength=3.2)


def small_print(figure: Figure, sentences: Sequence[str], legend_of: Axes | None = None) -> None:
    """A caption under everything else, and a legend above it. The figure grows by their height.

    Args:
      figure: with all its panels and titles.
      sentences: of the caption; empty ones are left out.
      legend_of: whose lines are explained.
    """
    wide, high = figure.get_size_inches()
    text = textwrap.fill(" ".join(filter(None, sentences)), int(wide / 0.068))
    written = figure.text(0.5, 0, text, ha="center", va="bottom", fontsize=8, color="#444444")
    room = written.get_window_extent().height / figure.dpi + 0.15 if text else 0.0
    legend, below = None, room
    if legend_of is not None:
        handles, labels = legend_of.get_legend_handles_labels()
        columns = max(1, min(len(labels), 4, int(wide / 0.085 / (max(map(len, labels)) + 8))))
        legend = figure.legend(
            handles, labels, loc="lower center", ncols=columns, frameon=False, handlelength=3.2, borderaxespad=0.0
        )
        room += legend.get_window_extent().height / figure.dpi + 0.05
    figure.set_figheight(high + room)
    share = room / (high + room)
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))  # type: ignore[union-attr]
    written.set_y(0.08 / (high + room))
    if legend is not None:
        legend.set_in_layout(False)
        legend.set_bbox_to_anchor((0, below / (high + room), 1, 1), transform=figure.transFigure)
    written.set_in_layout(False)


def save(figure: Figure, path_without_suffix: str | Path) -> list[Path]:
    """Write a figure as PNG and PDF.

    Args:
      figure: which.
      path_without_suffix: ``"demo/accuracy"`` gives ``demo/accuracy.png`` and ``demo/accuracy.pdf``.

    Returns:
      The two paths.
    """
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png")
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})  # the same figure is the same file
    return write_all(path_without_suffix, {".png": png.getvalue(), ".pdf": pdf.getvalue()})


def capitalized(text: str) -> str:
    """With a capital letter at the start, and all others as they are."""
    return text[:1].upper() + text[1:]


def long_name(dataset: xarray.Dataset, variable: str) -> str:
    """What readers are told a variable is."""
    return dataset[variable].attrs.get("long_name", variable) if variable in dataset else variable


def set_title(figure: Figure, title: str, **style: Any) -> None:
    """A title above all panels, in as many lines as the figure's width asks for."""
    width = int(_LETTERS * figure.get_figwidth())
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in title.splitlines()), **style)
