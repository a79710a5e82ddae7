"""byzjax: Byzantine-robust distributed optimisation in JAX.

A Byzantine round is a chain of gradient transformations over stacked updates; a run is one ``lax.scan`` of rounds;
a sweep is one ``vmap`` of runs. Verbs are at the top (`chain`, `aggregate`, `simulate`, `run`, `sweep`, `select`),
nouns in namespaces (`aggregators`, `attacks`, `tasks`, `methods`, `transforms`, `metrics`, `sharding`, `data`).
"""

from byzjax import aggregators, attacks, data, methods, metrics, sharding, stacked, tasks, transforms
from byzjax._version import __version__ as __version__
from byzjax.aggregators._chain import aggregate, chain
from byzjax.base import Aggregator, Attack, Method, PreAggregator
from byzjax.collectives import robust_pmean
from byzjax.estimator import Estimator
from byzjax.programs.cache import enable_compilation_cache
from byzjax.selection import select
from byzjax.simulation.checkpoint import Checkpoint
from byzjax.simulation.round import RoundState, init_state, make_round
from byzjax.simulation.run import run
from byzjax.simulation.simulate import Result, simulate
from byzjax.sweeps.sweep import sweep
from byzjax.task import Task

__all__ = [
    "Aggregator",
    "Attack",
    "Checkpoint",
    "Estimator",
    "Method",
    "PreAggregator",
    "Result",
    "RoundState",
    "Task",
    "aggregate",
    "aggregators",
    "attacks",
    "chain",
    "data",
    "enable_compilation_cache",
    "init_state",
    "make_round",
    "methods",
    "metrics",
    "robust_pmean",
    "run",
    "select",
    "sharding",
    "simulate",
    "stacked",
    "sweep",
    "tasks",
    "transforms",
]


def __dir__() -> list[str]:
    return __all__
