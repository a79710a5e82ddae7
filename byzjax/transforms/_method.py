"""A whole method as one optax link."""

from __future__ import annotations

from typing import Any

import jax
import optax

from byzjax.base import Method
from byzjax.checks import check_kind
from byzjax.transforms._accumulating import accumulating, checked_transformation
from byzjax.transforms._workers import per_worker, robust_aggregate


def as_transformation(
    method: Method, num_workers: int, *, key: jax.Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """A whole method as one optax link: gradients ``[n, *p]`` go in, the server's step ``[*p]`` comes out.

    ``optax.chain(per_worker(method.worker, n), robust_aggregate(method.aggregator), method.server)``: what
    `byzjax.simulate` does in a round without attack, bit for bit, in anybody's loop, and for whatever takes an optax
    transformation: ``flax.nnx.Optimizer``, ``TrainState``, checkpoints of orbax.

    Args:
      method: from `byzjax.methods`, or a `Method` of one's own.
      num_workers: n.
      key: for rules that draw, as in `robust_aggregate`.

    Returns:
      A link. ``update(grads, state, params, **extra)`` passes ``extra`` on to all three parts.

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
    server: Any = accumulating(checked_transformation(method.server, "server", "Method"))
    return optax.with_extra_args_support(
        optax.chain(
            per_worker(method.worker, num_workers, initial=method.initial),
            robust_aggregate(method.aggregator, key=key),
            server,
        )
    )
