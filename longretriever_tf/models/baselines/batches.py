"""Batches of (user, time) rows of all categories, searched in the graph: what the neural baselines train on.

As in `data.batches.in_context`: numpy orders light keys by a hash of (seed, epoch, key), a tf.data map looks a batch
up, and batch i of an epoch is a pure function of (seed, epoch, i).
"""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.order import shuffled_rows
from longretriever_tf.data.batches.pipeline import BatchGraph
from longretriever_tf.data.corpus import Corpus, EncodedLog
from longretriever_tf.data.recipe.item_stats import ItemStats, rows_at
from longretriever_tf.data.search import hard_search
from longretriever_tf.models.baselines.examples import UserExamples, sampling_probability


class UserBatch(NamedTuple):
    """R users at their times, with t targets in all.

    Attributes:
      token_item: the latest events, newest first, [R, L] int32, 0 where padded.
      token_local: row of each token's item in `item`, [R, L] int32.
      features: [R, L, 2] float32.
      time: [R] int64 seconds.
      stats_rows: the S times of the item statistics that are asked for, as rows of `ItemStats.item`, [S] int32.
      stats_row: which of these is as of `time`, [R] int32.
      item: items whose vectors the step needs, [n] int32: all of them (loss=full), or those of tokens, targets and
        uniform negatives.
      first_time: when anyone first took the item, [n] int64; [0] unless loss=full.
      target_row: row of each target, [t] int32.
      target_local: its row in `item`, [t] int32.
      target_weight: [t] float32; 0 where no one had taken the item before the time: no index would hold it.
      target_probability: chance that a negative of the batch is this item, for logQ, [t] float32.
      negative_local: uniform negatives, [m] int32.
      negative_probability: [m] float32.
    """

    token_item: tf.Tensor
    token_local: tf.Tensor
    features: tf.Tensor
    time: tf.Tensor
    stats_rows: tf.Tensor
    stats_row: tf.Tensor
    item: tf.Tensor
    first_time: tf.Tensor
    target_row: tf.Tensor
    target_local: tf.Tensor
    target_weight: tf.Tensor
    target_probability: tf.Tensor
    negative_local: tf.Tensor
    negative_probability: tf.Tensor


class RecentReader:
    """The user's latest events before a time as tokens, in the graph: training and scoring share it.

    Args:
      log: the encoded log.
      recent_length: L.
    """

    def __init__(self, log: EncodedLog, recent_length: int) -> None:
        self._length = recent_length
        with tf.device("/CPU:0"):
            self.columns = (tf.constant(log.item), tf.constant(log.timestamp), tf.constant(log.weight))

    def read(self, start: tf.Tensor, stop: tf.Tensor, time: tf.Tensor) -> hard_search.Tokens:
        """Tokens of events `start:stop` of the log, all strictly before `time`; [R] int64 each."""
        events = hard_search.slice_events(*self.columns, start, stop, time)
        return hard_search.event_tokens(events, tf.shape(time)[0], self._length)


class UserBatchSource:
    """Columns of the log as tensors, and the graph that turns example rows into a `UserBatch`.

    Args:
      config: the run's config.
      corpus: the corpus.
      log: the encoded log before the cut.
      examples: the examples.
      stats: item statistics of the window before the cut.

    Attributes:
      num_rows: examples in an epoch.
      rows_per_batch: rows of a batch.
    """

    def __init__(
        self, config: Config, corpus: Corpus, log: EncodedLog, examples: UserExamples, stats: ItemStats
    ) -> None:
        self._config, self._num_items, self.num_rows = config, corpus.num_items, len(examples)
        self._max_targets, self._id = config.baseline.max_targets, examples.id
        self._reader = RecentReader(log, config.baseline.recent_length)
        probability = sampling_probability(log, examples, self._max_targets, corpus.num_items)
        names = ("start", "stop", "target_stop", "time", "num_targets", "weight")
        with tf.device("/CPU:0"):
            self._example = {name: tf.constant(getattr(examples, name)) for name in names}
            self._is_target = None if log.is_target is None else tf.constant(log.is_target)
            self._probability, self._first_time = tf.constant(probability), tf.constant(stats.first_time)
            self._example["stats_row"] = tf.constant(rows_at(stats.time, examples.time))
        mean_targets = np.minimum(examples.num_targets, self._max_targets or np.inf).mean()
        self.rows_per_batch = rows_per_batch(config, float(mean_targets), corpus.num_items)
        self._graph = BatchGraph(self._make)

    def num_batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_rows // self.rows_per_batch)

    def make_dataset(self, epoch: int, first: int = 0, numbers: np.ndarray | None = None) -> tf.data.Dataset:
        """Batches `first`, `first + 1`, ... of the epoch, or those of `numbers`, in order, prefetched."""
        rows = shuffled_rows(self._id, self._config.train.seed, 11, epoch)
        position = np.array(epoch * self.num_batches(), np.int64)
        return self._graph.make_dataset([rows, position], first, self.num_batches(), numbers)

    @property
    def element_spec(self) -> Any:
        """Of a batch; None before the first dataset."""
        return self._graph.element_spec

    def _make(self, i: tf.Tensor, rows: tf.Tensor, position: tf.Tensor) -> UserBatch:
        size = self.rows_per_batch
        return self.build(rows[i * size : (i + 1) * size], position + i)

    def build(self, rows: tf.Tensor, position: tf.Tensor) -> UserBatch:
        """One batch.

        Args:
          rows: of the examples, [R] int64.
          position: number of the batch in the whole training, scalar int64: seeds its draws.
        """
        at = {name: tf.gather(column, rows) for name, column in self._example.items()}
        tokens = self._reader.read(at["start"], at["stop"], at["time"])
        target_row, target = self._targets(at, position)
        negative = self._uniform_negatives(position)
        item, (token_local, target_local, negative_local) = self._items(tokens.item, target, negative)
        known = tf.gather(self._first_time, target) < tf.gather(at["time"], target_row)
        num_drawn = tf.math.bincount(target_row, minlength=tf.size(rows), maxlength=tf.size(rows))
        # The targets drawn stand for all of them.
        share = tf.cast(at["num_targets"], tf.float32) / tf.maximum(tf.cast(num_drawn, tf.float32), 1.0)
        is_full = self._config.train.loss == "full"
        stats_rows, stats_row = tf.unique(at["stats_row"])  # a batch has few times, and a bias of every item at each
        return UserBatch(
            token_item=tokens.item,
            token_local=token_local,
            features=tokens.features,
            time=at["time"],
            stats_rows=stats_rows,
            stats_row=stats_row,
            item=item,
            first_time=tf.gather(self._first_time, item if is_full else item[:0]),
            target_row=target_row,
            target_local=target_local,
            target_weight=tf.gather(at["weight"] * share, target_row) * tf.cast(known, tf.float32),
            target_probability=self._chance(target, target),
            negative_local=negative_local,
            negative_probability=self._chance(negative, target),
        )

    def _targets(self, at: dict[str, tf.Tensor], position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Distinct target items of each example: rows [t] int32 and items [t] int32."""
        events = tf.ragged.range(at["stop"], at["target_stop"])
        if self._is_target is not None:
            events = tf.ragged.boolean_mask(events, events.with_values(tf.gather(self._is_target, events.values)))
        item = tf.cast(tf.gather(self._reader.columns[0], events.values), tf.int64)
        key, _ = tf.unique(events.value_rowids() * self._num_items + item)
        row, item = tf.cast(key // self._num_items, tf.int32), tf.cast(key % self._num_items, tf.int32)
        if not self._max_targets:
            return row, item
        noise = tf.random.stateless_uniform([tf.size(row)], self._draw(0, position))
        chosen = tf.argsort(noise)
        chosen = tf.gather(chosen, tf.argsort(tf.gather(row, chosen), stable=True))  # by row, shuffled within
        row, item = tf.gather(row, chosen), tf.gather(item, chosen)
        first = tf.math.cumsum(tf.math.bincount(row, minlength=tf.size(at["time"])), exclusive=True)
        keep = tf.range(tf.size(row)) - tf.gather(first, row) < self._max_targets
        return tf.boolean_mask(row, keep), tf.boolean_mask(item, keep)

    def _uniform_negatives(self, position: tf.Tensor) -> tf.Tensor:
        shape = [self._config.baseline.uniform_negatives]
        return tf.random.stateless_uniform(
            shape, self._draw(1, position), schema.FIRST_KNOWN, self._num_items, tf.int32
        )

    def _draw(self, site: int, position: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.constant(self._config.train.seed * 1009 + site, tf.int64), position])

    def _items(
        self, token_item: tf.Tensor, target: tf.Tensor, negative: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The items of the step, and where tokens, targets and negatives are among them."""
        if self._config.train.loss == "full":
            return tf.range(self._num_items), [token_item, target, negative]
        sizes = [tf.size(token_item), tf.size(target), tf.size(negative)]
        item, local = tf.unique(tf.concat([tf.reshape(token_item, [-1]), target, negative], 0))
        tokens, targets, negatives = tf.split(local, sizes, num=3)
        return item, [tf.reshape(tokens, tf.shape(token_item)), targets, negatives]

    def _chance(self, item: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Chance that one of the batch's candidates (targets, then uniform draws) is `item`, [n] float32."""
        num_uniform = self._config.baseline.uniform_negatives
        num_known = self._num_items - schema.FIRST_KNOWN
        uniform = num_uniform / tf.cast(tf.maximum(tf.size(target) + num_uniform, 1), tf.float32)
        return (1.0 - uniform) * tf.gather(self._probability, item) + uniform / num_known


def rows_per_batch(config: Config, mean_targets: float, num_items: int) -> int:
    """Rows of a batch: at most `batch_size`, with about `max_logits` scores in the loss.

    Args:
      config: the run's config.
      mean_targets: of a row.
      num_items: V.
    """
    train, baseline = config.train, config.baseline
    if train.loss == "full":
        queries = {"two_tower": 1.0, "comirec": baseline.num_capsules, "mind": mean_targets}[config.model.model]
        rows = train.max_logits / (queries * num_items)
    else:
        # t (t + m) = max_logits
        half = baseline.uniform_negatives / 2
        rows = (math.sqrt(half**2 + train.max_logits) - half) / mean_targets
    return int(np.clip(rows, 1, train.batch_size))
