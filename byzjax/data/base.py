"""What every data set looks like, and how a file that ships with the package is read."""

import hashlib
import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A labelled image data set in host memory; the arrays are read-only.

    Pixels stay `uint8`: a quarter of the memory of float32, and converting a minibatch inside a
    jitted function costs nothing. Labels are integers of any type, from 0 to `num_classes` − 1.
    """

    train_images: np.ndarray  # uint8[num_train, height, width], or [num_train, height, width, channels]
    train_labels: np.ndarray  # integers [num_train]
    test_images: np.ndarray  # uint8[num_test, height, width], or [num_test, height, width, channels]
    test_labels: np.ndarray  # integers [num_test]
    num_classes: int


def read_xz(path: Path, sha256: str) -> bytes:
    """Returns the decompressed content of an xz file whose SHA-256 is known.

    Args:
      path: the compressed file.
      sha256: the expected checksum of the compressed file, in hexadecimal.

    Raises:
      ValueError: if the file is missing, or is not the file that was published.
    """
    fix = "Reinstall byzjax, or restore the file from its repository."
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise ValueError(f"data file {path} cannot be read ({error.strerror}). {fix}") from error
    found = hashlib.sha256(packed).hexdigest()
    if found != sha256:
        raise ValueError(f"data file {path} is corrupt: its SHA-256 is {found}, expected {sha256}. {fix}")
    return lzma.decompress(packed)
