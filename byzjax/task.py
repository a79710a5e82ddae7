"""A distributed objective: data as leaves, functions as all else."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from byzjax.checks import check_integer, check_kind
from byzjax.checks.arrays import owned
from byzjax.checks.masks import as_mask
from byzjax.programs.captured import read_outside
from byzjax.types import Batch, Params
from byzjax.values import Value, made_again
from byzjax.values.made import is_own


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Task(Value):
    """A distributed objective. A pytree: ``data`` are leaves, all else is static.

    Pass a task as an *argument* of a jitted function. Data closed over become constants of the program.

    Attributes:
      data: arrays that live on the device (uint8 images, shifts, …). Those of NumPy are copied.
      init: ``(key) -> params``.
      sample: ``(data, key) -> batch`` with leaves ``[n, B, …]``, inside the compiled program; see ``by_round``.
      loss: ``(params, batch, key) -> f32[]`` for one worker; its gradient is that worker's oracle.
      evaluate: ``(data, params) -> dict`` of named arrays.
      num_workers: n.
      name: what reports call it.
      worker_batch: how many workers' gradients are computed at a time, on every device: the less, the less memory the
        activations take. The numbers do not depend on it but for rounding. Best a divisor of n. By default all.
      by_round: ``sample`` is ``(data, key, step) -> batch`` with one key for the whole run and the number of the round,
        as draws without replacement need.
      byzantine: who lies, where the data depend on it: a run with another mask is refused. A mask bool[n] or numbers of
        workers, kept as a tuple of n flags. By default anybody may.
      num_classes: how many classes the labels of its batches have, for attacks on them.
      examples: ``(data, index) -> batch`` with leaves ``[n, m, …]``: of worker i the examples ``index[i]``, i32[n, m],
        of its own finite sum ``f_i = (1/N_i) Σ_j f_ij``; f_ij is the loss on a batch of example j alone. For methods
        that ask for full gradients or single examples. By default there is no finite sum.
      num_examples: N_i, n integers; with ``examples``.

    Raises:
      ValueError: a function that is none, data that are no arrays, a count that is not an integer ≥ 1, a bad mask, one
        of ``examples`` and ``num_examples`` without the other.
    """

    data: Any
    init: Callable[..., Params]
    sample: Callable[..., Batch]
    loss: Callable[..., jax.Array]
    evaluate: Callable[..., dict[str, jax.Array]]
    num_workers: int
    name: str = "task"
    worker_batch: int | None = None
    by_round: bool = False
    byzantine: Any = None
    num_classes: int | None = None
    examples: Callable[..., Batch] | None = None
    num_examples: Any = None
    _origin = None  # what made its functions, where it was put together again
    _leaves = ()  # of the data that it was made with

    def __post_init__(self):
        where = check_kind(self.name, str, "name", "Task", fix="it is what reports call the task.")
        for argument in ("init", "sample", "loss", "evaluate"):
            check_kind(getattr(self, argument), Callable, argument, where, fix="pass a function.")  # type: ignore[arg-type]
        n = check_integer(self.num_workers, "num_workers", where, least=1)
        checked: dict[str, Any] = {"num_workers": n, "data": owned(self.data, where)}
        for argument in ("worker_batch", "num_classes"):
            value = getattr(self, argument)
            checked[argument] = None if value is None else check_integer(value, argument, where, least=1)
        if self.byzantine is not None:
            checked["byzantine"] = tuple(as_mask(self.byzantine, n, where).tolist())
        if self.examples is not None or self.num_examples is not None:
            checked["num_examples"] = self._checked_sizes(where)
        vars(self).update(checked, _leaves=tuple(jax.tree.leaves(checked["data"])))

    def _checked_sizes(self, where: str) -> tuple[int, ...]:
        check_kind(self.examples, Callable, "examples", where, fix="pass a function, with num_examples.")  # type: ignore[arg-type]
        fix = "pass one size N_i ≥ 1 for each worker, with examples."
        check_kind(self.num_examples, (Sequence, np.ndarray), "num_examples", where, fix=fix, wanted="a list")
        if len(self.num_examples) != self.num_workers:
            raise ValueError(f"{where}: num_examples has {len(self.num_examples)} entries; {fix}")
        return tuple(check_integer(size, "num_examples", where, least=1) for size in self.num_examples)

    def __repr__(self) -> str:
        return f"Task({self.name}, num_workers={self.num_workers})" if self._call is None else super().__repr__()

    def _key(self) -> Any:
        """With what its functions read; None where other data took the place of its own."""
        untouched = all(a is b for a, b in zip(jax.tree.leaves(self.data), self._leaves, strict=False))
        if not untouched or self._call is None or self._call.key is None:
            return None
        return self._call.key, self._reads()

    def _reads(self) -> str:
        """What the functions close over, as far as it is not data."""
        if "_digest" not in vars(self):
            vars(self)["_digest"] = read_outside(self.init, self.sample, self.loss, self.evaluate, self.examples)
        return vars(self)["_digest"]

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        same = copy.copy(self)
        vars(same)["data"] = jax.tree.map(
            lambda x: copy.deepcopy(x, memo) if isinstance(x, np.ndarray) else x, self.data
        )
        return same

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._call is None:
            return super().__reduce_ex__(protocol)
        made = self._call.factory, self._call.arguments, self._call.outside
        return _task_again, (made, None if self._key() is not None else self.data)

    def tree_flatten_with_keys(self):
        """The data, and all else."""
        return ((jax.tree_util.GetAttrKey("data"), self.data),), self._static()

    def tree_flatten(self):
        """As with keys: JAX flattens much."""
        return (self.data,), self._static()

    def _static(self) -> _Static:
        values = tuple(vars(self)[field.name] for field in dataclasses.fields(self)[1:])
        call = self._call
        if call is not None and call.key is not None and is_own(call.factory):  # a user's may close over anything
            return _Static(values, (call.key, self._reads()))
        return _Static(values, self._origin)

    @classmethod
    def tree_unflatten(cls, static: _Static, children: tuple) -> Task:
        """Unchecked: JAX puts whatever it likes in the place of data."""
        task = object.__new__(cls)
        names = [field.name for field in dataclasses.fields(cls)]
        vars(task).update(zip(names, (*children, *static.values), strict=True))
        vars(task)["_origin"] = static.origin
        return task


def _task_again(made: tuple[Any, ...], data: Any) -> Task:
    task = made_again(*made)
    if data is not None:
        vars(task)["data"] = data
    return task


class _Static:
    """All of a task but its data: equal where the same factory of byzjax made both of equal arguments.

    So a task made twice is the same kind of argument to a compiled program.
    """

    def __init__(self, values: tuple[Any, ...], origin: Any):
        self.values, self.origin = values, origin

    def _compared(self) -> Any:
        return self.values if self.origin is None else self.origin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())
