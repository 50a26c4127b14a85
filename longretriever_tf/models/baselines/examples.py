"""Training examples of models that read a user's latest events of any category, as light keys into the log.

An example is (user, time): the history strictly before the time, and the distinct items that the user took next. The
log lies in the order of time within a user, so both are slices of it, side by side. Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.config.config import Config
from longretriever_tf.config.snapshots import horizon_days
from longretriever_tf.data.batches.examples import (
    begins_time,
    count_targets,
    previous_of_item,
    snapshot_times,
    stops_before,
)
from longretriever_tf.data.batches.order import combine, user_keys
from longretriever_tf.data.corpus import EncodedLog

_CHUNK_EVENTS = 4_000_000
"""Target events that are spread out at once while targets are counted; bounds memory."""


@dataclasses.dataclass(frozen=True)
class UserExamples:
    """X examples.

    Attributes:
      start, stop: history = events `start:stop` of the log, all strictly before `time`, the latest `recent_length` of
        the history, [X] int64.
      target_stop: targets = the distinct items of events `stop:target_stop`, none of them before `time`, [X] int64.
      time: the time, seconds UTC, [X] int64.
      num_targets: distinct targets, at least 1, [X] int64.
      weight: weight of each target, [X] float32.
      id: of what the example asks, [X] uint64: the same wherever the example lies; an epoch is ordered by it.
    """

    start: np.ndarray
    stop: np.ndarray
    target_stop: np.ndarray
    time: np.ndarray
    num_targets: np.ndarray
    weight: np.ndarray
    id: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def build_user_examples(config: Config, log: EncodedLog, grid: np.ndarray) -> UserExamples:
    """All examples of `log`, which must end before the training cut.

    Args:
      config: the run's config; `train.examples` picks the kind, or both. snapshot: the same times and horizon as
        LongRetriever's. event: one example per distinct time of a user, whose events then are the targets (the
        events of one time share their history, so one row holds them all).
      log: the encoded log before the cut.
      grid: times of the item statistics, the cut last, [S] int64.

    Raises:
      UserError: the log gives no example.
    """
    parts = []
    if config.train.examples != "event":
        as_of_times = snapshot_times(config, int(log.timestamp.min()), int(grid[-1]))
        parts.append(_snapshot_rows(log, as_of_times, int(horizon_days(config) * schema.DAY_S)))
    num_snapshots = sum(len(part[0]) for part in parts)
    if config.train.examples != "snapshot":
        parts.append(_event_rows(log))
    history, stop, target_stop, time = np.concatenate(parts, axis=1)
    is_event = np.arange(len(time)) >= num_snapshots
    # A user without any history before the time is not a request that serving ranks: nothing to read.
    keep = (stop > history) & (count_targets(log, stop, target_stop) > 0)
    history, stop, target_stop, time = history[keep], stop[keep], target_stop[keep], time[keep]
    if not len(history):
        raise UserError(
            "no training examples: no user has an event (of --target_actions, where they are given) after the first "
            "snapshot; lower --horizon_days or --window_days, or use --examples=event"
        )
    num_targets = _count_distinct(log, stop, target_stop)
    user = np.searchsorted(log.offset, stop - 1, side="right") - 1  # the last event of the history is the user's
    return UserExamples(
        start=np.maximum(history, stop - config.baseline.recent_length),
        stop=stop,
        target_stop=target_stop,
        time=time,
        num_targets=num_targets,
        weight=(num_targets**-0.5).astype(np.float32),  # heavy buyers do not drown the others
        id=combine(user_keys(log.user_id)[user], is_event[keep], time),
    )


def sampling_probability(log: EncodedLog, examples: UserExamples, max_targets: int, num_items: int) -> np.ndarray:
    """Q(item): how often an epoch's targets name the item, as a share of them, [V] float32.

    Args:
      log: the encoded log before the cut.
      examples: the examples.
      max_targets: targets that an epoch draws of each example; 0: all.
      num_items: V.
    """
    chance = np.ones(len(examples))
    if max_targets:
        chance = np.minimum(examples.num_targets, max_targets) / examples.num_targets
    counts = np.zeros(num_items)
    for owner, position in _distinct_targets(log, examples.stop, examples.target_stop):
        counts += np.bincount(log.item[position], chance[owner], num_items)
    return (counts / counts.sum()).astype(np.float32)


def _snapshot_rows(log: EncodedLog, times: np.ndarray, horizon: int) -> tuple[np.ndarray, ...]:
    """Start of the history, stops of history and targets, time: of every user at each of `times`."""
    parts = [np.zeros((4, 0), np.int64)]
    for time in times:
        stops = (stops_before(log.timestamp, log.offset, t) for t in (time, time + horizon))
        parts.append(np.stack([log.offset[:-1], *stops, np.full(log.num_users, time)]))
    return tuple(np.concatenate(parts, axis=1))


def _event_rows(log: EncodedLog) -> tuple[np.ndarray, ...]:
    """The same of every distinct time of every user."""
    user = log.event_user()
    first = np.flatnonzero(begins_time(user, log.timestamp)).astype(np.int64)
    return log.offset[user[first]], first, np.append(first[1:], len(user)), log.timestamp[first]


def _count_distinct(log: EncodedLog, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(start), np.int64)
    for owner, _ in _distinct_targets(log, start, stop):
        counts += np.bincount(owner, minlength=len(start))
    return counts


def _distinct_targets(log: EncodedLog, start: np.ndarray, stop: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of (example, position in the log) of the first event of each distinct item of `start:stop`."""
    at = np.flatnonzero(log.targets())
    previous = np.full(len(log.item), -1, np.int64)
    earlier = previous_of_item(log.event_user()[at], log.item[at])
    previous[at] = np.where(earlier >= 0, at[earlier], -1)
    length = stop - start
    num_chunks = int(length.sum()) // _CHUNK_EVENTS + 1
    for rows in np.array_split(np.arange(len(start)), num_chunks):
        row, position = flat_ranges(start[rows], stop[rows])
        if log.is_target is not None:
            row, position = row[log.is_target[position]], position[log.is_target[position]]
        is_first = previous[position] < start[rows][row]
        yield rows[row[is_first]], position[is_first]
