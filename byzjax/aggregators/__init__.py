"""Aggregation rules and pre-aggregations. `REGISTRY` maps every name to its factory."""

from collections.abc import Callable

from byzjax.aggregators._auror import auror
from byzjax.aggregators._chain import aggregate, chain
from byzjax.aggregators._clustering import clipped_clustering, flame, signguard, simple_clustering
from byzjax.aggregators._coordinate import meamed, mean, median, sign_majority, trimmed_mean
from byzjax.aggregators._deepsight import deepsight
from byzjax.aggregators._filters import byzantine_sgd, safeguard
from byzjax.aggregators._flanders import flanders
from byzjax.aggregators._fldetector import fldetector
from byzjax.aggregators._foolsgold import foolsgold
from byzjax.aggregators._geometric_median import auto_gm, centered_clipping, geometric_median, rfa
from byzjax.aggregators._krum import bulyan, krum, multi_krum
from byzjax.aggregators._lasa import lasa
from byzjax.aggregators._mixing import bucketing, finite_guard, nnm
from byzjax.aggregators._norms import arc, cge, clipping
from byzjax.aggregators._private_clipping import adaptive_clipping, dp_clipping, norm_clipping
from byzjax.aggregators._spectral import caf, dnc
from byzjax.aggregators._subsets import mda, smea
from byzjax.aggregators._trusted import fltrust, monna
from byzjax.base import Aggregator, PreAggregator

REGISTRY: dict[str, Callable[..., Aggregator | PreAggregator]] = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "meamed": meamed,
    "sign_majority": sign_majority,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "geometric_median": geometric_median,
    "rfa": rfa,
    "auto_gm": auto_gm,
    "centered_clipping": centered_clipping,
    "mda": mda,
    "smea": smea,
    "monna": monna,
    "fltrust": fltrust,
    "caf": caf,
    "dnc": dnc,
    "cge": cge,
    "norm_clipping": norm_clipping,
    "clipped_clustering": clipped_clustering,
    "signguard": signguard,
    "flame": flame,
    "simple_clustering": simple_clustering,
    "deepsight": deepsight,
    "lasa": lasa,
    "auror": auror,
    "byzantine_sgd": byzantine_sgd,
    "safeguard": safeguard,
    "foolsgold": foolsgold,
    "fldetector": fldetector,
    "flanders": flanders,
    "nnm": nnm,
    "bucketing": bucketing,
    "clipping": clipping,
    "arc": arc,
    "adaptive_clipping": adaptive_clipping,
    "dp_clipping": dp_clipping,
    "finite_guard": finite_guard,
}

__all__ = [
    "REGISTRY",
    "adaptive_clipping",
    "aggregate",
    "arc",
    "auror",
    "auto_gm",
    "bucketing",
    "bulyan",
    "byzantine_sgd",
    "caf",
    "centered_clipping",
    "cge",
    "chain",
    "clipped_clustering",
    "clipping",
    "deepsight",
    "dnc",
    "dp_clipping",
    "finite_guard",
    "flame",
    "flanders",
    "fldetector",
    "fltrust",
    "foolsgold",
    "geometric_median",
    "krum",
    "lasa",
    "mda",
    "meamed",
    "mean",
    "median",
    "monna",
    "multi_krum",
    "nnm",
    "norm_clipping",
    "rfa",
    "safeguard",
    "sign_majority",
    "signguard",
    "simple_clustering",
    "smea",
    "trimmed_mean",
]


def __dir__() -> list[str]:
    return __all__
