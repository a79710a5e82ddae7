"""`byzjax run`: true numbers, one line for a mistake, and files that survive."""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import byzjax
from byzjax import results
from byzjax.configs import run_config
from byzjax.experiments.demo import demo
from byzjax.storage import netcdf
from tests.helpers import SMALL_RUN, call, plain


def test_run_prints_true_numbers_and_saves_everything(tmp_path):
    result = call(*SMALL_RUN, "--attack", "alie(z=2)", "--learning-rate", "0.2", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    dataset = results.load(tmp_path / "run.nc")
    assert dict(dataset.sizes) == {"round": 6, "eval": 2}
    saved = results.config_of(dataset)
    assert saved["arguments"]["attack"] == [{"name": "alie", "z": 2, "sign": 1, "ddof": 0}]
    assert (saved["learning_rate"], saved["f"]) == (0.2, 1)
    assert f"{float(dataset['gradient_norm'][-1]):.6g}" in result.stdout
    assert f"{float(dataset['aggregate_norm'][-1]):.6g}" in result.stdout
    assert "true, of the model: true gradient norm" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"run.nc", "run.png", "run.pdf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attack", "ali"], r"error: unknown attack 'ali'; nearest: alie"),
        (["--attack", "mimic"], r"error: mimic: variant is missing, one of 'reverse'"),
        (["--aggregator", "nnm"], r"error: aggregator: nnm is a pre-aggregation"),
        (["--method", "byz_nsgd"], r"error: unknown method 'byz_nsgd'; nearest: byz_nsgdm"),
        (["--num-byzantine", "4"], r"error: nnm: f = 4 of n = 7 workers is not a minority"),
        (["--learning-rate", "nan"], r"error: .*learning_rate = nan"),
        (["--beta", "1"], r"error: .*beta = 1.0"),
        (["--method", "byz_nsgdm(learning_rate=1.0)"], r"error: .*learning_rate is already set"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    result = call(*SMALL_RUN, *arguments, "--out", str(tmp_path))
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert re.match(message, lines[0])
    assert not (tmp_path / "run.nc").exists()


@pytest.mark.parametrize(
    "arguments", [["run", "--tsak", "quartic"], ["lst"], ["run", "--num-rounds", "0"], ["list", "tusk"]]
)
def test_what_the_parser_refuses_is_exit_code_2(arguments):
    assert call(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("run --lr 0.1", "no option --lr; nearest: --learning-rate. See byzjax run --help."),
        ("run --rounds 3", "no option --rounds; nearest: --num-rounds. See byzjax run --help."),
        ("run --colour", "no option --colour. See byzjax run --help."),
        ("demo --quik", "no option --quik; nearest: --quick. See byzjax demo --help."),
        ("plot x --kind pie", "'pie' is not one of 'curves', 'heatmap', 'table'. See byzjax plot --help."),
        ("run --num-rounds many", "not 'many'. See byzjax run --help."),
        ("run extra", "(extra). See byzjax run --help."),
        ("lst", "No such command 'lst'. Did you mean 'list'? See byzjax --help."),
        ("list attacs", "'attacs' cannot be listed; nearest: attacks."),
        ("store ls", "Missing argument 'PATH'. See byzjax store ls --help."),
        ("store ls --hepl", "no option --hepl; nearest: --help."),
        ("run --num-rounds 4294967296", "num_rounds = 4294967296 must be less than 2³¹"),
        ("run --out ~nobody-of-that-name/x", "the home folder in '~nobody-of-that-name/x' is not known"),
        ("run --task cifar10", "nearest: \"classification('tfds:cifar10')\". Known:"),
        (
            "run --method byz_nsgdm(aggregator=krum)",
            "aggregator is already given by its own option; say it once, there.",
        ),
        ("run --task quartic(num_byzantine=5)", "num_byzantine is already set to 3 by its own option; say it once"),
        ("run --num-rounds 2 --eval-every 1 --out FILE", "FILE is a file; name a folder."),
        ("run --num-rounds 2 --eval-every 1 --out FILE/x", "FILE is a file; name a folder."),
        ("demo --num-rounds 1 --out FILE", "FILE is a file; name a folder."),
        ("examples --out FILE", "FILE is a file; name a folder."),
        ("plot FILE", "FILE cannot be read as netCDF (OSError): it is damaged, or something else."),
        ("plot nowhere", "nowhere does not exist."),
        ("sweep FILE --set run.num_rounds", "as in 'run.learning_rate=[0.1, 0.2]'."),
    ],
)
def test_whatever_is_refused_is_refused_in_one_line(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("text = 1")
    result = call(*shlex.split(arguments.replace("(", "'(").replace(")", ")'")))
    assert result.exit_code == 2, result.output
    (said,) = [said for said in result.stderr.splitlines() if said]
    assert said.startswith("error: ")
    assert line in said
    assert "Value error" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_a_platform_that_is_misspelt_is_one_line(tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "cpuu"}
    command = [sys.executable, "-m", "byzjax", *SMALL_RUN, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: JAX finds no device for JAX_PLATFORMS=cpuu: Unable to initialize backend")
    assert line.endswith("Write JAX_PLATFORMS=cpu, or unset it.")


def test_a_platform_that_is_not_there_is_one_line(monkeypatch, tmp_path):
    def absent(*_, **__):
        raise AssertionError  # what JAX raises for JAX_PLATFORMS=cuda on a machine that has none

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(run_config, "run", absent)
    monkeypatch.setattr(jax, "local_devices", absent)
    result = call(*SMALL_RUN, "--out", str(tmp_path))
    assert result.exit_code == 2
    line = "error: JAX finds no device for JAX_PLATFORMS=cuda. Write JAX_PLATFORMS=cpu, or unset it.\n"
    assert result.stderr == line


def test_no_home_folder_is_one_line(monkeypatch):
    def nobody(*_, **__):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    result = call("run", "--task", "classification('tfds:fashion_mnist')", "--num-rounds", "1", "--eval-every", "1")
    assert result.exit_code == 2
    assert "write the whole path" in result.stderr


def test_memory_that_is_not_there_is_one_line(monkeypatch, tmp_path):
    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")):
        monkeypatch.setattr(run_config, "run", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        result = call(*SMALL_RUN, "--out", str(tmp_path))
        assert result.exit_code == 2
        assert result.stderr.startswith("error: out of memory: ")


def test_paths_mean_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_config, "run", lambda *_, **__: byzjax.Result(a_state(), {"loss": jnp.ones(6)}, {}))
    assert call(*SMALL_RUN, "--out=~/res").exit_code == 0
    assert (tmp_path / "res/run.nc").is_file()
    assert call("plot", "~/res/run.nc", "--metric", "loss", "--out=~/figure").exit_code == 0
    assert (tmp_path / "figure.png").is_file()
    assert call("examples", "--out=~/grids").exit_code == 0
    assert not (tmp_path / "~").exists()


def a_state():
    return byzjax.simulation.round.RoundState(*[jnp.zeros(())] * len(byzjax.simulation.round.RoundState._fields))


def test_a_long_specification_makes_a_name_that_fits(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_config, "run", lambda *_, **__: byzjax.Result(a_state(), {"loss": jnp.ones(6)}, {}))
    for end in "12":
        rule = ",".join(["nnm(f=1)"] * 40) + f",rfa(num_iters={end})"
        assert call(*SMALL_RUN, "--aggregator", rule).exit_code == 0
    assert len(list((tmp_path / "results").glob("*/run.nc"))) == 2
    entry = demo.Entry("byz_nsgdm", ",".join(["nnm(f=1)"] * 40) + ",rfa", "none", 0.1)
    assert len(demo.Demo().path(entry, tmp_path).name) < 220


def test_numbers_survive_a_disk_that_filled_up(monkeypatch, tmp_path):
    def full(dataset, path, save=results.save):
        if path.parent == tmp_path / "out":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return save(dataset, path)

    monkeypatch.setattr(run_config, "run", lambda *_, **__: byzjax.Result(a_state(), {"loss": jnp.full(6, 0.125)}, {}))
    monkeypatch.setattr(netcdf, "save", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = call(*SMALL_RUN, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "0.125" in result.stdout
    (kept,) = tmp_path.glob("byzjax-*/run.nc")
    path = tmp_path / "out/run.nc"
    assert result.stderr == f"error: {path} cannot be written (No space left on device); the result is in {kept}.\n"
    assert float(results.load(kept).loss[-1]) == 0.125


def test_no_room_is_said_before_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(run_config, "run", lambda *_, **__: pytest.fail("it ran"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 100))
    result = call(*SMALL_RUN, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'out'}: No space left on device.\n"


def test_hints_can_be_pasted_into_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = plain(call("examples", "--out", "my grids").stdout)
    assert "Next: byzjax sweep 'my grids/quartic_rates.toml' --dry-run" in shown
    assert len(list((tmp_path / "my grids").glob("*.toml"))) == 3
    assert call("examples", "--out", "my grids").exit_code == 0  # the same again is no loss
    (tmp_path / "my grids/mnist_attacks.toml").write_text("mine")
    refused = call("examples", "--out", "my grids")
    assert refused.exit_code == 2
    assert "mnist_attacks.toml is there and is another file" in refused.stderr
    assert (tmp_path / "my grids/mnist_attacks.toml").read_text() == "mine"
    for text, word in {"mimic": "\"mimic(variant='reverse')\"", "nnm,bucketing": "'bucketing(bucket_size=…)'"}.items():
        part = "--attack" if text == "mimic" else "--aggregator"
        (said,) = call("run", part, text).stderr.splitlines()
        assert f"write {word}." in said
        assert len(shlex.split(word)) == 1


def test_a_declared_f_below_the_truth_is_a_warning(tmp_path):
    result = call(*SMALL_RUN, "--f", "0", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "warning: nnm tolerates f = 0, but 1 of 7 workers are Byzantine" in result.stderr


def test_divergence_is_reported(tmp_path):
    result = call(
        *SMALL_RUN, "--method", "momentum_sgd", "--learning-rate", "1e9", "--aggregator", "mean", "--out", str(tmp_path)
    )
    assert result.exit_code == 0, result.output
    round_ = results.diverged_at(results.load(tmp_path / "run.nc"))
    assert round_ is not None
    assert f"warning: the run diverged in round {round_}" in result.stderr


def test_another_run_is_not_replaced_without_being_asked(tmp_path):
    command = [*SMALL_RUN, "--aggregator", "median", "--out", str(tmp_path)]
    assert call(*command).exit_code == 0
    assert call(*command).exit_code == 0  # the same again is no loss
    refused = call(*command, "--seed", "1")
    assert refused.exit_code == 2
    assert "seed: 0 there, 1 here" in refused.stderr
    assert results.load(tmp_path / "run.nc").attrs["seed"] == 0
    assert call(*command, "--seed", "1", "--overwrite").exit_code == 0
    assert results.load(tmp_path / "run.nc").attrs["seed"] == 1


METHODS = ["momentum_sgd", "momentum_sgd(decay=True)", "byz_nsgdm"]
ATTACKS = ["bit_flip", "mimic(reverse)", "alie"]
RULES = ["nnm,krum", "nnm,rfa", "nnm,median"]
# A Latin square: every pair of a rule and an attack, of a rule and a method, of an attack and a method.
SQUARE = [(rule, attack, METHODS[(i + j) % 3]) for i, rule in enumerate(RULES) for j, attack in enumerate(ATTACKS)]


@pytest.mark.parametrize(("rule", "attack", "method"), SQUARE)
def test_run_on_the_quartic_for_methods_rules_and_attacks(rule, attack, method, tmp_path):
    chosen = ["--aggregator", rule, "--attack", attack, "--method", method]
    result = call(*SMALL_RUN, *chosen, "--num-rounds", "2", "--eval-every", "2", "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
