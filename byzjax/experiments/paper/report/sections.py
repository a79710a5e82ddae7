"""What the paper does not show, a section each: computed from a study's data, empty where the data lack it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import xarray

from byzjax.experiments.paper import published, verdicts
from byzjax.experiments.paper.published import Place
from byzjax.experiments.paper.studies import Study
from byzjax.experiments.text import case_names, count, grid, number, spread
from byzjax.plotting.style import capitalized, long_name
from byzjax.results.metric_names import words

_LOST = 0.5  # a class below this accuracy is called lost
_TENTHS = 10
_POINTS, _FACTOR, _PERPLEXITY = 0.05, 2.0, 1.1  # a rate this near to the best is about as good
_EDGE = {"low": " (smallest)", "high": " (largest)"}


def references(study: Study) -> str:
    """Nobody lies, or the rule believes everybody."""
    places = [place for place, case in enumerate(study.cases) if verdicts.is_reference(*case)]
    if not places:
        return ""
    final = verdicts.final(study.chosen)
    digits = study.metric.digits

    def row(place: int) -> list[str]:
        values = final.isel(case=place).transpose("optimizer", "seed")
        return [*case_names(*study.cases[place]), *(spread(one, digits) for one in np.asarray(values, float))]

    order = sorted(range(len(study.cases)), key=lambda place: (_attack_order(study, place), place))
    return (
        "Every case at its own chosen rates. Without attack, the plain mean is what there is to lose; under attack it "
        "is what the rules are there to prevent.\n\n" + grid(["attack", "rule", *study.methods], map(row, order))
    )


def _attack_order(study: Study, place: int) -> int:
    attacks = list(dict.fromkeys(attack for attack, _ in study.cases))
    attacks.sort(key=lambda attack: attack != "none")
    return attacks.index(study.cases[place][0])


def rates(study: Study) -> str:
    """The chosen rates, and which of them lie on an edge."""
    chosen, tried = study.chosen, study.dataset["tried"].any(["seed", "case"])
    lines = []
    for place, case in enumerate(study.cases):
        line = list(case_names(*case))
        for method in range(len(study.methods)):
            one = chosen.isel(case=place, optimizer=method)
            edge = _EDGE.get(str(one["at_edge"].item()), "")
            rate = float(one["learning_rate"])
            line.append(f"{rate:g}{edge}" if np.isfinite(rate) else "all diverged")
        lines.append(line)
    grids = [
        f"{name} at {', '.join(f'{rate:g}' for rate in tried['learning_rate'].values[np.asarray(one)])}"
        for name, one in zip(study.methods, tried.transpose("optimizer", "learning_rate"), strict=True)
    ]
    edges = int((chosen["at_edge"] != "").sum())
    several = int((chosen["num_tried"] > 1).sum())
    warned = (
        f"**{edges} of {several} choices are the smallest or largest rate tried**; a better one may lie beyond."
        if edges
        else f"None of {several} choices is on the edge of what was tried."
    )
    single = int((chosen["num_tried"] == 1).sum())
    if single:
        warned += f" In {count(single, 'case')} there was one rate only: nothing was chosen."
    return f"Tried: {'; '.join(grids)}. {warned}\n\n{grid(['attack', 'rule', *study.methods], lines)}"


def sensitivity(study: Study) -> str:
    """The metric at every rate that was tried."""
    final, digits = verdicts.final(study.dataset), study.metric.digits
    values = [float(rate) for rate in study.dataset["learning_rate"].values]
    lines = []
    for place, method in _cells(study):
        one = final.isel(case=place, optimizer=method).transpose("learning_rate", "seed")
        tried = np.asarray(study.dataset["tried"].isel(case=place, optimizer=method).any("seed"), bool)
        texts = [_short(runs, digits) if there else "" for runs, there in zip(np.asarray(one), tried, strict=True)]
        lines.append([*case_names(*study.cases[place]), study.methods[method], *texts])
    heads = ["attack", "rule", "method", *(f"{rate:g}" for rate in values)]
    return (
        f"{capitalized(study.metric.title)} at every rate that was tried, mean over seeds; *k*✗: so many runs diverged "
        f"and are not in the mean. {_usable(study, final)}\n\n{_folded('all rates', grid(heads, lines))}"
    )


def _usable(study: Study, final: xarray.DataArray) -> str:
    """How many rates are about as good as the best."""
    tried = study.dataset["tried"].any("seed")
    mean = final.mean("seed", skipna=False).where(tried)
    if study.metric.best == "max":
        good, said = mean >= mean.max("learning_rate") - study.metric.factor * _POINTS, "within five points"
    elif "perplexity" in words(study.metric.name):
        good, said = mean <= _PERPLEXITY * mean.min("learning_rate"), "within ten per cent"
    else:
        good, said = mean <= _FACTOR * mean.min("learning_rate"), "within a factor of two"
    places = study.in_table or list(range(len(study.cases)))
    counts = [
        f"{name} {float(few.sum('learning_rate').mean()):.1f} of {int(many.sum('learning_rate').max())}"
        for name, few, many in zip(
            study.methods,
            good.isel(case=places).transpose("optimizer", ...),
            tried.isel(case=places).transpose("optimizer", ...),
            strict=True,
        )
    ]
    return f"Rates {said} of the best one, on average over attacks and rules: {', '.join(counts)}."


def _short(runs: np.ndarray, digits: int) -> str:
    kept = runs[np.isfinite(runs)]
    lost = runs.size - kept.size
    mean = float(kept.mean()) if kept.size else float("nan")
    text = "" if not kept.size else number(mean) if abs(mean) >= 1e4 else number(mean, digits)
    return " ".join(filter(None, (text, f"{lost}✗" if lost else "")))


def best_and_final(study: Study) -> str:
    """The last evaluation beside the best one and the last tenth."""
    metric = study.metric
    values = metric.factor * study.chosen[metric.name].where(~study.chosen["diverged"])
    best = values.max("eval") if metric.best == "max" else values.min("eval")
    tenth = max(1, values.sizes["eval"] // _TENTHS)
    late = values.isel(eval=slice(-tenth, None)).mean("eval", skipna=False)
    last = values.isel(eval=-1)
    lines = []
    for place, method in _cells(study):
        at = {"case": place, "optimizer": method}
        if verdicts.is_reference(*study.cases[place]):
            continue
        shown = (spread(np.asarray(one.isel(at), float), metric.digits) for one in (last, late, best))
        lines.append([*study.cases[place], study.methods[method], *shown])
    return (
        "The paper reports the last evaluation. *best* takes every run's best evaluation, which is optimistic: it "
        "looks at what it reports, and gains from noise. A run that is much better at its best than at its end "
        "collapsed.\n\n" + grid(["attack", "rule", "method", "last", f"mean of the last {tenth}", "best"], lines)
    )


def norms(study: Study) -> str:
    """What the server sees beside what it cannot see."""
    true = "gradient_norm" if study.has("gradient_norm") else "honest_norm"
    if not study.has(true, "aggregate_norm"):
        return ""
    last = study.chosen[[true, "aggregate_norm"]].where(~study.chosen["diverged"]).isel(eval=-1)
    theirs = published.seeds(study.name, true) if study.variant == "released" else {}
    lines = []
    for place, method in _cells(study):
        one = last.isel(case=place, optimizer=method)
        hidden, seen = (np.asarray(one[name], float) for name in (true, "aggregate_norm"))
        ratio = seen.mean() / hidden.mean() if hidden.mean() else math.nan
        where = Place(*study.cases[place], study.methods[method])
        line = [*case_names(*where[:2]), where.method, spread(hidden), spread(seen), number(float(ratio))]
        lines.append([*line, spread(theirs.get(where, ()))] if theirs else line)
    told = (
        "An aggregate holds the noise of the minibatches and what the attackers achieved; its norm can be far from "
        "that of the honest objective's gradient, in either direction. The true norm is taken after the round, the "
        "aggregate's in it."
        if true == "gradient_norm"
        else "The true gradient norm was not computed. The norm of the mean of what honest workers sent, their "
        "momenta, is what the server would have seen without attackers, in the same round and at the same parameters."
    )
    names = [long_name(study.chosen, name) for name in (true, "aggregate_norm")]
    heads = ["attack", "rule", "method", *names, "ratio", *([f"{names[0]}, the authors' code"] if theirs else [])]
    return f"{told}\n\n{grid(heads, lines)}"


def losses(study: Study) -> str:
    """The loss beside the accuracy: one may rise while the other stays."""
    if not study.has("test_accuracy", "test_loss"):
        return ""
    last = study.chosen[["test_accuracy", "test_loss"]].where(~study.chosen["diverged"])
    lines, ends = [], []
    for place, method in _cells(study):
        one = last.isel(case=place, optimizer=method)
        loss = np.asarray(one["test_loss"].transpose("seed", "eval"), float)
        accuracy = 100 * np.asarray(one["test_accuracy"].isel(eval=-1), float)
        ends.append(loss[:, -1].mean())
        cells = [spread(accuracy, 1), spread(loss[:, -1]), spread(loss.min(1))]
        lines.append([*case_names(*study.cases[place]), study.methods[method], *cells])
    chance = math.log(study.chosen.sizes.get("class", 10))
    above = sum(end > chance for end in ends)
    return (
        f"A guess that gives every class the same probability has a loss of {chance:.2f}. In {above} of "
        f"{len(lines)} cases the mean loss ends above that, whatever the accuracy: some images are wrong "
        "with great confidence.\n\n"
        + grid(["attack", "rule", "method", "test accuracy, %", "test loss, last", "test loss, least"], lines)
    )


def classes(study: Study) -> str:
    """Which classes are lost."""
    if not study.has("test_accuracy_per_class"):
        return ""
    last = study.chosen["test_accuracy_per_class"].isel(eval=-1)
    lines = []
    for place, method in _cells(study):
        one = np.asarray(last.isel(case=place, optimizer=method).transpose("seed", "class"), float)
        runs = one[np.isfinite(one).all(1)]
        lost = (runs < _LOST).sum(0)
        named = [f"{label} ({amount} of {len(runs)})" for label, amount in enumerate(lost) if amount]
        worst = f"{100 * float(runs.min(1).mean()):.0f}" if len(runs) else "–"
        lines.append([*case_names(*study.cases[place]), study.methods[method], ", ".join(named) or "none", worst])
    return (
        f"A class is lost in a run that gets less than {100 * _LOST:.0f} % of its test images right after the last "
        "round; in parentheses the number of seeds.\n\n"
        + grid(["attack", "rule", "method", "classes lost", "worst class, %, mean"], lines)
    )


def attackers(study: Study) -> str:
    """How many attackers the pre-aggregation keeps."""
    if not study.has("attackers_kept"):
        return ""
    kept = study.chosen["attackers_kept"].where(~study.chosen["diverged"])
    lines = []
    for place, method in _cells(study):
        one = np.asarray(kept.isel(case=place, optimizer=method).transpose("seed", "eval"), float)
        if np.isnan(one).all():
            continue
        tenth = max(1, one.shape[1] // _TENTHS)
        cells = [spread(part.mean(1), 2) for part in (one[:, :tenth], one, one[:, -tenth:])]
        lines.append([*case_names(*study.cases[place]), study.methods[method], *cells, _dropped(study, place, method)])
    heads = ["attack", "rule", "method", "first tenth", "whole run", "last tenth", "honest workers dropped most"]
    return (
        "How many attackers are among the rows that NNM averages for an honest worker, mean over honest workers and "
        "the rounds that were recorded. Who is kept costs an honest worker its place: the last column names those "
        "(counted from 0) that are missing from more than a third of the averages, and from how many.\n\n"
        + grid(heads, lines)
    )


def _dropped(study: Study, place: int, method: int) -> str:
    """Honest workers that are often missing, the rarest first; three at most."""
    if not study.has("worker_kept"):
        return "–"
    kept = study.chosen["worker_kept"].isel(case=place, optimizer=method)
    honest = kept.sizes["worker"] - study.config["num_byzantine"]
    share = np.asarray(kept.mean(["seed", "eval"]), float)[:honest]
    often = [worker for worker in np.argsort(share) if share[worker] < 2 / 3][:3]
    return ", ".join(f"{worker} ({100 * (1 - share[worker]):.0f} %)" for worker in often) or "none"


def divergence(study: Study) -> str:
    """How many runs stopped being finite."""
    diverged, tried = study.dataset["diverged"], study.dataset["tried"]
    lines = []
    for method, name in enumerate(study.methods):
        lost = np.asarray((diverged & tried).isel(optimizer=method).sum(["case", "seed"]))
        ran = np.asarray(tried.isel(optimizer=method).sum(["case", "seed"]))
        cells = [f"{a}/{b}" if b else "" for a, b in zip(lost.tolist(), ran.tolist(), strict=True)]
        lines.append([name, *cells, f"{lost.sum()}/{ran.sum()}"])
    rates = [f"{float(rate):g}" for rate in study.dataset["learning_rate"].values]
    return (
        "Runs whose parameters stopped being finite, of all attacks, rules and seeds at a rate. They are counted here, "
        "never averaged. A run that is far off but finite, as clipping can keep it, is not among them; the sensitivity "
        "to the rate shows it.\n\n" + grid(["method", *rates, "all"], lines)
    )


def _cells(study: Study) -> Iterator[tuple[int, int]]:
    """Cases and methods, by their places."""
    for place in range(len(study.cases)):
        yield from ((place, method) for method in range(len(study.methods)))


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n</details>\n"


def ablation(study: Study) -> str:
    """β × rate after the last round."""
    final = verdicts.final(study.dataset).isel(case=0, optimizer=0)
    values = final.transpose("beta", "learning_rate", "seed")
    rates = [f"{float(rate):g}" for rate in values["learning_rate"].values]
    digits = study.metric.digits
    lines = [
        [f"{float(one['beta']):g}", *(spread(cell, digits) for cell in np.asarray(one, float))]
        for one in (values.isel(beta=place) for place in range(values.sizes["beta"]))
    ]
    mean = values.mean("seed", skipna=False)
    good = mean.max() if study.metric.best == "max" else mean.min()
    best = mean.where(mean == good, drop=True)
    worst = mean.min() if study.metric.best == "max" else mean.max()
    said = (
        f"The best mean, {number(float(good), digits)}, is at β = {float(best['beta'][0]):g}, γ₀ = "
        f"{float(best['learning_rate'][0]):g}; the worst of {mean.size} combinations has "
        f"{number(float(worst), digits)}; in {int(mean.isnull().sum())} a run diverged."
        if bool(mean.notnull().any())
        else "A run diverged in every combination."
    )
    best_rates = study.chosen.isel(case=0, optimizer=0)[["learning_rate", "at_edge"]]
    picked = [
        f"{float(one['learning_rate']):g} at β = {float(one['beta']):g}{_EDGE.get(str(one['at_edge'].item()), '')}"
        for one in (best_rates.isel(beta=place) for place in range(best_rates.sizes["beta"]))
    ]
    return f"{said} Chosen: {'; '.join(picked)}.\n\n{grid(['β, down; γ₀, across', *rates], lines)}"


SECTIONS: dict[str, Callable[[Study], str]] = {
    "Without attack, and the plain mean": references,
    "The chosen learning rates": rates,
    "Sensitivity to the learning rate": sensitivity,
    "Best and last evaluation": best_and_final,
    "The honest norm beside the aggregate's": norms,
    "Loss beside accuracy": losses,
    "Which classes are lost": classes,
    "Attackers kept by NNM": attackers,
    "Divergence": divergence,
}
