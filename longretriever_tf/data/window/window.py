"""Reads a finished window: tables in memory, examples by memory map. Imports no TensorFlow."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from longretriever_tf.common.ranges import flat_ranges, offset_of
from longretriever_tf.data.batches.tables import Tables
from longretriever_tf.data.corpus import load_corpus
from longretriever_tf.data.recipe.item_stats import ItemStats
from longretriever_tf.data.window.layout import EXAMPLES, TABLES, Layout
from longretriever_tf.data.window.packed import PackedFile, allow_open_files
from longretriever_tf.data.window.shard_jobs import Arrays


@dataclasses.dataclass(frozen=True)
class Window(Tables):
    """The training window of a log on disk.

    Attributes:
      directory: where it lies.
      item_count: events of each item before the cut, [V] int64.
      num_users: of the log.
      shards: what batches are made of, mapped.
    """

    directory: str
    item_count: np.ndarray
    num_users: int
    shards: Sequence[PackedFile]

    @property
    def num_examples(self) -> int:
        """Training examples in all shards."""
        return sum(len(shard["examples"]) for shard in self.shards)


def open_window(layout: Layout, num_users: int) -> Window:
    """Opens what `build_window` has made.

    Args:
      layout: where it lies.
      num_users: of the log.

    Raises:
      UserError: a part is missing or torn.
    """
    allow_open_files(layout.num_shards)
    tables = {name: np.array(values) for name, values in layout.open(TABLES).arrays.items()}
    stats = ItemStats(
        time=tables["grid"],
        item=tables["item_stats"],
        category=tables["category_stats"],
        first_time=tables["first_time"],
        takers=tables["takers"],
    )
    return Window(
        corpus=load_corpus(layout.path("corpus.npz")),
        stats=stats,
        item_svd=tables["item_svd"],
        history_embedding_rows=tables["history_embedding_rows"],
        directory=layout.directory,
        item_count=tables["item_count"],
        num_users=num_users,
        shards=[layout.open(EXAMPLES, k) for k in range(layout.num_shards)],
    )


class RowReader:
    """Rows of all shards by one number, and what each of them owns elsewhere in its shard.

    Args:
      shards: mapped.
      rows: name of the column of records.

    Attributes:
      base: shard k has the rows `base[k]:base[k + 1]`, [K + 1] int64.
    """

    def __init__(self, shards: Sequence[PackedFile], rows: str) -> None:
        self._shards, self._rows, self._announced = shards, rows, False
        self.base = offset_of(np.array([len(shard[rows]) for shard in shards]))

    def has(self, column: str) -> bool:
        """Whether the shards have a column."""
        return column in self._shards[0].arrays

    def read(self, rows: np.ndarray, owned: dict[str, tuple[str, str]], looked_up: dict[str, str]) -> Arrays:
        """Reads some rows, in the order asked for; nothing of the files stays in memory.

        Args:
          rows: [R] int64.
          owned: columns that a row owns a range of, and the fields that name the range's start and length.
          looked_up: columns that a row has one row of, and the field that names it; "" for the row's own.

        Returns:
          The records by the column's name, [R]; of each owned column its values, range after range; of each that is
          looked up its rows, [R, ...].
        """
        self._announce([self._rows, *owned, *looked_up])
        by_row = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[by_row], self.base)  # of each shard's rows among them
        present = np.flatnonzero(np.diff(bounds)).tolist()
        parts = [(self._shards[k], by_row[bounds[k] : bounds[k + 1]], self.base[k]) for k in present]
        first = self._shards[0]
        records = np.empty(len(rows), first[self._rows].dtype)
        found = {self._rows: records}
        found |= {name: np.empty((len(rows), *first[name].shape[1:]), first[name].dtype) for name in looked_up}
        for file, at, base in parts:
            local = rows[at] - base
            records[at] = file[self._rows][local]
            for name, field in looked_up.items():
                found[name][at] = file[name][records[field][at] if field else local]
        for name, (start, length) in owned.items():
            place = offset_of(records[length])
            values = found[name] = np.empty(int(place[-1]), first[name].dtype)
            for file, at, _ in parts:
                row, source = flat_ranges(records[start][at], records[start][at] + records[length][at])
                values[source + (place[at] - records[start][at])[row]] = file[name][source]
        for file, _, _ in parts:
            file.release()
        return found

    def _announce(self, names: Sequence[str]) -> None:
        """Once, and no earlier than the first batch: what comes before reads whole arrays."""
        if not self._announced:
            self._announced = True
            for shard in self._shards:
                for name in names:
                    shard.read_at_random(name)


def read_examples(reader: RowReader, rows: np.ndarray) -> Arrays:
    """Examples, their events, targets, profiles, history embeddings and folds."""
    owned = {"events": ("first_event", "num_events"), "target": ("first_target", "num_targets")}
    looked_up = {"profile": "user", "embedding": "embedding"}
    if reader.has("example_fold"):
        return reader.read(rows, owned, looked_up | {"example_fold": ""})
    return reader.read(rows, owned, looked_up) | {"example_fold": np.zeros(len(rows), np.int32)}


def read_interest(reader: RowReader, rows: np.ndarray) -> Arrays:
    """Snapshots of the interest score, their histories, targets and history embeddings."""
    owned = {"history": ("first_event", "num_events"), "interest_target": ("first_target", "num_targets")}
    return reader.read(rows, owned, {"interest_embedding": ""})
