"""byzjax: Byzantine-robust distributed optimisation in JAX.

A Byzantine round is a chain of gradient transformations over stacked updates; a run is one ``lax.scan`` of rounds;
a sweep is one ``vmap`` of runs. Verbs are at the top (`chain`, `aggregate`, `simulate`, `run`, `sweep`, `select`),
nouns in namespaces (`aggregators`, `attacks`, `tasks`, `methods`, `transforms`, `metrics`, `sharding`, `data`).
"""

from byzjax import aggregators, attacks, data, methods, metrics, sharding, stacked, tasks, transforms
from byzjax.aggregators.chain import aggregate, chain
from byzjax.base import Aggregator, Attack, Method, PreAggregator, Task
from byzjax.checkpoint import Checkpoint
from byzjax.round import RoundState, init_state, make_round
from byzjax.selection import select
from byzjax.simulate import Result, run, simulate
from byzjax.sweep import sweep

__version__ = "0.1.0"

__all__ = [
    "Aggregator",
    "Attack",
    "Checkpoint",
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
    "init_state",
    "make_round",
    "methods",
    "metrics",
    "run",
    "select",
    "sharding",
    "simulate",
    "stacked",
    "sweep",
    "tasks",
    "transforms",
]
