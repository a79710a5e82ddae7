"""Data sets as NumPy arrays in host memory.

>>> from byzjax import data
>>> sorted(data.REGISTRY)
['mnist']
"""

import difflib
from collections.abc import Callable

from byzjax.data import mnist
from byzjax.data.base import Dataset

__all__ = ["REGISTRY", "Dataset", "load"]

REGISTRY: dict[str, Callable[[], Dataset]] = {
    "mnist": mnist.load,
}


def load(name: str) -> Dataset:
    """Returns the data set called `name`.

    The arrays are shared between calls and read-only; copy before changing them.

    Args:
      name: a key of `REGISTRY`.

    Returns:
      A `Dataset`: `train_images: uint8[num_train, height, width]` and
      `train_labels: uint8[num_train]`, the same two for the test set, and `num_classes`.

    Raises:
      ValueError: if `name` is not registered, or a file of the data set is missing or corrupt.

    >>> import byzjax
    >>> mnist = byzjax.data.load("mnist")
    >>> mnist.train_images.shape, mnist.test_images.shape, mnist.num_classes
    ((60000, 28, 28), (10000, 28, 28), 10)
    """
    if name not in REGISTRY:
        near = difflib.get_close_matches(str(name), REGISTRY, n=1, cutoff=0.0)[0]
        known = ", ".join(sorted(REGISTRY))
        raise ValueError(f"name={name!r} is not a data set; nearest: {near!r}. Known: {known}.")
    return REGISTRY[name]()
