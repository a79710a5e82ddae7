"""What an estimator may ask of a task in one round: the batch, the whole finite sums, single examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byzjax.base import Method
from byzjax.checks import check_kind
from byzjax.estimator import Estimator
from byzjax.sharding import Layout
from byzjax.task import Task
from byzjax.transforms._accumulating import widened
from byzjax.types import Batch, Params, Stacked

_PIECE = 64  # examples of a worker whose gradients are summed at a time


@dataclasses.dataclass(frozen=True)
class RoundOracle:
    """The `byzjax.estimator.Oracle` of one round.

    Attributes:
      task, layout: whose workers, and where they are.
      step: i32[], rounds done.
      drawn: the round's batch, after the attack on it.
      poison: what the attack makes of any batch.
      keys: of the model, key[n].
    """

    task: Task
    layout: Layout
    step: jax.Array
    drawn: Batch
    poison: Callable[[Batch], Batch]
    keys: jax.Array

    @property
    def num_workers(self) -> int:
        """How many there are, n."""
        return self.task.num_workers

    @property
    def num_examples(self) -> tuple[int, ...]:
        """N_i."""
        return check_finite_sum(self.task).num_examples

    def batch(self, params: Any, *, own: bool = False) -> tuple[jax.Array, Stacked]:
        """Losses and gradients on the round's batch."""
        return self._each(jax.value_and_grad(self.task.loss), params, self.drawn, own)

    def full(self, params: Any, *, own: bool = False) -> tuple[jax.Array, Stacked]:
        """Losses and gradients of the whole finite sums, piece by piece."""
        sizes = jnp.asarray(self.num_examples, jnp.int32)[:, None]
        most = max(self.num_examples)
        length = min(most, _PIECE)

        def of_piece(params: Params, given: tuple[Batch, jax.Array], key: jax.Array) -> jax.Array:
            piece, shares = given
            losses = jax.vmap(lambda one: self.task.loss(params, one, key))(_alone(piece))
            return (shares.astype(losses.dtype) * losses).sum()

        def piece_from(start: jax.Array) -> tuple[jax.Array, Stacked]:
            index = jnp.broadcast_to(start + jnp.arange(length, dtype=jnp.int32), (self.num_workers, length))
            shares = jnp.where(index < sizes, 1 / sizes.astype(jnp.result_type(float)), 0.0)
            given = self._taken(jnp.minimum(index, sizes - 1)), shares
            return self._each(jax.value_and_grad(of_piece), params, given, own)

        starts = jnp.arange(0, most, length, dtype=jnp.int32)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(piece_from, starts[0]))
        add = lambda total, start: (jax.tree.map(jnp.add, total, piece_from(start)), None)  # noqa: E731
        return jax.lax.scan(add, nothing, starts)[0]

    def examples(self, params: Params, index: jax.Array) -> tuple[jax.Array, Stacked]:
        """Losses and gradients of single examples."""
        one_by_one = jax.vmap(jax.value_and_grad(self.task.loss), in_axes=(None, 0, None))
        return self._each(lambda at, batch, key: one_by_one(at, _alone(batch), key), params, self._taken(index), False)

    def workers(self, tree: Any) -> Any:
        """Leaves ``[n, …]`` where their workers are."""
        return self.layout.workers(tree)

    def _taken(self, index: jax.Array) -> Batch:
        """The examples with these numbers, i32[n, m], after the attack on them."""
        batch = check_finite_sum(self.task).examples(self.task.data, index)  # type: ignore[misc]
        for path, leaf in jax.tree.leaves_with_path(batch):
            if jnp.shape(leaf)[:2] != index.shape:
                raise ValueError(
                    f"task.examples: batch{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)} where examples "
                    f"{list(index.shape)} were asked for; every leaf needs these axes first."
                )
        return self.workers(self.poison(self.workers(batch)))

    def _each(self, function: Callable[..., Any], params: Any, given: Any, own: bool) -> Any:
        """Of every worker, at the shared point or at its own."""
        at_a_time = self.task.worker_batch
        if own:
            each = self.layout.map_workers(lambda _, at, key: function(*at, key), at_a_time)
            answer = each(None, (params, given), self.keys)
        else:
            answer = self.layout.map_workers(function, at_a_time)(params, given, self.keys)
        return self.workers(widened(answer))


def check_estimator(task: Task, method: Method) -> None:
    """Reject an estimator that is none, or one that asks for a finite sum where the task has none."""
    estimator = method.estimator
    if estimator is None:
        return
    check_kind(estimator, Estimator, "estimator", "Method", fix="pass a byzjax.Estimator, or None.")
    for name in ("init", "estimate", "observe"):
        check_kind(getattr(estimator, name), Callable, name, "Estimator", fix="pass a function.")  # type: ignore[arg-type]
    if estimator.finite_sum:
        check_finite_sum(task)


def check_finite_sum(task: Task) -> Task:
    """Reject a task whose workers have no finite sum; returns it."""
    if task.examples is None:
        raise ValueError(
            f"task: {task.name} has no finite sums, which the method's estimator asks for; give it examples and "
            "num_examples (see byzjax.Task), or take one that has them: a classification or language model without "
            "dropout, logistic_regression, quartic."
        )
    return task


def _alone(batch: Batch) -> Batch:
    """Every example as a batch of one: leaves ``[m, …]`` become ``[m, 1, …]``."""
    return jax.tree.map(lambda leaf: leaf[:, None], batch)
