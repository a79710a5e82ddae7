"""Process-wide settings of JAX for all tests, made before anything uses it."""

import os
from pathlib import Path

import jaxlib

from tests.environment import cache_folder

# Thousands of small programs are compiled and each runs once: without the slower passes, a third less time, and without
# any in LLVM, another third. XLA_FLAGS from outside come later and win. jaxlib 0.12 has no such emitters, and refuses
# flags it does not know.
FAST, FASTEST = "--xla_backend_optimization_level=1", "--xla_backend_optimization_level=0"
OTHERS = "" if jaxlib.version.__version_info__ >= (0, 12) else "--xla_cpu_use_fusion_emitters=false"


def flags(level: str) -> str:
    # As they were outside: a process of xdist inherits those that this file has set.
    given = os.environ.setdefault("BYZJAX_TESTS_XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    return " ".join((level, OTHERS, given, "--xla_force_host_platform_device_count=8"))


FOR_PROCESSES = flags(FAST)  # what tests start (the command line, notebooks) trains models
# Environment variables, so that those processes inherit them. The device count has to be known before JAX starts.
os.environ["XLA_FLAGS"] = flags(FASTEST)

CACHE = cache_folder(os.environ["XLA_FLAGS"])
CACHE_FOR_PROCESSES = cache_folder(FOR_PROCESSES)
MOST_BYTES = 3 << 30  # of programs that are kept

os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # test processes share a GPU
# Compilation takes most of the time on two cores: keep everything that was ever compiled.
OWN_CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") in (None, str(CACHE), str(CACHE_FOR_PROCESSES))
if OWN_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

from byzjax.programs import compiled  # noqa: E402
from byzjax.programs.cache import drop_oldest  # noqa: E402

jax.devices()  # has read the flags
if OWN_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE_FOR_PROCESSES)
os.environ["XLA_FLAGS"] = FOR_PROCESSES
compiled.QUICK["xla_backend_optimization_level"] = 1  # runs and sweeps train models here, too

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
    if not hasattr(session.config, "workerinput"):  # one process does
        for folder in filter(Path.is_dir, (CACHE, CACHE_FOR_PROCESSES)):
            drop_oldest(folder, MOST_BYTES)
