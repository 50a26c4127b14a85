"""What is counted of items, categories, users and histories, each against its oracle; and the co-occurrence vectors."""

import dataclasses

import numpy as np
import pytest
import reference
import tensorflow as tf
from small_histories import encode
from worlds import START, block_world, crowded_world, make_log

from longretriever_tf.common import schema
from longretriever_tf.data.corpus import encode_log, fit_corpus
from longretriever_tf.data.recipe.interest_features import NUM_FEATURES, interest_features
from longretriever_tf.data.recipe.item_stats import build_item_stats, item_cells, scan_cells
from longretriever_tf.data.recipe.item_svd import distinct_pairs, fit_item_svd, fit_pairs_svd
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.history_summary import category_bag, interest_score, summarise_history
from longretriever_tf.data.search.user_activity import user_activity

DAY_S = schema.DAY_S
END = START + 400 * DAY_S


def ready(log):
    corpus = fit_corpus(log, END)
    return corpus, encode_log(log, corpus)


# Items and categories


@pytest.mark.parametrize("seed", [1, 2])
def test_item_and_category_statistics(seed):
    log = crowded_world(seed)
    corpus, encoded = ready(log)
    # An event's own second, the one after it, before everything, after everything, twice the same time.
    some = int(np.sort(log.timestamp)[len(log.timestamp) // 2])
    as_of_times = np.array([START - DAY_S, some, some + 1, some + 1, START + 150 * DAY_S, END])
    stats = build_item_stats(encoded, corpus.item_category, as_of_times, corpus.num_categories)
    category = log.items.features["category"]
    for row, as_of in enumerate(as_of_times.tolist()):
        items = reference.stats_at(log, as_of, lambda v: log.items.item_id[v])
        categories = reference.stats_at(log, as_of, lambda v: category[v])
        for table, names, expected in (
            (stats.item[row], corpus.item_id, items),
            (stats.category[row], corpus.category_name, categories),
        ):
            wanted = [expected.get(name, reference.NEVER_STATS) for name in names.tolist()]
            np.testing.assert_allclose(table, wanted, rtol=1e-5, atol=1e-6)
    assert (stats.item[1, :, 0] != stats.item[2, :, 0]).any()  # the event at `some` counts one second later


def test_item_statistics_by_hand():
    """Item 5: taken 30 and 60 days ago by one user (a repeat), and today by another; item 6: at that very time."""
    day = START + np.array([0, 30, 60, 60]) * DAY_S
    log = make_log([1, 1, 2, 2], [5, 5, 5, 6], day, {"category": ["c", "c"]})
    corpus, encoded = ready(log)
    as_of_times = np.array([int(day[3]), int(day[3]) + 1])
    stats = build_item_stats(encoded, corpus.item_category, as_of_times, corpus.num_categories)
    np.testing.assert_allclose(stats.item[0, 2], [np.log(0.05 + 0.25 + 0.5), np.log1p(30), 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(stats.item[0, 3], [np.log(0.05), np.log1p(3650), 0], rtol=1e-6)
    np.testing.assert_allclose(stats.category[1, 2, 2], 1 / 4, rtol=1e-6)
    np.testing.assert_allclose(stats.takers[2:], np.log([0.5 + 2, 0.5 + 1]), rtol=1e-6)  # as of the last time
    assert stats.first_time.tolist() == [2**63 - 1, 2**63 - 1, int(day[0]), int(day[3])]


def test_the_row_at_a_as_of_never_saw_what_follows_it():
    _, encoded = ready(crowded_world())
    stats = build_item_stats(encoded, np.zeros(encoded.item.max() + 1, np.int32), np.array([10, 20, 30]), 1)
    assert stats.row_at(np.array([5, 10, 19, 20, 30, 99])).tolist() == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("num_parts", [1, 2, 3, 8])
def test_statistics_are_the_same_bits_for_any_partition_of_the_users(num_parts):
    corpus, encoded = ready(crowded_world(4, num_users=60))
    rng = np.random.default_rng(num_parts)
    last = int(encoded.timestamp.max())
    times = np.sort(rng.integers(START, last - DAY_S, 30))  # the last time leaves events after the grid
    whole = build_item_stats(encoded, corpus.item_category, times, corpus.num_categories)
    part_of = rng.integers(0, num_parts, encoded.num_users)
    parts = [item_cells(only(encoded, part_of == part), times, corpus.num_items) for part in range(num_parts)]
    for order in (parts, parts[::-1]):
        stats = scan_cells(order, corpus.item_category, times, corpus.num_categories)
        for field in dataclasses.fields(stats):
            assert getattr(stats, field.name).tobytes() == getattr(whole, field.name).tobytes(), field.name
    assert (whole.first_time < np.iinfo(np.int64).max).sum() == corpus.num_items - 2


def only(encoded, chosen):
    """The log of some users alone."""
    keep = chosen[encoded.event_user()]
    return dataclasses.replace(
        encoded,
        user_id=encoded.user_id[chosen],
        offset=np.append(0, np.cumsum(np.diff(encoded.offset)[chosen])),
        item=encoded.item[keep],
        timestamp=encoded.timestamp[keep],
        weight=encoded.weight[keep],
    )


# Users


def test_user_activity_against_the_oracle():
    log = crowded_world(seed=3)
    _, encoded = ready(log)
    as_of_times = np.concatenate([np.unique(log.timestamp)[::9], [START - 5, START, END, END + 4000 * DAY_S]])
    for user in range(log.num_users):
        times = log.timestamp[log.offset[user] : log.offset[user + 1]]
        expected = [reference.activity_at(times.tolist(), as_of) for as_of in as_of_times.tolist()]
        found = user_activity(encoded, np.full(len(as_of_times), user), as_of_times)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_user_activity_keeps_its_digits_over_thirty_years():
    """Old histories alongside young ones: nothing of a young one's decayed count may drown in an old history's."""
    day = np.arange(30 * 365)
    histories = [
        [(2, START - 20 * 365 * DAY_S + int(d) * DAY_S) for d in day],
        [(2, START)],
        [],
        [(2, START + 10 * 365 * DAY_S - 60 * DAY_S), (2, START + 10 * 365 * DAY_S - 30 * DAY_S)],
        [(2, START - 20 * 365 * DAY_S), (2, START + 10 * 365 * DAY_S - 1)],
    ]
    as_of = START + 10 * 365 * DAY_S
    found = user_activity(encode(histories), np.arange(5), np.full(5, as_of))
    expected = [reference.activity_at([t for _, t in history], as_of) for history in histories]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(np.expm1(found[3]), [2, 30, 0.75], rtol=1e-5)
    np.testing.assert_allclose(np.expm1(found[0, 2]), 1 / (2 ** (1 / 30) - 1), rtol=1e-5)  # the geometric series


# Histories by category


def whole_histories(log, encoded, time):
    """Events of each user strictly before `time`, as the graph reads them."""
    before = encoded.before(time)
    return hard_search.slice_events(
        before.item,
        before.timestamp,
        before.weight,
        before.offset[:-1],
        before.offset[1:],
        np.full(log.num_users, time),
    )


@pytest.mark.parametrize("floor", [1.0, 30.0])
def test_history_sums_against_the_oracle(floor):
    log = crowded_world(seed=4)
    corpus, encoded = ready(log)
    time = int(np.sort(log.timestamp)[-30])
    history = whole_histories(log, encoded, time)
    summary = summarise_history(history, corpus.item_category, log.num_users, corpus.num_categories, floor)
    found = np.concatenate(
        [
            np.stack([summary.score, summary.count, summary.distinct], 2),
            summary.decayed,
            np.stack([summary.recency, summary.oldest], 2),
        ],
        2,
    )
    for user in range(log.num_users):
        behaviors = reference.request_history(log, user)
        for c, name in enumerate(corpus.category_name.tolist()):
            expected = reference.interest_sums(reference.hard_search(behaviors, name, time, -1, 10**9), time, floor)
            np.testing.assert_allclose(found[user, c], expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(category_bag(summary), np.log1p(found[:, :, 5]), rtol=1e-6)


def test_the_order_of_events_does_not_change_a_history():
    log = crowded_world(seed=5)
    corpus, encoded = ready(log)
    history = whole_histories(log, encoded, END)
    order = np.random.default_rng(1).permutation(len(history.age))
    shuffled = hard_search.Events(*(tf.gather(column, order) for column in history[:4]))
    for one, other in zip(
        summarise_history(history, corpus.item_category, log.num_users, corpus.num_categories, 1.0),
        summarise_history(shuffled, corpus.item_category, log.num_users, corpus.num_categories, 1.0),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_interest_score_by_hand():
    """Eq. 3: 1 / days; days below the floor count as the floor; a weight multiplies."""
    score = interest_score(tf.constant([0.25, 1.0, 4.0, 4.0]), tf.constant([1.0, 1.0, 1.0, 3.0]), 1.0)
    np.testing.assert_allclose(score, [1, 1, 0.25, 0.75])
    np.testing.assert_allclose(interest_score(tf.constant([4.0]), tf.constant([1.0]), 10.0), [0.1])


def test_interest_features_by_hand():
    """Category 0: items 2, 2 and 3, 40, 20 and 10 days ago; category 1 never; another request has no history at all."""
    history = hard_search.Events(
        tf.constant([0, 0, 0]), tf.constant([2, 3, 2]), tf.constant([40.0, 10.0, 20.0]), tf.constant([1.0, 1.0, 1.0])
    )
    summary = summarise_history(history, tf.constant([0, 0, 0, 0, 1]), tf.constant(2), 2, 1.0)
    stats = tf.constant([[[1.0, 2.0, 0.1], [1.0, 3.0, 0.2]]] * 2)
    features = interest_features(summary, stats, tf.constant([2.0, 1.0])).numpy()
    assert features.shape == (2, 2, NUM_FEATURES) and np.isfinite(features).all()
    pair, decayed = features[0, 0], [sum(2 ** (-age / half) for age in (40, 20, 10)) for half in (10, 30, 90, 180)]
    np.testing.assert_allclose(np.expm1(pair[[0, 1, 2, 3, 4, 5]]), [3, *decayed, 10], rtol=1e-5)
    np.testing.assert_allclose(pair[6:9], [1, 1, 1], rtol=1e-6)  # seen, and all there is in it
    np.testing.assert_allclose(pair[9:12], np.log([1 + 15, 1 + 10 / 15, 1 / 40 + 1 / 20 + 1 / 10 + 1e-3]), rtol=1e-5)
    np.testing.assert_allclose(pair[12:15], [np.log(3), 1 / 3, np.log((1 + 1e-4) / (0.5 + 1e-4))], rtol=1e-5)
    user = np.log1p([3, 10, decayed[1], 40, 1])
    np.testing.assert_allclose(features[0, :, 15:21], [[*user, 2 / 3]] * 2, rtol=1e-5)
    np.testing.assert_allclose(features[:, :, 21], np.log1p([[2, 1]] * 2), rtol=1e-6)
    np.testing.assert_array_equal(features[:, :, 22:], stats)
    np.testing.assert_allclose(features[0, 1, :9], [0, 0, 0, 0, 0, np.log1p(3650), 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(features[1, 0, 15:21], [0, np.log1p(3650), 0, 0, 0, 0], rtol=1e-6)


# Co-occurrence vectors


def corpus_of(num_items):
    """A corpus that says how many items there are; the SVD asks no more."""
    base = fit_corpus(block_world(num_users=3, events_per_user=3), END)
    return dataclasses.replace(base, item_id=np.arange(num_items))


def histories_of(*items):
    return encode([[(item, START + n) for n, item in enumerate(history)] for history in items])


def test_svd_rows_have_unit_length_and_repeat_bitwise():
    log = block_world()
    corpus, encoded = ready(log)
    vectors = fit_item_svd(encoded, corpus, 7, seed=3)
    assert vectors.shape == (corpus.num_items, 7) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[schema.FIRST_KNOWN :], axis=1), 1, rtol=1e-5)
    assert not vectors[: schema.FIRST_KNOWN].any()
    assert fit_item_svd(encoded, corpus, 7, seed=3).tobytes() == vectors.tobytes()
    np.testing.assert_allclose(fit_item_svd(encoded, corpus, 7, seed=4), vectors, atol=1e-2)  # signs included


def test_svd_is_numpys_svd():
    corpus, encoded = ready(crowded_world(seed=6))
    matrix = np.zeros([encoded.num_users, corpus.num_items])
    matrix[encoded.event_user(), encoded.item] = 1
    matrix /= np.sqrt(matrix.sum(1, keepdims=True))
    _, values, right = np.linalg.svd(matrix)
    expected = (right[:4] * np.sqrt(values[:4])[:, None]).T
    expected *= np.sign(expected[np.abs(expected).argmax(0), range(4)])
    expected[2:] /= np.linalg.norm(expected[2:], axis=1, keepdims=True)
    found = fit_item_svd(encoded, corpus, 4, seed=1)
    np.testing.assert_allclose(found[2:], expected[2:], atol=2e-3)


def test_svd_of_some_users_reaches_the_items_of_all():
    rng = np.random.default_rng(5)
    log = histories_of(*[rng.choice(np.arange(6), 4, replace=False) + 2 + 6 * (user % 3) for user in range(300)])
    pairs = distinct_pairs(log, 20)
    full = fit_pairs_svd(pairs, 20, 3, 1)
    some = fit_pairs_svd(pairs, 20, 3, 1, most_pairs=200)
    np.testing.assert_allclose(np.linalg.norm(some[2:], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(some @ some.T, full @ full.T, atol=0.05)
    assert fit_pairs_svd(pairs, 20, 3, 1, most_pairs=len(pairs.item)).tobytes() == full.tobytes()


def test_svd_puts_items_of_the_same_users_side_by_side():
    log = histories_of(*[[2, 3, 4]] * 5, *[[5, 6, 7]] * 4, [2, 3], [6, 7])
    vectors = fit_item_svd(log, corpus_of(9), 2, seed=1)
    likeness = vectors @ vectors.T
    assert likeness[2:5, 2:5].min() > 0.99 and likeness[5:8, 5:8].min() > 0.99 and abs(likeness[2:5, 5:8]).max() < 0.1
    assert not vectors[8].any()  # nobody took it


@pytest.mark.parametrize(
    "histories",
    [[[2]], [[2, 3, 4]], [[2], [2]], [[2, 3], [4, 5], []], [[2, 3, 4]] * 6, [[2], [], [3], [4], [2, 3, 4]]],
    ids=["one event", "one user", "one item", "two users", "rank one", "an empty history"],
)
@pytest.mark.parametrize("dim", [0, 1, 8])
def test_svd_of_small_logs(histories, dim):
    vectors = fit_item_svd(histories_of(*histories), corpus_of(7), dim, seed=1)
    assert vectors.shape == (7, dim) and np.isfinite(vectors).all()
    length = np.linalg.norm(vectors, axis=1)
    assert np.all((length < 1e-3) | (abs(length - 1) < 1e-5))
    rank = max(0, min(dim, sum(map(bool, histories)) - 1, len({i for history in histories for i in history}) - 1))
    assert not vectors[:, rank:].any()
    assert (length[[i for i in histories[0] if i > 1]] > 0.9).all() or rank == 0


def test_users_without_events_do_not_move_the_svd():
    histories = [[2, 3], [3, 4], [4, 5, 2], [5, 6]]
    among = [[], *histories[:2], [], [], *histories[2:], []]
    one, other = (fit_item_svd(histories_of(*these), corpus_of(7), 3, seed=1) for these in (histories, among))
    assert one.tobytes() == other.tobytes() and one.any()
