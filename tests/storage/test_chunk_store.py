"""Stores of chunks: atomic, shared, and honest about damage."""

import errno
import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import h5netcdf
import numpy as np
import pytest
import xarray

from byzjax.storage import chunk_store as stores
from byzjax.storage import digests, files
from byzjax.storage.chunk_store import MARKER, ChunkStore, StoreError, gc, verify
from tests.helpers import ARRAYS

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "store")


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    path = tmp_path / "tiny"
    path.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def manifest(chunks, **changes):
    facts = {"name": "s", "config": {"grid": {"seed": [0]}}, "begun": 0.0, "lanes": 2, "code": digests.code_version()}
    return {**facts, "jax": "1", "device_kind": "cpu", "chunks": chunks, **changes}


def same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape)
        assert one[name].tobytes() == other[name].tobytes()


def test_round_trip_keeps_every_bit(store):
    assert KEY not in store
    assert store.read(KEY) is None
    store.write(KEY, ARRAYS, cell="rule=krum")
    assert KEY in store
    assert list(store) == [KEY]
    same_bits(store.read(KEY), ARRAYS)


def test_a_chunk_is_plain_netcdf(store):
    store.write(KEY, ARRAYS, cell="rule=krum")
    dataset = xarray.load_dataset(store.path_of(KEY), engine="h5netcdf")
    assert dataset["finite"].dtype == bool
    assert dataset.attrs["cell"] == "rule=krum"
    np.testing.assert_array_equal(dataset["loss"], ARRAYS["loss"])


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_torn_chunk_is_set_aside(store, keep):
    store.write(KEY, ARRAYS)
    path = store.path_of(KEY)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    said = []
    assert store.read(KEY, said.append) is None
    assert KEY not in store
    assert len(said) == 1
    assert "is damaged" in said[0]
    assert len(list((store.path / "aside").iterdir())) == 1, "kept, for whoever wants to know"
    store.write(KEY, ARRAYS)
    same_bits(store.read(KEY), ARRAYS)


def test_one_flipped_bit_of_the_data_is_noticed(store):
    store.write(KEY, ARRAYS)
    path = store.path_of(KEY)
    content = bytearray(path.read_bytes())
    place = content.find(ARRAYS["wide"].tobytes())
    assert place > 0
    content[place] ^= 1
    path.write_bytes(content)
    assert verify(store).damaged == [KEY]


def test_a_chunk_under_a_wrong_name_is_damaged(store):
    store.write(KEY, ARRAYS)
    other = "cd" * 32
    store.path_of(other).parent.mkdir(parents=True)
    store.path_of(KEY).rename(store.path_of(other))
    assert store.read(other) is None


def test_verify_counts(store):
    for letter in "abc":
        store.write(letter * 64, ARRAYS)
    store.path_of("b" * 64).write_bytes(b"\x89HDF nonsense")
    report = verify(store)
    assert (report.sound, report.damaged) == (2, ["b" * 64])
    assert verify(store) == (2, [])


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds other things"):
        ChunkStore(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        ChunkStore(tmp_path / "thesis.tex")


def test_a_later_format_is_refused(store):
    store.write(KEY, ARRAYS)
    (store.path / MARKER).write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        ChunkStore(store.path)


def test_disk_full_is_one_clear_error_and_loses_nothing(tiny_disk):
    store = ChunkStore(tiny_disk / "store")
    store.write(KEY, ARRAYS)
    with pytest.raises(StoreError, match=r"No space left on device.*kept.*resume"):
        store.write("cd" * 32, {"much": np.random.default_rng(0).random(20_000)})
    same_bits(store.read(KEY), ARRAYS)
    assert list(store) == [KEY]
    assert list(store.path.rglob(".*")) == [], "no litter"
    filler = tiny_disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb") as file:
        file.write(bytes(1 << 17))
    with pytest.raises(StoreError, match="No space left"):
        [store.lease(f"{k:064}") for k in range(100)]
    filler.unlink()
    store.write("cd" * 32, ARRAYS)


def failing(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("function", "number"), [("fsync", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.EDQUOT)]
)
def test_whatever_the_system_refuses_while_writing(store, monkeypatch, function, number):
    store.write(KEY, ARRAYS)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing(number))
        with pytest.raises(StoreError, match=re.escape(os.strerror(number))):
            store.write("cd" * 32, ARRAYS)
    assert [path for path in store.path.rglob("*") if path.is_file() and path.name.startswith(".")] == []
    assert list(store) == [KEY]


def test_a_read_only_store_can_be_read(store, monkeypatch):
    store.write(KEY, ARRAYS)
    monkeypatch.setattr(files.tempfile, "mkstemp", failing(errno.EROFS))
    monkeypatch.setattr(os, "rename", failing(errno.EROFS))
    same_bits(ChunkStore(store.path).read(KEY), ARRAYS)
    with pytest.raises(StoreError, match="Read-only file system"):
        store.write("cd" * 32, ARRAYS)
    store.path_of(KEY).write_bytes(b"torn")
    with pytest.raises(StoreError, match="damaged and cannot be set aside"):
        store.read(KEY)


def test_the_first_to_decide_decides(store):
    assert store.decided("size") is None
    with ThreadPoolExecutor(8) as pool:
        said = set(pool.map(lambda k: ChunkStore(store.path).decide("size", k), range(16)))
    assert len(said) == 1
    assert store.decided("size") in said


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_will_do(store, monkeypatch, number):
    monkeypatch.setattr(os, "link", failing(number))
    with ThreadPoolExecutor(8) as pool:
        said = set(pool.map(lambda k: ChunkStore(store.path).decide("size", k), range(16)))
    assert len(said) == 1
    assert store.decided("size") in said
    assert store.decide("size", 99) in said
    assert list(store.path.rglob(".*")) == []


def test_who_died_between_a_name_and_its_content_is_not_waited_for(store, monkeypatch):
    monkeypatch.setattr(stores, "_PATIENCE", 2)
    (store.path / "batches").mkdir(parents=True)
    (store.path / MARKER).write_text(json.dumps({"format": 1}))
    (store.path / "batches" / "size.json").touch()
    assert store.decide("size", 4) == 4
    assert store.decide("size", 8) == 4


def test_gc_removes_only_what_nobody_needs(store):
    needed, old, spare = (letter * 64 for letter in "abc")
    for key in (needed, old, spare):
        store.write(key, ARRAYS)
    store.record("now", manifest([needed]))
    store.record("then", manifest([old, needed], code="0123"))
    (store.path / "aside").mkdir()
    (store.path / "aside" / "x.nc").write_text("torn")
    litter = store.path_of(needed).with_name(".half-written.nc")
    litter.write_text("")
    fresh = store.path_of(needed).with_name(".being-written.nc")
    fresh.write_text("")
    os.utime(litter, (0, 0))
    with store.leases:
        in_flight = "d" * 64
        store.write(in_flight, ARRAYS)
        store.leases.acquire(in_flight)
        other = ChunkStore(store.path)
        planned = gc(other, dry=True)
        assert sorted(store) == [needed, old, spare, in_flight]
        assert gc(other) == planned
    assert sorted(store) == [needed, old, in_flight]
    assert not litter.exists()
    assert fresh.exists()
    gc(store, other_versions=True)
    assert sorted(store) == [needed]
    assert [sweep["code"] for sweep in store.sweeps().values()] == [digests.code_version()]


def test_chunks_name_what_made_them(store):
    store.write(KEY, ARRAYS, cell="rule=krum")
    with h5netcdf.File(store.path_of(KEY), "r") as file:
        assert file.attrs["key"] == KEY
