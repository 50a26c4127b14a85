"""Snapshots for the learned interest score: whole histories before a time, categories of the items taken after it."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.batches.interest_rows import interest_rows
from longretriever_tf.data.batches.order import shuffled_rows
from longretriever_tf.data.batches.pipeline import BatchGraph
from longretriever_tf.data.batches.prepared_data import ExampleHistoryEmbeddings, Prepared
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.interest_features import interest_features
from longretriever_tf.data.recipe.item_stats import ItemStats
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.history_summary import category_bag, summarise_history

_MAX_PAIRS = 60_000
"""A batch holds about this many (history, category) pairs; bounds memory where categories are many."""

_LEAST_BATCHES = 64
"""Batches of an epoch, if need be by smaller ones: a small log would otherwise end after some steps, untrained."""


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
        self._seed, self._tables = seed, InterestTables(corpus, stats)
        rows = interest_rows(log, order, examples, history_events)
        self.num_rows, self._id = len(rows.id), rows.id
        self.batch_size = interest_batch_size(corpus.num_categories, self.num_rows)
        with tf.device("/CPU:0"):
            self._start, self._stop = tf.constant(rows.start), tf.constant(rows.stop)
            self._log = tf.constant(log.item), tf.constant(log.timestamp), tf.constant(log.weight)
            self._time, self._stats_row = tf.constant(rows.time), tf.constant(stats.row_at(rows.time))
            self._weight = tf.constant(rows.weight)
            self._history_embedding, self._history_embedding_row = (
                tf.constant(history_embeddings.vector),
                tf.constant(history_embeddings.row[rows.example]),
            )
            self._targets = tf.constant(rows.target)  # row r owns targets _targets[r]:_targets[r + 1]
            self._category = tf.constant(rows.category)
            self._counts = tf.constant(rows.counts)
        self._graph = BatchGraph(self._make)

    def num_batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_rows // self.batch_size)

    def make_dataset(self, epoch: int, first: int = 0, numbers: np.ndarray | None = None) -> tf.data.Dataset:
        """Batches `first`, `first + 1`, ... of the epoch, or those of `numbers`."""
        rows = shuffled_rows(self._id, self._seed, 7, epoch)
        return self._graph.make_dataset([rows], first, self.num_batches(), numbers)

    @property
    def element_spec(self) -> Any:
        """Of a batch; None before the first dataset."""
        return self._graph.element_spec

    def _make(self, i: tf.Tensor, rows: tf.Tensor) -> InterestBatch:
        return self.build(rows[i * self.batch_size : (i + 1) * self.batch_size])

    def build(self, rows: tf.Tensor) -> InterestBatch:
        """One batch of snapshot rows, [B] int64."""
        start, stop, time = (tf.gather(column, rows) for column in (self._start, self._stop, self._time))
        targets = tf.ragged.range(tf.gather(self._targets, rows), tf.gather(self._targets, rows + 1))
        history_embedding = tf.gather(self._history_embedding, tf.gather(self._history_embedding_row, rows))
        return self._tables.make(
            hard_search.slice_events(*self._log, start, stop, time),
            tf.gather(self._stats_row, rows),
            history_embedding,
            (
                targets.value_rowids(),
                tf.gather(self._category, targets.values),
                tf.gather(self._counts, targets.values),
            ),
            tf.gather(self._weight, rows),
        )


def interest_batch_size(num_categories: int, num_rows: int) -> int:
    """Histories in a batch.

    Measured on the 943 users of MovieLens 100k, who make 928 snapshots (validation, seed 1): 64 batches of an epoch
    instead of 4 take recall@100 from 0.495 to 0.526, on novel items from 0.533 to 0.557.

    >>> [interest_batch_size(19, 928), interest_batch_size(302, 60_000)]
    [14, 198]
    """
    largest = int(np.clip(_MAX_PAIRS // num_categories, 8, 256))
    return int(np.clip(num_rows // _LEAST_BATCHES, 8, largest))


class InterestTables:
    """What the batches of snapshots read of the whole log, and the graph that makes one.

    Args:
      corpus: the corpus.
      stats: item statistics on the grid of times.
    """

    def __init__(self, corpus: Corpus, stats: ItemStats) -> None:
        self._num_categories = corpus.num_categories
        with tf.device("/CPU:0"):
            self._item_category = tf.constant(corpus.item_category)
            self._category_stats = tf.constant(stats.category)
            self._category_size = tf.constant(np.diff(corpus.category_offset), tf.float32)

    def make(
        self,
        history: hard_search.Events,
        stats_row: tf.Tensor,
        history_embedding: tf.Tensor,
        targets: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        weight: tf.Tensor,
    ) -> InterestBatch:
        """One batch.

        Args:
          history: whole histories of the B snapshots.
          stats_row: row of the statistics as of each, [B] int32.
          history_embedding: [B, D] float32.
          targets: row of each [m] int64, category [m] int32, counts [m, 2] float32.
          weight: [B] float32.
        """
        summary = summarise_history(history, self._item_category, tf.size(weight), self._num_categories)
        stats = tf.gather(self._category_stats, stats_row)
        features = interest_features(summary, stats, self._category_size)
        row, category, taken = targets
        shape = tf.stack([tf.size(weight), self._num_categories, 2])
        counts = tf.scatter_nd(tf.stack([row, tf.cast(category, tf.int64)], 1), taken, tf.cast(shape, tf.int64))
        return InterestBatch(features, category_bag(summary), history_embedding, counts, weight)
