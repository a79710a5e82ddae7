"""Who of a task's workers lies."""

from __future__ import annotations

from typing import Any

import numpy as np

from byzjax.checks import check_integer
from byzjax.checks.masks import Liars, as_mask


def who_lies(num_workers: Any, num_byzantine: Any = 0, byzantine: Liars | None = None, *, where: str) -> np.ndarray:
    """bool[n]: the last b, unless it is said who.

    Args:
      num_workers: n.
      num_byzantine: b; with ``byzantine`` it may be left at 0.
      byzantine: a mask bool[n], or the numbers of those who lie.
      where: what messages begin with.

    Raises:
      ValueError: n < 1, no honest worker, a mask that is none, or two that contradict each other.

    >>> who_lies(4, 1, where="task").tolist(), who_lies(4, byzantine=[0], where="task").tolist()
    ([False, False, False, True], [True, False, False, False])
    """
    num_workers = check_integer(num_workers, "num_workers", where, least=1)
    num_byzantine = check_integer(num_byzantine, "num_byzantine", where, least=0)
    if byzantine is None:
        mask = np.arange(num_workers) >= num_workers - num_byzantine
    else:
        mask = as_mask(byzantine, num_workers, where)
        if num_byzantine not in (0, mask.sum()):
            raise ValueError(
                f"{where}: num_byzantine = {num_byzantine}, but byzantine marks {mask.sum()} workers; leave "
                "num_byzantine out."
            )
        num_byzantine = int(mask.sum())
    if num_byzantine >= num_workers:
        raise ValueError(
            f"{where}: num_byzantine = {num_byzantine} must be between 0 and num_workers − 1 = {num_workers - 1}."
        )
    return mask
