"""A robust rule in place of the mean over devices: `jax.lax.pmean` that a minority of devices cannot spoil."""

from __future__ import annotations

from typing import Any, overload

import jax
import jax.numpy as jnp

from byzjax.base import Aggregator, Coordinatewise, check_rule
from byzjax.checks import shown
from byzjax.checks.contracts import check_like
from byzjax.collectives import _pieces
from byzjax.collectives._axes import agreed, as_tuple, check_apart, check_common, check_one_kind, check_own, num_devices
from byzjax.collectives._memory import Memory
from byzjax.collectives._shares import Shares
from byzjax.promises import traits_of
from byzjax.stacked.coordinate_axis import AxisName
from byzjax.types import Params
from byzjax.values.made import is_own

_NAME = "robust_pmean"


@overload
def robust_pmean(
    grads: Params,
    axis_name: AxisName,
    rule: Aggregator,
    *,
    key: jax.Array | None = None,
    state: None = None,
    params: Params | None = None,
    parameter_axes: AxisName = (),
) -> Any: ...
@overload
def robust_pmean(
    grads: Params,
    axis_name: AxisName,
    rule: Aggregator,
    *,
    key: jax.Array | None = None,
    state: Any,
    params: Params | None = None,
    parameter_axes: AxisName = (),
) -> tuple[Any, Any]: ...
def robust_pmean(
    grads: Params,
    axis_name: AxisName,
    rule: Aggregator,
    *,
    key: jax.Array | None = None,
    state: Any = None,
    params: Params | None = None,
    parameter_axes: AxisName = (),
) -> Any:
    """``rule(g_1, …, g_n)`` of the gradients of the n devices along an axis, on each of them.

    It takes the place of `jax.lax.pmean` in `jax.shard_map` (its result may leave by ``out_specs=P()``), `jax.pmap` and
    ``jax.vmap(…, axis_name=…)``. A device hands over its gradient for a share of the coordinates of all gradients (one
    all-to-all), so that it never holds more than d numbers of other devices; what a rule needs of whole gradients is a
    sum of n × n numbers; and the shares of the result are gathered, d numbers.

    Args:
      grads: leaves ``[*p]``, this device's; decided upon in float32 or wider, returned in their own dtypes.
      axis_name: the axis, or several; every device along it is a worker. Average first over devices that together are
        one.
      rule: an `Aggregator` of `byzjax.aggregators`, e.g. ``byzjax.chain(nnm(f=1), geometric_median())``; n is the size
        of the axis. Any but `deepsight`, which looks at whole layers.
      key: for rules that draw; the same on all devices.
      state: of a rule that remembers; then a pair of the result and the next state is returned. See
        `byzjax.transforms.robust_aggregate` for what makes and keeps it.
      params: for rules that look at them; the same on all devices.
      parameter_axes: axes of the mesh along which gradients are cut into pieces with the parameters; lengths and inner
        products are those of whole gradients then. A leaf that does not vary over them is whole on every device, which
        its type must say: not with ``check_vma=False``. Axes that `jax.shard_map` leaves to the compiler need not be
        named.

    Returns:
      leaves ``[*p]``, the same on all devices along the axis.

    Raises:
      ValueError: no such axis, one that is named twice, gradients that are the same on all devices, no rule or one of
        somebody else, a rule that remembers without a state, a key that differs from device to device, and whatever the
        rule refuses, as an f too large for n.

    Under ``check_vma=True`` `jax.grad` at parameters that are the same on all devices *sums* over devices: take it at
    ``jax.lax.pcast(params, axis_name, to="varying")``. Gradients that were summed are refused.

    >>> import byzjax
    >>> from byzjax import aggregators as agg
    >>> grads = jnp.array([[1.0], [2.0], [jnp.nan]])
    >>> jax.vmap(lambda g: robust_pmean(g, "data", agg.median()), axis_name="data")(grads).tolist()
    [[2.0], [2.0], [2.0]]
    """
    check_shareable(rule, _NAME)
    axis, others = as_tuple(axis_name), as_tuple(parameter_axes)
    n = num_devices(axis, "axis_name", _NAME)
    if others:
        num_devices(others, "parameter_axes", _NAME)
    check_apart(axis, others, "axis_name", _NAME)
    check_one_kind(axis, "axis_name", _NAME)
    check_one_kind(others, "parameter_axes", _NAME)
    grads = jax.tree.map(jnp.asarray, grads)
    _check_floats(grads)
    check_own(grads, axis, "grads", _NAME)
    check_common(key, axis, "key", _NAME)
    check_common(params, axis, "params", _NAME)
    memory = Memory(rule, grads)
    if state is None and not memory.nothing:
        raise ValueError(
            f"{_NAME}: {rule!r} remembers earlier rounds; pass state=…, or use "
            "byzjax.transforms.robust_aggregate(rule, axis_name=…), which keeps it."
        )
    leaves, structure = jax.tree.flatten(grads)
    if not leaves:
        return grads if state is None else (grads, state)
    before = rule.init(grads) if state is None else state
    large: dict[int, jax.Array] = {}
    if isinstance(rule.kernel, Coordinatewise):
        large = {k: leaf for k, leaf in enumerate(leaves) if leaf.size > _pieces.in_a_piece()}
    rest = {k: leaf for k, leaf in enumerate(leaves) if k not in large}
    shares = Shares(list(rest.values()), axis, others, apart=_judges_leaves(rule))
    rows = shares.rows(list(rest.values()))
    if state is not None:
        expected = jax.eval_shape(lambda: memory.init(grads, shares, (*others, *axis)))
        check_like(state, expected, "state", _NAME, fix="make it by rule.init(params), of this rule.")
    at = None
    if params is not None:
        check_like(params, grads, "params", _NAME, fix="they have the shapes of grads.")
        at = shares.share([leaf for k, leaf in enumerate(jax.tree.leaves(params)) if k in rest])
    try:
        done = {k: _pieces.reduced_in_pieces(rule.kernel.reduce, leaf, axis) for k, leaf in large.items()}  # type: ignore[union-attr]
        with shares.one_of_several():
            result, after = rule.update(rows, memory.to_shares(before, shares), at, key=key)
    except ValueError as error:
        raise ValueError(f"{_NAME} over {n} devices along {axis_name!r}: {error}") from error
    done |= dict(zip(rest, shares.whole(jax.tree.leaves(result), list(rest.values())), strict=True))
    reduced = jax.tree.unflatten(structure, [done[k] for k in range(len(leaves))])
    if state is None:
        return reduced
    return reduced, memory.from_shares(after, before, shares, lambda tree: agreed(tree, (*others, *axis)))


def init_memory(
    rule: Aggregator, params: Params, axis_name: AxisName, parameter_axes: AxisName = (), where: str = _NAME
) -> Any:
    """The state of a rule for `robust_pmean`.

    Rules that remember every worker's gradient keep a share of it on each device: their state varies over the axis.

    Raises:
      ValueError: such a rule outside the axis.
    """
    memory = Memory(rule, params)
    if not memory.in_shares:
        return rule.init(params)
    axis, others = as_tuple(axis_name), as_tuple(parameter_axes)
    check_apart(axis, others, "axis_name", where)
    try:
        num_devices(axis, "axis_name", where)
    except ValueError as error:
        raise ValueError(
            f"{where}: {rule!r} remembers every worker's gradient, of which each device keeps a share: call init where "
            "the devices are, inside jax.shard_map with out_specs from byzjax.transforms.state_specs, or in jax.pmap."
        ) from error
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    shares = Shares(leaves, axis, others, apart=_judges_leaves(rule))
    return memory.init(params, shares, (*others, *axis))


def check_shareable(rule: Aggregator, where: str) -> None:
    """Reject what is no rule, or one whose code may read coordinates that other devices have.

    Raises:
      ValueError: no `Aggregator`, or one that byzjax has not made.
    """
    check_rule(rule, "rule", where)
    for link in rule.links:
        known = link.kernel is not None or (link._call is not None and is_own(link._call.factory))
        if not known:
            raise ValueError(
                f"{where}: rule {shown(link)} is not one of byzjax.aggregators, and would see a part of the "
                "coordinates for all of them; stack gradients by jax.lax.all_gather and use byzjax.aggregate."
            )


def _check_floats(grads: Params) -> None:
    for path, leaf in jax.tree.leaves_with_path(grads):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{_NAME}: grads{jax.tree_util.keystr(path)} has dtype {leaf.dtype}; gradients must be floating point."
            )


def _judges_leaves(rule: Aggregator) -> bool:
    return any(link._call is not None and traits_of(link._call.factory).layerwise for link in rule.links)
