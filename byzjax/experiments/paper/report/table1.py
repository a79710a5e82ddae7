"""Table 1 of a study beside the published one, in Markdown and LaTeX, and what is said about its cells."""

from __future__ import annotations

import collections
import math

import numpy as np
import xarray

from byzjax.experiments.paper import published, verdicts
from byzjax.experiments.paper.published import Place
from byzjax.experiments.paper.studies import Study
from byzjax.experiments.paper.verdicts import Row
from byzjax.experiments.text import count, grid, number
from byzjax.plotting.summaries import summarize
from byzjax.plotting.tables import Table

LEGEND = """\
- **mean ± std** is over seeds, after the last round; std is the population's (ddof = 0), as in the paper. **95 % CI**
  is the half width of Student's interval of the mean. With three seeds it is 4.3 standard errors, and no more than a
  rough guide where seeds fall into two groups.
- **printed** is in the paper; **recomputed** is what the authors' logs give, or (quartic) their code, run again.
- **ours there** is at the published learning rate, and so are apart, resolved and the verdict: which rate is chosen is
  another question, and depends on which were tried with all seeds.
- **apart** is our mean minus the recomputed one in standard errors, s √(1/n + 1/3) with the larger of both standard
  deviations (ddof = 1). Up to 3 **agrees**: with these seeds the two cannot be told apart. More **differs**.
  **resolved** is what 3 standard errors are: a smaller difference would not be seen. Runs of one seed have their noise
  in common, whatever the attack and the rule; where one cell is high by chance, its neighbours are.
- **chaotic**: the authors' code, run again, does not give what they printed; no other code can be held to it.
- **diverged**: a run at the chosen rate stopped being finite. **not run**: published, and not in this store.
- **another setting**: the published number is of the released code at full length, and this is not.
- **two groups**: the largest gap between seeds is more than half of their range, more than 1 % of the mean, and more
  than 20 times (three seeds; else 5 times) the range within either group; or, with 20 seeds and more, the best cut
  in two leaves means that are 5 standard deviations apart. There the mean says how many seeds fell on which side.
- **edge**: the chosen rate is the smallest or largest that was tried; a better one may lie beyond.
"""

# What three seeds of a cell cannot show.
_SEEN_ELSEWHERE = {
    ("quartic-released", Place("ALIE", "CM", "Decay")): (
        "unstable at 0.2, which other runs may choose: there 60 seeds end in groups near 19, 86 and 155 (75.0 ± 36.1), "
        "and three of them gave 80.6 ± 59 once; at 0.1 they give 33.2 ± 12.1"
    )
}


def table(study: Study) -> Table:
    """Table 1 with our numbers and, where they are of the same setting, the printed ones.

    Args:
      study: of an experiment that Table 1 has.
    """
    rows = verdicts.rows(study.chosen, study.dataset)
    beside = study.variant == "released" and any(row.cell is not None for row in rows)
    heads = ["attack", "rule"]
    for method in study.methods:
        heads += [method, "printed"] if beside else [method]
    best = _best(study)
    lines, marked = [], set()
    for attack, rule in (study.cases[place] for place in study.in_table):
        line = [attack, rule]
        for method in study.methods:
            row = next(row for row in rows if row.place == (attack, rule, method))
            if best.get((attack, rule)) == method:
                marked.add((len(lines), len(line)))
            line.append(shown(row, study.metric.digits))
            line += [row.cell.printed if row.cell is not None else "–"] if beside else []
        lines.append(line)
    arrow = "more is better" if study.metric.best == "max" else "less is better"
    caption = (
        f"{study.title}: {study.metric.title} ({arrow}), mean ± standard deviation over "
        f"{count(study.num_seeds, 'seed')} after {study.config['num_rounds']} rounds.",
        "Printed: in the paper's Table 1." if beside else "",
        "Bold: the best mean of ours." if marked else "",
    )
    return Table(heads, lines, marked, tuple(filter(None, caption)))


def _best(study: Study) -> dict[tuple[str, str], str]:
    """The method with the best mean under every attack and rule, unless it is the only one or has diverged."""
    rows = {row.place: row for row in verdicts.rows(study.chosen) if not row.diverged and row.values.size}
    return {
        (ranking.attack, ranking.aggregator): ranking.order[0]
        for ranking in verdicts.rankings(study.chosen)
        if (ranking.attack, ranking.aggregator, ranking.order[0]) in rows
    }


def shown(row: Row, digits: int) -> str:
    """Mean ± population standard deviation of a cell, and how many runs are not in it."""
    if not row.values.size:
        return "diverged"
    text = number(row.mean, digits) + (f" ± {number(row.std(), digits)}" if row.values.size > 1 else "")
    return text + (f" ({row.diverged} diverged)" if row.diverged else "")


def agreement(study: Study) -> str:
    """Every cell beside the published one, and a verdict."""
    digits = study.metric.digits
    rows = verdicts.rows(study.chosen, study.dataset)
    comparable = not any(row.word == "another setting" for row in rows)
    heads = ["attack", "rule", "method", "γ₀", "seeds", "mean ± std", "95 % CI"]
    heads += ["printed", "recomputed", "its γ₀", "ours there", "apart", "resolved"] if comparable else []
    heads += ["verdict", "remarks"]
    lines = []
    for row in (row for row in rows if row.word != "not run"):
        lines.append(
            [
                *row.place,
                number(row.learning_rate),
                f"{row.values.size}/{row.values.size + row.diverged}",
                shown(row, digits),
                f"± {number(_half_width(row), digits)}" if row.values.size > 1 else "–",
                *(_beside(row, digits) if comparable else ()),
                f"**{row.word}**" if row.word in ("differs", "diverged") else row.word,
                "; ".join(remarks(study, row)),
            ]
        )
    absent = [" / ".join(row.place) for row in rows if row.word == "not run"]
    said = f"\n\nNot run: {', '.join(absent)}.\n" if absent else "\n"
    return f"{grid(heads, lines)}\n{count(len(rows), 'cell')}: {in_words(rows)}.{said}"


def in_words(rows: list[Row]) -> str:
    """How many cells got which verdict."""
    counted = collections.Counter(row.word for row in rows)
    plural = {"agrees": "agree", "differs": "differ"}
    return ", ".join(f"{many} {word if many == 1 else plural.get(word, word)}" for word, many in counted.most_common())


def _beside(row: Row, digits: int) -> list[str]:
    cell = row.cell
    if cell is None:
        return ["–"] * 6
    there = row.compared.size and f"{number(row.compared.mean(), digits)} ± {number(row.compared.std(), digits)}"
    return [
        cell.printed,
        cell.recomputed,
        number(cell.learning_rate),
        there or "–",
        f"{row.distance:+.1f}" if not math.isnan(row.distance) else "–",
        f"± {number(_resolved(row), digits)}" if row.compared.size else "–",
    ]


def _half_width(row: Row) -> float:
    return float(summarize(xarray.DataArray(row.values, dims="seed")).half_width)


def _resolved(row: Row) -> float:
    assert row.cell is not None
    return verdicts.STANDARD_ERRORS * verdicts.standard_error(row.compared, row.cell)


def remarks(study: Study, row: Row) -> list[str]:
    """What a reader of a cell should know."""
    metric = study.metric
    said = [f"two groups: {_groups(groups, metric.digits)}"] if (groups := verdicts.modes(row.values)) else []
    theirs = published.seeds(study.name, metric.name).get(row.place) if study.variant == "released" else None
    if theirs and (groups := verdicts.modes(metric.factor * np.array(theirs))):
        said.append(f"the published seeds in two groups: {_groups(groups, metric.digits)}")
    if row.at_edge:
        said.append(f"edge: {'smallest' if row.at_edge == 'low' else 'largest'} rate tried")
    if math.isnan(row.learning_rate):
        said.append("no rate that was tried stayed finite")
    if row.cell is not None and row.cell.note:
        said.append(row.cell.note)
    if (study.key, row.place) in _SEEN_ELSEWHERE:
        said.append(_SEEN_ELSEWHERE[study.key, row.place])
    return said


def ranking(study: Study) -> str:
    """How the methods rank in every cell, and whether that is the published order."""
    rankings = verdicts.rankings(study.chosen)
    if not rankings:
        return "Fewer than two methods: there is nothing to rank.\n"
    digits = study.metric.digits + 1
    lines = [
        [
            one.attack,
            one.aggregator,
            ", ".join(one.order),
            ", ".join(one.published) or "–",
            one.word,
            f"{number(one.margin, digits)} ± {number(one.error, digits)}",
            "yes" if one.clear else "no",
        ]
        for one in rankings
    ]
    heads = [
        "attack",
        "rule",
        "ours, best first",
        "published, best first",
        "order",
        "lead of the first",
        "clear (95 %)",
    ]
    first = collections.Counter(one.order[0] for one in rankings)
    known = [one for one in rankings if one.published]
    said = [
        f"First: {', '.join(f'{name} in {amount}' for name, amount in first.most_common())} of {len(rankings)} cells."
    ]
    if known:
        held = sum(one.word == "holds" for one in known)
        same = sum(one.order[0] == one.published[0] for one in known)
        said.append(f"The published order holds in {held} of {len(known)} cells, its first place in {same}.")
    clear = sum(one.clear for one in rankings)
    said.append(
        f"Zero is below the 95 % interval of the first one's lead, from differences at the same seed, in {clear}."
    )
    return f"{grid(heads, lines)}\n{' '.join(said)}\n"


def _groups(groups: verdicts.Modes, digits: int) -> str:
    return ", ".join(f"{part.size} near {number(float(part.mean()), digits)}" for part in groups)
