"""In-context batches: light keys, regrouped by category each epoch, read in the graph batch by batch.

The order of work: (1) numpy orders the epoch's keys by a hash of (seed, epoch, key); (2) keys are regrouped by category
and bucketed by history length, then cut into single-category batches, whose order is shuffled too; (3) a tf.data map
looks up each batch's keys, gathers the histories that were searched once (or searches them, where --materialise_gb is
too small to keep them) and pads to the longest of that batch. Nothing per element runs in Python, and batch i of an
epoch is a pure function of (seed, epoch, i): resuming needs no iterator state.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import Examples, batch_folds, distinct_targets
from longretriever_tf.data.batches.order import shuffled_rows
from longretriever_tf.data.batches.pipeline import BatchGraph
from longretriever_tf.data.batches.prepared_data import Prepared, example_history_embeddings
from longretriever_tf.data.batches.token_cache import Histories, SearchedHistories, keep_histories, kept_bytes
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.item_stats import ItemStats
from longretriever_tf.data.recipe.request_features import with_event_columns, with_request_columns
from longretriever_tf.data.search.hard_search import Tokens, flat_ranges

_BUCKETS = (0, 1, 2, 4, 8, 16, 32)
DEVICE_BUCKETS = (1, 4, 16)
"""Bounds of history length with --device_input: few, since each padded length is compiled once, which takes long."""


class RecipeColumns(NamedTuple):
    """What the recipe reads beyond the paper; see `models.logit_terms` for what the loss makes of it.

    Attributes:
      history_embedding: what the whole history says across categories, [G R, D] float32; [G R, 0] unless the model
        reads it.
      stats: statistics of the items at the batch's times, [S, G n, 3] float32; S = 0 unless `scores_full_category`.
      stats_row: row of each example among the S G (time, group) pairs of `stats`, [G R] int32.
      is_available: whether anyone had taken the item before the example's time, [G R, n] bool; [G R, 0] unless
        `scores_full_category`.
      fold: through which of the cross-fitted SVDs the item tower reads each group's items, [G] int32; 0 without
        --cross_fit_items.
    """

    history_embedding: tf.Tensor
    stats: tf.Tensor
    stats_row: tf.Tensor
    is_available: tf.Tensor
    fold: tf.Tensor


class Batch(NamedTuple):
    """G groups of R examples, each group of one category (of several where batches are mixed), one after the other.

    Ordinary batches are one group; `on_device` lays several side by side. "Flat" items are `item` as [G n].

    Attributes:
      category: [G R] int32.
      profile: columns of the profile, of the event and of the request's time, [G R, P + F + Q] int32.
      token_item: S_u(c, t) of each example, newest first, [G R, L] int32, 0 where padded.
      token_local: row of each token's item among the flat items, [G R, L] int32.
      features: of the tokens, [G R, L, F] float32.
      item: items whose vectors the step needs, [G, n] int32: all that are scored, or those of tokens and targets.
      scores_full_category: whether `item` is the whole category (of a mixed batch: corpus), scalar bool.
      target_row: example of each target, [t] int32; each group has t / G of them.
      target_local: row of the target among the flat items, [t] int32.
      target_weight: [t] float32.
      target_probability: Q(item | category), the item's share of the targets, for logQ, [t] float32.
      recipe: what the paper does not have.
    """

    category: tf.Tensor
    profile: tf.Tensor
    token_item: tf.Tensor
    token_local: tf.Tensor
    features: tf.Tensor
    item: tf.Tensor
    scores_full_category: tf.Tensor
    target_row: tf.Tensor
    target_local: tf.Tensor
    target_weight: tf.Tensor
    target_probability: tf.Tensor
    recipe: RecipeColumns


class EpochPlan(NamedTuple):
    """The epoch's batches: batch i holds examples `rows[start[i]:stop[i]]`."""

    rows: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def plan_epoch(
    config: Config, examples: Examples, category_offset: np.ndarray, epoch: int, fold: np.ndarray | None = None
) -> EpochPlan:
    """Regroups by category and length bucket, orders each group by a hash of (seed, epoch, example), cuts into batches.

    Each example is used exactly once. `fold` is of each, from `batch_folds`; None: 0 of all.
    """
    if fold is None:
        fold = np.zeros(len(examples), np.int64)
    group = example_groups(config, examples.length, examples.category, fold)
    shuffled = shuffled_rows(examples.id, config.train.seed, epoch)
    rows = shuffled[np.argsort(group[shuffled], kind="stable")]
    present, size = np.unique(group, return_counts=True)
    start, stop = cut_batches(config, present, size, np.diff(category_offset), epoch)
    return EpochPlan(rows, start, stop)


def category_of_groups(config: Config, group: np.ndarray) -> np.ndarray:
    """Category of each of `example_groups`; 0 where batches are mixed."""
    return group // (_num_folds(config) * _num_buckets(config))


def _num_folds(config: Config) -> int:
    return config.train.history_folds if config.train.cross_fit_items else 1


def _num_buckets(config: Config) -> int:
    return len(_buckets(config)) + 1


def _buckets(config: Config) -> tuple[int, ...]:
    return DEVICE_BUCKETS if config.train.device_input else _BUCKETS


def example_groups(config: Config, length: np.ndarray, category: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """The group of each example, [X] integers: by category, then by fold, then by the bucket of the length.

    Mixed batches have one category in all, number 0. `fold` is from `batch_folds`.
    """
    bucket = np.searchsorted(_buckets(config), length)
    owner = fold + category.astype(np.int64) * (_num_folds(config) if config.train.in_context else 0)
    group = owner * _num_buckets(config) + bucket
    return group.astype(np.uint16) if group.max(initial=0) < 2**16 else group  # NumPy sorts these by their digits


def cut_batches(
    config: Config, group: np.ndarray, size: np.ndarray, num_items: np.ndarray, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the batches of an epoch start and stop, in the order in which they come, [B] int64 each.

    It follows from the sizes of the groups alone: no example needs to be there.

    Small categories: a category's remainder shorter than a quarter of a batch joins its next longer bucket; the last
    remainder is a short batch of its own. Short batches lose no negatives under the full softmax; under `in_batch`,
    categories of at most `small_category` items are scored whole.

    Args:
      config: the run's config.
      group: those that have examples, ascending, [g] integers.
      size: examples of each, [g].
      num_items: items of each category, [C].
      epoch: its number.
    """
    train, edges = config.train, np.concatenate([[0], np.cumsum(size)]).tolist()
    bounds: list[tuple[int, int]] = []
    pending, pending_owner, capacity = 0, -1, train.batch_size
    for owner, start, stop in zip((group // _num_buckets(config)).tolist(), edges[:-1], edges[1:], strict=True):
        if owner != pending_owner:
            if pending_owner >= 0 and pending < start:
                bounds.append((pending, start))
            pending, pending_owner = start, owner
            capacity = train.batch_size
            if train.loss == "full":
                competing = num_items[owner // _num_folds(config)] if train.in_context else num_items.sum()
                capacity = max(1, min(capacity, train.max_logits // int(competing)))
        while stop - pending >= max(1, capacity // 4):
            bounds.append((pending, min(stop, pending + capacity)))
            pending = bounds[-1][1]
    if pending < edges[-1]:
        bounds.append((pending, edges[-1]))
    table = np.array(bounds, np.int64)[np.random.default_rng([train.seed, epoch]).permutation(len(bounds))]
    return table[:, 0], table[:, 1]


class BatchSource:
    """Columns of the log as tensors, and the graph that turns example rows into a `Batch`.

    Args:
      config: the run's config; histories are searched once and kept where `train.materialise_gb` holds them.
      prepared: the training window.
      examples: the examples.

    Attributes:
      examples: as given.
      fold: of each example, from `batch_folds`, [X] int64.
      targets: of the examples.
      histories: tokens of the examples.
      history_embeddings: of the examples.
      num_rows: examples in an epoch.
    """

    def __init__(self, config: Config, prepared: Prepared, examples: Examples) -> None:
        corpus, log = prepared.corpus, prepared.log
        self._config, self.examples, self._offset = config, examples, corpus.category_offset
        self.fold = batch_folds(config, prepared.user_fold)[examples.user]
        self.num_rows, self._num_batches = len(examples), len(self.plan(0).start)
        self.targets = targets = distinct_targets(examples, prepared.order)
        self.history_embeddings = example_history_embeddings(config, prepared, examples)
        self.histories: Histories = SearchedHistories(config, prepared, examples)
        if kept_bytes(config, examples) <= config.train.materialise_gb * 1e9:
            self.histories = keep_histories(config, self.histories, examples)
        counts = np.bincount(targets.item, minlength=corpus.num_items)
        self._tables = BatchTables(config, corpus, prepared.stats, counts)
        with tf.device("/CPU:0"):
            # One row per example: gathering a row of seven costs what gathering one number does.
            columns = (
                *(examples.category, examples.user, examples.stats_row, self.history_embeddings.row, self.fold),
                *(targets.offset[:-1], targets.offset[1:]),
            )
            self._example = tf.constant(np.stack([column.astype(np.int64) for column in columns], 1))
            self._time, self._weight = tf.constant(examples.time), tf.constant(examples.weight)
            self._target = tf.constant(targets.item)
            self._profile, self._event_feature = tf.constant(log.profile), tf.constant(examples.event_feature)
            self._history_embedding = tf.constant(self.history_embeddings.vector)
        self._graph = BatchGraph(self._make)

    def plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch."""
        return plan_epoch(self._config, self.examples, self._offset, epoch, self.fold)

    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self._num_batches

    def batch_categories(self, epoch: int) -> np.ndarray:
        """Category of each batch of the epoch, [n] int64; how many a category has is the same in every epoch."""
        plan = self.plan(epoch)
        return self.examples.category[plan.rows[plan.start]].astype(np.int64)

    def make_dataset(self, epoch: int, first: int = 0, numbers: np.ndarray | None = None) -> tf.data.Dataset:
        """Batches `first`, `first + 1`, ... of the epoch, or those of `numbers`, in order, prefetched."""
        plan = self.plan(epoch)
        return self._graph.make_dataset([plan.rows, plan.start, plan.stop], first, len(plan.start), numbers)

    @property
    def element_spec(self) -> Any:
        """Of a batch; None before the first dataset."""
        return self._graph.element_spec

    def _make(self, i: tf.Tensor, rows: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> Batch:
        return self.build(rows[start[i] : stop[i]])

    def build(self, rows: tf.Tensor) -> Batch:
        """Reads and pads one batch of example rows ([R] int64), in the graph."""
        columns = tf.unstack(tf.gather(self._example, rows), 7, 1)
        category, user, stats_at, history_embedding_row, fold, target_start, target_stop = columns
        target_row, at = flat_ranges(target_start, target_stop)
        return self._tables.make(
            BatchRows(
                category=category,
                profile=with_event_columns(tf.gather(self._profile, user), self._event_feature, rows),
                stats_row=stats_at,
                time=tf.gather(self._time, rows),
                weight=tf.gather(self._weight, rows),
                history_embedding=tf.gather(self._history_embedding, history_embedding_row),
                fold=fold,
                target_row=target_row,
                target=tf.gather(self._target, at),
            ),
            self.histories.read(rows),
        )


class BatchRows(NamedTuple):
    """What a batch of R examples reads of the examples themselves, wherever they lie.

    Attributes:
      category: [R] int64.
      profile: columns of the profile and of the event, [R, P + F] int32.
      stats_row: row of the item statistics as of each, [R] int64.
      time: seconds UTC, [R] int64.
      weight: of each target, [R] float32.
      history_embedding: [R, D] float32.
      fold: as of `batch_folds`, the same of all, [R] int64.
      target_row: example of each distinct target, [t] int32.
      target: item, [t] int32.
    """

    category: tf.Tensor
    profile: tf.Tensor
    stats_row: tf.Tensor
    time: tf.Tensor
    weight: tf.Tensor
    history_embedding: tf.Tensor
    fold: tf.Tensor
    target_row: tf.Tensor
    target: tf.Tensor


class BatchTables:
    """What every batch reads of the whole log, and the graph that makes a `Batch` of its rows and tokens.

    Args:
      config: the run's config.
      corpus: the corpus.
      stats: item statistics on the grid of times.
      target_count: how many examples each item is a target of, [V].
    """

    def __init__(self, config: Config, corpus: Corpus, stats: ItemStats, target_count: np.ndarray) -> None:
        self._config = config
        with tf.device("/CPU:0"):
            self._stats, self._first_time = tf.constant(stats.item), tf.constant(stats.first_time)
            self._category_offset = tf.constant(corpus.category_offset)
            self._probability = tf.constant(sampling_probability(config, corpus, target_count))

    def make(self, rows: BatchRows, tokens: Tokens) -> Batch:
        """One batch, in the graph."""
        category, target = rows.category, rows.target
        low, high = self._items_of(category[0])
        scores_full_category = self._has_few_items(high - low)
        item, token_local, target_local = tf.cond(
            scores_full_category,
            lambda: _full_category(low, high, tokens.item, target),
            lambda: _distinct(tokens.item, target),
        )
        # The two branches agree in rank, which `cond` forgets and the optimizer of the step's graph asks for.
        token_local = tf.ensure_shape(token_local, [None, None])
        item, target_local = tf.ensure_shape(item, [None]), tf.ensure_shape(target_local, [None])
        stats_rows, stats_row = tf.unique(rows.stats_row)
        keep_stats = tf.where(scores_full_category, tf.size(stats_rows), 0)
        stats = self._stats_of(stats_rows[:keep_stats], low, high)
        first_time = self._first_time[low : tf.where(scores_full_category, high, low)]
        # Snapshots share few times: comparing each time once and copying rows is far less than R n comparisons.
        as_of_times, as_of = tf.unique(rows.time)
        return Batch(
            category=tf.cast(category, tf.int32),
            profile=with_request_columns(self._config.model, rows.profile, rows.time),
            token_item=tokens.item,
            token_local=token_local,
            features=tokens.features,
            item=item[None],
            scores_full_category=scores_full_category,
            target_row=rows.target_row,
            target_local=target_local,
            target_weight=tf.gather(rows.weight, rows.target_row),
            target_probability=tf.gather(self._probability, target),
            recipe=RecipeColumns(
                history_embedding=rows.history_embedding,
                stats=stats,
                stats_row=stats_row,
                is_available=tf.gather(first_time[None] < as_of_times[:, None], as_of),
                fold=tf.cast(rows.fold[:1], tf.int32),
            ),
        )

    def _items_of(self, category: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """First item of the category and the first beyond it; of a mixed batch, of all categories."""
        if self._config.train.in_context:
            return self._category_offset[category], self._category_offset[category + 1]
        return self._category_offset[schema.FIRST_KNOWN], self._category_offset[-1]

    def _stats_of(self, rows: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        """Rows of the statistics of items `low:high`, cut in the order that copies less."""
        if self._config.train.in_context:
            return tf.gather(self._stats[:, low:high], rows)
        return tf.gather(self._stats, rows)[:, low:high]

    def _has_few_items(self, size: tf.Tensor) -> tf.Tensor:
        train = self._config.train
        if train.loss == "full":
            return tf.constant(True)  # of a mixed batch: the whole corpus
        return tf.logical_and(train.in_context, size <= train.small_category)


def _full_category(low: tf.Tensor, high: tf.Tensor, token_item: tf.Tensor, target: tf.Tensor) -> tuple:
    """The whole category, and where tokens and targets are among it."""
    low, high = tf.cast(low, tf.int32), tf.cast(high, tf.int32)
    return tf.range(low, high), tf.maximum(token_item - low, 0), target - low


def _distinct(token_item: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The distinct items of tokens and targets, and where each is among them."""
    item, local = tf.unique(tf.concat([tf.reshape(token_item, [-1]), target], 0))
    num_tokens = tf.size(token_item)
    return item, tf.reshape(local[:num_tokens], tf.shape(token_item)), local[num_tokens:]


def sampling_probability(config: Config, corpus: Corpus, target_count: np.ndarray) -> np.ndarray:
    """Q(item | category), or Q(item) for mixed batches, [V] float32, above 0.

    A negative of the in-batch loss is another example's target, so Q counts as batches do: each distinct target of each
    example once an epoch, whatever its weight in the loss. Events are others: a snapshot counts a day's purchases in
    several horizons, and an item bought twice within one once.

    Args:
      config: the run's config.
      corpus: the corpus.
      target_count: how many examples each item is a target of, [V].
    """
    counts = target_count.astype(np.float64)
    if config.train.in_context:
        totals = np.bincount(corpus.item_category, counts, corpus.num_categories)[corpus.item_category]
    else:
        totals = np.full(corpus.num_items, counts.sum())
    return (np.maximum(counts, 0.5) / np.maximum(totals, 1)).astype(np.float32)
