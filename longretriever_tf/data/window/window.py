"""Reads a finished window: tables in memory, examples as batches ask for them. Imports no TensorFlow."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from longretriever_tf.common.ranges import offset_of
from longretriever_tf.data.batches.tables import Tables
from longretriever_tf.data.corpus import load_corpus
from longretriever_tf.data.recipe.item_stats import ItemStats
from longretriever_tf.data.window.layout import EXAMPLES, TABLES, Layout
from longretriever_tf.data.window.packed import PackedFile, allow_open_files
from longretriever_tf.data.window.scattered import ScatteredColumn, ask_for
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


class Kind(NamedTuple):
    """A kind of rows, and what each of them owns elsewhere in its shard.

    Attributes:
      rows: name of the column of records.
      owned: columns that a row owns a range of, and the fields that name the range's start and length.
      looked_up: columns that a row has one row of, and the field that names it; "" for the row's own.
    """

    rows: str
    owned: dict[str, tuple[str, str]]
    looked_up: dict[str, str]


EXAMPLE_ROWS = Kind(
    "examples",
    {"events": ("first_event", "num_events"), "target": ("first_target", "num_targets")},
    {"profile": "user", "embedding": "embedding", "example_fold": ""},
)
"""Examples, their events, targets, profiles, history embeddings and folds."""
INTEREST_ROWS = Kind(
    "interest",
    {"history": ("first_event", "num_events"), "interest_target": ("first_target", "num_targets")},
    {"interest_embedding": ""},
)
"""Snapshots of the interest score, their histories, targets and history embeddings."""


class RowReader:
    """Rows of all shards by one number, and what each of them owns elsewhere in its shard.

    Args:
      shards: mapped.
      kind: which rows. Columns to look up that the shards do not have are left out.

    Attributes:
      base: shard k has the rows `base[k]:base[k + 1]`, [K + 1] int64.
    """

    def __init__(self, shards: Sequence[PackedFile], kind: Kind) -> None:
        self._shards, self._kind = shards, kind
        self.base = offset_of(np.array([len(shard[kind.rows]) for shard in shards]))
        self._looked_up = {name: field for name, field in kind.looked_up.items() if name in shards[0].arrays}
        names = (kind.rows, *kind.owned, *self._looked_up)
        self._columns = {name: ScatteredColumn(shards, name) for name in names}

    def read(self, rows: np.ndarray) -> Arrays:
        """Reads some rows, in the order asked for; nothing of the files stays in memory.

        Args:
          rows: [R] int64.

        Returns:
          The records by the column's name, [R]; of each owned column its values, range after range; of each that is
          looked up its rows, [R, ...].
        """
        records, owned = self._find(rows)
        return {self._kind.rows: records} | {name: self._columns[name].read(*at) for name, at in owned.items()}

    def ask_for_records(self, rows: np.ndarray) -> None:
        """Asks the disk for the records of some rows, [R] int64, without waiting."""
        shard, local = self._locate(rows)
        ask_for(self._shards, self._columns[self._kind.rows].pages(shard, local, local + 1))

    def ask_for_owned(self, rows: np.ndarray) -> None:
        """Asks the disk for what some rows own, [R] int64, without waiting; for their records it would wait."""
        pages = [self._columns[name].pages(*at) for name, at in self._find(rows)[1].items()]
        ask_for(self._shards, np.concatenate(pages))

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard of each row, and its number there."""
        shard = np.searchsorted(self.base, rows, side="right") - 1
        return shard, rows - self.base[shard]

    def _find(self, rows: np.ndarray) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """The records of some rows; of each other column the shard, start and stop of what each row has there."""
        shard, local = self._locate(rows)
        records = self._columns[self._kind.rows].read(shard, local, local + 1)
        found = {}
        for name, field in self._looked_up.items():
            at = records[field].astype(np.int64) if field else local
            found[name] = shard, at, at + 1
        for name, (start, length) in self._kind.owned.items():
            found[name] = shard, records[start], records[start] + records[length]
        return records, found
