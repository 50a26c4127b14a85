"""Raw event columns to whole histories: the only code that turns baskets and duplicates into times.

Every source (TFDS builders, MovieLens, tests) passes through `build_log`. Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.text import as_text
from longretriever_tf.datasets import accounts
from longretriever_tf.datasets.log import EventColumn, ItemTable, LifelongLog


class RawEvents(NamedTuple):
    """Events in any order, by dense rows.

    Attributes:
      user_row: row of the user table, [E] int64.
      item_row: row of the item table, [E] int64.
      timestamp: seconds UTC, [E] int64.
      basket_id: [E] int64, unique across users; -1 for an event that belongs to no basket. None: no baskets.
      weight: [E] float32; weights of merged events are added. None: the log has none, all are 1.
      nanosecond: how far within its second each event lies, [E] int64. None: times are whole seconds.
      action: number of its action, [E] int64; events of several actions are never merged. None: the log has none.
      features: further columns by name; of merged events, the earliest says them. None: the log has none.
    """

    user_row: np.ndarray
    item_row: np.ndarray
    timestamp: np.ndarray
    basket_id: np.ndarray | None = None
    weight: np.ndarray | None = None
    nanosecond: np.ndarray | None = None
    action: np.ndarray | None = None
    features: Mapping[str, EventColumn] | None = None


def build_log(
    events: RawEvents,
    user_id: np.ndarray,
    profile: dict[str, np.ndarray],
    items: ItemTable,
    context: str,
    counts: Mapping[str, int] | None = None,
) -> LifelongLog:
    """Whole histories of the users, oldest first.

    Each basket moves to its earliest time and keeps one event per item; without baskets, events of the same user,
    item and second become one, at the earliest of their times; events of different actions stay apart. A history is in
    order of full time, then of basket, then of item, then of action: the order of the rows in the source never counts.

    Args:
      events: at least the columns of `RawEvents`.
      user_id: [U], sorted and unique; users without events get an empty history.
      profile: columns [U] of str.
      items: the item table, `item_id` sorted and unique.
      context: the default context column, among `items.features`.
      counts: what the source has read and left out, as in `accounts`; by default `events` are all that was read.

    A basket of two times, with item 0 twice, and a later event of its own:

    >>> item, time, basket = np.array([0, 1, 0, 1]), np.array([50, 40, 40, 90]), np.array([7, 7, 7, -1])
    >>> events = RawEvents(np.zeros(4, int), item, time, basket)
    >>> items = ItemTable(np.array([11, 12]), {"category": np.array(["a", "b"])}, np.array(["tea", "milk"]))
    >>> log = build_log(events, np.array([5]), {}, items, "category")
    >>> log.item_row.tolist(), log.timestamp.tolist()
    ([0, 1, 1], [40, 40, 90])
    >>> log.counts
    {'rows': 4, 'same_basket': 1, 'same_second': 0, 'kept': 3}
    """
    basket_id = events.basket_id if events.basket_id is not None else np.full(len(events.item_row), -1, np.int64)
    events = _move_baskets(events, basket_id)
    keep, weight = _merge_duplicates(events, basket_id)
    lengths = np.bincount(events.user_row[keep], minlength=len(user_id))
    return LifelongLog(
        user_id=user_id,
        profile=profile,
        offset=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_row=events.item_row[keep].astype(np.int32),
        timestamp=events.timestamp[keep].astype(np.int64),
        basket_id=basket_id[keep].astype(np.int64),
        weight=weight,
        items=items,
        context=context,
        counts=accounts.close(counts or {}, basket_id >= 0, keep),
        action=None if events.action is None else events.action[keep].astype(np.int16),
        event_features={name: column.of(keep) for name, column in (events.features or {}).items()},
    )


def packed(columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Fewer columns that sort alike: neighbours become one number where 63 bits hold them; sorting by one is fast.

    Args:
      columns: whole numbers, the last the most significant, as `np.lexsort` takes them; [n] each.

    >>> packed((np.array([1, 0]), np.array([7, 5])))
    (array([5, 0]),)
    """
    keys: list[np.ndarray] = []
    room = 1
    for column in columns:
        low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        size = high - low + 1
        if keys and room * size < 2**63:
            keys[-1] = keys[-1] + (column.astype(np.int64) - low) * room
            room *= size
        else:
            keys.append(column.astype(np.int64) - low if size < 2**63 else column)
            room = size
    return tuple(keys)


def first_of_segments(columns: tuple[np.ndarray, ...], order: np.ndarray) -> np.ndarray:
    """Positions in `order`, which sorts by these columns, where a value of any of them begins, [R] int64."""
    is_first = np.arange(len(order)) == 0
    for column in columns:
        ordered = column[order]
        is_first[1:] |= ordered[1:] != ordered[:-1]
    return np.flatnonzero(is_first)


def _move_baskets(events: RawEvents, basket_id: np.ndarray) -> RawEvents:
    """All events of a basket at the earliest full time of the basket."""
    rows = np.flatnonzero(basket_id >= 0)
    if not len(rows):
        return events
    times = [column for column in (events.nanosecond, events.timestamp) if column is not None]
    order = rows[np.lexsort([column[rows] for column in (*times, basket_id)])]
    start = first_of_segments((basket_id,), order)
    length = np.diff(start, append=len(order))

    def move(column: np.ndarray) -> np.ndarray:
        moved = column.copy()
        moved[order] = np.repeat(column[order[start]], length)
        return moved

    nanosecond = None if events.nanosecond is None else move(events.nanosecond)
    return events._replace(timestamp=move(events.timestamp), nanosecond=nanosecond)


def _merge_duplicates(events: RawEvents, basket_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One event of each (user, second, basket, item, action), the earliest, as positions in order of the histories.

    Returns:
      Positions [E'] int64, and the merged weights [E'] float32: sums in a fixed order, that of the weights.
    """
    action = () if events.action is None else (events.action,)
    same = packed((*action, events.item_row, basket_id, events.timestamp, events.user_row))
    within = [column for column in (events.weight, events.nanosecond) if column is not None]
    within = [*(column.row for column in (events.features or {}).values()), *within]  # ties: not the order of the rows
    order = np.lexsort([*within, *same])
    start = first_of_segments(same, order)
    keep, weight = order[start], np.ones(len(start), np.float32)
    if events.weight is not None and len(start):
        weight = np.add.reduceat(events.weight[order].astype(np.float64), start).astype(np.float32)
    if events.nanosecond is None:
        return keep, weight
    by_time = (*action, events.item_row, basket_id, events.nanosecond, events.timestamp, events.user_row)
    order = np.lexsort(packed(tuple(column[keep] for column in by_time)))
    return keep[order], weight[order]


def fill_missing_context(items: ItemTable, context: str) -> ItemTable:
    """The items with a category of their own for those whose context column is empty; see `fill_missing`.

    Without a context column ("") the items stay as they are.
    """
    if not context:
        return items
    return dataclasses.replace(items, features={**items.features, context: fill_missing(items.features[context])})


def fill_missing(column: np.ndarray) -> np.ndarray:
    """The column with `schema.MISSING_CONTEXT` where it is empty, [N] of str.

    If a real value has that name, the filled ones get one more pair of parentheses.

    >>> fill_missing(np.array(["tea", "", "(missing)"], dtype=object)).tolist()
    ['tea', '((missing))', '(missing)']
    """
    filled, given, label = as_text(column), set(column.tolist()), schema.MISSING_CONTEXT
    while label in given:
        label = f"({label})"
    filled[filled == schema.MISSING] = label
    return filled
