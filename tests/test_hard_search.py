"""Hard search in the graph against the oracle on raw histories: whole logs, and one request's raw history."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from worlds import START, crowded_world, make_log

from longretriever_tf.common import schema
from longretriever_tf.data.corpus import encode_log, fit_corpus
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.behavior_index import build_category_order
from longretriever_tf.data.search.history_summary import history_activity, summarise_history
from longretriever_tf.data.search.request_history import RawHistories, order_segments, read_histories
from longretriever_tf.data.search.user_activity import user_activity

END = START + 400 * schema.DAY_S
SIZES = [(1, 1), (3, 7), (50, 256)]  # max_length, max_events
SIZE = pytest.mark.parametrize(("max_length", "max_events"), SIZES)


def encoded(log):
    corpus = fit_corpus(log, END)
    return corpus, encode_log(log, corpus)


def every_request(log, corpus, as_of_times):
    """All (user row, category index) pairs, and the slices of each at each time: columns [R]."""
    order = build_category_order(encode_log(log, corpus), corpus)
    users, categories = (
        axis.ravel() for axis in np.meshgrid(np.arange(log.num_users), np.arange(2, corpus.num_categories))
    )
    parts = [
        (*reference.slices_before(order, users, categories, as_of), np.full(len(users), as_of)) for as_of in as_of_times
    ]
    start, stop, time = (np.concatenate(column) for column in zip(*parts, strict=True))
    return order, np.tile(users, len(parts)), np.tile(categories, len(parts)), start, stop, time


def as_of_times_of(log):
    """Times that matter: those of events to the second (strictness), before all, after all."""
    return [*np.unique(log.timestamp)[::23].tolist(), START - 1, START, END]


def assert_tokens(tokens, corpus, expected):
    """Tokens of R requests equal the oracle's lists, and nothing but zeros lies around them."""
    items, features = tokens.item.numpy(), tokens.features.numpy()
    assert items.shape[1] == max(map(len, expected))
    for row, wanted in enumerate(expected):
        ids = corpus.item_id[items[row, : len(wanted)]].tolist()
        assert ids == [item for item, _ in wanted]
        # Gaps are differences of float32 ages, which at 400 days lie 3e-5 days apart.
        np.testing.assert_allclose(
            features[row, : len(wanted)], [x for _, x in wanted] or features[row, :0], rtol=2e-5, atol=4e-5
        )
        assert not items[row, len(wanted) :].any() and not features[row, len(wanted) :].any()


@pytest.mark.parametrize("max_length", [1, 5, 50])
def test_event_tokens_of_a_log(max_length):
    log = crowded_world()
    corpus, _ = encoded(log)
    order, users, categories, start, stop, time = every_request(log, corpus, as_of_times_of(log))
    events = hard_search.slice_events(
        order.item, order.timestamp, order.weight, np.maximum(start, stop - max_length), stop, time
    )
    histories = [reference.request_history(log, user) for user in range(log.num_users)]
    expected = [
        reference.event_tokens(
            reference.hard_search(histories[user], corpus.category_name[category], t, -1, max_length), t, max_length
        )
        for user, category, t in zip(users, categories, time, strict=True)
    ]
    assert min(map(len, expected)) == 0 and max(map(len, expected)) >= min(5, max_length)
    assert_tokens(hard_search.event_tokens(events, len(time), max_length), corpus, expected)


@SIZE
def test_item_tokens_of_a_log(max_length, max_events):
    log = crowded_world(seed=2)
    corpus, _ = encoded(log)
    order, users, categories, start, stop, time = every_request(log, corpus, as_of_times_of(log))
    low = np.maximum(start, stop - max_events)
    events = hard_search.slice_events(order.item, order.timestamp, order.weight, low, stop, time)
    histories = [reference.request_history(log, user) for user in range(log.num_users)]
    expected = []
    for user, category, t in zip(users, categories, time, strict=True):
        whole = reference.hard_search(histories[user], corpus.category_name[category], t, -1, 10**9)
        expected.append(reference.item_tokens(whole[-max_events:], len(whole), t, max_length))
    assert_tokens(hard_search.item_tokens(events, len(time), stop - start, max_length), corpus, expected)


def test_no_event_at_all():
    nothing = hard_search.slice_events(
        tf.constant([5]),
        tf.constant([START], tf.int64),
        tf.constant([1.0]),
        *(np.zeros(3, np.int64),) * 2,
        np.full(3, END),
    )
    for tokens, width in (
        (hard_search.event_tokens(nothing, 3, 50), hard_search.NUM_EVENT_FEATURES),
        (hard_search.item_tokens(nothing, 3, np.zeros(3, np.int64), 50), 13),
    ):
        assert tokens.item.shape == (3, 0) and tokens.features.shape == (3, 0, width)
    summary = summarise_history(nothing, tf.zeros([2], tf.int32), 3, 2, 1.0)
    np.testing.assert_allclose(history_activity(summary), [reference.activity_at([], END)] * 3, rtol=1e-6)


def test_one_history_by_hand():
    """Tea at days 0, 10, 30, cake at day 30, and a request on day 40: the same time is in, the next is not."""
    day = START + np.array([0, 10, 30, 30, 40]) * schema.DAY_S
    log = make_log([1] * 5, [8, 8, 8, 9, 9], day, {"category": ["c", "c"]}, basket=[1, 2, 3, 3, 4])
    corpus, _ = encoded(log)
    order, _, _, start, stop, time = every_request(log, corpus, [int(day[4])])
    events = hard_search.slice_events(order.item, order.timestamp, order.weight, start, stop, time)
    np.testing.assert_array_equal(events.age, [40, 30, 10, 10])
    tokens = hard_search.item_tokens(events, 1, stop - start, 50)
    assert corpus.item_id[tokens.item[0]].tolist() == [9, 8]  # the later of a tie in the log is the newer
    tea = [3, 10, 2**-4 + 2**-3 + 0.5, 2 ** (-4 / 3) + 0.5 + 2 ** (-1 / 3)]
    np.testing.assert_allclose(np.expm1(tokens.features[0, 1, :4]), tea, rtol=1e-5)
    np.testing.assert_allclose(tokens.features[0, 1, 6:10], [np.log1p(15), np.log1p(10 / 15), 1, 0.75], rtol=1e-5)
    np.testing.assert_allclose(np.expm1(tokens.features[0, 0, 10:12]), [4, 10], rtol=1e-5)


def test_the_same_second_and_the_same_basket_are_no_history():
    """A basket over two seconds is one time: neither of its lines is the other's history; nor is a tie of another."""
    log = make_log(
        [1] * 4, [5, 6, 7, 8], [START, START + 50, START + 90, START + 50], {"category": ["c"] * 4}, basket=[1, 2, 2, 3]
    )
    assert log.timestamp.tolist() == [START, START + 50, START + 50, START + 50]
    corpus, _ = encoded(log)
    history = reference.request_history(log, 0)
    for as_of, wanted in ((START, []), (START + 50, [5]), (START + 51, [5, 6, 7, 8])):
        order, _, _, start, stop, time = every_request(log, corpus, [as_of])
        events = hard_search.slice_events(order.item, order.timestamp, order.weight, start, stop, time)
        assert corpus.item_id[events.item].tolist() == wanted
        assert [b.item for b in reference.hard_search(history, "c", as_of, 2, 50)] == [i for i in wanted if i in (5, 8)]


def raw_histories(log, corpus, rng):
    """Padded shuffled histories [U, T] with noise: padding, unknown items, events at and after the request [U].

    Events of equal time keep their order: it is what decides between them.
    """
    width = int(np.diff(log.offset).max()) + 7
    item, timestamp = np.zeros([2, log.num_users, width], np.int64)
    index = {raw: i for i, raw in enumerate(corpus.item_id.tolist())}
    time = np.full(log.num_users, END)
    for user in range(log.num_users):
        history = reference.request_history(log, user)
        time[user] = history[len(history) * 3 // 4].timestamp if user % 2 else END
        rows = [(index[b.item], b.timestamp) for b in history] + [(schema.UNKNOWN, START + 5), (3, 0)]
        at = rng.permutation(width)[: len(rows)]
        for second in {t for _, t in rows}:
            same = [n for n, (_, t) in enumerate(rows) if t == second]
            at[same] = np.sort(at[same])
        item[user, at], timestamp[user, at] = zip(*rows, strict=True)
    return item.astype(np.int32), timestamp, time


@SIZE
def test_raw_histories_give_the_tokens_of_the_log(max_length, max_events):
    log = crowded_world(seed=3)
    corpus, known = encoded(log)
    item, timestamp, time = raw_histories(log, corpus, np.random.default_rng(4))
    weight = (1 + item % 5).astype(np.float32)
    category = np.tile(np.arange(corpus.num_categories, dtype=np.int32), log.num_users)
    user = np.repeat(np.arange(log.num_users, dtype=np.int32), corpus.num_categories)

    @tf.function
    def call(*raw):
        histories = read_histories(RawHistories(*raw), tf.identity, corpus.item_category, corpus.num_categories)
        return histories, order_segments(histories, user, category, len(user), corpus.num_categories)

    histories_read, runs = call(item, timestamp, weight, time)
    np.testing.assert_array_equal(runs.weight, 1 + runs.item.numpy() % 5)  # weights follow their events
    histories = [reference.request_history(log, user) for user in range(log.num_users)]
    low = tf.maximum(runs.start, runs.stop - max_events)
    events = hard_search.slice_events(runs.item, runs.timestamp, runs.weight, low, runs.stop, time[user])
    expected = []
    for u, c in zip(user, category, strict=True):
        whole = reference.hard_search(histories[u], corpus.category_name[c], time[u], -1, 10**9)
        expected.append(reference.item_tokens(whole[-max_events:], len(whole), int(time[u]), max_length))
    assert_tokens(hard_search.item_tokens(events, len(user), runs.stop - runs.start, max_length), corpus, expected)
    summary = summarise_history(histories_read.history, corpus.item_category, log.num_users, corpus.num_categories, 1.0)
    activity = history_activity(summary)
    np.testing.assert_allclose(
        activity,
        [reference.activity_at((b.timestamp for b in histories[u]), time[u]) for u in range(log.num_users)],
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(activity, user_activity(known, np.arange(log.num_users), time), rtol=1e-5, atol=1e-6)


def test_a_request_alone_equals_the_request_in_a_batch():
    log = crowded_world(seed=5)
    corpus, _ = encoded(log)
    item, timestamp, time = raw_histories(log, corpus, np.random.default_rng(6))
    ones = np.ones(item.shape, np.float32)
    raw, catalogue = (item, timestamp, ones, time), (tf.identity, corpus.item_category, corpus.num_categories)
    together = read_histories(RawHistories(*raw), *catalogue)
    categories = np.arange(corpus.num_categories, dtype=np.int32)
    for row in range(log.num_users):
        one = slice(row, row + 1)
        alone = read_histories(RawHistories(*(part[one] for part in raw)), *catalogue)
        mine = together.history.request.numpy() == row
        np.testing.assert_array_equal(alone.history.item, together.history.item.numpy()[mine])
        np.testing.assert_array_equal(alone.history.age, together.history.age.numpy()[mine])
        # Some categories of one row, in an order of their own, are what the row has among all rows.
        some, num_segments = categories[::-2], log.num_users * corpus.num_categories
        runs = [
            order_segments(histories, np.full(len(some), at, np.int32), some, size, corpus.num_categories)
            for histories, at, size in ((alone, 0, corpus.num_categories), (together, row, num_segments))
        ]
        for left, right in zip(*runs, strict=True):
            np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(np.diff(runs[0].stop, prepend=0), runs[0].stop - runs[0].start)
