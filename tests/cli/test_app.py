"""The command line as a whole: lists, help, completion, and the console script."""

import re
import subprocess
import sys

import jax
from typer.testing import CliRunner

import byzjax
from byzjax import aggregators, attacks, methods, tasks
from byzjax._version import __version__
from byzjax.cli.app import app
from byzjax.configs import run_config
from tests.helpers import SMALL_RUN, call, plain


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(run_config, "run", lambda *_, **__: 1 // 0)
    assert isinstance(call(*SMALL_RUN, "--out", str(tmp_path)).exception, ZeroDivisionError)


def test_one_attack_is_listed_as_all_are():
    assert call("list", "attack").stdout == call("list", "attacks").stdout != ""


def test_shells_complete_commands_options_and_names():
    def completed(words):
        env = {"_BYZJAX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return CliRunner().invoke(app, [], prog_name="byzjax", env=env).stdout.split()

    assert completed("byzjax re") == ["reproduce", "report"]
    assert completed("byzjax run --attack al") == ["alie"]
    assert completed("byzjax run --learn") == ["--learning-rate"]
    assert completed("byzjax list met") == ["methods", "metrics"]
    assert "--install-completion" in plain(call("--help").stdout)


def test_ctrl_c_is_exit_code_130_and_a_line(monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_config, "run", interrupted)
    result = call(*SMALL_RUN, "--out", str(tmp_path))
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted")


def test_list_shows_every_entry():
    shown = call("list").stdout
    for kind, registry in {
        "tasks": tasks.REGISTRY,
        "methods": methods.REGISTRY,
        "aggregators": aggregators.REGISTRY,
        "attacks": attacks.REGISTRY,
        "metrics": byzjax.metrics.REGISTRY,
    }.items():
        for name, entry in registry.items():
            line = (entry.__doc__ or "").split("\n")[0]
            assert re.search(rf"^{kind}: {name}\b.*{re.escape(line)}$", shown, re.MULTILINE)
    only = call("list", "attacks").stdout.splitlines()
    assert len(only) == len(attacks.REGISTRY)


def test_help_names_every_option_default_and_choice():
    shown = plain(call("run", "--help").stdout)
    for word in ("--f", "--beta", "--out", "--seed", "--eval-every", "[default: nnm,rfa]", "0.1 for byz_nsgdm"):
        assert word in shown
    for name in [*tasks.REGISTRY, *methods.REGISTRY, *aggregators.REGISTRY, *attacks.REGISTRY]:
        assert name in shown


def test_the_module_is_the_console_script():
    shown = subprocess.run([sys.executable, "-m", "byzjax", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"byzjax {__version__}, jax {jax.__version__}")
    wrong = subprocess.run([sys.executable, "-m", "byzjax", "run", "--task", "quartik"], capture_output=True, text=True)
    assert wrong.returncode == 2
    known = ", ".join(sorted(byzjax.tasks.REGISTRY))
    assert wrong.stderr == f"error: unknown task 'quartik'; nearest: quartic. Known: {known}.\n"
