"""Distinct items of lives against counting by hand, and tastes against numpy's."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from small_lives import encode, random_lives

from longretriever_tf.data import taste
from longretriever_tf.data.hard_search import Events
from longretriever_tf.data.owned_items import find_owned, life_taste
from longretriever_tf.data.raw_lives import read_lives

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


@pytest.mark.parametrize("num_folds", [1, 2, 4, 7])
def test_a_raw_life_finds_the_fold_of_its_user(num_folds):
    """Shuffled, padded, with events that no request reads: what came first stays first."""
    lives = [[event for event in life if event[0] >= 2] for life in random_lives(7, 60)]
    lives += [[(2, 41)], [(2, 41), (3, 41)], [(5, 41), (2, 57)]]  # one moment, twice; and another beginning
    lives = [[(item, 1_500_000_000 + 86_400 * day) for item, day in life] for life in lives]
    expected = taste.fold_of_users(encode(lives), num_folds)
    assert set(expected.tolist()) == set(range(num_folds))
    item, timestamp = (np.zeros([len(lives), 40], kind) for kind in (np.int32, np.int64))
    rng, now = np.random.default_rng(3), 1_600_000_000
    for row, life in enumerate(lives):
        unread = [(1, 1_400_000_000), (4, now), (4, now + 5)]  # an unknown item before all; now; later
        events = life + unread
        at = rng.permutation(40)[: len(events)]
        item[row, at], timestamp[row, at] = zip(*events, strict=True)
    category = np.zeros(NUM_ITEMS, np.int32)
    time = np.full(len(lives), now)
    read = read_lives(*map(tf.constant, (item, timestamp, np.ones(item.shape, np.float32), time, category)), 1)
    found = taste.fold_of_lives(read.beginning[:, 0], read.beginning[:, 1], num_folds).numpy()
    some = np.array([len(life) > 0 for life in lives])
    np.testing.assert_array_equal(found[some], expected[some])
    assert found.min() >= 0 and found.max() < num_folds
    assert expected[-3] == expected[-2]


def test_folds_are_of_like_size_where_lives_begin_at_midnight():
    rng = np.random.default_rng(5)
    first = 1_500_000_000 // 86_400 * 86_400 + 86_400 * rng.integers(0, 40, 4_000)
    fold = taste.fold_of_lives(first, first + 86_400 * rng.integers(0, 30, 4_000), 4)
    assert np.bincount(fold, minlength=4).min() > 0.15 * 4_000
