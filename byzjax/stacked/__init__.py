"""What is done to ``n × d`` stacks: the only place that sees d.

Rules live in worker space: they see the `Geometry` of the rows (``n × n`` numbers) and answer with weights or with a
mixing matrix, which `combine` and `mix` apply. Coordinatewise rules get the stack as matrices ``[n, d]``.
"""

from byzjax.stacked.blocks import wide_dtype
from byzjax.stacked.combine import (
    Anchor,
    centre_of,
    combine,
    mean_of_groups,
    mix,
    per_row,
    pick_row,
    replace_rows,
    scale_rows,
)
from byzjax.stacked.control_flow import only_if
from byzjax.stacked.geometry import Frame, Geometry, Lengths
from byzjax.stacked.gram import distances, measure
from byzjax.stacked.lengths import measure_lengths
from byzjax.stacked.statistics import (
    columns,
    coordinatewise,
    inner,
    largest_coordinates,
    magnitude_of_rank,
    masked_mean,
    masked_std,
    mean_and_deviations,
    num_coordinates,
    row_mean,
    sample_coordinates,
    sign_counts,
)
from byzjax.stacked.sums import matmul

__all__ = [
    "Anchor",
    "Frame",
    "Geometry",
    "Lengths",
    "centre_of",
    "columns",
    "combine",
    "coordinatewise",
    "distances",
    "inner",
    "largest_coordinates",
    "magnitude_of_rank",
    "masked_mean",
    "masked_std",
    "matmul",
    "mean_and_deviations",
    "mean_of_groups",
    "measure",
    "measure_lengths",
    "mix",
    "num_coordinates",
    "only_if",
    "per_row",
    "pick_row",
    "replace_rows",
    "row_mean",
    "sample_coordinates",
    "scale_rows",
    "sign_counts",
    "wide_dtype",
]


def __dir__() -> list[str]:
    return __all__
