"""What everyone's behavior says of an item (or a category), as of a time: strictly past. Imports no TensorFlow."""

import dataclasses

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.data.corpus import EncodedLog

NUM_STATS = 3
"""Columns: log(0.05 + popularity decayed with a 30-day half-life), log1p(days since anyone took it), repeat rate."""

_HALF_LIFE_DAYS = 30.0
_NEVER_DAYS = 3650.0


@dataclasses.dataclass(frozen=True)
class ItemStats:
    """Item statistics on a grid of times.

    Attributes:
      time: times, ascending, [S] int64 seconds; row s counts events strictly before time[s].
      item: [S, V, NUM_STATS] float32.
      category: the same three of each category, [S, C, NUM_STATS] float32.
      first_time: first event of each item, [V] int64 (the largest int64 where it has none).
    """

    time: np.ndarray
    item: np.ndarray
    category: np.ndarray
    first_time: np.ndarray

    def row_at(self, time: np.ndarray) -> np.ndarray:
        """The latest row that is not after `time`, int32; 0 (which saw least) for times before the grid."""
        return np.maximum(np.searchsorted(self.time, time, side="right") - 1, 0).astype(np.int32)


def build_item_stats(log: EncodedLog, item_category: np.ndarray, time: np.ndarray, num_categories: int) -> ItemStats:
    """Statistics of items and categories at each of the times `time` ([S] int64, ascending). O(E + S V)."""
    num_items = len(item_category)
    order = np.argsort(log.timestamp, kind="stable")
    item, timestamp = log.item[order], log.timestamp[order]
    repeat = _is_repeat(log, num_items)[order]
    first_time = np.full(num_items, np.iinfo(np.int64).max)
    np.minimum.at(first_time, item, timestamp)
    state = {name: _Running(size) for name, size in (("item", num_items), ("category", num_categories))}
    owner = {"item": item, "category": item_category[item]}
    rows: dict[str, list[np.ndarray]] = {"item": [], "category": []}
    start, previous = 0, int(time[0])
    for as_of in time:
        stop = np.searchsorted(timestamp, as_of, side="left")
        for name, running in state.items():
            running.advance(owner[name][start:stop], timestamp[start:stop], repeat[start:stop], previous, int(as_of))
            rows[name].append(running.columns(int(as_of)))
        start, previous = stop, int(as_of)
    return ItemStats(
        time=np.asarray(time, np.int64),
        item=np.stack(rows["item"]),
        category=np.stack(rows["category"]),
        first_time=first_time,
    )


class _Running:
    """Sums that move forward from time to time."""

    def __init__(self, size: int) -> None:
        self.decayed, self.count, self.repeats = np.zeros(size), np.zeros(size), np.zeros(size)
        self.last = np.full(size, np.iinfo(np.int64).min)

    def advance(self, owner: np.ndarray, timestamp: np.ndarray, repeat: np.ndarray, previous: int, as_of: int) -> None:
        size = len(self.count)
        self.decayed *= np.exp2((previous - as_of) / schema.DAY_S / _HALF_LIFE_DAYS)
        age = np.exp2((timestamp - as_of) / schema.DAY_S / _HALF_LIFE_DAYS)
        self.decayed += np.bincount(owner, age, size)
        self.count += np.bincount(owner, minlength=size)
        self.repeats += np.bincount(owner, repeat, size)
        self.last[owner] = timestamp  # ascending, so the last assignment is the newest

    def columns(self, as_of: int) -> np.ndarray:
        seen = self.count > 0
        days = np.where(seen, (as_of - np.where(seen, self.last, as_of)) / schema.DAY_S, _NEVER_DAYS)
        return np.stack(
            [np.log(0.05 + self.decayed), np.log1p(days), self.repeats / np.maximum(self.count, 1)], axis=1
        ).astype(np.float32)


def _is_repeat(log: EncodedLog, num_items: int) -> np.ndarray:
    """Whether the user had taken the item at an earlier event, [E] float64."""
    pair = log.event_user() * num_items + log.item
    order = np.argsort(pair, kind="stable")
    repeat = np.ones(len(pair))
    repeat[order[np.flatnonzero(np.diff(pair[order], prepend=-1))]] = 0
    return repeat
