"""A whole method as one optax link."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from byzjax.base import Method
from byzjax.checks import check_kind
from byzjax.checks.contracts import no_value_fn
from byzjax.transforms._accumulating import accumulating, checked_transformation
from byzjax.transforms._workers import per_worker, robust_aggregate
from byzjax.types import Params, Stacked


def as_transformation(
    method: Method, num_workers: int, *, key: jax.Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """A whole method as one optax link: gradients ``[n, *p]`` go in, the server's step ``[*p]`` comes out.

    ``optax.chain(per_worker(method.worker, n), robust_aggregate(method.aggregator), method.server)``: what
    `byzjax.simulate` does in a round without attack, in anybody's loop, and for whatever takes an optax transformation:
    ``flax.nnx.Optimizer``, ``TrainState``, checkpoints of orbax. In float32 and wider it is that bit for bit, and so is
    the chain; of 16 bits the server here computes and remembers in float32, as in `byzjax.simulate`, which a bare link
    of a chain does not.

    Args:
      method: from `byzjax.methods`, or a `Method` of one's own.
      num_workers: n.
      key: for rules that draw, as in `robust_aggregate`.

    Returns:
      A link. ``update(grads, state, params, **extra)`` passes ``extra`` on to all three parts, with two exceptions, as
      in `byzjax.simulate`: of ``value=`` f32[n], the workers' losses, the server is given the mean; and ``grad=`` is to
      a worker its gradient, to the server the aggregate.

    Raises:
      ValueError: no `Method`, or one with an estimator, which needs more than one gradient; whatever `per_worker` and
        `robust_aggregate` refuse, then and in ``update``.

    >>> import jax.numpy as jnp
    >>> from byzjax import aggregators as agg, methods
    >>> tx = as_transformation(methods.byz_nsgdm(0.5, aggregator=agg.median(), decay=False), num_workers=3)
    >>> tx.update(jnp.array([[3.0], [4.0], [99.0]]), tx.init(jnp.zeros(1)))[0].tolist()
    [-0.5]
    """
    fix = "call a factory of byzjax.methods; a transformation of optax is one already."
    check_kind(method, Method, "method", "as_transformation", fix=fix)
    if method.estimator is not None:
        raise ValueError(
            "as_transformation: method has an estimator, which asks for more than one gradient per worker; a link is "
            "given one. Use byzjax.simulate."
        )
    worker = per_worker(method.worker, num_workers, initial=method.initial)
    rule = robust_aggregate(method.aggregator, key=key)
    server = accumulating(checked_transformation(method.server, "server", "Method"))

    def init(params: Params):
        return tuple(part.init(params) for part in (worker, rule, server))

    def update(updates: Stacked, state: Any, params: Params | None = None, **extra):
        for_worker, for_rule, for_server = state
        sent, for_worker = worker.update(updates, for_worker, params, **{**extra, "grad": updates})
        aggregate, for_rule = rule.update(sent, for_rule, params, **extra)
        told = {"value_fn": no_value_fn("as_transformation: the server's transformation"), **extra, "grad": aggregate}
        if told.get("value") is not None and jnp.shape(told["value"]) == (num_workers,):
            told["value"] = jnp.mean(told["value"])
        step, for_server = server.update(aggregate, for_server, params, **told)
        return step, (for_worker, for_rule, for_server)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
