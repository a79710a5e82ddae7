"""Process-wide settings of JAX for all tests, made before anything uses it."""

import os
from pathlib import Path

import jaxlib

from tests.environment import cache_folder

# Thousands of small programs are compiled and each runs once: without the slower passes, a third less time.
# XLA_FLAGS from outside come later and win. jaxlib 0.12 has no such emitters, and refuses flags it does not know.
QUICK = "--xla_backend_optimization_level=1"
if jaxlib.version.__version_info__ < (0, 12):
    QUICK += " --xla_cpu_use_fusion_emitters=false"

# Environment variables, so that the processes that tests start (the command line, notebooks)
# inherit them. The device count has to be known before JAX starts.
os.environ["XLA_FLAGS"] = " ".join(
    (
        QUICK,
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    )
)

CACHE = cache_folder(os.environ["XLA_FLAGS"])
MOST_BYTES = 3 << 30  # of programs that are kept

os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # test processes share a GPU
# Compilation takes most of the time on two cores: keep everything that was ever compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

from byzjax.programs.cache import drop_oldest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def limit(monkeypatch):
    """Changes a number that is read while programs are traced, and forgets those that were traced with another one.

    Equal rules share a program, so that a test which only changed the number would test the first program twice.
    """

    def change(module, name, value):
        monkeypatch.setattr(module, name, value)
        jax.clear_caches()

    yield change
    jax.clear_caches()


_MAPS = Path("/proc/self/maps")
_MOST_MAPS = 8_000  # about 1 000 programs and 2 GB; Linux allows a process 65 530


def pytest_runtest_teardown(item, nextitem):
    """Drop compiled programs before they exhaust the process's memory maps, which ends in a crash inside XLA."""
    del item, nextitem
    pytest_runtest_teardown.tests += 1
    if pytest_runtest_teardown.tests % 10 == 0 and _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


pytest_runtest_teardown.tests = 0


def pytest_sessionfinish(session):
    """Keep the cache from growing for ever."""
    if not hasattr(session.config, "workerinput") and CACHE.is_dir():  # one process does
        drop_oldest(CACHE, MOST_BYTES)
