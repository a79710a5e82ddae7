"""Paths as users write them, names that labels make, and disks that are full."""

import errno
import os
import pwd
import resource
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byzjax
from byzjax import aggregators, attacks, methods, plotting, results, tasks
from byzjax.configs import grid_config
from byzjax.data import cache, text
from byzjax.experiments import reproduce
from byzjax.experiments.demo import demo
from byzjax.experiments.paper import studies
from byzjax.simulation.checkpoint import Checkpoint
from byzjax.storage import chunk_store, files
from byzjax.storage.files import check_room, expanded, named, shortened


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    yield folder
    assert not (tmp_path / "~").exists()


@pytest.fixture
def homeless(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def a_result():
    return results.to_dataset(byzjax.Result(None, {"loss": jnp.arange(4.0)}, {}), {"seed": 0})


def test_results_figures_and_stores_are_put_into_the_home_folder(home):
    assert results.save(a_result(), "~/a/run.nc") == home / "a/run.nc"
    assert results.load("~/a/run.nc").identical(a_result())
    with files.writing("~/b/text") as temporary:
        temporary.write_text("text")
    assert (home / "b/text").read_text() == "text"
    paths = plotting.save(plotting.overview(a_result(), title="t"), "~/c/figure")
    assert paths == [home / "c/figure.png", home / "c/figure.pdf"]
    assert all(path.is_file() for path in paths)
    dataset = byzjax.sweep(lambda x: {"y": x}, grid={"x": [1.0, 2.0]}, store="~/d", progress=False, batch_size=2)
    assert dataset.y.values.tolist() == [1.0, 2.0]
    assert (home / "d" / chunk_store.MARKER).is_file()


def test_checkpoints_are_put_into_the_home_folder(home):
    method = methods.byz_nsgdm(0.1, aggregator=aggregators.mean())
    result = byzjax.run(
        tasks.quartic(num_workers=2, dim=2),
        method,
        attacks.none(),
        byzantine=jnp.zeros(2, bool),
        key=jax.random.key(0),
        num_rounds=2,
        eval_every=1,
        progress=False,
        checkpoint="~/e",
    )
    assert result.history["loss"].shape == (2,)
    assert Checkpoint("~/e").latest() == 2
    assert (home / "e/round_000000002").is_dir()


def test_what_names_a_path_elsewhere_means_the_home_folder_too(home, monkeypatch):
    assert grid_config.parse({"sweep": {"store": "~/s"}}).store == str(home / "s")
    (home / "g.toml").write_text("[run]\nnum_rounds = 3\n")
    assert grid_config.load("~/g.toml").fixed == {"num_rounds": 3}
    entry = demo.ENTRIES[0]
    assert (home / "runs") in demo.Demo().path(entry, expanded("~")).parents
    assert (home / "runs") in demo.Demo().path(entry, "~").parents
    experiment = type("E", (), {"name": "quartic", "variant": "paper"})
    assert reproduce.path_of(experiment, "~/r") == home / "r/quartic-paper.nc"
    with pytest.raises(FileNotFoundError, match=f"{home}/nowhere does not exist"):
        studies.load("~/nowhere")
    for variable, found in (("BYZJAX_DATA_DIR", home / "data"), ("XDG_CACHE_HOME", home / "data/byzjax")):
        monkeypatch.delenv("BYZJAX_DATA_DIR", raising=False)
        monkeypatch.setenv(variable, "~/data")
        assert cache.folder() == found
    (home / "t.txt").write_text("text")
    monkeypatch.setenv(text.VARIABLE, "~/t.txt")
    with pytest.raises(ValueError, match="it has 4 characters"):
        text.load_tiny_shakespeare()


def test_without_a_home_folder_one_line_says_what_to_set(homeless, monkeypatch):
    with pytest.raises(ValueError, match=r"save: the home folder in '~/x\.nc' is not known .*; write the whole path"):
        results.save(a_result(), "~/x.nc")
    for variable in ("BYZJAX_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=r"data cache \(set BYZJAX_DATA_DIR\): the home folder"):
        byzjax.data.load("tfds:fashion_mnist")


def test_what_is_no_path():
    with pytest.raises(ValueError, match="save: path = 5 is an int, not a str or a PathLike"):
        results.save(a_result(), 5)


def test_long_names_stay_apart_and_fit(tmp_path):
    names = ["ä" * 300 + ending for ending in ("", "a", "b")]
    short = [shortened(name) for name in names]
    assert len(set(short)) == 3
    for name in short:
        (tmp_path / f"{name}.nc.0123456789abcdef").touch()
    assert shortened("x" * 200) == "x" * 200
    path = tmp_path / ("n" * 250 + ".nc")  # of a name that fits, the temporary file's fits too
    assert results.load(results.save(a_result(), path)).identical(a_result())


def test_room_is_looked_for(tmp_path, monkeypatch):
    check_room(tmp_path / "new/folder", 10)
    assert list((tmp_path / "new/folder").iterdir()) == []
    with pytest.raises(OSError, match="No space left on device") as caught:
        check_room(tmp_path, 1 << 60)
    assert caught.value.filename == str(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; name a folder"):
        check_room(tmp_path / "file/below", 10)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # a quota
    with pytest.raises(OSError, match=str(tmp_path)):
        check_room(tmp_path, 10)


def test_an_error_names_the_file_that_was_wanted(tmp_path):
    wanted = tmp_path / "run.nc"
    for error in (OSError(28, "full"), OSError(28, "full", str(tmp_path / ".run-x.nc"))):
        assert named(error, wanted).filename == str(wanted)
    assert named(OSError(2, "none", "/elsewhere/file"), wanted).filename == "/elsewhere/file"
    with pytest.raises(OSError, match=str(wanted)), files.writing(wanted):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path):
    """The HDF5 library cannot close a file that cannot be written, and crashes when it is asked to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = results.to_dataset(byzjax.Result(None, {"loss": jnp.arange(10_000.0)}, {}), {"seed": 0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            results.save(large, tmp_path / "run.nc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / "run.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_looks_for_room_before_it_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 100))
    method = methods.byz_nsgdm(0.1, aggregator=aggregators.mean())
    with pytest.raises(OSError, match="No space left") as caught:
        byzjax.run(
            tasks.quartic(num_workers=2, dim=2),
            method,
            attacks.none(),
            byzantine=jnp.zeros(2, bool),
            key=jax.random.key(0),
            num_rounds=2,
            eval_every=1,
            progress=False,
            checkpoint=tmp_path / "c",
        )
    assert caught.value.filename == str(tmp_path / "c")


def test_a_result_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    said = results.save_or_rescue(a_result(), tmp_path / "file/run.nc")
    assert said is not None
    (kept,) = tmp_path.glob("byzjax-*/run.nc")
    assert said.endswith(f"the result is in {kept}.")
    assert results.load(kept).identical(a_result())
    assert results.save_or_rescue(a_result(), tmp_path / "run.nc") is None
    np.testing.assert_array_equal(results.load(tmp_path / "run.nc").loss, np.arange(4.0))
