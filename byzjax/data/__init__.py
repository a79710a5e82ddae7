"""Data sets as NumPy arrays in host memory.

>>> from byzjax import data
>>> sorted(data.REGISTRY)
['mnist', 'shakespeare', 'tiny_shakespeare']
"""

import difflib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, overload

from byzjax.data import gateway, mnist, text
from byzjax.data.base import Dataset
from byzjax.data.text import Text

__all__ = ["REGISTRY", "Dataset", "Text", "load"]

REGISTRY: dict[str, Callable[..., Dataset | Text]] = {
    "mnist": mnist.load,
    "shakespeare": text.load_shakespeare,
    "tiny_shakespeare": text.load_tiny_shakespeare,
}


def nearest(name: str) -> str:
    """What `load` knows that is most like a name: of the package, or usual in tensorflow-datasets.

    >>> nearest("mnst"), nearest("CIFAR-10")
    ('mnist', 'tfds:cifar10')
    """
    by_letters = {known.replace("_", ""): known for known in (*REGISTRY, *gateway.USUAL)}
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    near = by_letters[difflib.get_close_matches(letters, by_letters, n=1, cutoff=0.0)[0]]
    return near if near in REGISTRY else gateway.PREFIX + near


@overload
def load(name: Literal["mnist"]) -> Dataset: ...
@overload
def load(name: Literal["shakespeare"]) -> Text: ...
@overload
def load(
    name: Literal["tiny_shakespeare"], data_dir: str | Path | None = None, *, path: str | Path | None = None
) -> Text: ...
@overload
def load(name: str, data_dir: str | Path | None = None, *, path: str | Path | None = None) -> Dataset | Text: ...
def load(name: str, data_dir: str | Path | None = None, *, path: str | Path | None = None) -> Dataset | Text:
    """Returns the data set called `name`.

    What ships with the package is read and verified once; its arrays are shared between calls. All arrays are
    read-only; copy before changing them.

    Args:
      name: a key of `REGISTRY`, or `tfds:NAME` for an image classification data set of tensorflow-datasets,
        see `byzjax.data.gateway`.
      data_dir: where data sets of tensorflow-datasets are kept; `$BYZJAX_DATA_DIR`, else `~/.cache/byzjax` by default.
      path: of the file, for `tiny_shakespeare`.

    Returns:
      Images, a `Dataset`: `train_images: uint8[num_train, height, width]`, colour images with a last axis of 3,
      `train_labels: [num_train]`, the same two for the test set, and `num_classes`.
      Or a text, a `Text`: `train: uint8[num_train]`, `val`, `test`, and the `vocabulary`.

    Raises:
      ValueError: if `name` is unknown, a file of the data set is missing or corrupt, it cannot be prepared, or it is
        not read from a `path`.

    >>> import byzjax
    >>> mnist = byzjax.data.load("mnist")
    >>> mnist.train_images.shape, mnist.test_images.shape, mnist.num_classes
    ((60000, 28, 28), (10000, 28, 28), 10)
    >>> byzjax.data.load("shakespeare").vocab_size
    63
    """
    if str(name).startswith(gateway.PREFIX):
        if path is not None:
            raise ValueError(f"path={str(path)!r}: {name} is not read from a path; use data_dir.")
        return gateway.load(name, data_dir)
    if name not in REGISTRY:
        near = nearest(str(name))
        known = ", ".join(sorted(REGISTRY))
        raise ValueError(f"name={name!r} is not a data set; nearest: {near!r}. Known: {known}, tfds:NAME.")
    loader = REGISTRY[name]
    takes = inspect.signature(loader).parameters
    if path is not None and "path" not in takes:
        raise ValueError(f"path={str(path)!r}: {name} is not read from a path; leave it out.")
    given: dict[str, Any] = {"data_dir": data_dir, "path": path}
    return loader(**{option: value for option, value in given.items() if option in takes})
