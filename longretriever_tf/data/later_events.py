"""Events that came after the log of a run: kept next to the run, and joined to its log so that each counts once.

A refresh is given the events of a day. What training counts of items (popularity, staleness, repeats) follows from the
whole log, so the day is joined to the run's own log and to the days that earlier refreshes brought, which are kept in
the run directory: they are histories of people, and belong there and not into an export. Imports no TensorFlow.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_os_errors, first_line, open_aside
from longretriever_tf.common.ranges import offset_of
from longretriever_tf.common.text import as_text, code_text, find_rows, is_text
from longretriever_tf.config.config import DataConfig
from longretriever_tf.data.corpus import Corpus, EncodedLog
from longretriever_tf.datasets.build_log import first_of_segments, packed
from longretriever_tf.datasets.event_log.source import WITHOUT_WEIGHTS, read_event_log, read_events_alone
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import read_manifest

FOLDER = "later_events"
_NAME_LENGTH = 16


_COLUMNS = (
    *("format", "delimiter", "quotes", "encoding", "column_names", "max_basket_hours", "long_baskets"),
    *("user_column", "item_column", "timestamp_column", "basket_column", "action_column"),
)
"""How a table of events is read; a log that `prepare` has written keeps these settings."""


class LaterEvents(NamedTuple):
    """Events by raw ids, in any order: user_id and item_id [n] int64 or str, timestamp [n] int64 seconds UTC.

    `action` is the name of each event's action, [n] of str; None where the log has none.
    """

    user_id: np.ndarray
    item_id: np.ndarray
    timestamp: np.ndarray
    action: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "LaterEvents":
        """Some of the events, by a mask or by rows."""
        return LaterEvents(**{name: column[rows] for name, column in self.columns().items()})

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that are there, by name."""
        return {name: column for name, column in self._asdict().items() if column is not None}

    def actions(self) -> np.ndarray:
        """`action`, or "" of each event."""
        return as_text([""] * len(self.timestamp)) if self.action is None else self.action


NOTHING = LaterEvents(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def read_table(data: DataConfig, events: str, with_items: bool) -> LifelongLog:
    """Reads a table of later events by the rules of training: times, baskets, duplicates.

    Args:
      data: of a log: its columns name those of the table (user, item, timestamp, and the basket if there is one).
      events: path of the table.
      with_items: read what the events say of items too, if the log has its items from there; the items have neither
        category nor features otherwise.

    Raises:
      UserError: names the file, the column and the value at fault.
    """
    spec = dataclasses.replace(data, events=events)
    if data.data:
        kept = read_manifest(data.data).data
        columns: dict[str, Any] = {name: kept[name] for name in _COLUMNS if name in kept}
        columns = {name: tuple(value) if isinstance(value, list) else value for name, value in columns.items()}
        spec = dataclasses.replace(spec, **columns)
    if with_items and say_items(data):
        return read_event_log(dataclasses.replace(spec, users="", user_features=(), **WITHOUT_WEIGHTS))
    return read_events_alone(spec)


def say_items(data: DataConfig) -> bool:
    """Whether the log has its items from its events: then later events, too, say category and features of theirs."""
    return data.dataset == "event_log" and not (data.items or data.data)


def events_of(log: LifelongLog) -> LaterEvents:
    """The events of a log."""
    action = None if log.action is None else as_text(log.actions.name)[log.action]
    return LaterEvents(log.user_id[log.event_user()], log.items.item_id[log.item_row], log.timestamp, action)


def join_events(parts: Sequence[LaterEvents]) -> LaterEvents:
    """Several parts as one, in their order; ids as text if those of any part are."""
    parts = [part for part in parts if len(part.timestamp)]
    if not parts:
        return NOTHING
    users, items = join_ids([part.user_id for part in parts]), join_ids([part.item_id for part in parts])
    has_actions = any(part.action is not None for part in parts)
    actions = np.concatenate([part.actions() for part in parts]) if has_actions else None
    return LaterEvents(users, items, np.concatenate([part.timestamp for part in parts]), actions)


def join_ids(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of ids as one; as text if any is."""
    return np.concatenate([as_text(one) for one in columns] if any(map(is_text, columns)) else columns)


def save_events(run_dir: str, events: LaterEvents) -> str:
    """Keeps the events in the run directory, under a name that follows from them; returns the name.

    Raises:
      UserError: the file cannot be written.
    """
    digest = hashlib.sha256()
    for column in events.columns().values():
        digest.update("\0".join(as_text(column).tolist()).encode("utf-8", "surrogatepass"))
    name = f"{digest.hexdigest()[:_NAME_LENGTH]}.parquet"
    path = os.path.join(run_dir, FOLDER, name)
    table = pa.table(
        {
            field: pa.array(column.tolist(), pa.large_string() if is_text(column) else pa.int64())
            for field, column in events.columns().items()
        }
    )
    with explain_os_errors(f"cannot write {path!r}"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open_aside(path) as aside:
            pq.write_table(table, aside)
    return name


def load_events(run_dir: str, names: Sequence[str]) -> LaterEvents:
    """The events that `save_events` kept under these names.

    Raises:
      UserError: a file is missing or damaged.
    """
    parts = []
    for name in names:
        path = os.path.join(run_dir, FOLDER, name)
        try:
            table = pq.read_table(path)
            user_id, item_id, timestamp = (table.column(field).to_numpy() for field in LaterEvents._fields[:3])
            action = table.column("action").to_numpy() if "action" in table.column_names else None
            parts.append(LaterEvents(user_id, item_id, timestamp, action))
        except (OSError, pa.ArrowException, KeyError) as error:
            raise UserError(
                f"{path} cannot be read ({first_line(error)}): it holds events that an earlier refresh was given, and "
                "the last version counts. Restore it from a copy, or give the whole log of today: --events=LOG "
                "--whole_log"
            ) from error
    return join_events(parts)


class MergedPart(NamedTuple):
    """Some users' histories with their later events.

    Attributes:
      log: in indices of a corpus, without profile and weights.
      added: rows of the later events that the log did not hold yet, [m] int64.
    """

    log: EncodedLog
    added: np.ndarray


def merge_parts(logs: Iterable[LifelongLog], later: LaterEvents, corpus: Corpus) -> Iterator[MergedPart]:
    """Logs of disjoint users, one after the other, each with its users' later events; then the users of none of them.

    Args:
      logs: at least one; all have the same items.
      later: events of any users and items.
      corpus: events of items that it does not know are left out of the logs, and still are `added`.
    """
    is_left = np.ones(len(later.timestamp), bool)
    log = None
    for log in logs:
        mine = np.flatnonzero(find_ids(log.user_id, later.user_id) >= 0)
        is_left[mine] = False
        part = _merge(log, later.take(mine), corpus)
        yield part._replace(added=mine[part.added])
    assert log is not None
    rest = np.flatnonzero(is_left)
    part = _merge(log.of_users(slice(0, 0)), later.take(rest), corpus)
    yield part._replace(added=rest[part.added])


def find_ids(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """As `text.find_rows`, of ids that may be of two kinds: 7 in one column is "7" in the other."""
    if is_text(known) == is_text(wanted):
        return find_rows(known, wanted)
    return find_rows(as_text(known), as_text(wanted))


def _merge(log: LifelongLog, later: LaterEvents, corpus: Corpus) -> MergedPart:
    """One log and later events of any users; of the same user, item, second and action, the first one."""
    users, of_log, of_later = _union(log.user_id, later.user_id)
    user = np.concatenate([of_log[log.event_user()], of_later])
    items, of_log, of_later = _union(log.items.item_id, later.item_id)
    item = np.concatenate([of_log[log.item_row], of_later])
    time = np.concatenate([log.timestamp, later.timestamp])
    same = packed((*_action_codes(log, later), item, time, user))
    order = np.lexsort(same)  # stable: events of the log come first
    first = order[first_of_segments(same, order)]
    added = first[first >= log.num_events]
    index = find_ids(corpus.item_id[schema.FIRST_KNOWN :], items)[item]
    rows = np.concatenate([np.arange(log.num_events), added])
    rows = rows[index[rows] >= 0]
    rows = rows[np.lexsort((time[rows], user[rows]))]
    encoded = EncodedLog(
        user_id=users,
        profile=np.zeros((len(users), 0), np.int32),
        offset=offset_of(np.bincount(user[rows], minlength=len(users))),
        item=(index[rows] + schema.FIRST_KNOWN).astype(np.int32),
        timestamp=time[rows],
        weight=np.ones(len(rows), np.float32),
    )
    return MergedPart(encoded, np.sort(added) - log.num_events)


def _action_codes(log: LifelongLog, later: LaterEvents) -> list[np.ndarray]:
    """The actions of the events of both by number, as a column; none where neither has any."""
    if log.action is None and later.action is None:
        return []
    names, row = (as_text([""]), np.zeros(log.num_events, np.int64))
    if log.action is not None:
        names, row = as_text(log.actions.name), log.action
    _, of_log, of_later = _union(names, later.actions())
    return [np.concatenate([of_log[row], of_later])]


def _union(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct ids of both in order, and the row of each; as text if either is."""
    if is_text(left) or is_text(right):
        union, row = code_text(np.concatenate([as_text(left), as_text(right)]))
    else:
        union, row = np.unique(np.concatenate([left, right]), return_inverse=True)
    return union, row[: len(left)], row[len(left) :]
