"""Histories of training examples as tokens: searched anew for each batch, or searched once and kept for the run.

A search costs a sort and some sixty operations per batch; tokens that are kept cost one gather. Both run the same code
(`make_tokens`), so cached tokens are those that a batch would have searched, to the rounding of the last digit.
"""

from typing import Protocol

import numpy as np
import tensorflow as tf

from longretriever_tf.common.graph import graph_function
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.data.recipe.tokens import make_tokens, num_token_features
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.hard_search import Tokens

_CHUNK_EXAMPLES = 8192
"""Examples searched at once when histories are kept: enough to drown the cost of launching an operation."""


class Histories(Protocol):
    """Tokens of examples."""

    def read(self, rows: tf.Tensor) -> Tokens:
        """Tokens of the examples `rows` ([R] int64), padded to the longest of them."""


class SearchedHistories:
    """The hard search, run in the graph for whichever examples are asked for.

    Args:
      config: the run's config.
      prepared: the training window.
      examples: the examples.
    """

    def __init__(self, config: Config, prepared: Prepared, examples: Examples) -> None:
        order = prepared.order
        self._config = config.model
        with tf.device("/CPU:0"):
            names = ("start", "stop", "num_before", "time", "stats_row", "activity")
            self._example = {name: tf.constant(getattr(examples, name)) for name in names}
            self._order = tf.constant(order.item), tf.constant(order.timestamp), tf.constant(order.weight)
            self._is_target = None if order.is_target is None else tf.constant(order.is_target)
            self._stats = tf.constant(prepared.stats.item)

    def read(self, rows: tf.Tensor) -> Tokens:
        """Searches: tokens of the examples `rows` ([R] int64), padded to the longest of them."""
        at = {name: tf.gather(column, rows) for name, column in self._example.items()}
        events = hard_search.slice_events(*self._order, at["start"], at["stop"], at["time"], self._is_target)
        return make_tokens(self._config, events, at["num_before"], self._stats, at["stats_row"], at["activity"])


class CachedTokens:
    """Tokens of all examples, searched once, flat: example x owns the rows `start[x]:start[x] + count[x]`.

    Row 0 is padding, all zeros, so that padding a batch is part of the gather.

    Attributes:
      start: [X] int64.
      count: [X] int64.
      item: [1 + tokens] int32.
      features: [1 + tokens, F] float32.
    """

    def __init__(self, start: np.ndarray, count: np.ndarray, item: np.ndarray, features: np.ndarray) -> None:
        with tf.device("/CPU:0"):
            self.start, self.count = tf.constant(start), tf.constant(count)
            self.item, self.features = tf.constant(item), tf.constant(features)

    def read(self, rows: tf.Tensor) -> Tokens:
        """Gathers: tokens of the examples `rows` ([R] int64), padded to the longest of them."""
        count = tf.gather(self.count, rows)
        slot = tf.range(tf.reduce_max(count))[None]
        at = tf.where(slot < count[:, None], tf.gather(self.start, rows)[:, None] + slot, 0)  # [R, L]
        return Tokens(tf.gather(self.item, at), tf.gather(self.features, at))


def kept_bytes(config: Config, examples: Examples) -> int:
    """Memory that `keep_histories` would fill, at most."""
    return (int(examples.length.sum(dtype=np.int64)) + 1) * 4 * (1 + num_token_features(config.model))


def keep_histories(config: Config, searched: SearchedHistories, examples: Examples) -> CachedTokens:
    """Searches every example once, in chunks of like length.

    Examples of one category and of like length lie together, as batches ask for them: their gathers stay in the cache.

    Args:
      config: the run's config.
      searched: the search.
      examples: the examples.
    """
    width = num_token_features(config.model)
    room = int(examples.length.sum(dtype=np.int64)) + 1
    item, features = np.zeros(room, np.int32), np.zeros((room, width), np.float32)
    count, filled = np.zeros(len(examples), np.int64), 1
    order = np.lexsort((examples.category, examples.length))

    def search(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        tokens = searched.read(rows)
        real = tokens.item > 0
        at = tf.where(real)
        return tf.math.count_nonzero(real, 1), tf.gather_nd(tokens.item, at), tf.gather_nd(tokens.features, at)

    compiled = graph_function(search, input_signature=[tf.TensorSpec([None], tf.int64)])
    for low in range(0, len(order), _CHUNK_EXAMPLES):
        rows = order[low : low + _CHUNK_EXAMPLES]
        num_tokens, token_item, token_features = compiled(tf.constant(rows))
        stop = filled + len(token_item)
        count[rows], item[filled:stop], features[filled:stop] = num_tokens, token_item, token_features
        filled = stop
    start = np.zeros(len(examples), np.int64)
    start[order] = 1 + np.cumsum(count[order]) - count[order]
    return CachedTokens(start, count, item[:filled], features[:filled])
