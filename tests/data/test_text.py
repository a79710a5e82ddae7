"""Texts: the plays, tiny Shakespeare, files of one's own, and how they are cut."""

import hashlib
import importlib.util
import os

import numpy as np
import pytest

from byzjax import data, tasks
from byzjax.data import text as texts
from byzjax.tasks._partitions import partition_blocks
from tests.environment import ROOT

REAL = os.environ.get("BYZJAX_TINY_SHAKESPEARE")


needs_the_file = pytest.mark.skipif(
    not REAL, reason="BYZJAX_TINY_SHAKESPEARE does not name the file, which is not here"
)


# --- texts


def test_a_text_is_cut_into_consecutive_parts():
    text = "abcdefghij" * 10 + "klm"
    encoded = texts.encode(text)
    assert encoded.sizes == {"train": 92, "val": 5, "test": 6}
    assert encoded.decode(np.concatenate(encoded[:3])) == text
    assert encoded.vocabulary == "abcdefghijklm"
    assert encoded.vocab_size == 13
    for part in encoded[:3]:
        assert part.dtype == np.uint8
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 1


def test_texts_that_cannot_be_encoded_are_named():
    with pytest.raises(ValueError, match="19 characters"):
        texts.encode("a" * 19)
    with pytest.raises(ValueError, match="257 different characters"):
        texts.encode("".join(map(chr, range(500, 757))))
    assert texts.encode("".join(map(chr, range(500, 756)))).vocab_size == 256


def test_a_file_of_one_s_own(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("Füße und Flüsse, " * 20, "utf-8")
    assert texts.read(path).decode(texts.read(path).train[:4]) == "Füße"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match=r"poem.txt.*not UTF-8"):
        texts.read(path)
    with pytest.raises(ValueError, match=r"none.txt.*No such file"):
        texts.read(tmp_path / "none.txt")


def test_the_plays_are_what_their_readme_says():
    text = data.load("shakespeare")
    whole = text.decode(np.concatenate(text[:3]))
    readme = (texts.PLAYS.parent / "README.md").read_text()
    assert f"{len(whole):,}".replace(",", " ") in readme
    assert hashlib.sha256(whole.encode()).hexdigest() in readme
    assert texts.PLAYS_SHA256 in readme
    assert set(text.vocabulary) <= set("\n !&',-.:;?") | {chr(c) for c in [*range(65, 91), *range(97, 123)]}
    for name in ("ORLANDO.", "Ham.", "King Henry.", "Romeo."):
        assert name.lower() in whole.lower(), name
    assert text is data.load("shakespeare")


def test_the_plays_obey_the_recipe():
    path = ROOT / "benchmarks" / "prepare_shakespeare.py"
    spec = importlib.util.spec_from_file_location("prepare_shakespeare", path)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    begins = "A TRAGEDY\n\nPersons\n\nACT 1. \n[Enter A\nand B.]\n\n\n\n"
    play = begins + 'A.\n"I  go" (so)_\n[Aside, never closed\n\nB.\nStay {Exit}!\n'
    assert recipe.normalise(play) == "ACT .\n\nA.\n'I go' so\n\nB.\nStay !\n"
    text = data.load("shakespeare")
    whole = text.decode(np.concatenate(text[:3]))
    for start in [i for i in range(len(whole)) if whole.startswith("ACT I.\n", i)]:
        act = whole[start : start + 5000].strip() + "\n"
        assert recipe.normalise(act) == act, "the recipe has nothing left to do"


def test_tiny_shakespeare_comes_from_a_file_or_the_gateway_and_from_nothing_else(tmp_path, monkeypatch):
    content = "It is a tale told by an idiot, full of sound and fury. " * 9
    path = tmp_path / "tiny.txt"
    path.write_text(content)
    monkeypatch.delenv(texts.VARIABLE, raising=False)
    with pytest.raises(ValueError, match=rf"tiny.txt' is not tiny Shakespeare: it has {len(content)} characters"):
        data.load("tiny_shakespeare", path=path)
    monkeypatch.setattr(texts, "TINY_SHA256", hashlib.sha256(content.encode()).hexdigest())
    given = data.load("tiny_shakespeare", path=path)
    assert given.decode(np.concatenate(given[:3])) == content
    monkeypatch.setenv(texts.VARIABLE, str(path))
    np.testing.assert_array_equal(data.load("tiny_shakespeare").train, given.train)
    monkeypatch.delenv(texts.VARIABLE)
    asked = []
    monkeypatch.setattr("byzjax.data.gateway.load_text", lambda *asks: asked.append(asks) or content)
    np.testing.assert_array_equal(data.load("tiny_shakespeare", "folder").train, given.train)
    assert asked == [("tiny_shakespeare", "folder")]


@pytest.mark.parametrize("name", ["mnist", "shakespeare", "tfds:fashion_mnist"])
def test_only_tiny_shakespeare_is_read_from_a_path(name):
    with pytest.raises(ValueError, match=f"path='x': {name} is not read from a path"):
        data.load(name, path="x")


@needs_the_file
def test_the_real_file_has_the_numbers_of_the_released_code():
    text = data.load("tiny_shakespeare")
    assert sum(text.sizes.values()) == texts.TINY_LENGTH == 1_115_394
    assert text.vocab_size == 65
    task = tasks.tiny_shakespeare(20, 3, val="rest", byzantine_data="twin")
    assert task.data["blocks"].shape == (7842, 129)
    assert task.data["sizes"].tolist() == [461] * 16 + [466] + [461] * 3
    assert task.data["val_blocks"].shape == (871, 129)


# --- who holds what


def test_the_numbers_of_the_paper_s_split():
    table, sizes = partition_blocks(7842, 20, 3)
    assert sizes.tolist() == [461] * 16 + [466] + [461] * 3
    held = np.concatenate([table[i, : sizes[i]] for i in range(17)])
    np.testing.assert_array_equal(held, np.arange(7842))
    np.testing.assert_array_equal(table[17:], table[:3])
