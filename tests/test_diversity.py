"""What lists show beside hits, against the definitions written out item by item."""

import itertools
import math

import numpy as np
import pytest
from small_histories import NUM_ITEMS, encode, random_histories

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.evaluation.diversity import diversity_of_lists, gini, self_information
from longretriever_tf.evaluation.evaluator import evaluate_scorer
from longretriever_tf.evaluation.ground_truth import build_truth
from longretriever_tf.evaluation.ranking import top_k

OFFSET = np.array([0, 1, 2, 5, 8, 19, NUM_ITEMS])
KS = (1, 3, 7)


class Drawn:
    """Scores drawn at random; half of the users get three items alone."""

    name = "drawn"

    def __init__(self, num_users: int) -> None:
        self.scores = np.random.default_rng(3).normal(size=(num_users, NUM_ITEMS)).astype(np.float32)
        self.scores[::2, FIRST_KNOWN + 3 :] = -np.inf

    def score(self, users: np.ndarray) -> np.ndarray:
        return self.scores[users].copy()


def test_metrics_of_an_evaluation_follow_their_definitions():
    log = encode(random_histories(8, 61))
    truth = build_truth(log, NUM_ITEMS, 70, (70, 90))
    scorer = Drawn(log.num_users)
    found = evaluate_scorer(scorer, truth, OFFSET, KS, chunk=3)["all"]
    scores = scorer.score(truth.users)
    scores[:, :FIRST_KNOWN] = -np.inf
    lists = [[item for item in row if item >= 0] for row in top_k(scores, max(KS)).tolist()]
    takers = [len({row for row, item in zip(truth.interacted_row(), truth.interacted_item, strict=True) if item == i})
              for i in range(NUM_ITEMS)]  # fmt: skip
    bits = [math.log2((truth.num_users + 1) / (count + 1)) for count in takers]
    np.testing.assert_allclose(self_information(truth), bits)
    category = [next(c for c in range(len(OFFSET) - 1) if i < OFFSET[c + 1]) for i in range(NUM_ITEMS)]
    for k in KS:
        shown = [row[:k] for row in lists]
        assert found[f"categories@{k}"] == pytest.approx(np.mean([len({category[i] for i in row}) for row in shown]))
        assert found[f"novelty@{k}"] == pytest.approx(np.mean([np.mean([bits[i] for i in row]) for row in shown]))
        counts = [sum(item in row for row in shown) for item in range(FIRST_KNOWN, NUM_ITEMS)]
        gaps = sum(abs(a - b) for a in counts for b in counts)
        assert found[f"gini@{k}"] == pytest.approx(gaps / (2 * len(counts) * sum(counts)))
        if k == 1:
            assert f"category_distance@{k}" not in found  # of one item there is no pair
            continue
        pairs = [[category[a] != category[b] for a, b in itertools.combinations(row, 2)] for row in shown]
        assert found[f"category_distance@{k}"] == pytest.approx(np.mean([np.mean(row) for row in pairs]))


def test_users_without_a_list_have_no_value():
    lists = np.array([[-1, -1], [2, -1]])
    shown = diversity_of_lists(lists, (2,), np.array([0, 2, 4]), np.arange(4.0))
    assert np.isnan([shown[name][0] for name in shown]).all()
    assert (shown["categories@2"][1], shown["novelty@2"][1]) == (1.0, 2.0) and np.isnan(shown["category_distance@2"][1])
    assert gini(np.zeros(9, np.int64)) == 0.0
