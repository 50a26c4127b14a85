"""Which items a request must not get back: those that it lists, and for novel items those of its history."""

import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.request_history import tells_targets
from longretriever_tf.retrieval.request_options import RequestOptions
from longretriever_tf.retrieval.requests import Subsequences


def find_exclusions(
    pairs: Subsequences, options: RequestOptions, item_category: tf.Tensor, num_categories: int, num_offered: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """(pair, item) of every item that a pair's list must leave out; items of other categories are no part of it.

    Args:
      pairs: R (request, category) pairs.
      options: of the B requests: listed items, and whether novel items alone are asked for.
      item_category: [V] int32.
      num_categories: C.
      num_offered: items from this index on are retired: no index holds them.

    Returns:
      Pair and item index, [X] int32 each.
    """
    is_any = tf.reduce_any(options.is_novel) | (tf.size(options.excluded) > 0)
    nothing = tf.zeros([0], tf.int32)

    def find() -> tuple[tf.Tensor, tf.Tensor]:
        listed = _listed(pairs, options, item_category, num_categories)
        seen = _seen(pairs, options)
        row, item = (tf.concat(parts, 0) for parts in zip(listed, seen, strict=True))
        offered = tf.where(item < num_offered)[:, 0]
        return tf.gather(row, offered), tf.gather(item, offered)

    # A branch, since few requests exclude anything.
    return tf.cond(is_any, find, lambda: (nothing, nothing))


def _listed(
    pairs: Subsequences, options: RequestOptions, item_category: tf.Tensor, num_categories: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each listed item asks for the pair of its own category, if there is one: no list is held against every pair."""
    listed, size = options.excluded, tf.shape(options.excluded)[0] * num_categories
    cell = (pairs.row * num_categories + pairs.category)[:, None]
    pair_of = tf.tensor_scatter_nd_update(tf.fill([size], -1), cell, tf.range(tf.size(pairs.row)))
    request = tf.range(tf.shape(listed)[0])[:, None]
    pair = tf.gather(pair_of, request * num_categories + tf.gather(item_category, listed))  # [B, E]
    where = tf.where((pair >= 0) & (listed >= schema.FIRST_KNOWN))
    return tf.gather_nd(pair, where), tf.gather_nd(listed, where)


def _seen(pairs: Subsequences, options: RequestOptions) -> tuple[tf.Tensor, tf.Tensor]:
    """All events of the pairs whose request asks for novel items; with target actions, those of these actions."""
    start, stop = pairs.segments.start, pairs.segments.stop
    pair, event = hard_search.flat_ranges(start, tf.where(tf.gather(options.is_novel, pairs.row), stop, start))
    if tells_targets(pairs.segments.is_target):
        taken = tf.where(tf.gather(pairs.segments.is_target, event))[:, 0]
        pair, event = tf.gather(pair, taken), tf.gather(event, taken)
    return pair, tf.gather(pairs.segments.item, event)
