"""Aggregation rules and pre-aggregations. `REGISTRY` maps every name to its factory."""

from collections.abc import Callable

from byzjax.aggregators.chain import aggregate, chain
from byzjax.aggregators.coordinate import meamed, mean, median, sign_majority, trimmed_mean
from byzjax.aggregators.distance import krum, multi_krum
from byzjax.aggregators.iterative import geometric_median, rfa
from byzjax.aggregators.mixing import bucketing, nnm
from byzjax.aggregators.norms import arc, cge, clipping
from byzjax.aggregators.spectral import caf
from byzjax.aggregators.subsets import mda, monna, smea
from byzjax.base import Aggregator, PreAggregator

REGISTRY: dict[str, Callable[..., Aggregator | PreAggregator]] = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "meamed": meamed,
    "sign_majority": sign_majority,
    "krum": krum,
    "multi_krum": multi_krum,
    "geometric_median": geometric_median,
    "rfa": rfa,
    "mda": mda,
    "smea": smea,
    "monna": monna,
    "caf": caf,
    "cge": cge,
    "nnm": nnm,
    "bucketing": bucketing,
    "clipping": clipping,
    "arc": arc,
}

__all__ = [
    "REGISTRY",
    "aggregate",
    "arc",
    "bucketing",
    "caf",
    "cge",
    "chain",
    "clipping",
    "geometric_median",
    "krum",
    "mda",
    "meamed",
    "mean",
    "median",
    "monna",
    "multi_krum",
    "nnm",
    "rfa",
    "sign_majority",
    "smea",
    "trimmed_mean",
]
