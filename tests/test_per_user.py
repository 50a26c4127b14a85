import numpy as np
import pytest
from fake_jobs import CUT, OFFSET, WINDOW, Noisy
from small_histories import NUM_ITEMS, encode, random_histories

from longretriever_tf.evaluation import ranking
from longretriever_tf.evaluation.calibration import BINS_PER_DECADE, LOWEST, CalibrationMeter
from longretriever_tf.evaluation.evaluator import evaluate_many
from longretriever_tf.evaluation.ground_truth import build_truth
from longretriever_tf.evaluation.per_user import RANK_CAP, per_user_path, tabulate_users, write_users

LOG = encode(random_histories(8, 37))
TRUTH = build_truth(LOG, NUM_ITEMS, CUT, WINDOW)


class Partial(Noisy):
    """Retrieves no item below 5."""

    def score(self, users: np.ndarray) -> np.ndarray:
        scores = super().score(users).copy()
        scores[:, :5] = -np.inf
        return scores


@pytest.fixture(scope="module")
def made():
    scorers = [Noisy("one", TRUTH, 1.0, 3), Partial("two", TRUTH, 2.0, 5)]
    return evaluate_many(scorers, TRUTH, OFFSET, chunk=7)


def test_means_and_ranks_of_the_table_are_those_of_the_summary(made):
    table = tabulate_users(made, TRUTH, LOG, OFFSET, CUT)
    assert table["model"].tolist() == ["one", "two"]
    for i, (name, evaluation) in enumerate(made.items()):
        summary = evaluation.summary()
        for task in ("all", "novel"):
            for metric in ("recall@50", "recall@100", "ndcg@100"):
                assert ranking.mean_over_users(table[f"{task}/{metric}"][i]) == summary[task][metric], name
        for task, section in (("all", "within_category"), ("novel", "within_category_novel")):
            assert np.mean(table[f"{task}/rank"][i] < 10) == pytest.approx(summary[section]["recall@10"])
    assert (table["all/rank"][1][TRUTH.item < 5] == RANK_CAP).all() and (TRUTH.item < 5).any()


def test_users_and_pairs_of_the_table_are_those_of_the_log(made):
    table = tabulate_users(made, TRUTH, LOG, OFFSET, CUT)
    histories = random_histories(8, 37)
    pairs = []
    for index, user in enumerate(table["user"]):
        past = [item for item, time in histories[user] if time < CUT]
        sold = {item for history in histories for item, time in history if time < CUT}
        taken = sorted({item for item, t in histories[user] if WINDOW[0] <= t < WINDOW[1] and item >= 2} & sold)
        assert table["history_length"][index] == len(past)
        assert table["repeat_share"][index] == pytest.approx(np.mean([item in past for item in taken]))
        pairs += [(index, item not in past, 3 if item < 8 else 11 if item < 19 else 4) for item in taken]
    columns = (table["pair_user"], table["pair_is_novel"], table["category_size"])
    assert [tuple(pair) for pair in zip(*(column.tolist() for column in columns), strict=True)] == pairs


def test_the_file_gives_back_the_arrays_and_leaves_nothing_aside(made, tmp_path):
    table = tabulate_users(made, TRUTH, LOG, OFFSET, CUT)
    path = per_user_path(str(tmp_path / "deep" / "ranking.json"))
    write_users(path, table)
    assert [found.name for found in (tmp_path / "deep").iterdir()] == ["ranking.per_user.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == sorted(table)
        for name in table:
            np.testing.assert_array_equal(file[name], table[name])


def test_the_tally_counts_each_pair_of_user_and_item_once():
    scorer = Partial("p", TRUTH, 2.0, 7)
    meter = CalibrationMeter(scorer, TRUTH)
    evaluate_many([meter], TRUTH, OFFSET, chunk=11)
    expected = np.zeros_like(meter.tally)
    for index, user in enumerate(TRUTH.users):
        taken = TRUTH.item[TRUTH.offset[index] : TRUTH.offset[index + 1]].tolist()
        for item in range(5, NUM_ITEMS):
            log_p = float(scorer.score(np.array([user]))[0, item])
            row = int(np.floor((log_p / np.log(10) - LOWEST) * BINS_PER_DECADE))
            expected[row] += 1, np.exp(log_p), (item in taken) / len(taken)
    np.testing.assert_allclose(meter.tally, expected, rtol=1e-6)
    assert meter.tally[:, 0].sum() == TRUTH.num_users * (NUM_ITEMS - 5)


def test_the_tally_of_interests_sums_over_the_items_of_a_category():
    scorer = Partial("p", TRUTH, 2.0, 7)
    meter = CalibrationMeter(scorer, TRUTH, OFFSET)
    evaluate_many([meter], TRUTH, OFFSET, chunk=11)
    expected = np.zeros_like(meter.interest_tally)
    for index, user in enumerate(TRUTH.users):
        taken = TRUTH.item[TRUTH.offset[index] : TRUTH.offset[index + 1]].tolist()
        scores = scorer.score(np.array([user]))[0].astype(np.float64)
        for start, stop in zip(OFFSET[:-1], OFFSET[1:], strict=True):
            p = sum(np.exp(scores[item]) for item in range(max(start, 2), stop) if scores[item] > -np.inf)
            if p:
                share = sum(start <= item < stop for item in taken) / len(taken)
                expected[int(np.floor((np.log10(p) - LOWEST) * BINS_PER_DECADE))] += 1, p, share
    np.testing.assert_allclose(meter.interest_tally, expected, rtol=1e-6)
    assert meter.interest_tally[:, 0].sum() > TRUTH.num_users
    assert not CalibrationMeter(scorer, TRUTH).interest_tally.any()


def test_scores_that_are_no_probabilities_pass_untallied():
    scorer = Noisy("n", TRUTH, 2.0, 7)
    scorer.is_probability = False
    meter = CalibrationMeter(scorer, TRUTH)
    np.testing.assert_array_equal(meter.score(TRUTH.users), scorer.score(TRUTH.users))
    assert meter.name == "n" and meter.score_novel(TRUTH.users) is None and not meter.tally.any()
