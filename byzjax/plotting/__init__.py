"""Figures and tables of runs, and of sweeps in `byzjax.plotting.sweeps` and `byzjax.plotting.tables`."""

from byzjax.plotting.runs import curves, draw_curves, method_of, overview, per_class, styles
from byzjax.plotting.style import Style, describe, display_name, legend_below, new_figure, save

__all__ = [
    "Style",
    "curves",
    "describe",
    "display_name",
    "draw_curves",
    "legend_below",
    "method_of",
    "new_figure",
    "overview",
    "per_class",
    "save",
    "styles",
]
