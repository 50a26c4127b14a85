import dataclasses

import numpy as np
import pytest
from worlds import START, crowded_world, make_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.data.corpus import encode_log, fit_corpus
from longretriever_tf.data.recipe.item_svd import fit_item_svd
from longretriever_tf.evaluation.funnel.ranker import RankerConfig, fit_ranker
from longretriever_tf.evaluation.funnel.ranker_features import RankerFeatures

CUT = START + 100 * DAY_S


def everyone(log, corpus) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of users and known items."""
    user, item = np.divmod(np.arange(log.num_users * corpus.num_items), corpus.num_items)
    return user[item >= 2], item[item >= 2]


@pytest.mark.parametrize("later_days", [0, 28])
def test_nothing_at_or_after_the_as_of_reaches_the_ranker(later_days):
    """Whatever happens from the time on (other items, other users, nothing at all), the features are the same."""
    log = crowded_world()
    corpus = fit_corpus(log, CUT)
    encoded, as_of = encode_log(log, corpus), CUT + later_days * DAY_S
    vectors = fit_item_svd(encoded.before(CUT), corpus, 5, 1)
    pairs = everyone(encoded, corpus)
    features = RankerFeatures(encoded, corpus, vectors, as_of)
    whole = features(*pairs)
    future = encoded.timestamp >= as_of
    assert future.sum() > 20
    shuffled = encoded.item.copy()
    shuffled[future] = np.random.default_rng(1).permutation(shuffled[future])
    for other in (encoded.before(as_of), dataclasses.replace(encoded, item=shuffled)):
        np.testing.assert_array_equal(RankerFeatures(other, corpus, vectors, as_of)(*pairs), whole)
    assert len(set(features.names)) == whole.shape[1]
    # And the past does reach it: without this the test could not fail.
    assert not np.array_equal(RankerFeatures(encoded.before(CUT - 9 * DAY_S), corpus, vectors, as_of)(*pairs), whole)


def test_an_event_at_the_as_of_itself_is_not_seen():
    made = [([1, 1, 1], [7, 8, 7], [START, START + DAY_S, CUT]), ([1, 1], [7, 8], [START, START + DAY_S])]
    found = []
    for user, item, timestamp in made:
        log = make_log(user, item, timestamp, {"category": ["a", "b"]}, item_id=[7, 8])
        corpus = fit_corpus(log, CUT)
        encoded = encode_log(log, corpus)
        features = RankerFeatures(encoded, corpus, fit_item_svd(encoded.before(CUT), corpus, 3, 1), CUT)
        found.append(features(np.array([0]), np.array([2])))
    np.testing.assert_array_equal(found[0], found[1])


def test_own_features_by_hand():
    # User 1 takes item 7 on days 80, 90 and 96, item 8 of the same category on day 98; user 2 takes 9 on day 99.
    days = [80, 90, 96, 98, 99]
    log = make_log(
        [1, 1, 1, 1, 2],
        [7, 7, 7, 8, 9],
        [START + day * DAY_S for day in days],
        {"category": ["a", "a", "b"], "brand": ["x", "y", "x"]},
    )
    corpus = fit_corpus(log, CUT)
    encoded = encode_log(log, corpus)
    features = RankerFeatures(encoded, corpus, fit_item_svd(encoded, corpus, 2, 1), CUT)
    index = corpus.find_items(np.array([7, 8, 9])).astype(np.int64)

    def of(user: int, rank: int) -> dict[str, float]:
        row = features(np.array([user]), index[[rank]])[0]
        return dict(zip(features.names, row.tolist(), strict=True))

    seven = of(0, 0)
    assert [seven[f"{name} of item"] for name in ("count", "share", "days since", "gap", "days over gap")] == [
        *(3, 0.75, 4, 8, 0.5)
    ]
    assert seven["30-day count of item"] == pytest.approx(sum(np.exp(-a / 30) for a in (20, 10, 4)))
    assert [seven["count of category"], seven["days since of category"], seven["gap of category"]] == [4, 2, 6]
    assert [seven["events of user"], seven["repeat of user"], seven["idle of user"]] == [4, 0.5, 2]
    nine = of(0, 2)
    assert [nine["count of item"], nine["count of category"], nine["count of brand"]] == [0, 0, 3]
    assert np.isnan([nine["days since of item"], nine["gap of category"]]).all()
    assert np.isnan(of(1, 2)["gap of item"]) and of(1, 2)["days since of item"] == 1


def test_the_ranker_learns_what_decides_and_the_seed_fixes_it():
    random = np.random.default_rng(3)
    features = random.random((3000, 3)).astype(np.float32)
    label = (features[:, 1] > 0.5) ^ (random.random(3000) < 0.05)
    row = np.repeat(np.arange(60), 50)
    config = RankerConfig(seed=5, max_rounds=60, num_leaves=7, num_threads=1)
    names = ("a", "what, decides", "c")
    ranker = fit_ranker(features, label, row, names, config)
    assert next(iter(ranker.report["gain"])) == "what, decides" and ranker.report["num_taken"] == label.sum()
    low, high = ranker.score(np.array([[0.5, 0.2, 0.5], [0.5, 0.8, 0.5]], np.float32))
    assert low < 0.2 and high > 0.8
    again = fit_ranker(features, label, row, names, config)
    np.testing.assert_array_equal(ranker.score(features), again.score(features))
    assert ranker.score(features[:0]).shape == (0,)


def test_no_candidate_taken_is_told_with_the_counts():
    with pytest.raises(UserError, match=r"learns from 8 candidates.*0 of them taken.*--window_days"):
        fit_ranker(
            np.zeros((10, 1), np.float32), np.zeros(10, bool), np.repeat(np.arange(5), 2), ("a",), RankerConfig()
        )
