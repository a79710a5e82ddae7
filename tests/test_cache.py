"""Compiled programs are kept between runs of the tests, and none is served that another compiler would have made."""

import os
import subprocess
import sys

import pytest

from tests import environment
from tests.environment import cache_folder


def test_another_compiler_flags_or_processor_has_a_folder_of_its_own(monkeypatch):
    folders = {cache_folder(""), cache_folder("--xla_backend_optimization_level=1")}
    for what, value in (("version", lambda name: "0.0.1"), ("platform", None)):
        with monkeypatch.context() as patch:
            if what == "version":
                patch.setattr(environment, "version", value)
            else:
                patch.setattr(environment.platform, "machine", lambda: "z80")
            folders.add(cache_folder(""))
    assert len(folders) == 4
    assert cache_folder("") in folders


def test_a_process_with_other_flags_keeps_its_programs_elsewhere(monkeypatch):
    ours = str(cache_folder(os.environ["XLA_FLAGS"]))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", ours)
    assert environment.environment(JAX_PLATFORMS="cpu")["JAX_COMPILATION_CACHE_DIR"] == ours
    other = environment.environment(XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert other["JAX_COMPILATION_CACHE_DIR"] == str(cache_folder(other["XLA_FLAGS"])) != ours
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")  # who says where gets it there
    assert environment.environment(XLA_FLAGS="")["JAX_COMPILATION_CACHE_DIR"] == "mine"


@pytest.mark.slow
def test_jax_itself_serves_no_program_of_other_flags(tmp_path):
    """Even in one folder: the second process of the same flags compiles nothing, one of other flags does."""
    counts = []
    for flags in (1, 1, 0):
        env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        env |= {"XLA_FLAGS": f"--xla_backend_optimization_level={flags}"}
        code = "import jax; jax.jit(lambda x: x * x + 1)(2.0)"
        subprocess.run([sys.executable, "-c", code], check=True, env=env)
        counts.append(len(list(tmp_path.glob("*-cache"))))
    assert 0 < counts[0] == counts[1] < counts[2], counts
