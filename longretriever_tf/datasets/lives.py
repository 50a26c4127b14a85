"""Raw event columns to whole lives: the one place where baskets and duplicates become moments.

Every source (TFDS builders, MovieLens, worlds made by tests) passes through `build_log`. Imports no TensorFlow.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from longretriever_tf import schema
from longretriever_tf.data.log import ItemTable, LifelongLog
from longretriever_tf.text import as_text


class Events(NamedTuple):
    """Events in the order of their source, by dense rows.

    Attributes:
      user_row: row of the user table, [E] int64.
      item_row: row of the item table, [E] int64.
      timestamp: seconds UTC, [E] int64.
      basket_id: [E] int64, unique across users; -1 for an event that belongs to no basket. None: no baskets.
      weight: [E] float32; weights of merged events are added. None: the log has none, all are 1.
    """

    user_row: np.ndarray
    item_row: np.ndarray
    timestamp: np.ndarray
    basket_id: np.ndarray | None = None
    weight: np.ndarray | None = None


def build_log(
    events: Events, user_id: np.ndarray, profile: dict[str, np.ndarray], items: ItemTable, context: str
) -> LifelongLog:
    """Whole lives of the users, oldest first.

    Each basket moves to its earliest time and keeps one event per item; without baskets, events of the same user,
    item and time become one. Events of equal time keep the order of their source.

    Args:
      events: at least the columns of `Events`.
      user_id: [U], sorted and unique; users without events get an empty life.
      profile: columns [U] of str.
      items: the item table, `item_id` sorted and unique.
      context: the default context column, among `items.features`.

    A basket of two moments, with item 0 twice, and a later event of its own:

    >>> events = Events(np.zeros(4, int), np.array([0, 1, 0, 1]), np.array([50, 40, 40, 90]), np.array([7, 7, 7, -1]))
    >>> items = ItemTable(np.array([11, 12]), {"category": np.array(["a", "b"])}, np.array(["tea", "milk"]))
    >>> log = build_log(events, np.array([5]), {}, items, "category")
    >>> log.item_row.tolist(), log.timestamp.tolist()
    ([0, 1, 1], [40, 40, 90])
    """
    basket_id = events.basket_id if events.basket_id is not None else np.full(len(events.item_row), -1, np.int64)
    timestamp = _earliest_of_basket(events.timestamp, basket_id)
    keep, weight = _merge_duplicates(events, timestamp, basket_id)
    order = np.lexsort((keep, timestamp[keep], events.user_row[keep]))
    keep, weight = keep[order], weight[order]
    lengths = np.bincount(events.user_row[keep], minlength=len(user_id))
    return LifelongLog(
        user_id=user_id,
        profile=profile,
        offset=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_row=events.item_row[keep].astype(np.int32),
        timestamp=timestamp[keep].astype(np.int64),
        basket_id=basket_id[keep].astype(np.int64),
        weight=weight,
        items=items,
        context=context,
    )


def _earliest_of_basket(timestamp: np.ndarray, basket_id: np.ndarray) -> np.ndarray:
    """The time of each event [E] int64, a basket's events all at the basket's earliest."""
    in_basket = np.flatnonzero(basket_id >= 0)
    if not len(in_basket):
        return timestamp
    baskets, basket_row = np.unique(basket_id[in_basket], return_inverse=True)
    earliest = np.full(len(baskets), np.iinfo(np.int64).max)
    np.minimum.at(earliest, basket_row, timestamp[in_basket])
    moved = timestamp.copy()
    moved[in_basket] = earliest[basket_row]
    return moved


def _merge_duplicates(events: Events, timestamp: np.ndarray, basket_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of each (user, moment, basket, item) as positions [E'], and the merged weights [E'] float32."""
    keys = (events.item_row, basket_id, timestamp, events.user_row)
    order = np.lexsort(keys)  # stable: the first of a group is the first of the source
    is_first = np.ones(len(order), bool)
    is_first[1:] = np.logical_or.reduce([np.diff(key[order]) != 0 for key in keys])
    starts = np.flatnonzero(is_first)
    if events.weight is None:
        return order[starts], np.ones(len(starts), np.float32)
    return order[starts], np.add.reduceat(events.weight[order].astype(np.float64), starts).astype(np.float32)


def fill_missing_context(items: ItemTable, context: str) -> ItemTable:
    """The items with a category of their own for those whose context column is empty; see `fill_missing`.

    Without a context column ("") the items stay as they are.
    """
    if not context:
        return items
    return dataclasses.replace(items, features={**items.features, context: fill_missing(items.features[context])})


def fill_missing(column: np.ndarray) -> np.ndarray:
    """The column with `schema.MISSING_CONTEXT` where it is empty, [N] of str.

    A real value of that name stays apart: the filled ones then stand in one more pair of parentheses.

    >>> fill_missing(np.array(["tea", "", "(missing)"], dtype=object)).tolist()
    ['tea', '((missing))', '(missing)']
    """
    filled, given, label = as_text(column), set(column.tolist()), schema.MISSING_CONTEXT
    while label in given:
        label = f"({label})"
    filled[filled == schema.MISSING] = label
    return filled
