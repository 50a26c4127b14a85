import dataclasses
import math

import numpy as np
import pytest
import reference
from small_histories import NUM_ITEMS, encode, random_histories

from longretriever_tf.evaluation.counting.popularity import (
    CategoryPopularity,
    OwnItems,
    Popularity,
    fit_baselines,
    fit_popularity,
)
from longretriever_tf.evaluation.ranking import top_k

DAY = 86_400
CUT = 100 * DAY
OFFSET = np.array([0, 1, 2, 5, 8, 19, NUM_ITEMS])  # two reserved categories, then items 2-4, 5-7, 8-18, 19-22


def days(histories: list[list[tuple[int, int]]]) -> list[list[tuple[int, int]]]:
    return [[(item, day * DAY) for item, day in history] for history in histories]


def test_popularity_by_hand():
    log = encode(days([[(2, 70), (3, 100)], [(2, 40), (1, 50), (7, 99)]]))
    popularity = fit_popularity(log, NUM_ITEMS, CUT, decay_days=30.0)
    expected = np.zeros(NUM_ITEMS)
    expected[2], expected[7] = math.exp(-1) + math.exp(-2), math.exp(-1 / 30)  # item 3 lies at the cut: not seen
    np.testing.assert_allclose(popularity, expected)
    np.testing.assert_allclose(Popularity(popularity).score(np.array([1, 0])), [expected] * 2, rtol=1e-6)


def test_category_popularity_by_hand():
    log = encode(days([[(2, 70), (2, 71), (5, 72)]]))
    popularity = np.zeros(NUM_ITEMS)
    popularity[[2, 3, 5, 8, 9]] = 1.0, 3.0, 2.0, 5.0, 7.0
    scores = CategoryPopularity(log, CUT, popularity, OFFSET).score(np.array([0]))[0]
    np.testing.assert_allclose(scores[[2, 3, 5]], [2 / 3 * 1 / 4, 2 / 3 * 3 / 4, 1 / 3], rtol=1e-6)
    assert reference.ranked_list(scores, 5) == [3, 5, 2, 9, 8]  # untouched categories last, by popularity


def test_own_items_by_decayed_count_then_popularity_then_the_rest():
    log = encode(days([[(9, 99)], [(4, 10), (4, 11), (3, 98), (6, 98), (2, 98)]]))
    popularity = np.zeros(NUM_ITEMS)
    popularity[[20, 21, 6]] = 1e-9, 5.0, 2.0
    scores = OwnItems(log, CUT, popularity, decay_days=30.0).score(np.array([1, 0]))
    # Two events three months ago weigh less than one of yesterday; 6 is more popular than its ties 2 and 3.
    assert reference.ranked_list(scores[0], 6) == [6, 2, 3, 4, 21, 20]
    assert reference.ranked_list(scores[1], 4) == [9, 21, 6, 20]


@pytest.mark.parametrize("index", range(3))
def test_contract_of_every_baseline(index):
    """Shape, dtype, no NaN, batch equals single, blind to the future, and a fresh array each time."""
    histories = [[(item, t * DAY) for item, t in history] for history in random_histories(6)]
    log, cut = encode(histories), 60 * DAY
    scorer = fit_baselines(log, NUM_ITEMS, OFFSET, cut)[index]
    users = np.array([31, 2, 2, 17])
    scores = scorer.score(users)
    assert scores.shape == (4, NUM_ITEMS) and scores.dtype == np.float32 and np.isfinite(scores).all()
    for i, user in enumerate(users):
        np.testing.assert_array_equal(scorer.score(np.array([user]))[0], scores[i])
    future = log.timestamp >= cut
    other = dataclasses.replace(log, item=np.where(future, 5, log.item).astype(np.int32))
    np.testing.assert_array_equal(fit_baselines(other, NUM_ITEMS, OFFSET, cut)[index].score(users), scores)
    lists = top_k(scores, 5)
    scores[:] = 0
    np.testing.assert_array_equal(top_k(scorer.score(users), 5), lists)
