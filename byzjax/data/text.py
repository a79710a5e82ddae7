"""Texts as character ids: eight plays of Shakespeare in the package, tiny Shakespeare from elsewhere.

Tiny Shakespeare is the file of A. Karpathy's char-rnn, 2015. The plays are described in `files/shakespeare/README.md`.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from byzjax.data import gateway
from byzjax.data.base import read_xz
from byzjax.storage.files import expanded

PLAYS = Path(__file__).parent / "files" / "shakespeare" / "plays.txt.xz"
PLAYS_SHA256 = "0537bb496cb5ddc7e19127a14e9e2b62b12ea83e201451045c14865725b1fb2d"  # of the compressed file

VARIABLE = "BYZJAX_TINY_SHAKESPEARE"
TINY_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINY_LENGTH = 1_115_394  # characters


class Text(NamedTuple):
    """A text in host memory, in three consecutive parts; the arrays are read-only.

    Attributes:
      train: the first 90 % of the characters, as ids.
      val: the first half of the rest.
      test: the second half.
      vocabulary: all characters that occur, sorted; ``vocabulary[id]`` is a character.
    """

    train: np.ndarray  # uint8[num_train]
    val: np.ndarray  # uint8[num_val]
    test: np.ndarray  # uint8[num_test]
    vocabulary: str

    @property
    def vocab_size(self) -> int:
        """How many different characters there are."""
        return len(self.vocabulary)

    @property
    def sizes(self) -> dict[str, int]:
        """Characters in each part."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}

    def decode(self, ids: np.ndarray) -> str:
        """The characters of ids.

        >>> encode("to be or not to be, that is the question").decode(np.array([12, 8]))
        'to'
        """
        return "".join(self.vocabulary[i] for i in np.asarray(ids).ravel())


def encode(text: str) -> Text:
    """Any text, cut into 90 %, 5 % and 5 %.

    Args:
      text: at least 20 characters, at most 256 different ones.

    Raises:
      ValueError: it is shorter, or has more different characters.

    >>> encode("to be or not to be, that is the question").sizes
    {'train': 36, 'val': 2, 'test': 2}
    """
    vocabulary = "".join(sorted(set(text)))
    if len(text) < 20:
        raise ValueError(f"text has {len(text)} characters; three parts need at least 20.")
    if len(vocabulary) > 256:
        raise ValueError(
            f"text has {len(vocabulary)} different characters, and ids are bytes: at most 256; replace the rare ones."
        )
    code_points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    ids = np.searchsorted(np.frombuffer(vocabulary.encode("utf-32-le"), np.uint32), code_points).astype(np.uint8)
    ids.setflags(write=False)
    train = int(len(ids) * 0.9)
    val = train + (len(ids) - train) // 2
    return Text(ids[:train], ids[train:val], ids[val:], vocabulary)


def read(path: str | Path) -> Text:
    """A text file of one's own, in UTF-8.

    Raises:
      ValueError: it cannot be read, is not UTF-8, or see `encode`.
    """
    return encode(_read(path))


@functools.cache
def load_shakespeare() -> Text:
    """Eight plays of Shakespeare, embedded in the package: 1 035 229 characters, 63 different ones.

    *As You Like It*, *Hamlet*, *Henry V*, *Julius Caesar*, *King Lear*, *Macbeth*, *The Merchant of Venice*, *Romeo and
    Juliet*, in this order, so that all validation and test text is of the last.

    Raises:
      ValueError: the file is missing or corrupt.

    >>> text = load_shakespeare()
    >>> text.sizes, text.vocab_size
    ({'train': 931706, 'val': 51761, 'test': 51762}, 63)
    >>> print(text.decode(text.train[50:90]))
    ORLANDO.
    As I remember, Adam, it was upo
    """
    return encode(read_xz(PLAYS, PLAYS_SHA256).decode("ascii"))


def load_tiny_shakespeare(path: str | Path | None = None, data_dir: str | Path | None = None) -> Text:
    """Tiny Shakespeare: 1 115 394 characters, 65 different ones; not in the package.

    Args:
      path: of the file. By default the environment variable ``BYZJAX_TINY_SHAKESPEARE`` says where it is, and without
        that tensorflow-datasets fetches it.
      data_dir: where tensorflow-datasets keeps it, see `byzjax.data.load`.

    Raises:
      ValueError: the file cannot be read or holds something else, or it could not be fetched.
    """
    path = path or os.environ.get(VARIABLE)
    if path is None:
        return encode(gateway.load_text("tiny_shakespeare", data_dir))
    text = _read(path)
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != TINY_SHA256:
        raise ValueError(
            f"path={str(path)!r} is not tiny Shakespeare: it has {len(text)} characters and the SHA-256 {found}, "
            f"expected {TINY_LENGTH} and {TINY_SHA256}. "
            "For another text: byzjax.tasks.language_model(byzjax.data.text.read(path))."
        )
    return encode(text)


def _read(path: str | Path) -> str:
    try:
        return expanded(path, "path").read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"path={str(path)!r} cannot be read as a text ({why}); name a text file.") from error
