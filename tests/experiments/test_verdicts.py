"""What numbers say of the paper's claims."""

import numpy as np
import pytest

from byzjax.experiments.paper import published, verdicts
from byzjax.experiments.paper.published import Place
from byzjax.experiments.rate_choice import chosen
from tests.experiments.made_up import made_up


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
