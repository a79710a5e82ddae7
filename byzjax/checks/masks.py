"""Who lies, said once: as a mask, or by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import numpy as np

from byzjax.checks import shown

Liars = Sequence[int] | Sequence[bool] | np.ndarray | jax.Array


def as_mask(byzantine: Any, num_workers: int, where: str) -> np.ndarray:
    """bool[n] of a mask bool[n], or of the numbers of those who lie.

    Args:
      byzantine: the mask, or numbers from 0 to n − 1, each once.
      num_workers: n.
      where: what messages begin with.

    Raises:
      ValueError: neither; or traced.

    >>> as_mask([0, 2], 4, "task").tolist()
    [True, False, True, False]
    """
    try:
        given = np.asarray(byzantine)
    except (TypeError, ValueError):  # traced, or ragged
        given = np.asarray(None)
    if given.dtype == bool and given.shape == (num_workers,):
        return given.copy()
    numbers = given.astype(int) if given.size == 0 else given
    fine = numbers.ndim == 1 and numbers.dtype.kind in "iu" and len(set(numbers.tolist())) == len(numbers)
    if not fine or not all(0 <= number < num_workers for number in numbers.tolist()):
        raise ValueError(
            f"{where}: byzantine = {shown(byzantine)} must be a mask bool[{num_workers}], or different numbers of "
            f"workers from 0 to {num_workers - 1}, and not traced; e.g. byzantine=[0]."
        )
    mask = np.zeros(num_workers, bool)
    mask[numbers] = True
    return mask


def check_built_for(built: Sequence[bool] | None, byzantine: Any) -> None:
    """Reject a mask of others than those whom a task was built for. Traced masks pass.

    Args:
      built: `Task.byzantine`.
      byzantine: bool[n], who lies.

    Raises:
      ValueError: they differ.

    >>> check_built_for((False, False, True), np.array([True, False, False]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: byzantine: marks worker 0, but the task was built for worker 2, ...
    """
    if built is None or isinstance(byzantine, jax.core.Tracer) or np.array_equal(np.asarray(byzantine), built):
        return
    marked = np.flatnonzero(byzantine)
    fix = f"build it with byzantine={shown(marked.tolist())}, or pass the mask jnp.asarray(task.byzantine)"
    if not marked.size:
        fix += "; without an attack the mask stays, with attacks.none()"
    raise ValueError(
        f"byzantine: marks {_named(marked)}, but the task was built for {_named(np.flatnonzero(built))}, and who lies "
        f"decides whose data make up the honest objective; {fix}."
    )


def _named(workers: np.ndarray) -> str:
    """In words: the first few, and how many there are."""
    if workers.size < 2:
        return f"worker {workers[0]}" if workers.size else "no worker"
    shown_ = ", ".join(map(str, workers[:6].tolist()))
    return f"workers {shown_}" + (f", … ({workers.size} of them)" if workers.size > 6 else "")
