"""Aggregation rules and pre-aggregations. `REGISTRY` maps every name to its factory."""

from collections.abc import Callable

from byzjax.aggregators.chain import aggregate, chain
from byzjax.aggregators.coordinate import mean, median, trimmed_mean
from byzjax.aggregators.distance import krum, multi_krum
from byzjax.aggregators.iterative import geometric_median, rfa
from byzjax.aggregators.mixing import bucketing, nnm
from byzjax.base import Aggregator, PreAggregator

REGISTRY: dict[str, Callable[..., Aggregator | PreAggregator]] = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "geometric_median": geometric_median,
    "rfa": rfa,
    "nnm": nnm,
    "bucketing": bucketing,
}

__all__ = [
    "REGISTRY",
    "aggregate",
    "bucketing",
    "chain",
    "geometric_median",
    "krum",
    "mean",
    "median",
    "multi_krum",
    "nnm",
    "rfa",
    "trimmed_mean",
]
