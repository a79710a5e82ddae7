"""Hyperparameters of a sweep that a factory would refuse, found in the runs before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.core
import numpy as np

from byzjax.checks.traced import Later
from byzjax.sweeps.grid import Points


def of_these(noted: Sequence[Later], point: Mapping[str, Any]) -> list[Later]:
    """The checks of a point's values, or of what is computed from them at the same place: not inside of a program."""
    traces = {id(getattr(value, "_trace", None)) for value in point.values()}
    return [later for later in noted if id(getattr(later.value, "_trace", None)) in traces]


def check_points(closed: Any, first: int, checks: Sequence[Callable[[Any], Any]], points: Points) -> None:
    """Call every check with the values that it would see in the runs.

    Args:
      closed: the traced program ``(*point) -> (*outputs, *checked values)``, arguments in the order of their names.
      first: how many outputs come before the checked values.
      checks: one for each checked value.
      points: axis -> values.

    Raises:
      ValueError: what a check says of the first run that it refuses, and which run that is if that matters.
    """
    if not checks:
        return
    triples = zip(_checked(closed, first, points), checks, _of_axes(closed.jaxpr, first), strict=True)
    for refused, check, of_axes in triples:
        for value, run in zip(*np.unique(refused, return_index=True, axis=0), strict=True):
            try:
                check(_plain(value))
            except ValueError as error:
                if not of_axes:
                    raise
                where = ", ".join(f"{name} = {_plain(values[run])}" for name, values in points.items())
                raise ValueError(f"{error} (The sweep would have it at {where}.)") from error


def _checked(closed: Any, first: int, points: Points) -> list[np.ndarray]:
    """The checked values of all runs; only what they are computed from is computed."""
    jaxpr = closed.jaxpr
    outvars = jaxpr.outvars[first:]
    needed = {id(var) for var in outvars}
    eqns = []
    for eqn in reversed(jaxpr.eqns):
        if any(id(var) in needed for var in eqn.outvars):
            eqns.append(eqn)
            needed |= {id(var) for var in eqn.invars}
    part = jaxpr.replace(eqns=eqns[::-1], outvars=outvars)
    arguments = [points[name] for name in sorted(points)]
    checked = jax.vmap(lambda *point: jax.core.eval_jaxpr(part, closed.consts, *point))(*arguments)
    return [np.asarray(values) for values in checked]


def _of_axes(jaxpr: Any, first: int) -> list[bool]:
    """Whether a checked value is computed from an axis at all."""
    moved = {id(var) for var in jaxpr.invars}
    for eqn in jaxpr.eqns:
        if any(id(var) in moved for var in eqn.invars):
            moved |= {id(var) for var in eqn.outvars}
    return [id(var) in moved for var in jaxpr.outvars[first:]]


def _plain(value: Any) -> Any:
    """As Python writes it: 0.1 and not 0.10000000149011612."""
    if np.ndim(value):
        return value
    return float(str(value)) if isinstance(value, np.floating) else value.item()


__all__ = ["check_points", "of_these"]
