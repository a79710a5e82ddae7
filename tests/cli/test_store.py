"""`byzjax store`: list, verify, collect."""

import re

import pytest
from typer.testing import CliRunner

from byzjax.cli.app import app
from byzjax.storage import digests
from byzjax.storage.chunk_store import ChunkStore
from tests.helpers import ARRAYS


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "store")


def manifest(chunks, **changes):
    facts = {"name": "s", "config": {"grid": {"seed": [0]}}, "begun": 0.0, "lanes": 2, "code": digests.code_version()}
    return {**facts, "jax": "1", "device_kind": "cpu", "chunks": chunks, **changes}


# The command line.


def call(*arguments):
    return CliRunner().invoke(app, ["store", *map(str, arguments)])


def test_ls_verify_gc(store):
    for letter in "abc":
        store.write(letter * 64, ARRAYS)
    store.record("one", manifest(["a" * 64, "e" * 64], name="quartic"))
    listed = call("ls", store.path)
    assert listed.exit_code == 0, listed.output
    assert re.search(r"quartic\s+1 seed\s+1/2\s+2\s+0.0\s+byzjax \w+ \(this\)", listed.output)
    assert "1 sweep; 0 chunks being computed, 2 of no sweep, 0 files set aside" in listed.output

    assert call("verify", store.path).exit_code == 0
    store.path_of("b" * 64).write_bytes(b"torn")
    found = call("verify", store.path)
    assert found.exit_code == 1
    assert "2 chunks are sound, 1 was damaged" in found.output

    dry = call("gc", store.path, "--dry-run")
    assert "would be removed" in dry.output
    assert sorted(store) == ["a" * 64, "c" * 64]
    assert call("gc", store.path).exit_code == 0
    assert sorted(store) == ["a" * 64]
    assert list((store.path / "aside").iterdir()) == []


@pytest.mark.parametrize("command", ["ls", "verify", "gc"])
def test_what_is_no_store(tmp_path, command):
    result = call(command, tmp_path)
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert "is not a store" in result.output
    assert len(result.output.splitlines()) == 1
