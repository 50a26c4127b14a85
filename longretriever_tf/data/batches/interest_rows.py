"""Snapshots by (user, time): what the learned interest score learns from. Imports no TensorFlow."""

from typing import NamedTuple

import numpy as np

from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.data.batches.examples import Examples, previous_of_item
from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.data.search.behavior_index import CategoryOrder
from longretriever_tf.data.search.history_limit import visible_histories


class InterestRows(NamedTuple):
    """n histories at their times, by user, then time; row r owns the targets `target[r]:target[r + 1]`.

    Attributes:
      start, stop: the visible history in the time-ordered log, [n] int64.
      time: seconds UTC, [n] int64.
      id: of what the row asks, [n] uint64; an epoch is ordered by it.
      weight: [n] float32.
      example: the first of the row's examples, [n] int64.
      target: [n + 1] int64.
      category: of each target, one of each category that is taken, [m] int32.
      counts: distinct items taken of it within the horizon, by task (all, novel), [m, 2] float32.
    """

    start: np.ndarray
    stop: np.ndarray
    time: np.ndarray
    id: np.ndarray
    weight: np.ndarray
    example: np.ndarray
    target: np.ndarray
    category: np.ndarray
    counts: np.ndarray


def interest_rows(log: EncodedLog, order: CategoryOrder, examples: Examples, history_events: int) -> InterestRows:
    """Groups snapshots by (user, time).

    Args:
      log: the encoded log before the cut.
      order: its category order.
      examples: its snapshots.
      history_events: only the latest so many events of each history are there; 0: all. See `data.search.history_limit`.
    """
    by_row = np.lexsort((examples.time, examples.user))
    user, time = examples.user[by_row].astype(np.int64), examples.time[by_row]
    first = np.flatnonzero((np.diff(user, prepend=-1) != 0) | (np.diff(time, prepend=-1) != 0))
    start, stop = visible_histories(log, user[first], time[first], history_events)
    example = by_row[first]
    return InterestRows(
        start=start,
        stop=stop,
        time=time[first],
        id=examples.id[example],
        weight=examples.weight[example],
        example=example,
        target=np.append(first, len(by_row)),
        category=examples.category[by_row],
        counts=np.stack(_target_counts(order, examples), 1)[by_row].astype(np.float32),
    )


def _target_counts(order: CategoryOrder, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Distinct target items of each example, and how many of them the user had never taken as one; [X] each."""
    segment = np.repeat(np.arange(len(order.segment_user)), np.diff(order.segment_offset))
    at = np.flatnonzero(order.targets())  # an item that was only viewed is new to a buyer
    previous = np.full(len(segment), -1, np.int64)
    earlier = previous_of_item(segment[at], order.item[at])
    previous[at] = np.where(earlier >= 0, at[earlier], -1)
    owner, position = flat_ranges(examples.target_start, examples.target_stop)
    if order.is_target is not None:
        owner, position = owner[order.is_target[position]], position[order.is_target[position]]
    before = previous[position]
    every = np.bincount(owner, before < examples.target_start[owner], len(examples))
    return every, np.bincount(owner, before < 0, len(examples))
