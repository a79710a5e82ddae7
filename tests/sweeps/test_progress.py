"""What a sweep shows while it runs."""

import re
import sys

from tests.helpers import QUARTIC_GRID, quartic, sweep

# What is shown.


def test_plain_lines_where_there_is_no_terminal(capsys):
    sweep(progress=True, cells={"power": [1, 2]}, name="powers")
    lines = capsys.readouterr().err.splitlines()
    assert re.match(r"powers: cell 2/2, chunk 10/10, 36/36 runs, \S+ runs/s, ETA 0 s, 0 diverged", lines[-2])
    assert re.match(r"powers: 36 runs in \S+ s, and \S+ s of compilation", lines[-1])
    assert len(lines) <= 11


def test_rounds_and_divergence_are_shown(capsys):
    sweep(quartic, QUARTIC_GRID, progress=True)
    shown = capsys.readouterr().err
    assert "rounds/s" in shown
    assert "4 diverged" in shown
    assert "4 runs diverged" in shown


def test_a_bar_where_there_is_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    sweep(progress=True, name="powers")
    shown = capsys.readouterr().err
    assert "chunk 5/5, 18/18 runs" in shown
    assert "0 diverged" in shown


def test_silence(capsys, tmp_path):
    sweep(store=tmp_path)
    sweep(store=tmp_path)
    assert capsys.readouterr() == ("", "")
