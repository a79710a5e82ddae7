"""Hyperparameters of a sweep that a factory would refuse, found in the lanes before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.core
import numpy as np

from byzjax.checks.traced import Later
from byzjax.sweeps.grid import Lanes


def of_these(noted: Sequence[Later], lane: Mapping[str, Any]) -> list[Later]:
    """The checks of values that are the lane's, or computed from them where they are; not those inside of a program."""
    traces = {id(getattr(value, "_trace", None)) for value in lane.values()}
    return [later for later in noted if id(getattr(later.value, "_trace", None)) in traces]


def check_lanes(closed: Any, first: int, checks: Sequence[Callable[[Any], Any]], lanes: Lanes) -> None:
    """Call every check with the values that it would see in the lanes.

    Args:
      closed: the traced program ``(*lane) -> (*outputs, *checked values)``, arguments in the order of their names.
      first: how many outputs come before the checked values.
      checks: one for each checked value.
      lanes: axis -> values.

    Raises:
      ValueError: what a check says of the first lane that it refuses, and which lane that is if that matters.
    """
    if not checks:
        return
    found = zip(_checked(closed, first, lanes), checks, _by_the_lane(closed.jaxpr, first), strict=True)
    for values, check, by_the_lane in found:
        for value, lane in zip(*np.unique(values, return_index=True, axis=0), strict=True):
            try:
                check(_plain(value))
            except ValueError as error:
                if not by_the_lane:
                    raise
                where = ", ".join(f"{name} = {_plain(points[lane])}" for name, points in lanes.items())
                raise ValueError(f"{error} (The sweep would have it at {where}.)") from error


def _checked(closed: Any, first: int, lanes: Lanes) -> list[np.ndarray]:
    """The checked values of all lanes; only what they are computed from is computed."""
    jaxpr = closed.jaxpr
    outvars = jaxpr.outvars[first:]
    needed = {id(var) for var in outvars}
    eqns = []
    for eqn in reversed(jaxpr.eqns):
        if any(id(var) in needed for var in eqn.outvars):
            eqns.append(eqn)
            needed |= {id(var) for var in eqn.invars}
    part = jaxpr.replace(eqns=eqns[::-1], outvars=outvars)
    points = [lanes[name] for name in sorted(lanes)]
    found = jax.vmap(lambda *lane: jax.core.eval_jaxpr(part, closed.consts, *lane))(*points)
    return [np.asarray(values) for values in found]


def _by_the_lane(jaxpr: Any, first: int) -> list[bool]:
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


__all__ = ["check_lanes", "of_these"]
