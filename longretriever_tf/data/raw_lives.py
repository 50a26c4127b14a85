"""Raw histories of requests, in the graph: what may be read of them, and runs of their categories."""

from typing import NamedTuple

import tensorflow as tf

from longretriever_tf import schema
from longretriever_tf.data.hard_search import Events
from longretriever_tf.data.owned_items import OwnedItems, find_owned
from longretriever_tf.data.taste import fold_of_lives

_FOREVER_S = 1 << 40
"""Events further apart than this, 35,000 years, count as of one time."""


class RawLives(NamedTuple):
    """The events of B raw lives that a request may read, flat: rows in order, each in the order it was sent in.

    Attributes:
      life: `request` is the row.
      timestamp: [n] int64 seconds.
      owned: the distinct items.
    """

    life: Events
    timestamp: tf.Tensor
    owned: OwnedItems


class Runs(NamedTuple):
    """The runs of R (row, category) pairs, flat, each oldest first.

    Attributes:
      item: [n] int32.
      timestamp: [n] int64 seconds.
      weight: [n] float32.
      start, stop: bounds of each run, [R] int64; equal where the row never touched the category.
    """

    item: tf.Tensor
    timestamp: tf.Tensor
    weight: tf.Tensor
    start: tf.Tensor
    stop: tf.Tensor


def read_lives(
    item: tf.Tensor,
    timestamp: tf.Tensor,
    weight: tf.Tensor,
    time: tf.Tensor,
    item_category: tf.Tensor,
    num_categories: int,
    history_events: int = 0,
) -> RawLives:
    """Raw histories, in any order and padded, without what a request must not read.

    Args:
      item: item index, [B, T] int32; unknown items are left out.
      timestamp: [B, T] int64 seconds; 0 is padding (an id of 0 may be real); events at or after `time` are left out.
      weight: of each event in eq. 3, [B, T] float32.
      time: moment of the request, [B] int64 seconds.
      item_category: category of each item, [V] int32.
      num_categories: C.
      history_events: only the latest so many events of each life are there; 0: all. See `data.recent`.
    """
    seconds = time[:, None] - timestamp
    keep = keep_visible(_is_past(item, timestamp, time), timestamp, history_events)
    row = tf.broadcast_to(tf.range(tf.shape(item)[0])[:, None], tf.shape(item))
    age = tf.cast(seconds, tf.float32) / schema.DAY_S
    columns = [tf.reshape(column, [-1]) for column in (row, item, age, weight, timestamp)]

    def kept() -> list[tf.Tensor]:
        at = tf.where(tf.reshape(keep, [-1]))[:, 0]
        return [tf.gather(column, at) for column in columns]

    # Gathering 20,000 events costs as much as looking them up; a single request often has nothing to leave out.
    row, item, age, weight, timestamp = tf.cond(tf.reduce_all(keep), lambda: columns, kept)
    life = Events(row, item, age, weight)
    return RawLives(life, timestamp, find_owned(life, item_category, tf.size(time), num_categories))


def read_folds(
    item: tf.Tensor, timestamp: tf.Tensor, time: tf.Tensor, item_key: tf.Tensor, num_folds: int
) -> tf.Tensor:
    """`data.taste.fold_of_users` of raw histories, whose columns are those of `read_lives`: [B] int64.

    Args:
      item, timestamp, time: see `read_lives`; however much of a life is visible, its beginning counts.
      item_key: from `data.taste.item_keys`, [V] int64.
      num_folds: K.
    """
    is_past = _is_past(item, timestamp, time)
    past = tf.where(is_past, timestamp, tf.int64.max)
    first = tf.reduce_min(past, 1)
    begins = tf.where(is_past & (past == first[:, None]))
    key = tf.gather(item_key, tf.gather_nd(item, begins))
    key = tf.math.unsorted_segment_max(key, begins[:, 0], tf.size(time))
    # A row without events, and a batch without columns, have nothing to read: any fold will do.
    return fold_of_lives(tf.where(tf.reduce_any(is_past, 1), first, 0), tf.maximum(key, 0), num_folds)


def _is_past(item: tf.Tensor, timestamp: tf.Tensor, time: tf.Tensor) -> tf.Tensor:
    return (item >= schema.FIRST_KNOWN) & (timestamp > 0) & (timestamp < time[:, None])


def keep_visible(is_past: tf.Tensor, timestamp: tf.Tensor, history_events: int) -> tf.Tensor:
    """`is_past` less what is not visible: the rule of `data.recent` for raw histories, in any order and padded.

    Args:
      is_past: events of the life strictly before the request, [B, T] bool.
      timestamp: above 0 where `is_past`, [B, T] int64.
      history_events: H; 0: the whole life.
    """
    if not history_events:
        return is_past
    past = tf.pad(tf.where(is_past, timestamp, 0), [[0, 0], [0, 1]])  # one column at least
    latest = tf.math.top_k(past, tf.minimum(history_events, tf.shape(past)[1])).values
    return is_past & (timestamp >= latest[:, -1:])


def order_runs(lives: RawLives, row: tf.Tensor, category: tf.Tensor, num_runs: tf.Tensor, num_categories: int) -> Runs:
    """Cuts some runs out of raw lives and sorts them by time: the request's form of `CategoryOrder`. O(n + m log m).

    Only what is cut out, m events, is sorted: a few categories of a long life, usually. Events of one time stay in the
    order they were sent in.

    Args:
      lives: of B requests.
      row: request of each pair, [R] int32; no pair occurs twice.
      category: [R] int32.
      num_runs: B C, scalar int32.
      num_categories: C.
    """
    pair = (row * num_categories + category)[:, None]
    slot_of_run = tf.tensor_scatter_nd_update(tf.fill([num_runs], -1), pair, tf.range(tf.size(row)))
    slot = tf.gather(tf.gather(slot_of_run, lives.owned.run), lives.owned.place)
    at = tf.where(slot >= 0)[:, 0]
    slot, timestamp = tf.gather(slot, at), tf.gather(lives.timestamp, at)
    ago = tf.minimum(tf.reduce_max(timestamp) - timestamp, _FOREVER_S - 1)
    order = tf.argsort(tf.cast(slot, tf.int64) * _FOREVER_S - ago, stable=True)  # by slot, then by time: one sort
    at, timestamp = tf.gather(at, order), tf.gather(timestamp, order)
    count = tf.math.unsorted_segment_sum(tf.ones_like(slot, tf.int64), slot, tf.size(row))
    stop = tf.cumsum(count)
    item, weight = tf.gather(lives.life.item, at), tf.gather(lives.life.weight, at)
    return Runs(item, timestamp, weight, stop - count, stop)
