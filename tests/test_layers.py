"""The house: who may import whom. A file imports what lies below its own package, and nothing imports the root."""

import ast
import graphlib

import pytest

from tests.environment import ROOT

# Bottom to top; packages of one line do not know each other. `__init__` is the root package, the door for users.
LAYERS = """
_version
types promises
checks
rng
storage
programs
stacked
values
estimator
base task
collectives
data
transforms
tasks
aggregators attacks
methods metrics sharding
simulation
results
sweeps
selection
configs
theory
plotting
experiments
testing
cli
__init__ __main__
""".strip().splitlines()
FLOOR = {name: floor for floor, line in enumerate(LAYERS) for name in line.split()}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted((ROOT / "byzjax").rglob("*.py"))}


def imported(path):
    """The files of byzjax that a file imports, anywhere in it; ``from package import name`` is that name's file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "byzjax")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "byzjax":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else node.module


IMPORTS = {name: set(imported(path)) - {name} for name, path in FILES.items()}


def floor_of(name):
    return FLOOR[name.split(".")[1] if "." in name else "__init__"]


def test_every_package_has_its_place():
    assert {name.split(".")[1] for name in FILES if "." in name} <= set(FLOOR)


def test_nothing_imports_the_root():
    found = {(name, "byzjax") for name, imports in IMPORTS.items() if "byzjax" in imports and name != "byzjax.__main__"}
    assert not found


def test_imports_run_downwards():
    found = {
        (name, other)
        for name, imports in IMPORTS.items()
        for other in imports
        if name.split(".")[:2] != other.split(".")[:2] and floor_of(other) >= floor_of(name)
    }
    assert not found


def test_no_circle():
    try:
        graphlib.TopologicalSorter(IMPORTS).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_a_file_has_one_subject():
    assert not {name for name, path in FILES.items() if len(path.read_text().splitlines()) > 350}
