"""What a user gets: a light import, and a wheel and a source archive with all that is needed."""

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import byzjax
from byzjax._version import __version__
from tests.environment import ROOT, environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ["tensorflow_datasets", "orbax", "flax", "matplotlib", "xarray", "pandas", "typer", "rich"]
DATA = [
    f"byzjax/data/files/mnist/{name}"
    for name in (
        "README.md",
        "train-images-idx3-ubyte.xz",
        "train-labels-idx1-ubyte.xz",
        "t10k-images-idx3-ubyte.xz",
        "t10k-labels-idx1-ubyte.xz",
    )
] + [f"byzjax/data/files/shakespeare/{name}" for name in ("README.md", "plays.txt.xz")]
DATA += [
    f"byzjax/experiments/paper/files/{name}"
    for name in ("README.md", "table1.csv", "quartic_curves.csv", "mnist_curves.csv", "seeds.csv")
]


def run_python(code, cwd=None, **changes):
    env = environment(JAX_PLATFORMS="cpu", **changes)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=cwd)


def test_import_loads_nothing_heavy():
    done = run_python(f"import sys, byzjax; print(*(set({HEAVY}) & set(sys.modules)))")
    assert done.stdout.split() == []


def test_import_does_not_start_a_backend():
    """Otherwise a program could no longer choose its devices: JAX refuses that once it runs."""
    code = """
import byzjax, jax
jax.config.update("jax_num_cpu_devices", 3)
print(jax.device_count())
"""
    assert run_python(code, XLA_FLAGS="").stdout.strip() == "3"


@pytest.mark.slow
def test_import_adds_little_to_that_of_jax():
    code = """
import time, jax, optax, chex
start = time.process_time()
import byzjax
print(time.process_time() - start)
"""
    # Processor time, because other test processes want the same cores; the least of several, because the first
    # may have to compile the byte code.
    seconds = [float(run_python(code).stdout) for _ in range(3)]
    assert min(seconds) < 0.3, seconds


def test_version_is_the_one_that_is_published():
    assert __version__ == PROJECT["version"]


def test_every_public_name_exists():
    missing = [name for name in byzjax.__all__ if not hasattr(byzjax, name)]
    assert not missing
    assert len(set(byzjax.__all__)) == len(byzjax.__all__)


def test_dependencies_have_no_upper_pins():
    extras = PROJECT["optional-dependencies"].values()
    for requirement in [*PROJECT["dependencies"], *(r for extra in extras for r in extra)]:
        assert not set("<=~!") & set(requirement.replace(">=", "")), requirement


def test_constraints_pin_every_dependency_exactly_and_name_no_place():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(line.count("==") >= 1 and not set("/@:") & set(line) for line in pins)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in pins}
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    names = {r.split(">=")[0].split("[")[0].lower().replace("_", "-") for r in wanted}
    assert names - pinned == set()


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The wheel and the source archive, built by the installed hatchling without the network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (wheel,) = out.glob("byzjax-*.whl")
    (sdist,) = out.glob("byzjax-*.tar.gz")
    return wheel, sdist


def test_wheel_has_the_package_and_its_data_and_nothing_else(archives):
    with zipfile.ZipFile(archives[0]) as wheel:
        names = set(wheel.namelist())
        (scripts,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "byzjax = byzjax.cli:main" in wheel.read(scripts).decode()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "byzjax").rglob("*.py")}
    examples = {
        f"byzjax/examples/{path.name}" for path in (ROOT / "examples").iterdir() if path.suffix in (".toml", ".py")
    }
    assert len(examples) == 4
    assert modules | set(DATA) | examples <= names
    metadata = f"byzjax-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"byzjax", metadata}
    assert not any("__pycache__" in name for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_source_archive_has_the_data_and_the_tests(archives):
    with tarfile.open(archives[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {*DATA, "LICENSE", "README.md", "pyproject.toml", "tests/test_packaging.py"} <= names
    assert not any(name.startswith((".venv", ".cache", "demo")) for name in names)


@pytest.mark.slow
def test_the_built_wheel_works_outside_the_checkout(archives, tmp_path):
    with zipfile.ZipFile(archives[0]) as wheel:
        wheel.extractall(tmp_path)
    code = f"""
import json, sys
sys.path.insert(0, {str(tmp_path)!r})
import byzjax
from byzjax.cli import examples
examples = [str(path.parent) for path in examples.paths()]
print(json.dumps([byzjax.__file__, len(byzjax.data.load("mnist").train_images), examples]))
"""
    file, num_images, examples = json.loads(run_python(code, cwd=tmp_path).stdout)
    assert Path(file).is_relative_to(tmp_path)
    assert num_images == 60_000
    assert examples == [str(tmp_path / "byzjax/examples")] * 4
