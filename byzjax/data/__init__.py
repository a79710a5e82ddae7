"""Data sets as NumPy arrays in host memory.

>>> from byzjax import data
>>> sorted(data.REGISTRY)
['mnist']
"""

import difflib
from collections.abc import Callable
from pathlib import Path

from byzjax.data import gateway, mnist
from byzjax.data.base import Dataset

__all__ = ["REGISTRY", "Dataset", "load"]

REGISTRY: dict[str, Callable[[], Dataset]] = {
    "mnist": mnist.load,
}


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Returns the data set called `name`.

    The arrays are shared between calls and read-only; copy before changing them.

    Args:
      name: a key of `REGISTRY`, or `tfds:NAME` for an image classification data set of tensorflow-datasets,
        see `byzjax.data.gateway`.
      data_dir: where data sets of tensorflow-datasets are kept; `$BYZJAX_DATA_DIR`, else `~/.cache/byzjax` by default.

    Returns:
      A `Dataset`: `train_images: uint8[num_train, height, width]`, colour images with a last axis of 3,
      `train_labels: [num_train]`, the same two for the test set, and `num_classes`.

    Raises:
      ValueError: if `name` is unknown, a file of the data set is missing or corrupt, or it cannot be prepared.

    >>> import byzjax
    >>> mnist = byzjax.data.load("mnist")
    >>> mnist.train_images.shape, mnist.test_images.shape, mnist.num_classes
    ((60000, 28, 28), (10000, 28, 28), 10)
    """
    if str(name).startswith(gateway.PREFIX):
        return gateway.load(name, data_dir)
    if name not in REGISTRY:
        near = difflib.get_close_matches(str(name), REGISTRY, n=1, cutoff=0.0)[0]
        known = ", ".join(sorted(REGISTRY))
        raise ValueError(f"name={name!r} is not a data set; nearest: {near!r}. Known: {known}, tfds:NAME.")
    return REGISTRY[name]()
