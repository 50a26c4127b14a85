"""Batches for a device that does not wait: all examples lie on it, shapes are few and fixed, many steps make one call.

The order of work: (1) `plan_epoch` cuts single-category batches; (2) batches of one shape (padded history length,
padded category) are laid side by side, --batches_per_step to a step, --steps_per_call steps to a block, and blocks are
shuffled by (seed, epoch); (3) the host sends a block's bounds, and the device gathers everything else. A block is a
pure function of (seed, epoch, its number), as batches are.
"""

import concurrent.futures
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.graph import as_it_stands
from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import Examples, Targets
from longretriever_tf.data.batches.in_context import DEVICE_BUCKETS, Batch, BatchSource, EpochPlan, RecipeColumns
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.data.batches.token_cache import CachedTokens
from longretriever_tf.data.recipe.request_features import with_event_columns, with_request_columns

_LEAST_ITEMS = 128
"""Categories are padded to this, or to four, sixteen, ... times as many items."""


class Shape(NamedTuple):
    """The static sizes of a step: G groups (batches of the plan) of R rows, L tokens, n items, t targets each."""

    groups: int
    rows: int
    length: int
    items: int
    targets: int


class Block(NamedTuple):
    """Steps of one shape that one call makes.

    Attributes:
      shape: its sizes.
      bounds: of each group: first row and number of rows in the epoch's order, first target and number of targets,
        [K, G, 4] int64; groups of no target fill the last step up.
      num_steps: how many of the K steps are there.
      num_examples: rows in all.
    """

    shape: Shape
    bounds: np.ndarray
    num_steps: int
    num_examples: int


class Epoch(NamedTuple):
    """What all blocks of an epoch read.

    Attributes:
      rows: examples in the epoch's order, [X] int64.
      target_row: row of each target within its batch, in the epoch's order, [t] int64.
      target: item, [t] int64.
    """

    rows: np.ndarray
    target_row: np.ndarray
    target: np.ndarray


LoadedBlock = tuple[Epoch, Block]
"""A block and the columns of its epoch, on the device."""


def plan_blocks(
    config: Config,
    plan: EpochPlan,
    examples: Examples,
    targets: Targets,
    category_size: np.ndarray,
    epoch: int,
    known: Collection[Shape] = (),
) -> tuple[Epoch, list[Block]]:
    """Lays the batches of an epoch out in blocks; each batch is used exactly once.

    Args:
      config: the run's config.
      plan: the epoch's batches, made with `DEVICE_BUCKETS`.
      examples: the examples.
      targets: their targets.
      category_size: items of each category, [C].
      epoch: its number.
      known: shapes that are compiled already; one of them is taken where it holds a batch's targets.
    """
    train = config.train
    count = targets.offset[plan.rows + 1] - targets.offset[plan.rows]
    owner, position = flat_ranges(targets.offset[plan.rows], targets.offset[plan.rows + 1])
    before = np.concatenate([[0], np.cumsum(count)])
    in_order = np.argsort(plan.start, kind="stable")  # batches lie shuffled in the table, in order in `rows`
    first_of_row = np.repeat(plan.start[in_order], (plan.stop - plan.start)[in_order])
    columns = Epoch(plan.rows, owner - first_of_row[owner], targets.item[position].astype(np.int64))
    bounds = np.stack(
        [plan.start, plan.stop - plan.start, before[plan.start], before[plan.stop] - before[plan.start]], 1
    )
    last = plan.rows[plan.stop - 1]  # rows of a batch come in order of their buckets
    longest = np.searchsorted(DEVICE_BUCKETS, examples.length[last])
    size = _padded_items(category_size[examples.category[last]])
    kind = longest * (int(size.max()) + 1) + size
    blocks = []
    for value in np.unique(kind):
        mine = np.flatnonzero(kind == value)
        length = min((*DEVICE_BUCKETS, config.model.max_length)[longest[mine[0]]], config.model.max_length)
        # Sizes of batches do not change from epoch to epoch, their numbers of targets do a little.
        most = int(bounds[mine, 3].max())
        shape = Shape(
            train.batches_per_step, int(bounds[mine, 1].max()), length, int(size[mine[0]]), most + most // 4 + 8
        )
        shape = next((old for old in known if old[:4] == shape[:4] and old.targets >= most), shape)
        per_block = train.batches_per_step * train.steps_per_call
        for low in range(0, len(mine), per_block):
            blocks.append(_make_block(shape, train.steps_per_call, bounds[mine[low : low + per_block]]))
    order = np.random.default_rng([train.seed, epoch, 1]).permutation(len(blocks))
    return columns, [blocks[i] for i in order]


def _make_block(shape: Shape, steps: int, bounds: np.ndarray) -> Block:
    num_steps = -(-len(bounds) // shape.groups)
    filled = np.zeros((steps * shape.groups, 4), np.int64)
    filled[: len(bounds)] = bounds
    # Groups that fill the last step up repeat a row of its first group, without targets: no other row is seen.
    filled[len(bounds) :, :2] = bounds[(num_steps - 1) * shape.groups, 0], 1
    return Block(shape, filled.reshape(steps, shape.groups, 4), num_steps, int(bounds[:, 1].sum()))


def _padded_items(size: np.ndarray) -> np.ndarray:
    """The least of 128, 512, 2048, ... that holds each size, [n] int64."""
    steps = np.ceil(np.log2(np.maximum(size, _LEAST_ITEMS) / _LEAST_ITEMS) / 2).astype(np.int64)
    return _LEAST_ITEMS * 4**steps


class DeviceSource:
    """Everything that batches are made of, on the device, and the graph that gathers a step's `Batch`.

    Whole numbers are int64: TensorFlow keeps int32 tensors of a GPU in the host's memory.

    Args:
      config: the run's config, with `device_input`.
      prepared: the training window.
      source: of ordinary batches: its plan, its cached tokens and the rest of its columns are used.

    Attributes:
      epochs: epochs to come; the last one plans none ahead.
      num_rows: examples in an epoch.
      shapes: of the first epoch's steps.
      element_spec: None: what is sent to the device are bounds.

    Raises:
      UserError: the tokens are not cached: --materialise_gb is too small.
    """

    def __init__(self, config: Config, prepared: Prepared, source: BatchSource) -> None:
        corpus, stats, kept, examples = prepared.corpus, prepared.stats, source.histories, source.examples
        if not isinstance(kept, CachedTokens):
            raise UserError(
                f"--device_input keeps all histories, and they do not fit into "
                f"--materialise_gb={config.train.materialise_gb}: raise it, or train without --device_input"
            )
        self._config, self._source, self._category_size = config, source, np.diff(corpus.category_offset)
        self.epochs, self.num_rows = config.train.epochs, source.num_rows
        self._ahead: dict[int, concurrent.futures.Future] = {}
        self.element_spec: Any = None
        self.shapes: list[Shape] = []
        blocks = self.plan(0)[1]
        self._num_blocks, self._num_steps = len(blocks), sum(block.num_steps for block in blocks)
        self.shapes = sorted({block.shape for block in blocks})
        columns = (
            *(examples.category, examples.user, examples.stats_row, examples.time),
            *(kept.start.numpy(), kept.count.numpy(), source.history_embeddings.row, source.fold),
        )
        self._example = _on_device(np.stack([column.astype(np.int64) for column in columns], 1))
        self._weight = _on_device(examples.weight)
        self._token, self._features = _on_device(kept.item.numpy()), _on_device(kept.features.numpy())
        self._profile, self._event_feature = map(_on_device, (prepared.log.profile, examples.event_feature))
        self._history_embedding = _on_device(source.history_embeddings.vector)
        self._stats, self._first_time = _on_device(stats.item), _on_device(stats.first_time)
        self._category_offset = _on_device(corpus.category_offset)

    def plan(self, epoch: int) -> tuple[Epoch, list[Block]]:
        """The blocks of an epoch, and the columns that they read."""
        source = self._source
        plan, size = source.plan(epoch), self._category_size
        return plan_blocks(self._config, plan, source.examples, source.targets, size, epoch, self.shapes)

    def num_batches(self) -> int:
        """Blocks in an epoch."""
        return self._num_blocks

    def num_steps(self) -> int:
        """Steps of the optimizer in an epoch."""
        return self._num_steps

    def make_dataset(self, epoch: int, first: int = 0) -> Iterator[LoadedBlock]:
        """Blocks of an epoch from `first` on. The next epoch is planned meanwhile: the device would wait for it.

        The planning thread ends with the epoch's iterator, also with one that is dropped half-way.
        """
        planned = self._ahead.pop(epoch, None)
        columns, blocks = self.plan(epoch) if planned is None else planned.result()
        with concurrent.futures.ThreadPoolExecutor(1, "plan") as planner:
            if epoch + 1 < self.epochs:
                self._ahead = {epoch + 1: planner.submit(self.plan, epoch + 1)}
            loaded = self.load_epoch(columns)
            for block in blocks[first:]:
                yield loaded, block

    def load_epoch(self, epoch: Epoch) -> Epoch:
        """The epoch's columns on the device."""
        return Epoch(*map(_on_device, epoch))

    @as_it_stands
    def build(self, epoch: Epoch, bounds: tf.Tensor, shape: Shape) -> Batch:
        """The `Batch` of one step: G groups of R rows, flat; item and target rows count through all groups' items.

        Rows that fill a group up repeat its first one and have no target; items that fill one up are padding and not
        available.

        Args:
          epoch: on the device.
          bounds: of the step's groups, [G, 4] int64.
          shape: its sizes.
        """
        group = tf.repeat(tf.range(shape.groups, dtype=tf.int64), shape.rows)  # [G R]
        slot = tf.range(shape.rows, dtype=tf.int64)[None]
        rows = tf.reshape(bounds[:, :1] + tf.where(slot < bounds[:, 1:2], slot, 0), [-1])
        at = tf.gather(epoch.rows, rows)
        columns = tf.unstack(tf.gather(self._example, at), 8, 1)
        category, user, as_of, time, start, count, history_embedding, fold = columns
        low, item, is_item = self._items(category[:: shape.rows], shape)
        position = tf.range(shape.length, dtype=tf.int64)[None]
        token = tf.where(position < count[:, None], start[:, None] + position, 0)  # [G R, L]
        token_item = tf.gather(self._token, token)
        token_local = tf.maximum(token_item - tf.gather(low, group)[:, None], 0) + group[:, None] * shape.items
        target_row, target_local, is_target = _targets(epoch, bounds, low, shape)
        seen = tf.reshape(tf.gather(self._first_time, item), [shape.groups, 1, shape.items])
        is_available = (seen < tf.reshape(time, [shape.groups, shape.rows, 1])) & is_item[:, None]
        weight = tf.gather(self._weight, tf.gather(at, target_row))
        profile = with_event_columns(tf.cast(tf.gather(self._profile, user), tf.int32), self._event_feature, at)
        return Batch(
            category=tf.cast(category, tf.int32),
            profile=with_request_columns(self._config.model, profile, time),
            token_item=tf.cast(token_item, tf.int32),
            token_local=tf.cast(token_local, tf.int32),
            features=tf.gather(self._features, token),
            item=tf.reshape(tf.cast(item, tf.int32), [shape.groups, shape.items]),
            scores_full_category=tf.constant(True),
            target_row=tf.cast(target_row, tf.int32),
            target_local=tf.cast(target_local, tf.int32),
            target_weight=tf.where(is_target, weight, 0.0),
            target_probability=tf.ones_like(weight),
            recipe=RecipeColumns(
                history_embedding=tf.gather(self._history_embedding, history_embedding),
                stats=tf.gather(self._stats, item, axis=1),
                stats_row=tf.cast(as_of * shape.groups + group, tf.int32),
                is_available=tf.reshape(is_available, [-1, shape.items]),
                fold=tf.cast(fold[:: shape.rows], tf.int32),
            ),
        )

    def _items(self, category: tf.Tensor, shape: Shape) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Of each group: its category's first item [G], its items, padded by 0 [G n], which of them are real [G, n]."""
        low = tf.gather(self._category_offset, category)
        size = tf.gather(self._category_offset, category + 1) - low
        column = tf.range(shape.items, dtype=tf.int64)[None]
        is_item = column < size[:, None]
        return low, tf.reshape(tf.where(is_item, low[:, None] + column, 0), [-1]), is_item


def _targets(epoch: Epoch, bounds: tf.Tensor, low: tf.Tensor, shape: Shape) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of each target slot, [G t] each: its row, its item's row, whether there is a target."""
    group = tf.repeat(tf.range(shape.groups, dtype=tf.int64), shape.targets)
    slot = tf.range(shape.targets, dtype=tf.int64)[None]
    is_target = slot < bounds[:, 3:]
    at = tf.reshape(tf.where(is_target, bounds[:, 2:3] + slot, 0), [-1])
    is_target = tf.reshape(is_target, [-1])
    row = tf.where(is_target, tf.gather(epoch.target_row, at), 0)
    local = tf.where(is_target, tf.gather(epoch.target, at) - tf.gather(low, group), 0)
    return group * shape.rows + row, group * shape.items + local, is_target


def _on_device(values: np.ndarray) -> tf.Tensor:
    """The array on the first GPU, or in memory where there is none."""
    with tf.device("/GPU:0" if tf.config.list_logical_devices("GPU") else "/CPU:0"):
        return tf.identity(tf.constant(values.astype(np.int64) if values.dtype.kind in "iu" else values))
