"""The log as it is today, for a refresh: the run's own, events of earlier refreshes, and those of a new table."""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import DataConfig
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.later_events import (
    NOTHING,
    LaterEvents,
    events_of,
    find_ids,
    join_events,
    join_ids,
    load_events,
    read_table,
)
from longretriever_tf.datasets.accounts import ROWS
from longretriever_tf.datasets.load import load_log, open_sharded_log
from longretriever_tf.datasets.log import LifelongLog


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What is new: an items table, an events table, or both, and how to read them.

    Attributes:
      items: path of a Parquet or CSV file that lists the whole catalogue; empty: the last version's stays, with the new
        items of the events.
      events: path of a table of events that came after those that the last version counts; empty: none.
      whole_log: the events are the whole log until today, and nothing else is counted.
      recount: count the run's own log anew, whose tables have grown.
      skip_last_days: of the run's own log; None: as in the run.
      item_column, item_name_column, context: its columns; None: named as in the run.
      skip_new_categories: leave out items of categories that training never saw, instead of refusing them.
      new_items: unseen: statistics of items that no one ever took; typical: the median of their category's.
      max_retired: refuse to retire more than this share of the last version's items.
    """

    items: str = ""
    events: str = ""
    whole_log: bool = False
    recount: bool = False
    skip_last_days: float | None = None
    item_column: str | None = None
    item_name_column: str | None = None
    context: str | None = None
    skip_new_categories: bool = False
    new_items: str = "unseen"
    max_retired: float = 0.2


@dataclasses.dataclass(frozen=True)
class LogOfToday:
    """What a refresh counts: a log, and events that came after it.

    Attributes:
      source: what an error calls it.
      data: how it is read.
      table: of --events; None: none was given.
      is_whole: the table holds the whole log, and nothing else is counted.
      kept: events that the last version counts beyond the run's log.
      is_recounted: the run's own log may have grown since the training.
    """

    source: str
    data: DataConfig
    table: LifelongLog | None
    is_whole: bool
    kept: LaterEvents
    is_recounted: bool = False

    @functools.cached_property
    def later(self) -> LaterEvents:
        """The kept events, then those of the table, unless the table is all."""
        if self.is_whole or self.table is None:
            return NOTHING if self.is_whole else self.kept
        return join_events([self.kept, events_of(self.table)])

    def sold_items(self) -> np.ndarray:
        """Distinct ids of items with a later event; of a log that may have grown, with any event."""
        ids = [np.unique(self.later.item_id)]
        for log in self.parts() if self.is_recounted or self.is_whole else ():
            ids.append(log.items.item_id[np.unique(log.item_row)])
        return np.unique(join_ids(ids))

    def parts(self) -> Iterable[LifelongLog]:
        """The log in parts of disjoint users.

        Raises:
          UserError: the run's log cannot be read any more.
        """
        if self.is_whole and self.table is not None:
            return [self.table]
        return open_sharded_log(self.data).read_shards() if self.data.data else [self.own]

    @functools.cached_property
    def own(self) -> LifelongLog:
        """The run's own log, in memory."""
        try:
            return load_log(self.data)
        except UserError as error:
            raise UserError(
                f"{error} (the log that the run was trained on, to which --events is added; where it is gone, give "
                "the whole log of today: --events=LOG --whole_log)"
            ) from error


def open_log(data: DataConfig, run_dir: str, kept: tuple[str, ...], catalogue: Catalogue) -> LogOfToday:
    """Reads the table of --events, if there is one, and the events that earlier refreshes kept.

    Args:
      data: of the run: its columns name those of the table (user, item, timestamp, and the basket if there is one).
      run_dir: of the run.
      kept: names of events that the last version counts beyond the run's log.
      catalogue: what the refresh is given.

    Raises:
      UserError: a table cannot be read.
    """
    if catalogue.skip_last_days is not None:
        data = dataclasses.replace(data, skip_last_days=catalogue.skip_last_days)
    table = None
    if catalogue.events:
        table = read_table(data, catalogue.events, with_items=not catalogue.items)
    source = f"--events={catalogue.events}" if catalogue.events else "the run's own log"
    earlier = NOTHING if catalogue.whole_log else load_events(run_dir, kept)
    return LogOfToday(source, data, table, catalogue.whole_log, earlier, catalogue.recount)


def describe_table(log: LogOfToday, added: np.ndarray, exported: Corpus, since: int) -> str:
    """What became of the rows of --events, in one line.

    Args:
      log: whose table it is.
      added: rows of `log.later` that were new.
      exported: the catalogue of the new version.
      since: as of when the last version's statistics were.
    """
    assert log.table is not None
    new = log.later.take(added[added >= len(log.kept.timestamp)])
    rows, num_events = log.table.counts.get(ROWS, log.table.num_events), log.table.num_events
    parts = [f"{len(new.timestamp):,} new events"]
    if rows > num_events:
        parts.insert(0, f"{rows - num_events:,} merged or left out, as in training")
    if known := num_events - len(new.timestamp):
        parts.insert(-1, f"{known:,} in the log so far")
    notes = []
    if late := int((new.timestamp < since).sum()):
        notes.append(f"{late:,} of the new ones are from before {date_of(since)} UTC, which the last version counts to")
    is_unknown = find_ids(exported.item_id[schema.FIRST_KNOWN :], new.item_id) < 0
    if is_unknown.any():
        num_items = len(set(new.item_id[is_unknown].tolist()))
        notes.append(
            f"{int(is_unknown.sum()):,} of them are of {num_items:,} items outside the catalogue, and wait until "
            "--items lists those"
        )
    return f"{rows:,} rows read = {' + '.join(parts)}" + "".join(f"; {note}" for note in notes)


def date_of(seconds: int) -> str:
    """A time as people read it, UTC."""
    return str(np.datetime64(seconds, "s")).replace("T", " ")
