"""Features of the learned interest score, of each (request, category) pair; in the graph."""

import tensorflow as tf

from longretriever_tf.data.search.history_summary import HistorySummary
from longretriever_tf.data.search.user_activity import NEVER_DAYS

NUM_FEATURES = 25


def interest_features(history: HistorySummary, category_stats: tf.Tensor, category_size: tf.Tensor) -> tf.Tensor:
    """Features of each (request, category) for the learned interest score.

    Args:
      history: sums of each history.
      category_stats: popularity, staleness and repeat rate of each category at the request's time, [B, C, 3].
      category_size: items of each category, [C] float32.

    Returns:
      [B, C, NUM_FEATURES] float32, finite.
    """
    seen = tf.cast(history.count > 0, tf.float32)
    total = tf.reduce_sum(history.count, 1, keepdims=True)
    active = tf.reduce_sum(history.decayed[:, :, 1], 1, keepdims=True)
    gap = (history.oldest - history.recency) / tf.maximum(history.count - 1.0, 1.0)
    recency = tf.where(seen > 0, history.recency, NEVER_DAYS)
    share = history.count / tf.maximum(total, 1.0)
    counts = tf.exp(category_stats[:, :, 0])
    popularity = counts / tf.reduce_sum(counts, 1, keepdims=True)
    pair = [
        tf.math.log1p(history.count),
        *tf.unstack(tf.math.log1p(history.decayed), axis=2),
        tf.math.log1p(recency),
        seen,
        share,
        history.decayed[:, :, 1] / tf.maximum(active, 0.01),
        tf.math.log1p(gap),
        tf.where(history.count > 1, tf.math.log1p(history.recency / tf.maximum(gap, 0.5)), 0.0),
        tf.math.log(history.closeness + 1e-3),
        tf.math.log1p(history.distinct),
        seen - history.distinct / tf.maximum(history.count, 1.0),
        tf.math.log((share + 1e-4) / (popularity + 1e-4)),
    ]
    anyone = tf.reduce_max(seen, 1, keepdims=True)
    user = [
        tf.math.log1p(total),
        tf.math.log1p(tf.reduce_min(recency, 1, keepdims=True)),
        tf.math.log1p(active),
        tf.math.log1p(anyone * tf.reduce_max(history.oldest, 1, keepdims=True)),
        tf.math.log1p(tf.reduce_sum(seen, 1, keepdims=True)),
        tf.reduce_sum(history.distinct, 1, keepdims=True) / tf.maximum(total, 1.0),
    ]
    shape = tf.shape(history.count)
    shared = [tf.broadcast_to(column, shape) for column in (*user, tf.math.log1p(category_size)[None])]
    # Stacked on the first axis, then turned: several times faster than number by number into the last one.
    return tf.concat([tf.transpose(tf.stack(pair + shared), [1, 2, 0]), category_stats], 2)
