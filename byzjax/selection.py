"""Choosing hyperparameters on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import xarray


def select(
    dataset: xarray.Dataset,
    *,
    over: str | Sequence[str],
    by: str,
    reduce: str | None = "mean over seeds",
    best: Literal["max", "min"] | None = None,
    last: int = 1,
) -> xarray.Dataset:
    """The data set at the best value of ``over``, chosen apart for everything else that was swept.

    Args:
      dataset: of `sweep`.
      over: the axis or axes to choose from.
      by: what to choose by; not a test metric.
      reduce: ``"mean over seeds"``: how and over which axis scores are reduced; None for not at all.
      best: which is best; known for accuracies, losses, norms and distances.
      last: the score is the mean of the last so many evaluations.

    Returns:
      Without the dimensions ``over``, which stay as coordinates: the chosen values.
    """
    raise NotImplementedError
