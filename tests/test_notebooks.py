"""Every notebook runs from its first to its last cell, at reduced size."""

import nbclient
import nbformat
import pytest

from tests.environment import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# The kernel's own machinery warns about sockets and event loops; the notebook's code runs in another process.
@pytest.mark.filterwarnings("default")
def test_notebook_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("BYZJAX_NOTEBOOK_ROUNDS", "4")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # inline figures, as a reader gets them
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3


def test_there_is_a_quickstart_that_installs_first():
    first = next(cell for cell in nbformat.read(NOTEBOOKS[0], as_version=4).cells if cell.cell_type == "code")
    assert NOTEBOOKS[0].stem == "01_quickstart"
    assert "%pip install -q byzjax" in first.source
