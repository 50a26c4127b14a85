"""Snapshots for the learned interest score: whole histories before a time, categories of the items taken after it."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.data.batches.examples import Examples, previous_of_item
from longretriever_tf.data.batches.pipeline import chosen_batches, numbered_batches
from longretriever_tf.data.batches.prepared_data import ExampleHistoryEmbeddings, Prepared
from longretriever_tf.data.corpus import flat_ranges
from longretriever_tf.data.recipe.interest_features import interest_features
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.behavior_index import CategoryOrder
from longretriever_tf.data.search.history_limit import visible_histories
from longretriever_tf.data.search.history_summary import category_bag, summarise_history

_MAX_PAIRS = 60_000
"""A batch holds about this many (history, category) pairs; bounds memory where categories are many."""


class InterestBatch(NamedTuple):
    """B histories at their times.

    Attributes:
      features: [B, C, F] float32.
      bag: [B, C] float32.
      history_embedding: what the histories say across categories, [B, D] float32; [B, 0] unless the model reads it.
      counts: distinct items taken within the horizon, by task (all, novel), [B, C, 2] float32.
      weight: [B] float32.
    """

    features: tf.Tensor
    bag: tf.Tensor
    history_embedding: tf.Tensor
    counts: tf.Tensor
    weight: tf.Tensor


class InterestSource:
    """Batches of snapshots; batch i of an epoch is a function of (seed, epoch, i) alone.

    Args:
      prepared: the training window.
      examples: snapshots.
      history_embeddings: of the snapshots.
      seed: of the order.
      history_events: only the latest so many events of each history are there; 0: all. See `data.search.history_limit`.
    """

    def __init__(
        self,
        prepared: Prepared,
        examples: Examples,
        history_embeddings: ExampleHistoryEmbeddings,
        seed: int,
        history_events: int = 0,
    ) -> None:
        corpus, log, order, stats = prepared.corpus, prepared.log, prepared.order, prepared.stats
        self._seed, self._num_categories = seed, corpus.num_categories
        self.batch_size = int(np.clip(_MAX_PAIRS // corpus.num_categories, 8, 256))
        by_row = np.lexsort((examples.time, examples.user))
        user, time = examples.user[by_row].astype(np.int64), examples.time[by_row]
        is_new = (np.diff(user, prepend=-1) != 0) | (np.diff(time, prepend=-1) != 0)
        first = np.flatnonzero(is_new)
        user, time = user[first], time[first]
        self.num_rows = len(first)
        every, novel = _target_counts(order, examples)
        with tf.device("/CPU:0"):
            self._start, self._stop = map(tf.constant, visible_histories(log, user, time, history_events))
            self._log = tf.constant(log.item), tf.constant(log.timestamp), tf.constant(log.weight)
            self._item_category = tf.constant(corpus.item_category)
            self._category_stats = tf.constant(stats.category)
            self._category_size = tf.constant(np.diff(corpus.category_offset), tf.float32)
            self._time, self._stats_row = tf.constant(time), tf.constant(stats.row_at(time))
            self._weight = tf.constant(examples.weight[by_row][first])
            self._history_embedding, self._history_embedding_row = (
                tf.constant(history_embeddings.vector),
                tf.constant(history_embeddings.row[by_row][first]),
            )
            self._targets = tf.constant(np.append(first, len(by_row)))  # row r owns targets _targets[r]:_targets[r + 1]
            self._category = tf.constant(examples.category[by_row])
            self._counts = tf.constant(np.stack([every, novel], 1)[by_row].astype(np.float32))

    def num_batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_rows // self.batch_size)

    def make_dataset(self, epoch: int, first: int = 0, numbers: np.ndarray | None = None) -> tf.data.Dataset:
        """Batches `first`, `first + 1`, ... of the epoch, or those of `numbers`."""
        rows = np.random.default_rng([self._seed, 7, epoch]).permutation(self.num_rows)
        with tf.device("/CPU:0"):
            rows = tf.constant(rows)
        size = self.batch_size

        def make(i: tf.Tensor) -> InterestBatch:
            return self.build(rows[i * size : (i + 1) * size])

        return numbered_batches(make, first, self.num_batches()) if numbers is None else chosen_batches(make, numbers)

    def build(self, rows: tf.Tensor) -> InterestBatch:
        """One batch of snapshot rows, [B] int64."""
        start, stop, time = (tf.gather(column, rows) for column in (self._start, self._stop, self._time))
        history = hard_search.slice_events(*self._log, start, stop, time)
        summary = summarise_history(history, self._item_category, tf.size(time), self._num_categories)
        stats = tf.gather(self._category_stats, tf.gather(self._stats_row, rows))
        features = interest_features(summary, stats, self._category_size)
        targets = tf.ragged.range(tf.gather(self._targets, rows), tf.gather(self._targets, rows + 1))
        at = tf.stack([targets.value_rowids(), tf.cast(tf.gather(self._category, targets.values), tf.int64)], 1)
        shape = tf.stack([tf.size(rows), self._num_categories, 2])
        counts = tf.scatter_nd(at, tf.gather(self._counts, targets.values), tf.cast(shape, tf.int64))
        history_embedding = tf.gather(self._history_embedding, tf.gather(self._history_embedding_row, rows))
        return InterestBatch(features, category_bag(summary), history_embedding, counts, tf.gather(self._weight, rows))


def _target_counts(order: CategoryOrder, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Distinct target items of each example, and how many of them the user had never taken; [X] each."""
    last = examples.target_stop - 1
    before = np.where(
        examples.stop > order.segment_offset[order.find_segments(examples.user, examples.category)],
        order.num_distinct[np.maximum(examples.stop - 1, 0)],
        0,
    )
    novel = order.num_distinct[last] - before
    segment = np.repeat(np.arange(len(order.segment_user)), np.diff(order.segment_offset))
    previous = previous_of_item(segment, order.item)
    owner, position = flat_ranges(examples.target_start, examples.target_stop)
    every = np.bincount(owner, previous[position] < examples.target_start[owner], len(examples))
    return every, novel
