"""The report of a store: made-up data sets whose right answers are known."""

import csv
import io
import re

import matplotlib.image
import numpy as np
import pytest
import xarray
from typer.testing import CliRunner

from byzjax import results
from byzjax.cli.app import app
from byzjax.experiments.paper import published, studies, verdicts
from byzjax.experiments.paper.published import Place
from byzjax.experiments.paper.rate_choice import chosen
from byzjax.experiments.paper.report import figures, plots, report, sections, table1

METHODS = ("Base", "Decay", "Byz-NSGDM")
RULES = ("RFA", "Krum", "CM")
ATTACKS = {
    "quartic": ("BF", "Mimic", "ALIE"),
    "mnist": ("BF", "LF", "Mimic"),
    "shakespeare": ("BF", "Mimic", "ALIE"),
    "ablation": ("BF",),
}
METRICS = {
    "quartic": ("aggregate_norm", "norm of the aggregate ×10⁻⁶", "min", 1e6, 1),
    "mnist": ("test_accuracy", "test accuracy, %", "max", 100.0, 1),
    "shakespeare": ("val_perplexity", "validation perplexity", "min", 1.0, 2),
    "ablation": ("test_accuracy", "test accuracy, %", "max", 100.0, 1),
}
ROUNDS = {"quartic": 3000, "mnist": 1500, "shakespeare": 700, "ablation": 600}


def made_up(
    name,
    variant="released",
    *,
    methods=METHODS,
    attacks=None,
    rules=RULES,
    references=True,
    rates=(0.01, 0.1, 1.0),
    seeds=(0, 1, 2),
    num_evals=10,
    num_rounds=None,
    betas=(),
    tuning=None,
):
    """A data set as `reproduce` makes it: the middle rate is the best, methods improve from the first to the last."""
    metric = dict(zip(("name", "title", "best", "factor", "digits"), METRICS[name], strict=True))
    attacks = ATTACKS[name] if attacks is None else attacks
    cases = [(attack, rule) for attack in attacks for rule in rules]
    cases += [(attack, "mean") for attack in ("none", *attacks)] if references else []
    num_rounds = num_rounds or ROUNDS[name]
    sizes = {"optimizer": len(methods), "case": len(cases), "learning_rate": len(rates)}
    sizes |= {"beta": len(betas)} if betas else {}
    sizes |= {"seed": len(seeds), "eval": num_evals}
    coords = {
        "optimizer": list(methods),
        "case": [f"{attack} / {rule}" for attack, rule in cases],
        "attack": ("case", [attack for attack, _ in cases]),
        "aggregator": ("case", [rule for _, rule in cases]),
        "learning_rate": list(rates),
        "seed": list(seeds),
        "eval": (1 + np.arange(num_evals)) * (num_rounds // num_evals),
    }
    coords |= {"beta": list(betas)} if betas else {}
    axes = np.meshgrid(*(np.arange(size) for size in sizes.values()), indexing="ij")
    place = dict(zip(sizes, axes, strict=True))
    off = np.abs(place["learning_rate"] - len(rates) // 2) + (np.abs(place["beta"] - 1) if betas else 0)
    error = 0.3 - 0.05 * place["optimizer"] + 0.1 * off + 0.4 / (1 + place["eval"]) + 0.004 * place["seed"]
    error = error - 0.02 * (place["case"] % 3)

    def variable(values):
        return tuple(sizes), values

    values = {}
    if metric["best"] == "max":
        values |= {f"{part}_accuracy": variable(1 - np.clip(error, 0, 1)) for part in ("test", "val")}
        values |= {f"{part}_loss": variable(4 * error) for part in ("test", "val")}
        per_class = np.repeat(values["test_accuracy"][1][..., None], 10, -1)
        per_class[..., 8] = 0.1
        values["test_accuracy_per_class"] = ((*sizes, "class"), per_class)
        values |= {"honest_norm": variable(error), "aggregate_norm": variable(2 * error)}
        coords["class"] = np.arange(10)
    elif name == "quartic":
        values |= {"aggregate_norm": variable(1e-4 * error), "gradient_norm": variable(5e-5 * error)}
    else:
        values |= {"val_perplexity": variable(10 * np.exp(error)), "test_perplexity": variable(11 * np.exp(error))}
    kept = np.where(np.isin(place["case"], np.arange(len(attacks) * len(rules))), 1.5, np.nan)
    lanes = tuple(axis for axis in sizes if axis != "eval")
    shape = tuple(sizes[axis] for axis in lanes)
    values |= {
        "attackers_kept": variable(kept),
        "diverged": (lanes, np.zeros(shape, bool)),
        "tried": (lanes, np.ones(shape, bool)),
    }
    config = {
        "experiment": name,
        "variant": variant,
        "num_rounds": num_rounds,
        "eval_every": num_rounds // num_evals,
        "metric": metric,
        "tuning": {"by": metric["name"], "best": metric["best"], "seeds": None, "after": None, **(tuning or {})},
        "precision": "float32",
        "notes": ["Made up."],
    }
    attributes = {
        **results.provenance(config),
        "lanes": int(np.prod(shape)),
        "diverged": 0,
        "compile_seconds": 60.0,
        "run_seconds": 120.0,
    }
    dataset = xarray.Dataset(values, coords, attributes)
    for variable_name in dataset.data_vars:
        dataset[variable_name].attrs = results.described(str(variable_name))
    return dataset


def put(folder, *datasets):
    for dataset in datasets:
        config = results.config_of(dataset)
        results.save(dataset, folder / f"{config['experiment']}-{config['variant']}.nc")
    return folder


def tiny(scores, **changes):
    """One method, one case; ``scores[rate, seed]`` after the last round."""
    scores = np.asarray(scores, float)
    dataset = made_up(
        "quartic",
        methods=("Base",),
        attacks=("BF",),
        rules=("RFA",),
        references=False,
        rates=tuple(10.0 ** np.arange(len(scores))),
        seeds=tuple(range(scores.shape[1])),
        **changes,
    )
    dataset["aggregate_norm"][0, 0, :, :, -1] = scores
    return dataset


class TestChoice:
    def rate(self, dataset):
        best = chosen(dataset)
        return float(best["learning_rate"][0, 0]), str(best["at_edge"].values[0, 0])

    def test_the_best_mean_wins_and_all_seeds_stay(self):
        best = chosen(tiny([[3, 3], [1, 4], [4, 4]]))
        assert best["learning_rate"].item() == 10.0
        assert best["aggregate_norm"].isel(eval=-1).values.ravel().tolist() == [1, 4]

    @pytest.mark.parametrize(
        ("scores", "rate", "edge"),
        [
            ([[1], [2], [3]], 1.0, "low"),
            ([[3], [2], [1]], 100.0, "high"),
            ([[2], [1], [2]], 10.0, ""),
            ([[1]], 1.0, ""),
        ],
    )
    def test_edges(self, scores, rate, edge):
        assert self.rate(tiny(scores)) == (rate, edge)

    def test_edges_are_those_of_what_the_method_tried(self):
        dataset = tiny([[0.5], [1], [2], [3]])
        dataset["tried"][:, :, 0] = False
        assert self.rate(dataset) == (10.0, "low")
        assert chosen(dataset)["num_tried"].item() == 3

    def test_of_equals_the_smaller_rate_wins_whatever_their_order(self):
        dataset = tiny([[2], [1], [1]])
        assert self.rate(dataset)[0] == 10.0
        assert self.rate(dataset.isel(learning_rate=[2, 1, 0]))[0] == 10.0

    def test_much_may_be_good(self):
        assert self.rate(tiny([[1], [3], [2]], tuning={"best": "max"}))[0] == 10.0

    @pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
    def test_a_score_that_is_not_finite_never_wins(self, lost):
        assert self.rate(tiny([[3, 3], [2, 2], [0, lost]]))[0] == 10.0

    def test_a_rate_of_which_one_lane_diverged_never_wins(self):
        dataset = tiny([[3, 3], [2, 2], [0, 0]])
        dataset["diverged"][0, 0, 2, 1] = True
        assert self.rate(dataset)[0] == 10.0

    def test_where_all_diverged_nothing_is_chosen(self):
        dataset = tiny([[3], [2]])
        dataset["diverged"][:] = True
        best = chosen(dataset)
        assert np.isnan(best["learning_rate"].item())
        assert best["at_edge"].item() == ""
        assert np.isnan(best["gradient_norm"]).all()

    def test_some_seeds_choose_for_all_and_in_an_early_round(self):
        dataset = tiny([[1, 9], [5, 0]], tuning={"seeds": [0]})
        assert self.rate(dataset)[0] == 1.0
        early = tiny([[1, 9], [5, 0]], tuning={"after": 1499})
        early["aggregate_norm"][0, 0, :, :, 3] = [[7, 7], [6, 6]]  # after round 1200, the last one until then
        assert self.rate(early)[0] == 10.0

    def test_beta_is_an_axis_of_the_choice(self):
        dataset = made_up("ablation", methods=("Byz-NSGDM",), rules=("RFA",), references=False, betas=(0.0, 0.5, 0.9))
        dataset["test_accuracy"][0, 0, 2, 2, :, -1] = 1.0
        best = chosen(dataset)
        assert best["learning_rate"].dims == ("optimizer", "case", "beta")
        assert best["learning_rate"].values[0, 0].tolist() == [0.1, 0.1, 1.0]

    @pytest.mark.parametrize(
        ("tuning", "message"),
        [
            ({"by": "nothing"}, "by = 'nothing'"),
            ({"seeds": [7]}, r"seeds = \[7\]"),
            ({"after": 1}, "after = 1 is before"),
        ],
    )
    def test_what_cannot_be_chosen_by(self, tuning, message):
        with pytest.raises(ValueError, match=message):
            chosen(tiny([[1]], tuning=tuning))


class TestVerdicts:
    cell = published.table1("mnist")[Place("BF", "RFA", "Decay")]  # 84.09, deviation 0.216 (ddof = 1)

    def word(self, values, diverged=0, cell=None, **changes):
        setting = {"variant": "released", "num_rounds": 1500, **changes}
        return verdicts.verdict(np.asarray(values, float), diverged, cell or self.cell, **setting)

    def test_three_standard_errors_are_the_border(self):
        error = self.cell.std_ddof1 * np.sqrt(2 / 3)
        same = np.zeros(3) + self.cell.mean
        assert self.word(same + 2.99 * error) == "agrees"
        assert self.word(same - 2.99 * error) == "agrees"
        assert self.word(same + 3.01 * error) == "differs"
        assert self.word(same - 3.01 * error) == "differs"

    def test_the_larger_deviation_counts_and_more_seeds_sharpen(self):
        wide = self.cell.mean + 2 + np.array([-5.0, 0.0, 5.0])
        assert verdicts.standard_errors(wide, self.cell) == pytest.approx(2 / (5 * np.sqrt(2 / 3)))
        many = np.full(100, self.cell.mean + 1)
        assert verdicts.standard_errors(many, self.cell) == pytest.approx(
            1 / (self.cell.std_ddof1 * np.sqrt(1 / 100 + 1 / 3))
        )

    def test_the_other_words(self):
        assert self.word([84.1], diverged=1) == "diverged"
        assert self.word([], diverged=3) == "diverged"
        assert self.word([84.1], variant="paper") == "another setting"
        assert self.word([84.1], num_rounds=300) == "another setting"
        assert verdicts.verdict(np.ones(3), 0, None, variant="released", num_rounds=1) == "unpublished"

    def test_what_the_authors_code_does_not_give_is_chaotic(self):
        rerun = self.cell._replace(source="rerun")
        assert self.word([84.1, 84.2], cell=rerun) == "agrees"
        assert self.word([84.1, 84.2], cell=rerun._replace(printed_mean="85.0")) == "chaotic"
        assert self.word([84.1, 84.2], cell=self.cell._replace(printed_mean="85.0")) == "agrees"  # a misprint of logs

    def test_rows_of_a_partial_run(self):
        dataset = made_up("quartic", methods=("Base", "Byz-NSGDM"), attacks=("BF",), rules=("RFA", "CM"))
        dataset["diverged"][1, 0, :, 2] = True
        rows = verdicts.rows(chosen(dataset))
        words = {row.place: row.word for row in rows}
        assert len(rows) == 27
        assert words[Place("ALIE", "RFA", "Base")] == words[Place("BF", "RFA", "Decay")] == "not run"
        assert words[Place("BF", "RFA", "Byz-NSGDM")] == "diverged"
        base = next(row for row in rows if row.place == ("BF", "CM", "Base"))
        assert base.mean == pytest.approx(1e2 * (0.3 + 0.04 + 0.004 - 0.02))
        assert base.std() == pytest.approx(1e2 * 0.004 * np.std([0, 1, 2]))
        assert base.std(1) == pytest.approx(0.4)

    def test_rankings(self):
        dataset = made_up("mnist", references=False, rates=(0.1,))
        one, *_ = verdicts.rankings(chosen(dataset))
        assert one.order == ("Byz-NSGDM", "Decay", "Base")
        assert (one.word, one.clear) == ("holds", True)
        assert one.margin == pytest.approx(5.0)
        dataset["test_accuracy"][:, 0, 0, :, -1] = [[0.9, 0.5, 0.7], [0.5, 0.9, 0.6], [0.1, 0.1, 0.1]]
        one, *_ = verdicts.rankings(chosen(dataset))
        assert (one.order, one.word, one.clear) == (("Base", "Decay", "Byz-NSGDM"), "differs", False)
        dataset["diverged"][0, 0, 0, 0] = True
        assert verdicts.rankings(chosen(dataset))[0].order[-1] != "Decay"

    def test_two_groups(self):
        assert verdicts.modes(np.array([88.7, 98.5, 98.4])).low.tolist() == [88.7]
        assert verdicts.modes(np.array([1.0, 1.1, 9.0, 9.2])).high.tolist() == [9.0, 9.2]
        assert verdicts.modes(np.array([89.10, 89.10, 89.15])) is None  # a gap, and nothing that matters
        assert verdicts.modes(np.array([1.0, 5.0, 9.0])) is None
        assert verdicts.modes(np.array([1.0, 9.0])) is None
        assert verdicts.modes(np.array([])) is None

    @pytest.mark.parametrize("size", [20, 100])
    def test_two_groups_are_seen_among_many_seeds(self, size):
        rng = np.random.default_rng(0)
        low = size // 4
        for _ in range(20):
            values = np.concatenate([rng.normal(size=low) + 88.0, rng.normal(size=size - low) + 97.0])
            groups = verdicts.modes(rng.permutation(values))
            assert groups is not None
            assert (groups.low.size, groups.high.size) == (low, size - low)

    @pytest.mark.parametrize(("size", "most"), [(3, 0.1), (4, 0.1), (5, 0.025), (20, 0.02), (50, 0.002)])
    def test_normal_samples_rarely_look_like_two_groups(self, size, most):
        samples = 10.0 + np.random.default_rng(0).normal(size=(2000, size))
        assert np.mean([verdicts.modes(sample) is not None for sample in samples]) < most


class TestPublished:
    def test_table1_is_complete(self):
        for task, attacks in ATTACKS.items():
            places = {Place(a, r, m) for a in attacks for r in RULES for m in METHODS} if task != "ablation" else set()
            assert set(published.table1(task)) == places

    def test_what_does_not_reproduce_is_known_and_explained(self):
        """Four cells of the quartic, two that are swapped in print, one that is of another rate."""
        cells = [cell for task in ATTACKS for cell in published.table1(task).values()]
        odd = [cell for cell in cells if not cell.reproduces]
        assert [cell.task for cell in odd].count("quartic") == 4
        assert len(odd) == 7
        assert all(cell.note for cell in odd)
        assert not any(cell.note for cell in cells if cell.reproduces)

    @pytest.mark.parametrize(("task", "variable"), [("quartic", "aggregate_norm"), ("mnist", "test_accuracy")])
    def test_single_runs_and_curves_give_the_table(self, task, variable):
        factor = METRICS[task][3]
        for place, cell in published.table1(task).items():
            runs = factor * np.array(published.seeds(task, variable)[place])
            assert runs.mean() == pytest.approx(cell.mean, rel=1e-4)
            assert runs.std() == pytest.approx(cell.std, rel=1e-3)
            curve = published.curves(task)[place]
            assert [point.round for point in curve] == sorted(point.round for point in curve)
        if task == "mnist":
            assert 100 * curve[-1].values["test_accuracy"] == pytest.approx(cell.mean, rel=1e-4)

    def test_a_damaged_file_says_where(self, tmp_path):
        (tmp_path / "x.csv").write_text("attack,aggregator,method,value\nBF,RFA,Base,1.0\nBF,RFA,Base,none\n")
        with pytest.raises(ValueError, match=r"line 3 of .*x\.csv is damaged"):
            published._rows("x.csv", lambda row: float(row["value"]), tmp_path)
        with pytest.raises(ValueError, match="cannot be read"):
            published._rows("y.csv", float, tmp_path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """All experiments: complete, in part, of another variant, with what goes wrong."""
    folder = tmp_path_factory.mktemp("store")
    quartic = made_up("quartic", attacks=("BF",), rules=("RFA", "CM"), tuning={"seeds": [0], "after": 600})
    quartic["tried"][0, :, 0] = False
    quartic["diverged"][1, 0, 2] = True
    mnist = made_up("mnist", attacks=("BF", "LF"), rules=("RFA",))
    mnist["test_accuracy"][0, 0, 1, :, -1] = [0.887, 0.888, 0.984]
    paper = made_up("mnist", "paper", attacks=("LF",), rules=("CM",), methods=("Byz-NSGDM",), seeds=(0,), num_evals=2)
    ablation = made_up("ablation", methods=("Byz-NSGDM",), rules=("RFA",), references=False, betas=(0.0, 0.5, 0.9))
    ablation["diverged"][0, 0, 2, 2, 0] = True
    return put(folder, quartic, mnist, paper, made_up("shakespeare", attacks=("ALIE",), rules=("CM",)), ablation)


@pytest.fixture(scope="module")
def written(store):
    return report.report(store, store / "report")


def text_of(written, name):
    return next(path for path in written if path.name == name).read_text()


def test_the_report_has_every_section_and_says_what_is_missing(written):
    text = text_of(written, "report.md")
    for title in (
        "What was run",
        "How learning rates were chosen",
        "Table 1",
        "How to read the verdicts",
        "Beside the published numbers",
        "The order of the methods",
        "β and the learning rate",
        *sections.SECTIONS,
    ):
        assert re.search(rf"^###? {re.escape(title)}$", text, re.MULTILINE), title
    assert "**Missing in the store:** quartic (paper), shakespeare (paper), ablation (paper)." in text
    assert "this is test data" in text
    assert "3 (0, 1, 2)" in text
    assert "two groups: 2 near 88.8, 1 near 98.4" in text
    assert "the published seeds in two groups" in text
    assert "8 (3 of 3)" in text  # the class that is lost
    assert "(1 of 3 diverged)" in text  # in the ablation
    assert "another setting" in text
    assert "nan" not in text.lower()


def test_links_of_the_report_lead_to_files(written):
    text = text_of(written, "report.md")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    assert {link for link in links if not (written[0].parent / link).is_file()} == set()


def test_figures_are_there_and_not_blank(written):
    pictures = {path.stem: path for path in written if path.suffix == ".png"}
    assert {"figure1-released", "figure2-released", "figure3-released", "figure4-released"} <= set(pictures)
    assert {"figure3-norms-released", "figure3-rates-released", "figure2-classes-released"} <= set(pictures)
    for path in pictures.values():
        assert path.with_suffix(".pdf").stat().st_size > 5000
        pixels = matplotlib.image.imread(path)[..., :3]
        coloured = (np.ptp(pixels, axis=-1) > 0.2).mean()
        assert coloured > 0.003, path.name


def test_table1_in_markdown_and_latex(written):
    text = text_of(written, "table1.md")
    assert "| BF | RFA |" in text
    assert "78.6 ± 4.0" in text
    latex = text_of(written, "table1.tex")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 4
    assert latex.count("{") == latex.count("}")
    assert latex.count("$") % 2 == 0
    assert latex.isascii()
    for body in re.findall(r"\\begin{tabular}{(l+)}(.*?)\\end{tabular}", latex, re.DOTALL):
        columns, lines = body
        rows = [line for line in lines.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1
        assert {line.count("&") + 1 for line in rows} == {len(columns)}


def test_a_mean_is_bold_where_it_is_the_best(store):
    study = next(study for study in studies.load(store) if study.key == "quartic-released")
    table = table1.table(study)
    heads = [table.heads[column] for _, column in sorted(table.best)]
    assert heads == ["Byz-NSGDM"] * 2


def test_csv_has_every_rate_that_was_tried(store):
    rows = report.csv_rows(store)
    assert {tuple(row) for row in rows} == {report.FIELDS}
    read = list(csv.DictReader(io.StringIO(report.comma_separated(rows))))
    assert list(read[0]) == [
        "task",
        "variant",
        "attack",
        "aggregator",
        "method",
        "learning_rate",
        "mean",
        "std",
        "num_seeds",
        "metric",
    ]
    quartic = [row for row in rows if row["task"] == "quartic"]
    assert len(quartic) == 4 * (3 + 3 + 2)
    lost = [row for row in quartic if row["num_seeds"] == 0]
    assert [(row["method"], row["attack"], row["aggregator"], row["mean"]) for row in lost] == [
        ("Decay", "BF", "RFA", "")
    ]
    mnist = [row for row in rows if (row["task"], row["variant"]) == ("mnist", "released")]
    one = next(row for row in mnist if row["learning_rate"] == 0.1)
    assert one["mean"] == pytest.approx(np.mean([0.887, 0.888, 0.984]))
    assert one["std"] == pytest.approx(np.std([0.887, 0.888, 0.984]))
    assert {row["method"] for row in rows if row["task"] == "ablation"} == {
        f"Byz-NSGDM(beta={beta})" for beta in ("0", "0.5", "0.9")
    }
    assert next(row for row in rows if row["task"] == "ablation" and row["num_seeds"] == 2)["learning_rate"] == 1.0


def test_how_many_rates_are_about_as_good_as_the_best(tmp_path):
    dataset = tiny([[1.0, 1.0], [1.9, 1.9], [2.1, 2.1], [1.0, 1.0], [1.0, 1.0]])
    dataset["diverged"][0, 0, 3, 1] = True
    dataset["tried"][0, 0, 4] = False
    (study,) = studies.load(put(tmp_path, dataset))
    assert "within a factor of two of the best one" in sections.sensitivity(study)
    assert "Base 2.0 of 4." in sections.sensitivity(study)


def test_edges_and_divergence_are_said(tmp_path):
    dataset = made_up("quartic", attacks=("BF",), rules=("RFA",), methods=("Base", "Decay"))
    dataset["aggregate_norm"][0, 0, 2] = 1e-9
    dataset["diverged"][1, 0] = True
    (study,) = studies.load(put(tmp_path, dataset))
    assert "1 of 6 choices" in sections.rates(study)
    assert "all diverged" in sections.rates(study)
    assert "| Decay | 3/9 | 3/9 | 3/9 | 9/27 |" in sections.divergence(study)
    agreement = table1.agreement(study)
    assert "edge: largest rate tried" in agreement
    assert "no rate that was tried stayed finite" in agreement
    assert report.report(tmp_path, tmp_path / "out")


def test_where_every_run_diverged_nothing_warns(tmp_path):
    mnist = made_up("mnist", attacks=("BF",), rules=("RFA",))
    ablation = made_up("ablation", methods=("Byz-NSGDM",), rules=("RFA",), references=False, betas=(0.0, 0.5, 0.9))
    for dataset in (mnist, ablation):
        dataset["diverged"][:] = True
        for name in dataset.data_vars:
            if dataset[name].dtype.kind == "f":
                dataset[name] = dataset[name] * np.nan
    text = text_of(report.report(put(tmp_path, mnist, ablation), tmp_path / "out"), "report.md")
    assert "all diverged" in text
    assert report.csv_rows(tmp_path)


def test_the_authors_rates_are_said_where_their_curves_are_of_others(tmp_path):
    dataset = made_up("quartic", attacks=("BF",), rules=("RFA",), references=False, rates=(0.01, 0.02, 0.2))
    dataset["aggregate_norm"][:, :, 1:] += 1.0  # 0.01 is chosen
    (study,) = studies.load(put(tmp_path, dataset))
    ((_, figure, caption), *_) = figures._drawn(study)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["γ₀ = 0.01 (⋯ 0.02)", "γ₀ = 0.01 (⋯ 0.2)", "γ₀ = 0.01 (⋯ 0.1)"]
    assert "said after ⋯ where ours is another" in caption
    same = dataset.isel(optimizer=[0], learning_rate=[1])
    (study,) = studies.load(put(tmp_path, same))
    ((_, figure, _), *_) = figures._drawn(study)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["γ₀ = 0.02"]


def test_a_cell_that_three_seeds_cannot_show_is_marked(tmp_path):
    (study,) = studies.load(put(tmp_path, made_up("quartic", attacks=("ALIE",), rules=("CM",))))
    (line,) = [line for line in table1.agreement(study).splitlines() if "unstable at 0.2" in line]
    assert line.startswith("| ALIE | CM | Decay |")


def test_one_method_one_case_one_seed(tmp_path):
    dataset = made_up(
        "shakespeare", methods=("Base",), attacks=("ALIE",), rules=("CM",), references=False, rates=(0.1,), seeds=(4,)
    )
    paths = report.report(put(tmp_path, dataset), tmp_path / "out")
    text = paths[0].read_text()
    assert "there is nothing to rank" in text
    assert "1 seed" in text
    assert "this is the reported number itself" in text
    assert "nothing was chosen" in text


class TestCommandLine:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["report", *map(str, arguments)])

    def test_it_writes_where_it_is_told(self, tmp_path):
        put(tmp_path, made_up("quartic", attacks=("BF",), rules=("RFA",), methods=("Base",)))
        done = self.run(tmp_path, "--out", tmp_path / "there", "--csv", tmp_path / "all.csv")
        assert done.exit_code == 0, done.output
        assert (tmp_path / "there" / "report.md").is_file()
        assert (tmp_path / "all.csv").read_text().startswith("task,variant,attack,")
        assert not (tmp_path / "report").exists()

    def test_what_is_wrong_is_said_in_one_line(self, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "mnist-plots.nc").write_bytes(b"no netCDF")
        (tmp_path / "other").mkdir()
        results.save(
            xarray.Dataset({"loss": ("round", [1.0])}, attrs={"config": "{}"}), tmp_path / "other" / "mnist-plots.nc"
        )
        for where, message in (
            ("nowhere", "does not exist"),
            ("empty", "holds no data set"),
            ("broken", "cannot be read as netCDF"),
            ("other", "is not the data set of an experiment"),
            ("broken/mnist-plots.nc", "is not a folder"),
        ):
            done = self.run(tmp_path / where)
            assert done.exit_code == 2
            assert message in done.stderr
            assert done.stderr.startswith("error: ")
            assert done.stderr.count("\n") == 1

    def test_out_must_be_a_folder(self, tmp_path):
        put(tmp_path, tiny([[1.0]]))
        (tmp_path / "file").write_text("")
        done = self.run(tmp_path, "--out", tmp_path / "file")
        assert done.exit_code == 2
        assert "is a file" in done.stderr


def test_a_single_panel_cuts_nothing_off():
    best = chosen(made_up("mnist", attacks=("BF",), rules=("RFA",), references=False))
    title = "MNIST (paper): norm of the honest mean, and what the server saw"
    figures = [
        plots.curves(best, "test_accuracy", title=title, label="test accuracy, %", log=False),
        plots.two_norms(best, "honest_norm", "aggregate_norm", title=title),
    ]
    for figure in figures:
        figure.canvas.draw()
        for part in (*figure.legends, figure._suptitle):
            box = part.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
