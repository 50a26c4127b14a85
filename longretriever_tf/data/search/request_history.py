"""Raw histories of requests, in the graph: what may be read of them, and the segments of their categories."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.data.search.hard_search import Events
from longretriever_tf.data.search.unique_items import InteractedItems, find_interacted_ids

_BITS = 5
"""Events are grouped by the categories of a request in passes over so many bits of their numbers, two at most."""

_FOREVER_S = 1 << 40
"""Events further apart than this, 35,000 years, count as of one time."""


class RawHistories(NamedTuple):
    """What B requests say of their histories, in any order and padded.

    Attributes:
      item_id: raw ids, [B, T] int64 or string (or indices, [B, T] int32).
      timestamp: [B, T] int64 seconds; 0 is padding (an id of 0 may be real).
      weight: of each event in eq. 3, [B, T] float32.
      time: time of the request, [B] int64 seconds; events at or after it are left out.
      is_target: events of target actions, [B, T] bool; None: every event is.
    """

    item_id: tf.Tensor
    timestamp: tf.Tensor
    weight: tf.Tensor
    time: tf.Tensor
    is_target: tf.Tensor | None = None


class Beginnings(NamedTuple):
    """Some events of histories, the first ones of each among them.

    Attributes:
      row: of the history, [b] int32 or int64.
      item: item index, [b] int32.
      timestamp: [b] int64 seconds; the largest there is for what does not count.
    """

    row: tf.Tensor
    item: tf.Tensor
    timestamp: tf.Tensor


class RequestHistories(NamedTuple):
    """The events of B raw histories that a request may read, flat: rows in order, each in the order it was sent in.

    Attributes:
      age: days before the request, [n] float32.
      weight: of each event in eq. 3, [n] float32.
      timestamp: [n] int64 seconds.
      interacted: the distinct items, unknown ones among them.
      first, last: when each of them was taken first and last, [d] int64 seconds.
      begun: how the histories begin, however much of them may be read.
      num_unknown: events strictly before the request of items that the model does not know, [B] int32.
      is_target: events of target actions, [n] bool; of static shape [0] where every event is one.
    """

    age: tf.Tensor
    weight: tf.Tensor
    timestamp: tf.Tensor
    interacted: InteractedItems
    first: tf.Tensor
    last: tf.Tensor
    begun: Beginnings
    num_unknown: tf.Tensor
    is_target: tf.Tensor

    @property
    def history(self) -> Events:
        """The events themselves."""
        at = self.interacted.inverse
        request, item = tf.gather(self.interacted.request, at), tf.gather(self.interacted.item, at)
        return Events(request, item, self.age, self.weight)

    def taken(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Row and index of the distinct items that each history took (with targets: as one), [t] int32 each."""
        row, item = self.interacted.request, self.interacted.item
        if not tells_targets(self.is_target):
            return row, item
        num_items = tf.size(item)
        taken = tf.math.unsorted_segment_max(tf.cast(self.is_target, tf.int32), self.interacted.inverse, num_items) > 0
        return tf.boolean_mask(row, taken), tf.boolean_mask(item, taken)

    def item_ages(self, time: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Days since the last and the first event of each distinct item, [d] float32 each; `time` is [B] int64."""
        as_of = tf.gather(time, self.interacted.request)
        last, first = (tf.cast(as_of - at, tf.float32) / schema.DAY_S for at in (self.last, self.first))
        return last, first


class Segments(NamedTuple):
    """The events of R (row, category) pairs, flat, each oldest first.

    Attributes:
      item: [n] int32.
      timestamp: [n] int64 seconds.
      weight: [n] float32.
      start, stop: bounds of each pair's events, [R] int64; equal where the history holds none of the category.
      is_target: as of `RequestHistories`.
    """

    item: tf.Tensor
    timestamp: tf.Tensor
    weight: tf.Tensor
    start: tf.Tensor
    stop: tf.Tensor
    is_target: tf.Tensor


def tells_targets(is_target: tf.Tensor) -> bool:
    """Whether a column of `RequestHistories` or `Segments` parts events, and does not stand for "every event"."""
    return bool(is_target.shape.as_list() != [0])


def read_histories(
    raw: RawHistories,
    lookup: Callable[[tf.Tensor], tf.Tensor],
    item_category: tf.Tensor,
    num_categories: int,
    history_events: int = 0,
) -> RequestHistories:
    """Raw histories without what a request must not read.

    Args:
      raw: B of them.
      lookup: ids to item indices, UNKNOWN where there is none; such items count nowhere.
      item_category: category of each item, [V] int32.
      num_categories: C.
      history_events: only the latest so many events of each history are there; 0: all. See `data.search.history_limit`.
    """
    item_id, timestamp, weight, time = map(tf.convert_to_tensor, raw[:4])
    if history_events or item_id.dtype == tf.string:
        item_id, lookup = lookup(item_id), tf.identity
    seconds = tf.maximum(time, 0)[:, None] - timestamp
    is_past = (timestamp > 0) & (seconds > 0)  # with one number: comparing with a column takes four times as long
    past = num_unknown = None
    if history_events:
        num_unknown = tf.math.count_nonzero(is_past & (item_id < schema.FIRST_KNOWN), 1, dtype=tf.int32)
        is_past &= item_id >= schema.FIRST_KNOWN
        past = _take_past(item_id, timestamp, is_past)
    keep = keep_visible(is_past, timestamp, history_events)
    row = tf.broadcast_to(tf.range(tf.shape(item_id)[0])[:, None], tf.shape(item_id))
    age = tf.cast(seconds, tf.float32) / schema.DAY_S
    columns = [tf.reshape(column, [-1]) for column in (row, item_id, age, weight, timestamp)]
    columns += [] if raw.is_target is None else [tf.reshape(raw.is_target, [-1])]

    def kept() -> list[tf.Tensor]:
        at = tf.where(tf.reshape(keep, [-1]))[:, 0]
        return [tf.gather(column, at) for column in columns]

    # Gathering 20,000 events costs as much as looking them up; a single request often has nothing to leave out.
    row, item_id, age, weight, timestamp, *targets = tf.cond(tf.reduce_all(keep), lambda: columns, kept)
    interacted = find_interacted_ids(row, item_id, age, lookup, item_category, tf.size(time), num_categories)
    extremes = (tf.math.unsorted_segment_min, tf.math.unsorted_segment_max)
    first, last = (extreme(timestamp, interacted.inverse, tf.size(interacted.item)) for extreme in extremes)
    if past is None:
        unknown = tf.where(interacted.segment < 0, interacted.count, 0.0)
        num_unknown = tf.cast(tf.math.unsorted_segment_sum(unknown, interacted.request, tf.size(time)), tf.int32)
        past = Beginnings(interacted.request, interacted.item, tf.where(interacted.segment < 0, first.dtype.max, first))
    is_target = targets[0] if targets else tf.zeros([0], tf.bool)
    return RequestHistories(age, weight, timestamp, interacted, first, last, past, num_unknown, is_target)


def _take_past(item: tf.Tensor, timestamp: tf.Tensor, is_past: tf.Tensor) -> Beginnings:
    at = tf.where(is_past)
    return Beginnings(at[:, 0], tf.gather_nd(item, at), tf.gather_nd(timestamp, at))


def keep_visible(is_past: tf.Tensor, timestamp: tf.Tensor, history_events: int) -> tf.Tensor:
    """`is_past` less what is not visible: the rule of `data.search.history_limit` for raw histories, in any order and
    padded.

    Args:
      is_past: events of the history strictly before the request, [B, T] bool.
      timestamp: above 0 where `is_past`, [B, T] int64.
      history_events: H; 0: the whole history.
    """
    if not history_events:
        return is_past
    past = tf.pad(tf.where(is_past, timestamp, 0), [[0, 0], [0, 1]])  # one column at least
    latest = tf.math.top_k(past, tf.minimum(history_events, tf.shape(past)[1])).values
    return is_past & (timestamp >= latest[:, -1:])


def order_segments(
    histories: RequestHistories, row: tf.Tensor, category: tf.Tensor, num_segments: tf.Tensor, num_categories: int
) -> Segments:
    """Cuts the events of some categories out of raw histories, in order of time. O(n + m log m).

    It is the request's form of `behavior_index.CategoryOrder`.

    Only what is cut out, m events, is brought into order: a few categories of a long history, usually. Where histories
    were sent in order of time and the pairs of a request are few, nothing is sorted at all. Events of one time stay in
    the order they were sent in.

    Args:
      histories: of B requests.
      row: request of each pair, [R] int32, ascending; no pair occurs twice.
      category: [R] int32.
      num_segments: B C, scalar int32.
      num_categories: C.
    """
    interacted, row = histories.interacted, tf.convert_to_tensor(row)
    # Segments are laid out by the rank of a pair among those of its request, then by request.
    rank, num_requests = tf.range(tf.size(row)) - tf.searchsorted(row, row), num_segments // num_categories
    num_ranks = tf.maximum(tf.reduce_max(rank) + 1, 1)
    pair = (row * num_categories + category)[:, None]
    rank_of_segment = tf.tensor_scatter_nd_update(tf.fill([num_segments], -1), pair, rank)
    rank_of_item = tf.where(interacted.segment < 0, -1, tf.gather(rank_of_segment, tf.maximum(interacted.segment, 0)))
    slot_of_item = tf.where(rank_of_item < 0, -1, rank_of_item * num_requests + interacted.request)
    # Single numbers by `gather_nd`, in two thirds of the time of `gather`.
    rank_of_event = tf.gather_nd(rank_of_item, interacted.inverse[:, None])
    at = tf.where(rank_of_event >= 0)[:, 0]
    is_few = num_ranks <= 1 << (2 * _BITS)
    at = tf.cond(is_few, lambda: _group(at, rank_of_event, num_ranks), lambda: at)
    item, timestamp = tf.gather(interacted.inverse, at), tf.gather(histories.timestamp, at)
    ago = tf.minimum(tf.reduce_max(timestamp) - timestamp, _FOREVER_S - 1)
    key = tf.cast(tf.gather(slot_of_item, item), tf.int64) * _FOREVER_S - ago  # by slot, then by time

    def sort() -> list[tf.Tensor]:
        order = tf.argsort(key, stable=True)
        return [tf.gather(column, order) for column in (at, item, timestamp)]

    at, item, timestamp = tf.cond(tf.reduce_all(key[1:] >= key[:-1]), lambda: [at, item, timestamp], sort)
    counts = tf.math.unsorted_segment_sum(tf.cast(interacted.count, tf.int64), slot_of_item, num_ranks * num_requests)
    slot = rank * num_requests + row
    count, stop = tf.gather(counts, slot), tf.gather(tf.cumsum(counts), slot)
    is_target = histories.is_target
    is_target = tf.gather(is_target, at) if tells_targets(is_target) else is_target
    weight = tf.gather(histories.weight, at)
    return Segments(tf.gather(interacted.item, item), timestamp, weight, stop - count, stop, is_target)


def _group(at: tf.Tensor, rank: tf.Tensor, num_ranks: tf.Tensor) -> tf.Tensor:
    """Positions by the rank of each, stable, the lower bits first: sorting takes several times as long.

    Args:
      at: positions in `rank`, [m] int64.
      rank: [n] int32, below P at these positions.
      num_ranks: P, scalar int32, at most 2 ** (2 `_BITS`).
    """

    def by(digit: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
        return tf.concat(tf.dynamic_partition(at, digit, 1 << _BITS), 0)

    low = by(tf.bitwise.bitwise_and(tf.gather(rank, at), (1 << _BITS) - 1), at)
    return tf.cond(
        num_ranks > 1 << _BITS, lambda: by(tf.bitwise.right_shift(tf.gather(rank, low), _BITS), low), lambda: low
    )
