"""The command line: parse, call, print. ``byzjax --help``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from byzjax import cli_examples, cli_report, cli_reproduce, cli_store, cli_sweep
from byzjax.console import Commands
from byzjax.console import console as _console
from byzjax.console import polite as _polite
from byzjax.console import table as _table
from byzjax.console import warn as _warn
from byzjax.files import check_room, shortened

if TYPE_CHECKING:
    import xarray
    from rich.table import Table

    from byzjax.checkpoint import Checkpoint

app = typer.Typer(
    name="byzjax",
    help="Byzantine-robust distributed optimisation in JAX.",
    no_args_is_help=True,
    cls=Commands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cli_store.app, name="store")

# Rates that train both tasks under most rules; any other method starts at 0.1.
_DEFAULT_RATES = {"byz_nsgdm": 0.1, "momentum_sgd": 0.01}
_ROOM, _ROOM_PER_ROUND = 1 << 20, 64  # bytes of a result and its figures
_RATES = ", ".join(f"{rate:g} for {method}" for method, rate in _DEFAULT_RATES.items())


class Kind(StrEnum):
    """What `byzjax list` can list."""

    tasks = "tasks"
    methods = "methods"
    aggregators = "aggregators"
    attacks = "attacks"
    metrics = "metrics"


def main() -> None:
    """The console script."""
    app()


def _choices(kind: str) -> str:
    """The names of a registry, for help texts."""
    return ", ".join(_registries()[kind])


def _completed(kind: str) -> Callable[[str], list[str]]:
    """What a shell may put in place of the beginning of a name."""
    return lambda incomplete: [name for name in _registries()[kind] if name.startswith(incomplete)]


def _registries() -> dict[str, dict[str, Callable[..., Any]]]:
    import byzjax

    return {kind.value: getattr(byzjax, kind.value).REGISTRY for kind in Kind}


def _version(shown: bool) -> None:
    if shown:
        import jax

        import byzjax

        typer.echo(f"byzjax {byzjax.__version__}, jax {jax.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the versions and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@_polite
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="100 rounds instead of 1000: a minute instead of five.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of results, table and figures; finished runs in it are kept.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all runs.")] = 0,
    num_rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds per run.", show_default="1000, or 100 with --quick")
    ] = None,
) -> None:
    """Three methods on MNIST with 3 of 20 workers lying: a table and three figures."""
    import dataclasses

    from byzjax.experiments import demo as experiment
    from byzjax.experiments import demo_report as report

    base = experiment.QUICK if quick else experiment.Demo()
    rounds = num_rounds or base.num_rounds
    chosen = dataclasses.replace(base, seed=seed, num_rounds=rounds, eval_every=min(base.eval_every, rounds))
    console = _console()
    console.print(f"{report.setting(chosen)} {len(chosen.entries)} runs.")
    runs = experiment.run(chosen, out, say=lambda line: typer.echo(line, err=True))
    paths = report.write(chosen, runs, out)

    table = _table(*report.HEADINGS)
    for row in report.rows(runs):
        table.add_row(*report.cells(row))
    console.print(table)
    console.print(f"{report.LEGEND} {report.how_long(runs)}", style="dim", soft_wrap=True)
    console.print("\nWhat this shows:")
    for line in report.findings(runs):
        console.print(f"- {line}", soft_wrap=True)
    console.print(f"Written: {', '.join(map(str, paths))}, and {len(runs)} runs in {out / 'runs'}", soft_wrap=True)


@app.command("run")
@_polite
def run_(
    task: Annotated[
        str, typer.Option(help=f"One of: {_choices('tasks')}.", autocompletion=_completed("tasks"))
    ] = "quartic",
    method: Annotated[
        str, typer.Option(help=f"One of: {_choices('methods')}.", autocompletion=_completed("methods"))
    ] = "byz_nsgdm",
    aggregator: Annotated[
        str,
        typer.Option(
            autocompletion=_completed("aggregators"),
            help="Pre-aggregations (nnm, bucketing) and a rule, separated by commas, as in "
            f"'bucketing(bucket_size=2),krum'. From: {_choices('aggregators')}.",
        ),
    ] = "nnm,rfa",
    attack: Annotated[
        str,
        typer.Option(
            help=f"One of: {_choices('attacks')}; mimic needs a variant: 'mimic(reverse)'.",
            autocompletion=_completed("attacks"),
        ),
    ] = "none",
    num_workers: Annotated[int, typer.Option(min=1, help="Workers, n.")] = 20,
    num_byzantine: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many of them are Byzantine: the last ones, unless the task says byzantine=[…].",
            show_default="3, or as many as the task says",
        ),
    ] = None,
    f: Annotated[
        int | None,
        typer.Option(
            "--f", min=0, help="How many Byzantine workers rules are told to tolerate.", show_default="--num-byzantine"
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="γ₀ > 0.", show_default=_RATES)] = None,
    beta: Annotated[
        float | None, typer.Option(help="Momentum of the workers, in [0, 1).", show_default="the method's own")
    ] = None,
    num_rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 1000,
    eval_every: Annotated[int, typer.Option(min=0, help="Rounds per evaluation of the model; 0: never.")] = 30,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the run.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the result.", show_default="results/TASK-METHOD-AGGREGATOR-ATTACK-seedSEED"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a result of another configuration in the folder, and checkpoints."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep checkpoints in the folder, and go on from the last one: safe to repeat in any case."
        ),
    ] = False,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluations between checkpoints.", show_default="10 with --resume, else none"),
    ] = None,
) -> None:
    """One run: a table of the last numbers, the result as netCDF, and figures.

    TASK, METHOD, AGGREGATOR and ATTACK are names, or calls with arguments: --attack 'ipm(scale=10.0)',
    --method 'momentum_sgd(decay=True)', --task 'mnist(scheme=iid)'. `byzjax list` shows what there is.
    """
    from byzjax import plotting, results, specs
    from byzjax.checkpoint import Checkpoint
    from byzjax.experiments.config import RunConfig, execute

    method_name = specs.parse(method).name
    rate = _DEFAULT_RATES.get(method_name, 0.1) if learning_rate is None else learning_rate
    config = RunConfig(
        task,
        method,
        aggregator,
        attack,
        num_workers,
        cast(int, num_byzantine),
        f,
        rate,
        beta,
        num_rounds,
        eval_every,
        seed,
    )
    described = config.as_dict()
    folder = out or Path("results") / _slug(
        *(described[part] for part in ("task", "method", "aggregator", "attack")), seed
    )
    path = folder / "run.nc"
    _check_free(path, described, overwrite, resume)
    for line in config.warnings():
        _warn(line)
    check_room(folder, _ROOM + _ROOM_PER_ROUND * num_rounds)
    checkpoint = None
    if resume or checkpoint_every:
        checkpoint = Checkpoint(folder / "checkpoints", every=checkpoint_every or 10)
        _check_no_checkpoint(checkpoint, overwrite, resume)

    try:
        dataset = execute(config, checkpoint=checkpoint)
    except KeyboardInterrupt:
        saved = checkpoint and checkpoint.latest()
        if not saved:
            raise
        typer.echo(f"interrupted: saved after round {saved}; the same with --resume goes on from there", err=True)
        raise typer.Exit(130) from None
    failure = results.save_or_rescue(dataset, path)
    console = _console()
    console.print(_last_numbers(dataset))
    round_ = results.diverged_at(dataset)
    if round_ is not None:
        _warn(f"the run diverged in round {round_}: the parameters stopped there, and all numbers after it are NaN.")
    console.print(_how_long(dataset))
    if failure:
        raise OSError(failure)
    shown = {part: plotting.display_name(described[part]) for part in ("method", "aggregator", "attack")}
    title = (
        f"{shown['method']} with {shown['aggregator']} on {config.task}\n"
        f"{config.num_byzantine} of {config.num_workers} workers: {shown['attack']}"
    )
    plotting.save(plotting.overview(dataset, title=title), folder / "run")
    if dataset.sizes.get("class") and dataset.sizes.get("eval"):
        plotting.save(plotting.per_class({shown["method"]: dataset}), folder / "per_class")

    console.print(f"Written: {path}, and figures beside it", soft_wrap=True)


@app.command("list")
@_polite
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar=f"[{'|'.join(Kind)}]",
            help="Only these.",
            show_default="all",
            autocompletion=lambda incomplete: [kind.value for kind in Kind if kind.startswith(incomplete)],
        ),
    ] = None,
) -> None:
    """All tasks, methods, aggregators, attacks and metrics, with their arguments."""
    from byzjax.specs import nearest, signature

    registries = _registries()
    if kind is not None:
        several = kind if kind in registries else f"{kind}s"  # one attack is meant as all are
        if several not in registries:
            raise ValueError(f"{kind!r} cannot be listed; {nearest(kind, registries)}.")
        registries = {several: registries[several]}
    for name, registry in registries.items():
        entries = [
            (entry if name == "metrics" else signature(entry, factory), (inspect.getdoc(factory) or "").split("\n")[0])
            for entry, factory in registry.items()
        ]
        if sys.stdout.isatty():
            table = _table(name, "", title=None)
            for entry in entries:
                table.add_row(*entry)
            _console().print(table)
        else:  # one line each, for grep
            for called, line in entries:
                typer.echo(f"{name}: {called}  {line}")


app.command("examples")(cli_examples.examples)
app.command("sweep")(cli_sweep.sweep)
app.command("plot")(cli_sweep.plot)
app.command("reproduce")(cli_reproduce.reproduce)
app.command("report")(cli_report.report)


def _slug(*parts: Any) -> str:
    *texts, seed = parts
    names = [re.sub(r"[^\w.=+]+", "_", text.replace(",", "+")).strip("_") for text in texts]
    return shortened("-".join([*names, f"seed{seed}"]))


def _check_no_checkpoint(checkpoint: Checkpoint, overwrite: bool, resume: bool) -> None:
    """Refuse to write over the checkpoints of a run that was not asked to go on."""
    done = None if resume else checkpoint.latest()
    if done is not None and not overwrite:
        raise ValueError(
            f"{checkpoint.folder} holds a checkpoint after round {done}; --resume to go on from there, --overwrite to "
            "begin again."
        )
    if overwrite and not resume:
        checkpoint.clear()


def _check_free(path: Path, config: dict[str, Any], overwrite: bool, resume: bool) -> None:
    """Refuse to replace a result that another configuration gave: it may have taken a night."""
    from byzjax import results

    if overwrite or not path.exists():
        return
    old = results.config_of(results.load(path))
    if resume and old.get("num_rounds", 0) <= config["num_rounds"]:
        old = {**old, "num_rounds": config["num_rounds"]}  # a longer run holds the shorter one
    changed = [
        f"{name}: {old.get(name)!r} there, {value!r} here"
        for name, value in config.items()
        if name != "arguments" and old.get(name) != value
    ]
    if changed or results.encode(old) != results.encode(config):
        difference = "; ".join(changed) or "defaults differ"
        raise ValueError(f"{path} holds another run ({difference}); choose another --out, or --overwrite.")


def _last_numbers(dataset: xarray.Dataset) -> Table:
    """The last value of every scalar: what the model is worth, beside what the server saw."""
    table = _table("metric", "value", "round", "what it is")
    true = [(name, "eval", "true, of the model") for name in dataset if dataset[name].dims == ("eval",)]
    seen = [(name, "round", "seen in the round") for name in dataset if dataset[name].dims == ("round",)]
    for name, dim, kind in true + seen:
        value, described = dataset[name][-1], dataset[name].attrs.get("long_name", "")
        text = str(bool(value)) if value.dtype == bool else f"{float(value):.6g}"
        table.add_row(str(name), text, str(int(value[dim])), f"{kind}: {described}")
    return table


def _how_long(dataset: xarray.Dataset) -> str:
    seconds, compiling = dataset.attrs["seconds"], dataset.attrs["compile_seconds"]
    known = f", about {compiling:.1f} s of it compiling" if compiling == compiling else ""
    return f"{seconds:.1f} s{known}, on {dataset.attrs['device_kind']}"
