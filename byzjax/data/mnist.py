"""MNIST, embedded in the package.

Source: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits", 1998.
The four IDX files are the originals, recompressed with xz; `files/mnist/README.md` has the details.
"""

import functools
import struct
from pathlib import Path

import numpy as np

from byzjax.data.base import Dataset, read_xz

FOLDER = Path(__file__).parent / "files" / "mnist"

# Of the compressed files NAME.xz, in the order of the fields of `Dataset`.
SHA256 = {
    "train-images-idx3-ubyte": "8f41e9b4abc124dc3d209e86f7ea714a81f80edea40b565a4781dec7bd67c6e2",
    "train-labels-idx1-ubyte": "dcd3d8184fe1a8be6231f172fb3390116f91c127282fd736ab55752c179963d8",
    "t10k-images-idx3-ubyte": "d815adbb3188b5bafed15d649960a5dbcb0f9138b9a4205b88b175001cb394c9",
    "t10k-labels-idx1-ubyte": "f2edae9ce0307abae4671a37b70e6e3858696b48b16c3cfdfef97388dc9925d5",
}


@functools.cache
def load() -> Dataset:
    """Handwritten digits: 60 000 training and 10 000 test images of 28 × 28 grey pixels.

    The files are read and verified once per process; later calls return the same arrays.

    Returns:
      A `Dataset` with `train_images: uint8[60000, 28, 28]`, `train_labels: uint8[60000]`,
      `test_images: uint8[10000, 28, 28]`, `test_labels: uint8[10000]` and ten classes. 0 is the
      background and 255 is ink.

    Raises:
      ValueError: if a file is missing or its checksum differs.

    >>> from byzjax.data import mnist
    >>> mnist.load().test_labels[:5].tolist()
    [7, 2, 1, 0, 4]

    References:
      LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998.
    """
    return read(FOLDER)


def read(folder: Path) -> Dataset:
    """Reads and verifies the four files of MNIST in `folder`, without the cache of `load`."""
    files = ((folder / f"{name}.xz", sha256) for name, sha256 in SHA256.items())
    arrays = (parse_idx(read_xz(path, sha256), path.name) for path, sha256 in files)
    return Dataset(*arrays, num_classes=10)


def parse_idx(raw: bytes, name: str) -> np.ndarray:
    """Returns the array in an IDX file of unsigned bytes, as a read-only view of `raw`.

    The header is two zero bytes, the type (8: unsigned byte), the number of axes, and the length of
    each axis as a big-endian 32-bit integer.

    Args:
      raw: the content of the file.
      name: its name, for the error message.

    Raises:
      ValueError: if the header is not that of unsigned bytes, or the length does not match it.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "three-labels").tolist()
    [7, 8, 9]
    """
    num_axes = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else 0
    start = 4 + 4 * num_axes
    if num_axes == 0 or len(raw) < start:
        raise ValueError(
            f"data file {name} is not an IDX file of unsigned bytes: it starts with "
            f"{raw[:4].hex(' ')}, expected 00 00 08 and the number of axes."
        )
    shape = struct.unpack(f">{num_axes}I", raw[4:start])
    pixels = np.frombuffer(raw, np.uint8, offset=start)  # read-only, because `bytes` are
    if pixels.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"data file {name} holds {pixels.size} bytes, its header says {shape}.")
    return pixels.reshape(shape)
