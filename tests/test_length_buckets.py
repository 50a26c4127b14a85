"""Batches of like length: the same answers as one padded batch, with less padding."""

import numpy as np
import pytest
import tensorflow as tf

from longretriever_tf.data.search.hard_search import Tokens
from longretriever_tf.models.towers import UserState
from longretriever_tf.retrieval import length_buckets

WIDTH, NUM_FEATURES = 11, 3


def made_tokens(num_rows: int) -> Tokens:
    rng = np.random.default_rng(num_rows)
    is_real = np.arange(WIDTH) < rng.integers(0, WIDTH + 1, num_rows)[:, None]
    item = np.where(is_real, rng.integers(1, 50, is_real.shape), 0).astype(np.int32)
    features = (rng.random((*is_real.shape, NUM_FEATURES)) * is_real[:, :, None]).astype(np.float32)
    return Tokens(tf.constant(item), tf.constant(features))


@pytest.mark.parametrize("num_rows", [0, 1, 32, 33, 97])
def test_every_row_is_answered_in_its_place(num_rows):
    own = tf.range(num_rows, dtype=tf.float32)

    def encode(some: Tokens, rows: tf.Tensor) -> UserState:
        sums = tf.reduce_sum(some.features, 1)
        return UserState(tf.concat([sums, tf.gather(own, rows)[:, None]], 1), tf.cast(some.item, tf.float32))

    tokens = made_tokens(num_rows)
    found = tf.function(lambda: length_buckets.encode_by_length(encode, tokens, NUM_FEATURES + 1))()
    expected = np.concatenate([tokens.features.numpy().sum(1), own.numpy()[:, None]], 1)
    np.testing.assert_allclose(found.embedding, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.repeat_logit, tokens.item)


def test_short_rows_share_narrow_batches():
    tokens = made_tokens(97)
    length = np.count_nonzero(tokens.item, 1)

    def encode(some: Tokens, rows: tf.Tensor) -> UserState:
        width = tf.fill([tf.size(rows), 1], tf.cast(tf.shape(some.item)[1], tf.float32))
        return UserState(width, tf.zeros(tf.shape(some.item)))

    found = tf.function(lambda: length_buckets.encode_by_length(encode, tokens, 1))()
    order, width = np.argsort(length, kind="stable"), np.zeros(97)
    for start in range(0, 97, 32):
        batch = order[start : start + 32]
        width[batch] = length[batch].max()
    assert width.min() < 4  # else nothing was saved
    np.testing.assert_array_equal(np.sort(found.embedding.numpy()[:, 0]), np.sort(width))
    assert np.all(found.embedding.numpy()[:, 0] >= length)
