"""`benchmarks/gpu.py`: what it plans, what it skips, and that no step eats the budget."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
if not SCRIPT.exists():
    pytest.skip("the benchmarks are in the checkout alone", allow_module_level=True)
_spec = importlib.util.spec_from_file_location("gpu_programme", SCRIPT)
gpu = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = gpu  # named tuples look their annotations up there
_spec.loader.exec_module(gpu)


def step(name, code, seconds=1.0, **options):
    return gpu.Step(name, seconds, [sys.executable, "-S", "-c", code], f"brings {name}", **options)


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Run steps in a folder, and give what ``summary.json`` then says of them."""
    monkeypatch.setattr(gpu, "RESERVE", 0.0)

    def run(*steps, budget=20.0):
        record = gpu.Record(tmp_path, "full")
        record.began({"device": "none"}, budget)
        gpu.run(steps, budget, record, tmp_path / "results.tar.gz", time.monotonic())
        return json.loads((tmp_path / "summary.json").read_text())["steps"]

    return run


def test_a_dry_run_prints_all_steps_and_keeps_to_the_budget(tmp_path, capsys):
    assert gpu.main(["--budget", "500", "--out", str(tmp_path / "new"), "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    names = [step.name for step in gpu.steps(tmp_path, quick=False)]
    assert [line.split()[0] for line in printed[1:-1]] == names
    assert {name[0] for name in names} >= set("abcdefg")
    assert not (tmp_path / "new").exists(), "it changes nothing"
    for budget in (60, 300, 500, 5000):
        planned = gpu.plan(gpu.steps(tmp_path, quick=False), budget, {})
        assert sum(p.seconds for p in planned) <= budget
        assert all(p.seconds == 0 for p in planned if p.verdict not in ("fits", "in part"))


@pytest.mark.parametrize("quick", [False, True])
def test_what_steps_run_is_there(tmp_path, quick):
    for made in gpu.steps(tmp_path, quick):
        paths = [part for part in made.command if part.endswith(".py") or part.startswith("tests/")]
        modules = [name for flag, name in itertools.pairwise(made.command) if flag == "-m"]
        assert paths or modules
        assert all(map(importlib.util.find_spec, modules))
        assert all((gpu.ROOT / path).exists() for path in paths), made.command


def test_a_slower_machine_gets_more_time_and_less_done(tmp_path, capsys):
    def planned(*more):
        gpu.main(["--budget", "500", "--out", str(tmp_path), "--dry-run", "--only", "a,c", *more])
        return [line.split()[1:5] for line in capsys.readouterr().out.splitlines()[1:-1]]

    once, twice = planned(), planned("--slower", "2")
    assert [float(line[0]) * 2 for line in once] == [float(line[0]) for line in twice]


def test_the_plan_skips_what_is_done_or_cannot_be_done_or_does_not_fit():
    steps = [
        step("a", "", 50),
        step("b", "", 50),
        step("c", "", 400),
        step("d", "", 400, resumes=True, most=60.0),
        step("e", "", 40, lacks=lambda: "torch"),
        step("f", "", 400, resumes=True),
        step("g", "", 1),
    ]
    planned = gpu.plan(steps, 155 + gpu.RESERVE, {"a": {"status": "done"}, "b": {"status": "cut"}})
    assert [(p.verdict, p.seconds) for p in planned] == [
        ("done", 0),
        ("fits", 50),
        ("does not fit", 0),
        ("in part", 60),
        ("lacks torch", 0),
        ("in part", 45),
        ("does not fit", 0),
    ]


def test_a_step_that_is_done_is_skipped_and_one_that_failed_is_tried_again(go, tmp_path):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    count = "open({!r}, 'a').write('x')"
    steps = [step("a-good", count.format(str(good))), step("b-bad", count.format(str(bad)) + "; raise SystemExit(3)")]
    first = go(*steps)
    assert [(first[s.name]["status"], first[s.name]["returncode"]) for s in steps] == [("done", 0), ("failed", 3)]
    second = go(*steps)
    assert second["a-good"] == first["a-good"]
    assert second["b-bad"]["calls"] == [1, 2]
    assert (good.read_text(), bad.read_text()) == ("x", "xx")


def test_a_step_over_its_limit_is_cut_and_recorded_and_the_next_one_runs(go, tmp_path):
    """Even one that does not listen, and what it started."""
    deaf = (
        "import pathlib, signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(p.pid)); print('hanging', flush=True); time.sleep(60)"
    )
    start = time.monotonic()
    found = go(step("a-deaf", deaf, 1.0), step("b-next", "print('here')"))
    assert time.monotonic() - start < 15
    assert (found["a-deaf"]["status"], found["b-next"]["status"]) == ("cut", "done")
    assert found["a-deaf"]["seconds"] >= gpu.PATIENCE * 1.0 * 0.9
    assert "hanging" in (tmp_path / "a-deaf.log").read_text()
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):  # whoever reaps orphans here may take a moment
        if not alive(child):
            break
        time.sleep(0.1)
    assert not alive(child)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_cut_step_that_resumes_gets_the_rest_of_the_budget(go, tmp_path):
    """It is interrupted first, so that it can keep what it has."""
    code = (
        "import pathlib, time\n"
        f"p = pathlib.Path({str(tmp_path / 'kept')!r})\n"
        "try:\n    time.sleep(0 if p.exists() else 60)\n"
        "except KeyboardInterrupt:\n    p.write_text('kept'); raise"
    )
    found = go(step("a-long", code, 4.0, resumes=True), step("b-short", ""), budget=60.0)  # a start may take seconds
    assert (found["a-long"]["status"], found["a-long"]["calls"]) == ("done", [1, 1])
    assert found["b-short"]["calls"] == [1]


def test_the_archive_holds_what_is_to_be_brought_back(go, tmp_path):
    (tmp_path / "store" / "claims").mkdir(parents=True)
    (tmp_path / "store" / "claims" / "mine.0").write_text("")
    (tmp_path / "store" / "chunk.nc").write_text("numbers")
    go(step("a", "print('said')"))
    go(step("b", ""))
    with tarfile.open(tmp_path / "results.tar.gz") as tar:
        names = set(tar.getnames())
    assert names == {"summary.json", "a.log", "b.log", "store", "store/chunk.nc"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: --out"),
        (["--out", "x", "--budget", "soon"], "invalid float value: 'soon'"),
        (["--out", "x", "--budget", "nan"], "--budget nan must be a number of seconds above 5"),
        (["--out", "x", "--only", "a,z"], "--only z is not a step; they are a-accuracy"),
        (["--out", "x", "--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--out", "x", "--slower", "-1"], "--slower -1 must be a number above 0"),
        (["--out", __file__], "is not a folder"),
    ],
)
def test_bad_arguments_are_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert says in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_folder_has_steps_of_one_size(tmp_path, capsys):
    gpu.Record(tmp_path, "quick").write()
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "holds steps at the size 'quick', not 'full'" in capsys.readouterr().err


def test_the_device_is_written_down(tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--only", "a", "--budget", "30"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: JAX sees no accelerator")
    device = json.loads((tmp_path / "device.json").read_text())
    assert device["platform"] == "cpu"
    assert device["versions"]["jaxlib"]
    assert device["torch_cuda"] in (True, False)
