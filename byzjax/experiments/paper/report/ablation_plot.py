"""The figure of the ablation over β and the learning rate: a heat map, curves, and lines over β."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from byzjax.plotting.style import band, count_from, new_figure, set_title
from byzjax.results.metric_names import is_share

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def figure(
    dataset: xarray.Dataset, chosen: xarray.Dataset, variable: str, *, title: str, label: str, digits: int
) -> Figure:
    """β × rate at the end of the run; the curve of every β at its chosen rate; the end over β for every rate.

    Means over seeds. A cell of which a run diverged says so, and has no colour.

    Args:
      dataset: of one method and one case, with the axes beta, learning_rate, seed and eval.
      chosen: at the chosen rates, with the axes beta, seed and eval.
      variable: which.
      title: of the figure.
      label: of the variable.
      digits: of the numbers in the heat map.
    """
    from matplotlib import colormaps

    factor = 100.0 if is_share(variable) else 1.0
    betas, rates = (np.asarray(dataset[axis], float) for axis in ("beta", "learning_rate"))
    drawn, axes = new_figure(1, 3, width=14.0, height=4.6)
    left, middle, right = axes[0]

    ends = dataset[variable].isel(eval=-1).where(~dataset["diverged"]).mean("seed", skipna=False)
    values = factor * np.asarray(ends.transpose("beta", "learning_rate"), float)
    image = left.imshow(values, cmap="cividis", aspect="auto", origin="lower")
    left.grid(False)
    left.spines[:].set_visible(False)
    left.tick_params(length=0)
    left.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    left.set_yticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    left.set_xlabel("learning rate γ₀")
    left.set_ylabel("momentum β")
    middle_value = (np.nanmin(values) + np.nanmax(values)) / 2 if np.isfinite(values).any() else 0.0
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.{digits}f}" if np.isfinite(value) else "div."
        tone = "white" if value < middle_value else "black"
        left.text(column, row, text, ha="center", va="center", fontsize=8, color=tone)
    left.set_title("after the last round")
    drawn.colorbar(image, ax=left, label=label)

    tones = colormaps["viridis"](np.linspace(0.0, 0.9, len(betas)))
    for place, (beta, tone) in enumerate(zip(betas, tones, strict=True)):
        one = chosen.isel(beta=place)
        rate = float(one["learning_rate"])
        runs = factor * np.asarray(one[variable].transpose("seed", "eval"), float)
        if not np.isfinite(rate):
            middle.plot([], [], color=tone, label=f"β = {beta:g}, diverged")
        else:
            middle.plot(one["eval"], runs.mean(0), color=tone, lw=1.6, label=f"β = {beta:g}, γ₀ = {rate:g}")
            middle.fill_between(one["eval"], *band(runs.mean(0), runs.std(0), variable), color=tone, alpha=0.15, lw=0)
    middle.set_title("each β at its chosen rate, mean ± std")
    middle.set_xlabel("round")
    count_from(middle)
    middle.set_ylabel(label)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "fontsize": 7, "frameon": False}
    middle.legend(**below, ncols=3)

    tones = colormaps["plasma"](np.linspace(0.0, 0.85, len(rates)))
    for place, (rate, tone) in enumerate(zip(rates, tones, strict=True)):
        right.plot(betas, values[:, place], "o-", ms=4, lw=1.4, color=tone, label=f"γ₀ = {rate:g}")
    right.set_title("after the last round, over β")
    right.set_xlabel("momentum β")
    right.set_ylabel(label)
    right.legend(**below, ncols=3)
    set_title(drawn, title)
    return drawn
