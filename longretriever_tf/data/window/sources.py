"""Batches of a window on disk: those that `batches.in_context` and `batches.interests` make in memory.

An epoch is planned group by group (a category and a bucket of length) into a file of row numbers; a batch reads its
rows from the shards, and the graph that makes a batch in memory makes it from there. What is held does not grow with
the log: tables of items, the largest group's ids, and the batches that wait.
"""

import atexit
import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common.files import explain_os_errors
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.in_context import (
    Batch,
    BatchRows,
    BatchTables,
    category_of_groups,
    cut_batches,
    example_groups,
)
from longretriever_tf.data.batches.interests import InterestBatch, InterestTables, interest_batch_size
from longretriever_tf.data.batches.order import shuffled_rows
from longretriever_tf.data.batches.pipeline import numbered_batches
from longretriever_tf.data.recipe.tokens import make_tokens
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.window.window import EXAMPLE_ROWS, INTEREST_ROWS, RowReader, Window

_TARGETS_AT_ONCE = 4_000_000
_INTEREST_ORDER = 7
"""Names the draw of the order of snapshots, as in `batches.interests`."""


class WindowSource:
    """Batches of one category for the towers.

    Args:
      config: the run's config; every batch searches its own histories.
      window: the training window.

    Attributes:
      num_rows: examples in an epoch.
      element_spec: of a batch; None before the first dataset.
    """

    def __init__(self, config: Config, window: Window) -> None:
        self._config, self._window = config, window
        self.element_spec: Any = None
        self._reader = RowReader(window.shards, EXAMPLE_ROWS)
        self.num_rows = int(self._reader.base[-1])
        self._pieces = _Pieces(config, window, self._reader.base)
        self._num_items = np.diff(window.corpus.category_offset)
        self._num_batches = len(self._cut(0)[0])
        self._tables = BatchTables(config, window.corpus, window.stats, _count_targets(window))
        with tf.device("/CPU:0"):
            self._stats = tf.constant(window.stats.item)

    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self._num_batches

    @functools.lru_cache(maxsize=1)  # noqa: B019 - the source lives as long as the process
    def plan(self, epoch: int) -> "WindowPlan":
        """The batches of an epoch; their rows lie in a file that goes when nobody reads it.

        Raises:
          UserError: the disk is full or not writable.
        """
        seed, parts = self._config.train.seed, self._pieces.read()
        rows = (part[shuffled_rows(ids, seed, epoch)] for ids, part in parts)
        return WindowPlan(_RowFile(rows, self._window.directory), *self._cut(epoch))

    def _cut(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return cut_batches(self._config, self._pieces.group, self._pieces.size, self._num_items, epoch)

    def batch_categories(self, epoch: int) -> np.ndarray:
        """Category of each batch of the epoch, [n] int64; how many a category has is the same in every epoch."""
        at = np.searchsorted(np.cumsum(self._pieces.size), self._cut(epoch)[0], side="right")
        return category_of_groups(self._config, self._pieces.group[at])

    def make_dataset(self, epoch: int, first: int = 0, numbers: np.ndarray | None = None) -> tf.data.Dataset:
        """Batches `first`, `first + 1`, ... of the epoch, or those of `numbers`, in order, prefetched."""
        plan = self.plan(epoch)

        def rows_of(number: int) -> np.ndarray:
            return plan.rows.read(int(plan.start[number]), int(plan.stop[number]))

        def make(i: tf.Tensor) -> Batch:
            return self.build(rows_of, i)

        ready = _asked_of_the_disk(self._reader, rows_of)
        dataset = numbered_batches(make, first, len(plan.start), numbers, ready)
        self.element_spec = dataset.element_spec
        return dataset

    def build(self, rows_of: Callable[[int], np.ndarray], number: tf.Tensor) -> Batch:
        """One batch, in the graph.

        Args:
          rows_of: the example rows of a batch's number.
          number: of the batch, scalar int64.
        """

        def read(number: int) -> list[np.ndarray]:
            found = self._reader.read(rows_of(int(number)))
            at, events = found["examples"], found["events"]
            columns = ("category", "stats_row", "time", "weight", "num_before", "activity", "num_events", "num_targets")
            return [
                *(at[name] for name in columns),
                *(events[name] for name in _EVENT_COLUMNS),
                *(found[name] for name in ("profile", "embedding", "target")),
                found.get("example_fold", np.zeros(len(at), np.int32)),
                *([events["is_target"]] if has_targets else []),
            ]

        first = self._window.shards[0]
        has_targets = "is_target" in (first["events"].dtype.names or ())
        ints, floats = _spec(np.int32), _spec(np.float32)
        specs = [ints, ints, _spec(np.int64), floats, ints, _spec(np.float32, 3), ints, ints, *_EVENT_SPECS]
        specs += [_spec(first[name].dtype, *first[name].shape[1:]) for name in ("profile", "embedding", "target")]
        specs += [ints, *([_spec(np.bool_)] if has_targets else [])]
        parts = _read_in_graph(read, number, specs)
        category, stats_row, time, weight, num_before, activity, num_events, num_targets = parts[:8]
        profile, embedding, target, fold, *is_target = parts[11:]
        events = _slice(parts[8:11], num_events, time, *is_target)
        count = tf.cast(num_before, tf.int64)
        tokens = make_tokens(self._config.model, events, count, self._stats, stats_row, activity)
        rows = BatchRows(
            category=tf.cast(category, tf.int64),
            profile=profile,
            stats_row=tf.cast(stats_row, tf.int64),
            time=time,
            weight=weight,
            history_embedding=embedding,
            fold=tf.cast(fold, tf.int64),
            target_row=_owners(num_targets),
            target=target,
        )
        return self._tables.make(rows, tokens)


def _count_targets(window: Window) -> np.ndarray:
    """How many examples each item is a target of, [V] int64: each distinct target of each example once."""
    count = np.zeros(window.corpus.num_items, np.int64)
    for shard in window.shards:
        for low in range(0, len(shard["target"]), _TARGETS_AT_ONCE):
            count += np.bincount(shard["target"][low : low + _TARGETS_AT_ONCE], minlength=len(count))
        shard.release()
    return count


class WindowInterestSource:
    """Batches of snapshots for the interest score.

    Args:
      config: the run's config.
      window: the training window.

    Attributes:
      num_rows: snapshots in an epoch.
      batch_size: of a batch.
      element_spec: of a batch; None before the first dataset.
    """

    def __init__(self, config: Config, window: Window) -> None:
        self.element_spec: Any = None
        self._seed, self._window = config.train.seed, window
        self._reader = RowReader(window.shards, INTEREST_ROWS)
        self.num_rows = int(self._reader.base[-1])
        self.batch_size = interest_batch_size(window.corpus.num_categories, self.num_rows)
        self._tables = InterestTables(window.corpus, window.stats)

    def num_batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_rows // self.batch_size)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - the source lives as long as the process
    def plan(self, epoch: int) -> "_RowFile":
        """The rows of an epoch in order; 24 bytes a snapshot while it is made."""
        ids = np.concatenate([np.array(shard["interest_id"]) for shard in self._window.shards])
        for shard in self._window.shards:
            shard.release()
        return _RowFile([shuffled_rows(ids, self._seed, _INTEREST_ORDER, epoch)], self._window.directory)

    def make_dataset(self, epoch: int, first: int = 0, numbers: np.ndarray | None = None) -> tf.data.Dataset:
        """Batches `first`, `first + 1`, ... of the epoch, or those of `numbers`."""
        rows, size = self.plan(epoch), self.batch_size

        def rows_of(number: int) -> np.ndarray:
            return rows.read(number * size, min((number + 1) * size, self.num_rows))

        def make(i: tf.Tensor) -> InterestBatch:
            return self.build(rows_of, i)

        ready = _asked_of_the_disk(self._reader, rows_of)
        dataset = numbered_batches(make, first, self.num_batches(), numbers, ready)
        self.element_spec = dataset.element_spec
        return dataset

    def build(self, rows_of: Callable[[int], np.ndarray], number: tf.Tensor) -> InterestBatch:
        """One batch, in the graph; arguments as of `WindowSource.build`."""

        def read(number: int) -> list[np.ndarray]:
            found = self._reader.read(rows_of(int(number)))
            at, events, targets = found["interest"], found["history"], found["interest_target"]
            columns = ("time", "weight", "stats_row", "num_events", "num_targets")
            return [
                *(at[name] for name in columns),
                *(events[name] for name in _EVENT_COLUMNS),
                *(targets["category"], targets["counts"], found["interest_embedding"]),
            ]

        width = self._window.shards[0]["interest_embedding"].shape[1]
        ints, floats = _spec(np.int32), _spec(np.float32)
        specs = [_spec(np.int64), floats, ints, ints, ints, *_EVENT_SPECS, ints]
        specs += [_spec(np.float32, 2), _spec(np.float32, width)]
        parts = _read_in_graph(read, number, specs)
        time, weight, stats_row, num_events, num_targets = parts[:5]
        category, counts, embedding = parts[-3:]
        history = _slice(parts[5:8], num_events, time)
        row = tf.cast(_owners(num_targets), tf.int64)
        return self._tables.make(history, stats_row, embedding, (row, category, counts), weight)


class _Pieces:
    """The groups of an epoch's plan, and where each shard holds its part of them.

    Attributes:
      group: those that have examples, ascending, [g] integers; see `batches.in_context.example_groups`.
      size: examples of each, [g] int64.
    """

    def __init__(self, config: Config, window: Window, base: np.ndarray) -> None:
        self._shards, self._base = window.shards, base
        columns = []
        for k, shard in enumerate(window.shards):
            stop = shard["group_stop"]
            fold = shard["group_fold"] if config.train.cross_fit_items else np.zeros(len(stop), np.int64)
            group = example_groups(config, shard["group_length"], shard["group_category"], fold).astype(np.int64)
            columns.append(np.stack([group, np.full(len(stop), k), np.append(0, stop)[:-1], stop]))
        pieces = np.concatenate(columns, axis=1)
        pieces = pieces[:, np.argsort(pieces[0], kind="stable")]
        begins = np.flatnonzero(np.diff(pieces[0], prepend=-1))
        self._pieces, self._begins = pieces[1:], np.append(begins, pieces.shape[1])
        self.group = pieces[0, begins]
        self.size = np.add.reduceat(pieces[3] - pieces[2], begins)

    def read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids and row numbers of one group's examples after the other."""
        for low, high in zip(self._begins[:-1].tolist(), self._begins[1:].tolist(), strict=True):
            ids, rows = [], []
            for k, start, stop in self._pieces[:, low:high].T.tolist():
                ids.append(self._shards[k]["example_id"][start:stop])
                rows.append(np.arange(self._base[k] + start, self._base[k] + stop))
            yield np.concatenate(ids), np.concatenate(rows)
        for shard in self._shards:
            shard.release()


_EVENT_COLUMNS = ("item", "timestamp", "weight")


def _spec(kind: type | np.dtype, *shape: int) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], tf.as_dtype(np.dtype(kind)))


_EVENT_SPECS = (_spec(np.int32), _spec(np.int64), _spec(np.float32))


class _Reads:
    """The reads that are under way in threads of TensorFlow's.

    A thread that enters Python while Python shuts down never comes back, and the dataset would wait for it forever. So
    at exit, Python waits until nothing reads: a dataset that nobody asks for batches soon has its few in store.
    """

    def __init__(self) -> None:
        self._lock, self._active, self._last = threading.Lock(), 0, -_SETTLED_S
        atexit.register(self._settle)

    def __enter__(self) -> None:
        with self._lock:
            self._active += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._active -= 1
            self._last = time.monotonic()

    def _settle(self) -> None:
        while self._active or time.monotonic() - self._last < _SETTLED_S:
            time.sleep(_SETTLED_S / 10)


_SETTLED_S = 0.3
_READS = _Reads()


def _read_in_graph(
    read: Callable[[int], list[np.ndarray]], number: tf.Tensor, specs: list[tf.TensorSpec]
) -> list[tf.Tensor]:
    """What `read` returns of a batch's number, as tensors of known shapes."""

    def contiguous(number: int) -> list[np.ndarray]:
        with _READS:
            return [np.ascontiguousarray(part) for part in read(number)]

    parts = tf.numpy_function(contiguous, [number], [spec.dtype for spec in specs])
    return [tf.ensure_shape(part, spec.shape) for part, spec in zip(parts, specs, strict=True)]


def _asked_of_the_disk(
    reader: RowReader, rows_of: Callable[[int], np.ndarray]
) -> list[Callable[[tf.Tensor], tf.Tensor]]:
    """What is done for a batch's number before the batch is read: first its records are asked for, then what they own.

    A thread that touches a row which the kernel does not have stops, and Python with it, one row after the other.
    """

    def in_graph(ask: Callable[[np.ndarray], None]) -> Callable[[tf.Tensor], tf.Tensor]:
        def ask_for(number: np.int64) -> np.int64:
            with _READS:
                ask(rows_of(int(number)))
            return number

        def step(number: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(ask_for, [number], tf.int64), [])

        return step

    return [in_graph(reader.ask_for_records), in_graph(reader.ask_for_owned)]


def _slice(
    columns: list[tf.Tensor], count: tf.Tensor, time: tf.Tensor, is_target: tf.Tensor | None = None
) -> hard_search.Events:
    """Events that lie one request after the other, `count` of each."""
    item, timestamp, weight = columns
    stop = tf.cumsum(tf.cast(count, tf.int64))
    return hard_search.slice_events(item, timestamp, weight, stop - tf.cast(count, tf.int64), stop, time, is_target)


def _owners(count: tf.Tensor) -> tf.Tensor:
    """Which of consecutive ranges of these lengths each position is in, int32."""
    return tf.repeat(tf.range(tf.size(count)), count)


class _RowFile:
    """The row numbers of an epoch in a file without a name, which goes with this object.

    Args:
      parts: [n] int64 each.
      directory: where the file lies.

    Raises:
      UserError: the disk is full or not writable.
    """

    def __init__(self, parts: Iterable[np.ndarray], directory: str) -> None:
        with explain_os_errors(f"cannot write the plan of an epoch into {directory!r}"):
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - read as long as the plan is
            for part in parts:
                self._file.write(part.astype(np.int64).data.cast("B"))
            self._file.flush()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start:stop`; nothing of the file stays in memory, as it would of a map."""
        return np.frombuffer(os.pread(self._file.fileno(), 8 * (stop - start), 8 * start), np.int64)


class WindowPlan(NamedTuple):
    """The epoch's batches: batch i holds examples `start[i]:stop[i]` of the rows in the file."""

    rows: _RowFile
    start: np.ndarray
    stop: np.ndarray
