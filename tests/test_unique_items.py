"""Distinct items of histories against counting by hand, and history embeddings against numpy's."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from small_histories import encode, random_histories

from longretriever_tf.common import schema
from longretriever_tf.data.recipe.history_embedding import (
    LENGTH,
    fold_of_histories,
    fold_of_users,
    item_keys,
)
from longretriever_tf.data.recipe.request_embedding import embed_history_before, read_folds
from longretriever_tf.data.search import unique_items
from longretriever_tf.data.search.hard_search import Events
from longretriever_tf.data.search.request_history import RawHistories, read_histories
from longretriever_tf.data.search.unique_items import find_interacted, find_interacted_ids
from longretriever_tf.data.search.user_activity import EMBEDDING_HALF_LIFE_DAYS

NUM_ITEMS, NUM_CATEGORIES = 23, 5


def made_history(rows: list[int]) -> tuple[Events, np.ndarray]:
    """Shuffled events of some requests, repeats among them, and the category of each item."""
    rng = np.random.default_rng(1)
    request = np.repeat(np.array(rows, np.int32), 31)
    item, age = rng.integers(2, NUM_ITEMS, len(request)), rng.uniform(0.1, 700, len(request))
    history = Events(*map(tf.constant, (request, item.astype(np.int32), age.astype(np.float32), np.ones_like(age))))
    return history, rng.integers(0, NUM_CATEGORIES, NUM_ITEMS).astype(np.int32)


@pytest.mark.parametrize("rows", [[0], [0, 1, 3], [0, 7, 10**8]])  # the last: keys beyond 32 bits
def test_equals_counting(rows):
    history, category = made_history(rows)
    interacted = find_interacted(history, category, tf.constant(rows[-1] + 1), NUM_CATEGORIES)
    events = [*zip(history.request.numpy().tolist(), history.item.numpy().tolist(), strict=True)]
    expected = collections.Counter(events)
    found = [*zip(interacted.request.numpy().tolist(), interacted.item.numpy().tolist(), strict=True)]
    assert dict(zip(found, interacted.count.numpy().tolist(), strict=True)) == expected and len(found) == len(expected)
    assert [found[at] for at in interacted.inverse] == events
    assert np.all(np.diff(interacted.request) >= 0)
    np.testing.assert_array_equal(interacted.segment, [row * NUM_CATEGORIES + category[item] for row, item in found])
    decayed = collections.Counter()
    for event, age in zip(events, history.age.numpy().tolist(), strict=True):
        decayed[event] += 2 ** (-age / EMBEDDING_HALF_LIFE_DAYS)
    np.testing.assert_allclose(interacted.decayed, [decayed[event] for event in found], rtol=1e-5)


@pytest.mark.parametrize("part", [1, 62, 70, 10**6])  # each history alone; two; two of 31 and a bit; all at once
def test_some_histories_at_a_time_are_told_apart_as_all_at_once(part, monkeypatch):
    history, category = made_history([0, 1, 3, 4, 6])
    whole = find_interacted(history, category, tf.constant(7), NUM_CATEGORIES)
    monkeypatch.setattr(unique_items, "_PART", part)
    for call in (find_interacted, tf.function(find_interacted)):
        for name, column in call(history, category, tf.constant(7), NUM_CATEGORIES)._asdict().items():
            np.testing.assert_array_equal(column, getattr(whole, name), name)


# Ids beside each other, over more than 32 bits, over 63, further apart than int64 holds, too wide only with the rows.
@pytest.mark.parametrize("spread", [1, 2**40, 2**58, 2**59, 2**24])
def test_raw_ids_are_told_apart_as_their_items_are(spread):
    history, category = made_history([0, 1, 200])
    item_id = (np.arange(NUM_ITEMS, dtype=np.int64) - 11) * spread
    known = tf.lookup.KeyValueTensorInitializer(item_id[2:-3], np.arange(2, NUM_ITEMS - 3, dtype=np.int32))
    lookup = tf.lookup.StaticHashTable(known, schema.UNKNOWN).lookup
    raw = tf.gather(item_id, history.item)
    looked_up = history._replace(item=lookup(raw))
    size = tf.constant(201), NUM_CATEGORIES
    expected = find_interacted(looked_up, category, *size)
    found = find_interacted_ids(history.request, raw, history.age, lookup, category, *size)
    unknown = [interacted.item.numpy() == schema.UNKNOWN for interacted in (expected, found)]
    assert unknown[0].any() and np.all(found.segment.numpy()[unknown[1]] == -1)
    for name in ("request", "item", "segment", "count", "decayed"):
        parts = [getattr(interacted, name).numpy() for interacted in (expected, found)]
        np.testing.assert_array_equal(*(part[~rest] for part, rest in zip(parts, unknown, strict=True)), name)
    for name in ("request", "item", "segment"):
        of_event = [tf.gather(getattr(interacted, name), interacted.inverse) for interacted in (expected, found)]
        np.testing.assert_array_equal(*of_event, name)


def test_no_events_own_no_items():
    rows, ids, category = tf.zeros([0], tf.int32), tf.zeros([0], tf.int64), np.zeros([3], np.int32)
    found = find_interacted_ids(rows, ids, tf.zeros([0]), lambda ids: tf.cast(ids, tf.int32), category, 2, 1)
    assert all(part.shape == [0] for part in found)


def test_history_embeddings_are_scaled_sums_and_0_without_a_history():
    history, category = made_history([0, 2])
    tables = np.random.default_rng(2).normal(size=[4, NUM_ITEMS, 7]).astype(np.float32)
    fold = np.array([3, 0, 1])
    interacted = find_interacted(history, category, tf.constant(3), NUM_CATEGORIES)
    rows = tf.constant(tables.reshape(-1, 7))
    got = embed_history_before(interacted, rows, tf.constant(fold * NUM_ITEMS), tf.constant(3))
    sums = np.zeros([3, 7])
    for row, item, age in zip(*(part.numpy() for part in history[:3]), strict=True):
        sums[row] += tables[fold[row], item] * 2 ** (-age / EMBEDDING_HALF_LIFE_DAYS)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(got, LENGTH * sums / np.maximum(lengths, 1e-6), rtol=1e-4, atol=1e-5)


KEYS = item_keys(np.array([f"item {v}" for v in range(NUM_ITEMS)]))
NOW = 1_600_000_000


def folds_of_requests(histories, num_folds, history_events=0):
    """Folds by the graph: each history shuffled, padded, with events that no request reads."""
    rng = np.random.default_rng(3)
    width = 5 + max(map(len, histories))
    item, timestamp = (np.zeros([len(histories), width], kind) for kind in (np.int32, np.int64))
    for row, history in enumerate(histories):
        events = history + [(1, 1_400_000_000), (4, NOW), (4, NOW + 5)]  # an unknown item before all; now; later
        at = rng.permutation(width)[: len(events)]
        item[row, at], timestamp[row, at] = zip(*events, strict=True)
    weight, category = np.ones(item.shape, np.float32), tf.zeros([NUM_ITEMS], tf.int32)
    raw = RawHistories(item, timestamp, weight, np.full(len(histories), NOW))
    begun = read_histories(raw, tf.identity, category, 1, history_events).begun
    return read_folds(begun, tf.constant(KEYS), tf.constant(len(histories)), num_folds).numpy()


@pytest.mark.parametrize("num_folds", [1, 2, 4, 7])
def test_a_raw_history_finds_the_fold_of_its_user(num_folds):
    histories = [[event for event in history if event[0] >= 2] for history in random_histories(7, 60)]
    histories += [[(2, 41)], [(2, 41), (2, 41)], [(2, 41), (5, 57)], [(3, 41)], [(2, 41), (3, 41)]]
    histories = [[(item, 1_500_000_000 + 86_400 * day) for item, day in history] for history in histories]
    expected = fold_of_users(encode(histories), KEYS, num_folds)
    assert set(expected.tolist()) == set(range(num_folds))
    found = folds_of_requests(histories, num_folds)
    some = np.array([len(history) > 0 for history in histories])
    np.testing.assert_array_equal(found[some], expected[some])
    assert found.min() >= 0 and found.max() < num_folds
    np.testing.assert_array_equal(
        folds_of_requests(histories, num_folds, history_events=2), found
    )  # hidden events count
    assert len(set(expected[-5:-2])) == 1  # an item twice, and what comes later, change nothing


def test_the_latest_events_with_the_beginning_find_the_fold():
    histories = [[(2 + v % 20, NOW - 86_400 * (60 - day)) for day, v in enumerate(range(u, u + 50))] for u in range(30)]
    expected = fold_of_users(encode(histories), KEYS, 4)
    np.testing.assert_array_equal(folds_of_requests([history[:1] + history[-7:] for history in histories], 4), expected)
    assert (folds_of_requests([history[-7:] for history in histories], 4) != expected).any()


def test_item_keys_follow_the_raw_id_alone():
    ids = np.array([5, 7, 10**12, -3])
    np.testing.assert_array_equal(item_keys(ids)[::-1], item_keys(ids[::-1]))
    names = np.array(["", "?", "a long name of an item", "é"])
    np.testing.assert_array_equal(item_keys(names[2:]), item_keys(names)[2:])
    for keys in (item_keys(ids), item_keys(names)):
        assert keys.min() >= 0 and keys.max() < 2**31 and len(set(keys.tolist())) == len(keys)


@pytest.mark.parametrize("first", ["one time", "forty midnights"])
def test_folds_are_of_like_size_however_coarse_the_clock(first):
    rng = np.random.default_rng(5)
    day = 0 if first == "one time" else rng.integers(0, 40, 4_000)
    as_of = np.full(4_000, 1_500_000_000 // 86_400 * 86_400) + 86_400 * day
    key = item_keys(rng.integers(0, 500, 4_000))
    assert np.bincount(fold_of_histories(as_of, key, 4), minlength=4).min() > 0.15 * 4_000
