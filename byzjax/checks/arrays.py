"""Arrays that somebody hands in: are they any, and whose are they afterwards?"""

from __future__ import annotations

from typing import Any

import jax
import jax.dtypes
import jax.numpy as jnp
import numpy as np

from byzjax.checks import shown, with_article


def as_array(value: Any, argument: str, where: str) -> np.ndarray:
    """As NumPy, a list too; not copied.

    Raises:
      ValueError: it is no array of numbers, or traced.

    >>> as_array([3, 1], "labels", "task").tolist()
    [3, 1]
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # traced, or rows of several lengths
        array = None
    if array is None or array.dtype == object or array.dtype.kind in "SUMm":
        raise ValueError(f"{where}: {argument} = {shown(value)} must be an array of numbers, and not traced.")
    return array


def owned(tree: Any, where: str) -> Any:
    """The same arrays, of which nobody else can change any: those of NumPy are copied and read-only.

    On a CPU ``jnp.asarray`` of an aligned NumPy array *is* that array, and so is ``jax.device_put``'s.

    Args:
      tree: leaves are arrays, numbers, or what stands for an array while JAX traces.
      where: what messages begin with.

    Raises:
      ValueError: a leaf is something else.

    >>> labels = np.array([1, 1])
    >>> mine = owned({"labels": labels}, "task")
    >>> labels[:] = 0
    >>> mine["labels"].tolist()
    [1, 1]
    """

    def own(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return leaf
        if not _is_array(leaf):
            name, kind = f"data{jax.tree_util.keystr(path)}", with_article(type(leaf).__name__)
            raise ValueError(
                f"{where}: {name} = {shown(leaf)} is {kind}, not an array of numbers; what else a task needs its "
                "functions close over."
            )
        if not isinstance(leaf, np.ndarray) or (leaf.base is None and not leaf.flags.writeable):
            return leaf
        copy = np.array(leaf)
        copy.setflags(write=False)
        return copy

    return jax.tree_util.tree_map_with_path(own, tree)


def _is_array(leaf: Any) -> bool:
    try:
        kind = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    except (TypeError, ValueError):
        return False
    return any(jnp.issubdtype(kind, known) for known in (np.number, np.bool_, jax.dtypes.extended))
