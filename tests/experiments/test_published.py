"""What the authors published."""

import numpy as np
import pytest

from byzjax.experiments.paper import published
from byzjax.experiments.paper.published import Place
from tests.experiments.made_up import ATTACKS, METHODS, METRICS, RULES


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
