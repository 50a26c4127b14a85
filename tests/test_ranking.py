import math

import numpy as np
import pytest
import reference

from longretriever_tf.evaluation import ranking


def tied_scores(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Few distinct values of both signs, both zeros and -inf: most scores tie."""
    values = np.array([-np.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 3.0, 3e38], np.float32)
    return np.random.default_rng(seed).choice(values, shape)


@pytest.mark.parametrize("k", [1, 7, 31, 43])
def test_top_k_equals_a_stable_sort(k):
    for seed in range(5):
        scores = tied_scores(seed, (11, 31))
        lists = ranking.top_k(scores, k)
        assert lists.shape == (11, k)
        for row, found in zip(scores, lists, strict=True):
            expected = reference.ranked_list(row, k)
            assert found.tolist() == expected + [-1] * (k - len(expected))


def test_top_k_keeps_close_floats_apart_and_refuses_nan():
    close = np.nextafter(np.float32(-1), np.float32([0, -2]), dtype=np.float32)
    assert ranking.top_k(np.array([[-1, close[0], close[1]]], np.float32), 3).tolist() == [[1, 0, 2]]
    with pytest.raises(ValueError, match="NaN"):
        ranking.top_k(np.array([[0.0, np.nan]], np.float32), 1)


def test_metrics_equal_the_oracle_and_chunks_equal_the_whole():
    random = np.random.default_rng(2)
    num_users, num_items, ks = 29, 53, (1, 5, 17)
    lists = ranking.top_k(tied_scores(2, (num_users, num_items)), 17)
    truths = [set(random.choice(num_items, size, replace=False).tolist()) for size in random.integers(0, 31, num_users)]
    truths[3], truths[4] = set(), {52}
    offset = np.cumsum([0] + [len(truth) for truth in truths])
    item = np.array([v for truth in truths for v in sorted(truth)])
    values = ranking.per_user_metrics(ranking.hit_matrix(lists, offset, item), np.diff(offset), ks)
    for u, truth in enumerate(truths):
        for k in ks:
            expected = reference.list_metrics([v for v in lists[u].tolist() if v >= 0], truth, k) if truth else {}
            for name in ("recall", "hit_rate", "ndcg", "mrr"):
                assert values[f"{name}@{k}"][u] == pytest.approx(expected.get(f"{name}@{k}", math.nan), nan_ok=True)
    first = ranking.hit_matrix(lists[:13], offset[:14], item[: offset[13]])
    second = ranking.hit_matrix(lists[13:], offset[13:] - offset[13], item[offset[13] :])
    assert (np.concatenate([first, second]) == ranking.hit_matrix(lists, offset, item)).all()


def test_metrics_by_hand():
    hits = np.array([[False, True, False, True], [False, False, False, False]])
    values = ranking.per_user_metrics(hits, np.array([3, 1]), (2, 4))
    assert values["recall@2"].tolist() == [1 / 3, 0.0]
    assert values["recall@4"].tolist() == [2 / 3, 0.0]
    assert values["hit_rate@2"].tolist() == [1.0, 0.0]
    assert values["mrr@4"].tolist() == [0.5, 0.0]
    ideal = 1 + 1 / math.log2(3) + 1 / 2  # three items fit into four places
    assert values["ndcg@4"][0] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert ranking.mean_over_users(np.array([1.0, np.nan, 0.0])) == 0.5
    with pytest.raises(ValueError, match="expected at most the list length, 4"):
        ranking.per_user_metrics(hits, np.array([3, 1]), (5,))


def test_rank_within_category_equals_counting(monkeypatch):
    offset = np.array([0, 1, 2, 9, 9, 22, 23])  # two reserved, one empty category
    random = np.random.default_rng(4)
    scores = tied_scores(4, (7, 23))
    row, item = random.integers(0, 7, 101), random.integers(0, 23, 101)
    expected = []
    for b, v in zip(row, item, strict=True):
        start, stop = next((s, e) for s, e in zip(offset, offset[1:], strict=False) if s <= v < e)
        order = [start + i for i in reference.ranked_list(scores[b, start:stop], 23)]
        expected.append(order.index(v) if v in order else ranking.NOT_RANKED)
    assert ranking.rank_within_category(scores, row, item, offset).tolist() == expected
    monkeypatch.setattr(ranking, "_MAX_COMPARISONS", 20)  # many small parts
    assert ranking.rank_within_category(scores, row, item, offset).tolist() == expected
    assert ranking.rank_within_category(scores, row[:0], item[:0], offset).tolist() == []


def test_an_item_that_was_not_retrieved_is_a_miss_even_in_a_tiny_category():
    rank = ranking.rank_in_slice(np.array([[-np.inf, 1.0], [0.0, 1.0]], np.float32), np.array([0, 0]))
    assert ranking.recall_of_ranks(rank, (2,)) == {"recall@2": 0.5}


def test_coverage_by_hand():
    lists = np.array([[2, 5, -1], [2, 3, 8]])  # known items 2..8; categories {2, 3}, {}, {4, 5, 6}, {7, 8}
    shown = ranking.count_exposures(lists, (1, 3), 9)
    found = ranking.coverage(shown, (1, 3), np.array([0, 1, 2, 4, 4, 7, 9]))
    assert found == {
        "item_coverage@1": pytest.approx(1 / 7),
        "category_coverage@1": pytest.approx(1 / 3),
        "item_coverage@3": pytest.approx(4 / 7),
        "category_coverage@3": 1.0,
    }


def test_paired_bootstrap():
    random = np.random.default_rng(5)
    b = random.random(401)
    a = b + random.normal(0.1, 0.2, 401)
    mean, low, high = ranking.paired_bootstrap(np.append(a, np.nan), np.append(b, 1.0), seed=1)
    half = 1.96 * (a - b).std() / math.sqrt(401)  # the normal approximation of the same interval
    assert mean == pytest.approx((a - b).mean())
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)
    assert ranking.paired_bootstrap(a, b, seed=1) == (mean, low, high)
    assert ranking.paired_bootstrap(b + 0.25, b, seed=2) == pytest.approx((0.25, 0.25, 0.25))
    with pytest.raises(ValueError, match=r"\(401,\) and \(2,\)"):
        ranking.paired_bootstrap(a, b[:2], seed=1)
