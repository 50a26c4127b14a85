"""Distinct items of lives against counting by hand, and tastes against numpy's."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from small_lives import encode, random_lives

from longretriever_tf import schema
from longretriever_tf.data import owned_items, taste
from longretriever_tf.data.hard_search import Events
from longretriever_tf.data.owned_items import find_owned, find_owned_ids, life_taste
from longretriever_tf.data.raw_lives import RawHistories, read_folds, read_lives

NUM_ITEMS, NUM_CATEGORIES = 23, 5


def made_life(rows: list[int]) -> tuple[Events, np.ndarray]:
    """Shuffled events of some requests, repeats among them, and the category of each item."""
    rng = np.random.default_rng(1)
    request = np.repeat(np.array(rows, np.int32), 31)
    item, age = rng.integers(2, NUM_ITEMS, len(request)), rng.uniform(0.1, 700, len(request))
    life = Events(*map(tf.constant, (request, item.astype(np.int32), age.astype(np.float32), np.ones_like(age))))
    return life, rng.integers(0, NUM_CATEGORIES, NUM_ITEMS).astype(np.int32)


@pytest.mark.parametrize("rows", [[0], [0, 1, 3], [0, 7, 10**8]])  # the last: keys beyond 32 bits
def test_equals_counting(rows):
    life, category = made_life(rows)
    owned = find_owned(life, category, tf.constant(rows[-1] + 1), NUM_CATEGORIES)
    events = [*zip(life.request.numpy().tolist(), life.item.numpy().tolist(), strict=True)]
    expected = collections.Counter(events)
    found = [*zip(owned.request.numpy().tolist(), owned.item.numpy().tolist(), strict=True)]
    assert dict(zip(found, owned.count.numpy().tolist(), strict=True)) == expected and len(found) == len(expected)
    assert [found[place] for place in owned.place] == events
    assert np.all(np.diff(owned.request) >= 0)
    np.testing.assert_array_equal(owned.run, [row * NUM_CATEGORIES + category[item] for row, item in found])
    faded = collections.Counter()
    for event, age in zip(events, life.age.numpy().tolist(), strict=True):
        faded[event] += 2 ** (-age / taste.HALF_LIFE_DAYS)
    np.testing.assert_allclose(owned.faded, [faded[event] for event in found], rtol=1e-5)


@pytest.mark.parametrize("part", [1, 62, 70, 10**6])  # each life alone; two; two of 31 and a bit; all at once
def test_some_lives_at_a_time_are_told_apart_as_all_at_once(part, monkeypatch):
    life, category = made_life([0, 1, 3, 4, 6])
    whole = find_owned(life, category, tf.constant(7), NUM_CATEGORIES)
    monkeypatch.setattr(owned_items, "_PART", part)
    for call in (find_owned, tf.function(find_owned)):
        for name, column in call(life, category, tf.constant(7), NUM_CATEGORIES)._asdict().items():
            np.testing.assert_array_equal(column, getattr(whole, name), name)


# Ids beside each other, over more than 32 bits, over 63, further apart than int64 holds, too wide only with the rows.
@pytest.mark.parametrize("spread", [1, 2**40, 2**58, 2**59, 2**24])
def test_raw_ids_are_told_apart_as_their_items_are(spread):
    life, category = made_life([0, 1, 200])
    item_id = (np.arange(NUM_ITEMS, dtype=np.int64) - 11) * spread
    known = tf.lookup.KeyValueTensorInitializer(item_id[2:-3], np.arange(2, NUM_ITEMS - 3, dtype=np.int32))
    lookup = tf.lookup.StaticHashTable(known, schema.UNKNOWN).lookup
    raw = tf.gather(item_id, life.item)
    looked_up = life._replace(item=lookup(raw))
    size = tf.constant(201), NUM_CATEGORIES
    expected = find_owned(looked_up, category, *size)
    found = find_owned_ids(life.request, raw, life.age, lookup, category, *size)
    unknown = [owned.item.numpy() == schema.UNKNOWN for owned in (expected, found)]
    assert unknown[0].any() and np.all(found.run.numpy()[unknown[1]] == -1)
    for name in ("request", "item", "run", "count", "faded"):
        parts = [getattr(owned, name).numpy() for owned in (expected, found)]
        np.testing.assert_array_equal(*(part[~rest] for part, rest in zip(parts, unknown, strict=True)), name)
    for name in ("request", "item", "run"):
        of_event = [tf.gather(getattr(owned, name), owned.place) for owned in (expected, found)]
        np.testing.assert_array_equal(*of_event, name)


def test_no_events_own_no_items():
    rows, ids, category = tf.zeros([0], tf.int32), tf.zeros([0], tf.int64), np.zeros([3], np.int32)
    found = find_owned_ids(rows, ids, tf.zeros([0]), lambda ids: tf.cast(ids, tf.int32), category, 2, 1)
    assert all(part.shape == [0] for part in found)


def test_tastes_are_scaled_sums_and_0_without_a_life():
    life, category = made_life([0, 2])
    tables = np.random.default_rng(2).normal(size=[4, NUM_ITEMS, 7]).astype(np.float32)
    fold = np.array([3, 0, 1])
    owned = find_owned(life, category, tf.constant(3), NUM_CATEGORIES)
    rows = tf.constant(tables.reshape(-1, 7))
    got = life_taste(owned, rows, tf.constant(fold * NUM_ITEMS), tf.constant(3))
    sums = np.zeros([3, 7])
    for row, item, age in zip(*(part.numpy() for part in life[:3]), strict=True):
        sums[row] += tables[fold[row], item] * 2 ** (-age / taste.HALF_LIFE_DAYS)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(got, taste.LENGTH * sums / np.maximum(lengths, 1e-6), rtol=1e-4, atol=1e-5)


KEYS = taste.item_keys(np.array([f"item {v}" for v in range(NUM_ITEMS)]))
NOW = 1_600_000_000


def folds_of_requests(lives, num_folds, history_events=0):
    """Folds by the graph: each life shuffled, padded, with events that no request reads."""
    rng = np.random.default_rng(3)
    width = 5 + max(map(len, lives))
    item, timestamp = (np.zeros([len(lives), width], kind) for kind in (np.int32, np.int64))
    for row, life in enumerate(lives):
        events = life + [(1, 1_400_000_000), (4, NOW), (4, NOW + 5)]  # an unknown item before all; now; later
        at = rng.permutation(width)[: len(events)]
        item[row, at], timestamp[row, at] = zip(*events, strict=True)
    weight, category = np.ones(item.shape, np.float32), tf.zeros([NUM_ITEMS], tf.int32)
    raw = RawHistories(item, timestamp, weight, np.full(len(lives), NOW))
    begun = read_lives(raw, tf.identity, category, 1, history_events).begun
    return read_folds(begun, tf.constant(KEYS), tf.constant(len(lives)), num_folds).numpy()


@pytest.mark.parametrize("num_folds", [1, 2, 4, 7])
def test_a_raw_life_finds_the_fold_of_its_user(num_folds):
    lives = [[event for event in life if event[0] >= 2] for life in random_lives(7, 60)]
    lives += [[(2, 41)], [(2, 41), (2, 41)], [(2, 41), (5, 57)], [(3, 41)], [(2, 41), (3, 41)]]
    lives = [[(item, 1_500_000_000 + 86_400 * day) for item, day in life] for life in lives]
    expected = taste.fold_of_users(encode(lives), KEYS, num_folds)
    assert set(expected.tolist()) == set(range(num_folds))
    found = folds_of_requests(lives, num_folds)
    some = np.array([len(life) > 0 for life in lives])
    np.testing.assert_array_equal(found[some], expected[some])
    assert found.min() >= 0 and found.max() < num_folds
    np.testing.assert_array_equal(folds_of_requests(lives, num_folds, history_events=2), found)  # hidden events count
    assert len(set(expected[-5:-2])) == 1  # an item twice, and what comes later, change nothing


def test_the_latest_events_with_the_beginning_find_the_fold():
    lives = [[(2 + v % 20, NOW - 86_400 * (60 - day)) for day, v in enumerate(range(u, u + 50))] for u in range(30)]
    expected = taste.fold_of_users(encode(lives), KEYS, 4)
    np.testing.assert_array_equal(folds_of_requests([life[:1] + life[-7:] for life in lives], 4), expected)
    assert (folds_of_requests([life[-7:] for life in lives], 4) != expected).any()


def test_item_keys_follow_the_raw_id_alone():
    ids = np.array([5, 7, 10**12, -3])
    np.testing.assert_array_equal(taste.item_keys(ids)[::-1], taste.item_keys(ids[::-1]))
    names = np.array(["", "?", "a long name of an item", "é"])
    np.testing.assert_array_equal(taste.item_keys(names[2:]), taste.item_keys(names)[2:])
    for keys in (taste.item_keys(ids), taste.item_keys(names)):
        assert keys.min() >= 0 and keys.max() < 2**31 and len(set(keys.tolist())) == len(keys)


@pytest.mark.parametrize("first", ["one time", "forty midnights"])
def test_folds_are_of_like_size_however_coarse_the_clock(first):
    rng = np.random.default_rng(5)
    day = 0 if first == "one time" else rng.integers(0, 40, 4_000)
    moment = np.full(4_000, 1_500_000_000 // 86_400 * 86_400) + 86_400 * day
    key = taste.item_keys(rng.integers(0, 500, 4_000))
    assert np.bincount(taste.fold_of_lives(moment, key, 4), minlength=4).min() > 0.15 * 4_000
