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
from byzjax.experiments.paper import studies
from byzjax.experiments.paper.report import figures, plots, report, sections, table1
from byzjax.experiments.rate_choice import chosen
from tests.experiments.made_up import made_up, put, tiny


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
        (tmp_path / "broken" / "mnist-paper.nc").write_bytes(b"no netCDF")
        (tmp_path / "other").mkdir()
        results.save(
            xarray.Dataset({"loss": ("round", [1.0])}, attrs={"config": "{}"}), tmp_path / "other" / "mnist-paper.nc"
        )
        for where, message in (
            ("nowhere", "does not exist"),
            ("empty", "holds no data set"),
            ("broken", "cannot be read as netCDF"),
            ("other", "is not the data set of an experiment"),
            ("broken/mnist-paper.nc", "is not a folder"),
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
