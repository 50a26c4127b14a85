import numpy as np
import pytest
import reference
from small_histories import NUM_ITEMS, encode, random_histories

from longretriever_tf.evaluation.evaluator import TaskScorer, evaluate_many, evaluate_scorer
from longretriever_tf.evaluation.ground_truth import Truth, build_truth

NUM_USERS = 37
OFFSET = np.array([0, 1, 2, 5, 8, 19, NUM_ITEMS])  # two reserved categories, then items 2-4, 5-7, 8-18, 19-22
KS = (1, 3, 7)


class Table:
    """A scorer that looks its scores up, [users, items]."""

    name = "table"

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores.astype(np.float32)

    def score(self, users: np.ndarray) -> np.ndarray:
        return self.scores[users]


class ThreeHeads(Table, TaskScorer):
    """Scores of their own for novel items and for the ranks within a category."""

    def __init__(self, scores: np.ndarray, novel: np.ndarray, within: np.ndarray) -> None:
        super().__init__(scores)
        self.novel, self.inside = novel.astype(np.float32), within.astype(np.float32)

    def score_novel(self, users: np.ndarray) -> np.ndarray:
        return self.novel[users]

    def within(self, users: np.ndarray) -> np.ndarray:
        return self.inside[users]


@pytest.fixture
def truth() -> Truth:
    return build_truth(encode(random_histories(8, NUM_USERS)), NUM_ITEMS, 70, (70, 90))


def scores_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 6, (NUM_USERS, NUM_ITEMS)).astype(np.float32)


def expected_recall(truth: Truth, scores: np.ndarray, k: int, is_novel: bool) -> list[float]:
    """Recall@k of each user with truth; reserved items, and previously interacted ones if novel, are no candidates."""
    recalls = []
    for i, user in enumerate(truth.users):
        wanted = set(truth.item[truth.offset[i] : truth.offset[i + 1]].tolist())
        interacted = set(truth.interacted_item[truth.interacted_row() == i].tolist()) if is_novel else set()
        row = np.where([v < 2 or v in interacted for v in range(NUM_ITEMS)], -np.inf, scores[user])
        if wanted - interacted:
            recalls.append(reference.list_metrics(reference.ranked_list(row, k), wanted - interacted, k)[f"recall@{k}"])
    return recalls


def test_both_tasks_equal_the_oracle_for_any_chunk(truth):
    scores = scores_of(1)
    summaries = [evaluate_scorer(Table(scores), truth, OFFSET, KS, chunk) for chunk in (1, 5, 1000)]
    for task, is_novel in (("all", False), ("novel", True)):
        for k in KS:
            recalls = expected_recall(truth, scores, k, is_novel)
            assert summaries[0][task][f"recall@{k}"] == pytest.approx(np.mean(recalls))
            assert summaries[0][task]["num_users"] == len(recalls)
    assert summaries[0] == summaries[1] == summaries[2]


def test_a_scorer_that_knows_the_truth_is_perfect_and_its_opposite_is_not(truth):
    scores = np.zeros((NUM_USERS, NUM_ITEMS))
    scores[truth.users[truth.pair_row()], truth.item] = 1.0
    scores[:, :2] = 9.0  # reserved rows score highest and must not matter
    best = evaluate_scorer(Table(scores), truth, OFFSET, (NUM_ITEMS,))
    for task in ("all", "novel"):
        for name in ("recall", "hit_rate", "ndcg", "mrr"):
            assert best[task][f"{name}@{NUM_ITEMS}"] == pytest.approx(1.0)
        assert best[task][f"category_coverage@{NUM_ITEMS}"] == 1.0
    never = evaluate_scorer(Table(np.full((NUM_USERS, NUM_ITEMS), -np.inf)), truth, OFFSET, KS)
    assert never["all"]["recall@7"] == never["all"]["item_coverage@7"] == never["within_category"]["recall@50"] == 0.0


def test_each_head_answers_its_own_question(truth):
    one, two, three = scores_of(1), scores_of(2), scores_of(3)
    found = evaluate_scorer(ThreeHeads(one, two, three), truth, OFFSET, KS)
    alone = [evaluate_scorer(Table(scores), truth, OFFSET, KS) for scores in (one, two, three)]
    assert found["all"] == alone[0]["all"]
    assert found["novel"] == alone[1]["novel"]
    assert found["within_category"] == alone[2]["within_category"]
    assert found["within_category_novel"] == alone[2]["within_category_novel"]


def test_within_category_counts_over_pairs(truth):
    scores = scores_of(4)
    evaluation = evaluate_many([Table(scores)], truth, OFFSET, KS, chunk=5)["table"]
    for rank, row, item in zip(evaluation.all.rank, truth.pair_row(), truth.item, strict=True):
        start, stop = next((s, e) for s, e in zip(OFFSET, OFFSET[1:], strict=False) if s <= item < e)
        assert rank == reference.ranked_list(scores[truth.users[row], start:stop], NUM_ITEMS).index(item - start)
    share = float(np.mean(evaluation.all.rank < 2))
    assert evaluation.summary(within_ks=(2,))["within_category"] == {"recall@2": share}
    assert len(evaluation.novel.rank) == truth.is_novel.sum()


def test_no_novel_pair_leaves_counts_alone_and_a_wrong_shape_is_named():
    histories = [[(2, 1), (2, 80)], [(3, 1), (3, 80)]]
    truth = build_truth(encode(histories), NUM_ITEMS, 70, (70, 90))
    found = evaluate_scorer(Table(scores_of(1)), truth, OFFSET, KS)
    assert found["novel"] == {"num_users": 0, "num_pairs": 0}
    assert found["within_category_novel"] == {}
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 23\)"):
        evaluate_scorer(Table(np.zeros((2, 5))), truth, OFFSET, KS)


def test_lists_of_users_without_novel_truth_do_not_count_in_novel_coverage():
    histories = [[(2, 1), (2, 80)], [(3, 1), (2, 80)]]  # user 0 only repeats
    truth = build_truth(encode(histories), NUM_ITEMS, 70, (70, 90))
    scores = np.zeros((2, NUM_ITEMS))
    scores[0, 9] = scores[1, 20] = 1.0
    found = evaluate_scorer(Table(scores), truth, OFFSET, (1,))
    known = NUM_ITEMS - 2
    assert found["all"]["item_coverage@1"] == 2 / known
    assert found["novel"]["item_coverage@1"] == 1 / known


def test_untouched_counts_what_lies_in_categories_never_seen(truth):
    scores = scores_of(6)
    evaluation = evaluate_many([Table(scores)], truth, OFFSET, KS, chunk=5)["table"]

    def category(item: int) -> int:
        return int(np.flatnonzero(item >= OFFSET)[-1])

    for task, is_novel in ((evaluation.all, False), (evaluation.novel, True)):
        recalls = []
        for i, user in enumerate(truth.users):
            interacted = set(truth.interacted_item[truth.interacted_row() == i].tolist())
            seen = {category(item) for item in interacted}
            pairs = truth.item[truth.offset[i] : truth.offset[i + 1]].tolist()
            wanted = {item for item in pairs if category(item) not in seen}
            gone = interacted if is_novel else set()
            row = np.where([v < 2 or v in gone for v in range(NUM_ITEMS)], -np.inf, scores[user])
            if wanted:
                recalls.append(reference.list_metrics(reference.ranked_list(row, 3), wanted, 3)["recall@3"])
        assert 0 < len(recalls) < truth.num_users
        found = task.untouched.summary()
        assert found["num_users"] == len(recalls)
        np.testing.assert_allclose(found["recall@3"], np.mean(recalls))
    assert evaluation.summary()["untouched"] == evaluation.all.untouched.summary()
