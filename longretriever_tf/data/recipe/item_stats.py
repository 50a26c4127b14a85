"""What everyone's behavior says of an item (or a category), as of a time: strictly past. Imports no TensorFlow."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.data.corpus import EncodedLog

NUM_STATS = 3
"""Columns: log(0.05 + popularity decayed with a 30-day half-life), log1p(days since anyone took it), repeat rate."""

_HALF_LIFE_DAYS = 30.0
_NEVER_DAYS = 3650.0
_LEAST, _MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class ItemStats:
    """Item statistics on a grid of times.

    Attributes:
      time: times, ascending, [S] int64 seconds; row s counts events strictly before time[s].
      item: [S, V, NUM_STATS] float32.
      category: the same three of each category, [S, C, NUM_STATS] float32.
      first_time: first event of each item, [V] int64 (the largest int64 where it has none).
      takers: log(0.5 + users who had taken the item) at the last time, [V] float32: popularity that forgets nothing,
        which a small log knows best.
    """

    time: np.ndarray
    item: np.ndarray
    category: np.ndarray
    first_time: np.ndarray
    takers: np.ndarray

    def row_at(self, time: np.ndarray) -> np.ndarray:
        """The latest row that is not after `time`, int32; 0 (which saw least) for times before the grid."""
        return rows_at(self.time, time)


def rows_at(grid: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The latest row of a grid ([S] int64, ascending) that is not after each `time`, [n] int32; 0 before the grid."""
    return np.maximum(np.searchsorted(grid, time, side="right") - 1, 0).astype(np.int32)


CELL = np.dtype(
    [(name, "<i4") for name in ("item", "count", "repeats")] + [(name, "<i8") for name in ("decayed", "last", "first")]
)
"""What some users' events of one item within one interval of the grid come to; see `ItemCells`."""

_UNIT = 2.0**-32
"""Decayed counts are sums of whole numbers of this, which have no order: any parts of the users give the same bits.

Each event is off by 1.2e-10 at most, far below the last digit of float32, and int64 holds 2e9 events of an item in one
interval."""


@dataclasses.dataclass(frozen=True)
class ItemCells:
    """Sums over the events of some users, by interval of the grid and item. Cells of disjoint users simply add up.

    Attributes:
      offset: interval s, from `time[s - 1]` to just before `time[s]`, owns cells `offset[s]:offset[s + 1]`; the last
        interval, after the grid, counts for first times alone; [S + 2] int64.
      cells: by interval, then item, [n] `CELL`: events, those that repeat an item of their user, the count decayed to
        the interval's end in units of 2^-32, times of the last and the first event.
    """

    offset: np.ndarray
    cells: np.ndarray


def item_cells(log: EncodedLog, time: np.ndarray, num_items: int) -> ItemCells:
    """The cells of a log's events on the grid `time` ([S] int64, ascending). O(E log E)."""
    interval = np.searchsorted(time, log.timestamp, side="right")
    key = interval * num_items + log.item
    order = np.argsort(key, kind="stable")
    key, interval, timestamp = key[order], interval[order], log.timestamp[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    days = (timestamp - np.append(time, _MOST)[interval]) / schema.DAY_S
    cells = np.zeros(len(starts), CELL)
    if len(starts):
        cells["item"] = key[starts] % num_items
        cells["count"] = np.diff(np.append(starts, len(key)))
        cells["repeats"] = np.add.reduceat(_is_repeat(log, num_items)[order].astype(np.int64), starts)
        units = np.rint(np.exp2(days / _HALF_LIFE_DAYS) / _UNIT).astype(np.int64)
        cells["decayed"] = np.add.reduceat(units, starts)
        cells["last"] = np.maximum.reduceat(timestamp, starts)
        cells["first"] = np.minimum.reduceat(timestamp, starts)
    return ItemCells(np.searchsorted(key[starts], np.arange(len(time) + 2) * num_items), cells)


def build_item_stats(log: EncodedLog, item_category: np.ndarray, time: np.ndarray, num_categories: int) -> ItemStats:
    """Statistics of items and categories at each of the times `time` ([S] int64, ascending). O(E log E + S V)."""
    return scan_cells([item_cells(log, time, len(item_category))], item_category, time, num_categories)


def scan_cells(
    parts: Sequence[ItemCells], item_category: np.ndarray, time: np.ndarray, num_categories: int
) -> ItemStats:
    """Statistics from the cells of all users, in any number of parts and any order: the same bits. O(cells + S V).

    Args:
      parts: of disjoint users, on the grid `time`; cells may lie on disk, and are read an interval at a time.
      item_category: [V] int32.
      time: the grid, [S] int64.
      num_categories: C.
    """
    num_items, num_times = len(item_category), len(time)
    first_time = np.full(num_items, _MOST)
    items, categories = _Running(num_items), _Running(num_categories)
    item_rows = np.empty((num_times, num_items, NUM_STATS), np.float32)
    category_rows = np.empty((num_times, num_categories, NUM_STATS), np.float32)
    for s in range(num_times + 1):
        total = _add_up([part.cells[part.offset[s] : part.offset[s + 1]] for part in parts], num_items)
        np.minimum(first_time, total.first, out=first_time)
        if s < num_times:
            days = float(time[s - 1] - time[s]) / schema.DAY_S if s else 0.0
            items.advance(total, days)
            categories.advance(_by_category(total, item_category, num_categories), days)
            item_rows[s], category_rows[s] = items.columns(int(time[s])), categories.columns(int(time[s]))
    takers = np.log(0.5 + items.count - items.repeats).astype(np.float32)
    return ItemStats(np.asarray(time, np.int64), item_rows, category_rows, first_time, takers)


class _Totals(NamedTuple):
    """One interval's sums of all users by item or category: [n] float64 of whole numbers of units, then int64."""

    decayed: np.ndarray
    events: np.ndarray
    repeats: np.ndarray
    last: np.ndarray
    first: np.ndarray


def _add_up(parts: list[np.ndarray], num_items: int) -> _Totals:
    decayed, events, repeats = (np.zeros(num_items, np.int64) for _ in range(3))
    last, first = (np.full(num_items, end) for end in (_LEAST, _MOST))
    for part in parts:
        cells = np.array(part)  # a part of a file is read once, as a whole
        item = cells["item"]  # each once, so that plain indexing adds up
        for total, name in ((decayed, "decayed"), (events, "count"), (repeats, "repeats")):
            total[item] += cells[name]
        last[item] = np.maximum(last[item], cells["last"])
        first[item] = np.minimum(first[item], cells["first"])
    return _Totals(decayed.astype(np.float64), events, repeats, last, first)


def _by_category(total: _Totals, item_category: np.ndarray, num_categories: int) -> _Totals:
    """The sums of each category's items, in the order of the items."""
    last = np.full(num_categories, _LEAST)
    np.maximum.at(last, item_category, total.last)
    decayed, events, repeats = (np.bincount(item_category, column, num_categories) for column in total[:3])
    return _Totals(decayed, events, repeats, last, last)


class _Running:
    """Sums that move forward from time to time."""

    def __init__(self, size: int) -> None:
        self.decayed, self.count, self.repeats = np.zeros(size), np.zeros(size), np.zeros(size)
        self.last = np.full(size, _LEAST)

    def advance(self, total: _Totals, days: float) -> None:
        self.decayed *= np.exp2(days / _HALF_LIFE_DAYS)
        self.decayed += total.decayed * _UNIT
        self.count += total.events
        self.repeats += total.repeats
        np.maximum(self.last, total.last, out=self.last)

    def columns(self, as_of: int) -> np.ndarray:
        seen = self.count > 0
        days = np.where(seen, (as_of - np.where(seen, self.last, as_of)) / schema.DAY_S, _NEVER_DAYS)
        return np.stack(
            [np.log(0.05 + self.decayed), np.log1p(days), self.repeats / np.maximum(self.count, 1)], axis=1
        ).astype(np.float32)


def _is_repeat(log: EncodedLog, num_items: int) -> np.ndarray:
    """Whether the user had taken the item at an earlier event, [E] bool."""
    pair = log.event_user() * num_items + log.item
    order = np.argsort(pair, kind="stable")
    repeat = np.ones(len(pair), bool)
    repeat[order[np.flatnonzero(np.diff(pair[order], prepend=-1))]] = False
    return repeat
