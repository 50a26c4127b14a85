"""Distinct items of lives against counting by hand, and tastes against numpy's."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from longretriever_tf.data import taste
from longretriever_tf.data.hard_search import Events
from longretriever_tf.data.owned_items import find_owned, life_taste

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
    svd = np.random.default_rng(2).normal(size=[NUM_ITEMS, 7]).astype(np.float32)
    got = life_taste(find_owned(life, category, tf.constant(3), NUM_CATEGORIES), tf.constant(svd), tf.constant(3))
    sums = np.zeros([3, 7])
    for row, item, age in zip(*(part.numpy() for part in life[:3]), strict=True):
        sums[row] += svd[item] * 2 ** (-age / taste.HALF_LIFE_DAYS)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(got, taste.LENGTH * sums / np.maximum(lengths, 1e-6), rtol=1e-4, atol=1e-5)
