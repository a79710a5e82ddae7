"""How workers estimate their gradients where one gradient of a batch is not enough: variance reduction, error feedback.

An estimator asks an `Oracle`, which is what a worker can do with its data in a round, and remembers what it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from byzjax.types import Params, Stacked
from byzjax.values import Value


class Oracle(Protocol):
    """What all workers can ask their data in one round; attacks on data have been at work on all of it.

    Points are shared by all workers, leaves ``[*p]``; with ``own`` each has its own, leaves ``[n, *p]``. Losses are
    f32[n], gradients leaves ``[n, *p]``, in at least float32. Asked twice in a round it answers with the same examples
    and the same draws of the model.
    """

    @property
    def step(self) -> jax.Array:
        """i32[], how many rounds were before."""
        ...

    @property
    def num_workers(self) -> int:
        """How many there are, n."""
        ...

    @property
    def num_examples(self) -> tuple[int, ...]:
        """N_i, the sizes of the workers' finite sums."""
        ...

    def batch(self, params: Any, *, own: bool = False) -> tuple[jax.Array, Stacked]:
        """Losses and gradients on the round's batch."""
        ...

    def full(self, params: Any, *, own: bool = False) -> tuple[jax.Array, Stacked]:
        """Losses f_i and gradients ∇f_i of the whole finite sums, in pieces of bounded memory."""
        ...

    def examples(self, params: Params, index: jax.Array) -> tuple[jax.Array, Stacked]:
        """Losses f_ij, ``[n, m]``, and gradients ∇f_ij, leaves ``[n, m, *p]``, at numbers i32[n, m] of examples."""
        ...

    def workers(self, tree: Any) -> Any:
        """Leaves ``[n, …]`` where their workers are, on a mesh."""
        ...


def unchanged_state(state: Any, aggregate: Params) -> Any:
    """An estimator that does not look at what the server broadcasts."""
    del aggregate
    return state


class _EstimatorFields(NamedTuple):
    init: Callable[..., Any]
    estimate: Callable[..., tuple[jax.Array, Stacked, Any]]
    observe: Callable[..., Any] = unchanged_state
    finite_sum: bool = False


class Estimator(Value, _EstimatorFields):
    """How workers estimate their gradients. Byzantine workers do so, too, before the attack rewrites what they send.

    Attributes:
      init: ``(task, params) -> state``.
      estimate: ``(oracle, params, state, *, key) -> (losses, estimates, state)`` with losses f32[n] and estimates of
        leaves ``[n, *p]``; ``key`` is of this round and of estimators alone. The worker's transformation comes after
        it, attacks are given the estimates as ``grads``, and the rule the state as ``estimator=``: server and workers
        agree on coins. A field ``whole`` of it, bool[], says whether the estimates are full gradients.
      observe: ``(state, aggregate) -> state`` at the end of the round, with what the server broadcasts; by default
        nothing is learned from that.
      finite_sum: whether the oracle is asked for full gradients or examples, which not every task has.
    """
