"""Rates are chosen by what is known of them."""

import numpy as np
import pytest

from byzjax.experiments.rate_choice import chosen
from tests.experiments.made_up import made_up, tiny


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
