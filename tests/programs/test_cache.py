"""Compiled programs on disk: whose folder it is, and that a second process finds them there."""

import os
import subprocess
import sys

import jax
import pytest

import byzjax
from byzjax.programs import cache

TWICE = """
import sys, jax, jax.numpy as jnp, byzjax
print(byzjax.enable_compilation_cache())
jax.jit(lambda x: jnp.sort(x) + 1)(jnp.arange(7.0)).block_until_ready()
"""


@pytest.fixture
def unset(monkeypatch):
    """As in a process that nobody gave a cache."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)


SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def test_a_folder_that_jax_was_given_stays(tmp_path):
    known = jax.config.values["jax_compilation_cache_dir"]
    assert str(byzjax.enable_compilation_cache()) == known


def test_where_programs_are_kept(unset, tmp_path):
    unset.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert byzjax.enable_compilation_cache().parent == tmp_path / "home" / "byzjax" / "xla"
    jax.config.update("jax_compilation_cache_dir", None)
    unset.setenv(cache.VARIABLE, str(tmp_path / "own"))
    assert byzjax.enable_compilation_cache().parent == tmp_path / "own"
    assert byzjax.enable_compilation_cache(tmp_path / "said").parent == tmp_path / "said"


def test_nothing_is_kept_where_nothing_can_be(unset, tmp_path):
    unset.setenv(cache.VARIABLE, "")
    assert byzjax.enable_compilation_cache() is None
    (tmp_path / "file").touch()
    assert byzjax.enable_compilation_cache(tmp_path / "file") is None
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_what_was_not_used_for_longest_goes(unset, tmp_path):
    folder = byzjax.enable_compilation_cache(tmp_path)
    for age in range(4):
        (folder / f"program-{age}").write_bytes(bytes(10))
        os.utime(folder / f"program-{age}", (1e9 - age, 1e9 - age))
    unset.setattr(cache, "_MOST_BYTES", 25)
    byzjax.enable_compilation_cache(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["program-0", "program-1"]


def test_another_process_compiles_nothing(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env[cache.VARIABLE] = str(tmp_path)

    def programs():
        subprocess.run([sys.executable, "-c", TWICE], check=True, env=env, capture_output=True)
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name.endswith("-cache")}

    first = programs()
    assert any("jit__lambda" in path.name for path in first)
    assert programs() == first


def test_the_command_line_may_be_told_not_to(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, "-m", "byzjax", "--no-cache", "list", "tasks"]
    subprocess.run(command, check=True, env={**env, cache.VARIABLE: str(tmp_path / "xla")}, capture_output=True)
    assert not (tmp_path / "xla").exists()
