"""``byzjax run``: one run, its numbers, and figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from byzjax.cli.console import console, polite, table, warn
from byzjax.cli.list import choices, completed
from byzjax.storage.files import check_room, shortened

if TYPE_CHECKING:
    import xarray
    from rich.table import Table

    from byzjax.simulation.checkpoint import Checkpoint


# Rates that train both tasks under most rules; any other method starts at 0.1.
_DEFAULT_RATES = {
    "byz_nsgdm": 0.1,
    "momentum_sgd": 0.01,
    "byz_sign": 0.01,
    "byz_scion": 0.02,
    "byz_fedadam": 0.003,
    "byz_fedyogi": 0.003,
    "byz_fedadagrad": 0.01,
}
_ROOM, _ROOM_PER_ROUND = 1 << 20, 64  # bytes of a result and its figures
_RATES = ", ".join(f"{rate:g} for {method}" for method, rate in _DEFAULT_RATES.items())


@polite
def run(
    task: Annotated[
        str, typer.Option(help=f"One of: {choices('tasks')}.", autocompletion=completed("tasks"))
    ] = "quartic",
    method: Annotated[
        str, typer.Option(help=f"One of: {choices('methods')}.", autocompletion=completed("methods"))
    ] = "byz_nsgdm",
    aggregator: Annotated[
        str,
        typer.Option(
            autocompletion=completed("aggregators"),
            help="Pre-aggregations (nnm, bucketing) and a rule, separated by commas, as in "
            f"'bucketing(bucket_size=2),krum'. From: {choices('aggregators')}.",
        ),
    ] = "nnm,rfa",
    attack: Annotated[
        str,
        typer.Option(
            help=f"One of: {choices('attacks')}; mimic needs a variant: 'mimic(reverse)'.",
            autocompletion=completed("attacks"),
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
    from byzjax import plotting, results
    from byzjax.configs import specs
    from byzjax.configs.run_config import RunConfig, execute
    from byzjax.simulation.checkpoint import Checkpoint

    method_name = specs.parse(method).name
    rate = _DEFAULT_RATES.get(method_name, 0.1) if learning_rate is None else learning_rate
    config = RunConfig(
        task=task,
        method=method,
        aggregator=aggregator,
        attack=attack,
        num_workers=num_workers,
        num_byzantine=cast(int, num_byzantine),
        f=f,
        learning_rate=rate,
        beta=beta,
        num_rounds=num_rounds,
        eval_every=eval_every,
        seed=seed,
    )
    described = config.as_dict()
    folder = out or Path("results") / _slug(
        *(described[part] for part in ("task", "method", "aggregator", "attack")), seed
    )
    path = folder / "run.nc"
    _check_free(path, described, overwrite, resume)
    for line in config.warnings():
        warn(line)
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
    screen = console()
    screen.print(_last_numbers(dataset))
    round_ = results.diverged_at(dataset)
    if round_ is not None:
        warn(f"the run diverged in round {round_}: the parameters stopped there, and all numbers after it are NaN.")
    screen.print(_how_long(dataset))
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

    screen.print(f"Written: {path}, and figures beside it", soft_wrap=True)


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
    shown = table("metric", "value", "round", "what it is")
    true = [(name, "eval", "true, of the model") for name in dataset if dataset[name].dims == ("eval",)]
    seen = [(name, "round", "seen in the round") for name in dataset if dataset[name].dims == ("round",)]
    for name, dim, kind in true + seen:
        value, described = dataset[name][-1], dataset[name].attrs.get("long_name", "")
        text = str(bool(value)) if value.dtype == bool else f"{float(value):.6g}"
        shown.add_row(str(name), text, str(int(value[dim])), f"{kind}: {described}")
    return shown


def _how_long(dataset: xarray.Dataset) -> str:
    seconds, compiling = dataset.attrs["seconds"], dataset.attrs["compile_seconds"]
    known = f", about {compiling:.1f} s of it compiling" if compiling == compiling else ""
    return f"{seconds:.1f} s{known}, on {dataset.attrs['device_kind']}"
