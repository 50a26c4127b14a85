"""Tokens with all their features: the one function that training, evaluation and serving share."""

import tensorflow as tf

from longretriever_tf.config.config import ModelConfig
from longretriever_tf.data.recipe.item_stats import NUM_STATS
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.user_activity import NUM_ACTIVITY


def num_token_features(config: ModelConfig) -> int:
    """F, the width of `Tokens.features`."""
    if config.subsequence == "events":
        return hard_search.NUM_EVENT_FEATURES
    counts = hard_search.NUM_ACTION_COUNTS if config.action_counts else 0
    return hard_search.NUM_ITEM_FEATURES + counts + NUM_STATS + NUM_ACTIVITY


def make_tokens(
    config: ModelConfig,
    events: hard_search.Events,
    category_count: tf.Tensor,
    item_stats: tf.Tensor,
    stats_row: tf.Tensor,
    activity: tf.Tensor,
) -> hard_search.Tokens:
    """Turns sliced events into the tokens that the user tower reads.

    Args:
      config: `subsequence` says what a token is, `action_counts` whether it tells actions apart.
      events: at most `behavior_index.max_sliced` events per request, strictly before it.
      category_count: events of the category in the whole history before the request, [R] int64.
      item_stats: [S, V, 3] float32.
      stats_row: row of `item_stats` as of each request, [R] int32.
      activity: the user's activity before the request, [R, 3] float32.
    """
    num_requests = tf.shape(stats_row)[0]
    if config.subsequence == "events":
        return hard_search.event_tokens(events, num_requests, config.max_length)
    if not config.action_counts:
        events = events._replace(is_target=None)
    assert config.action_counts == (events.is_target is not None), "held by `check_config`"
    tokens = hard_search.item_tokens(events, num_requests, category_count, config.max_length)
    shape = tf.shape(tokens.item)
    row = tf.broadcast_to(stats_row[:, None], shape)
    stats = tf.gather_nd(item_stats, tf.stack([row, tokens.item], 2))  # [R, L, 3]
    shared = tf.broadcast_to(activity[:, None], tf.concat([shape, [NUM_ACTIVITY]], 0))
    real = tf.cast(tokens.item > 0, tf.float32)[:, :, None]
    return tokens._replace(features=tf.concat([tokens.features, stats * real, shared * real], 2))
