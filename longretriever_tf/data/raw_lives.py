"""Raw histories of requests, in the graph: what may be read of them, and runs of their categories."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf import schema
from longretriever_tf.data.hard_search import Events
from longretriever_tf.data.owned_items import OwnedItems, find_owned_ids
from longretriever_tf.data.taste import fold_of_lives

_FEW_PLACES = 16
"""Categories of a request, up to which their events are told apart by comparing each with all: sorting costs more."""

_FOREVER_S = 1 << 40
"""Events further apart than this, 35,000 years, count as of one time."""


class RawHistories(NamedTuple):
    """What B requests say of their lives, in any order and padded.

    Attributes:
      item_id: raw ids, [B, T] int64 or string (or indices, [B, T] int32).
      timestamp: [B, T] int64 seconds; 0 is padding (an id of 0 may be real).
      weight: of each event in eq. 3, [B, T] float32.
      time: moment of the request, [B] int64 seconds; events at or after it are left out.
    """

    item_id: tf.Tensor
    timestamp: tf.Tensor
    weight: tf.Tensor
    time: tf.Tensor


class Beginnings(NamedTuple):
    """Some events of lives, the first ones of each among them.

    Attributes:
      row: of the life, [b] int32 or int64.
      item: item index, [b] int32.
      timestamp: [b] int64 seconds; the largest there is for what does not count.
    """

    row: tf.Tensor
    item: tf.Tensor
    timestamp: tf.Tensor


class RawLives(NamedTuple):
    """The events of B raw lives that a request may read, flat: rows in order, each in the order it was sent in.

    Attributes:
      age: days before the request, [n] float32.
      weight: of each event in eq. 3, [n] float32.
      timestamp: [n] int64 seconds.
      owned: the distinct items, unknown ones among them.
      first, last: when each of them was taken first and last, [d] int64 seconds.
      begun: how the lives begin, however much of them may be read.
      num_unknown: events strictly before the request of items that the model does not know, [B] int32.
    """

    age: tf.Tensor
    weight: tf.Tensor
    timestamp: tf.Tensor
    owned: OwnedItems
    first: tf.Tensor
    last: tf.Tensor
    begun: Beginnings
    num_unknown: tf.Tensor

    @property
    def life(self) -> Events:
        """The events themselves."""
        owned = self.owned
        request, item = tf.gather(owned.request, owned.place), tf.gather(owned.item, owned.place)
        return Events(request, item, self.age, self.weight)

    def item_ages(self, time: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Days since the last and the first event of each distinct item, [d] float32 each; `time` is [B] int64."""
        moment = tf.gather(time, self.owned.request)
        last, first = (tf.cast(moment - at, tf.float32) / schema.DAY_S for at in (self.last, self.first))
        return last, first


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
    raw: RawHistories,
    lookup: Callable[[tf.Tensor], tf.Tensor],
    item_category: tf.Tensor,
    num_categories: int,
    history_events: int = 0,
) -> RawLives:
    """Raw histories without what a request must not read.

    Args:
      raw: B of them.
      lookup: ids to item indices, UNKNOWN where there is none; such items count nowhere.
      item_category: category of each item, [V] int32.
      num_categories: C.
      history_events: only the latest so many events of each life are there; 0: all. See `data.recent`.
    """
    item_id, timestamp, weight, time = map(tf.convert_to_tensor, raw)
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

    def kept() -> list[tf.Tensor]:
        at = tf.where(tf.reshape(keep, [-1]))[:, 0]
        return [tf.gather(column, at) for column in columns]

    # Gathering 20,000 events costs as much as looking them up; a single request often has nothing to leave out.
    row, item_id, age, weight, timestamp = tf.cond(tf.reduce_all(keep), lambda: columns, kept)
    owned = find_owned_ids(row, item_id, age, lookup, item_category, tf.size(time), num_categories)
    extremes = (tf.math.unsorted_segment_min, tf.math.unsorted_segment_max)
    first, last = (extreme(timestamp, owned.place, tf.size(owned.item)) for extreme in extremes)
    if past is None:
        unknown = tf.where(owned.run < 0, owned.count, 0.0)
        num_unknown = tf.cast(tf.math.unsorted_segment_sum(unknown, owned.request, tf.size(time)), tf.int32)
        past = Beginnings(owned.request, owned.item, tf.where(owned.run < 0, first.dtype.max, first))
    return RawLives(age, weight, timestamp, owned, first, last, past, num_unknown)


def _take_past(item: tf.Tensor, timestamp: tf.Tensor, is_past: tf.Tensor) -> Beginnings:
    at = tf.where(is_past)
    return Beginnings(at[:, 0], tf.gather_nd(item, at), tf.gather_nd(timestamp, at))


def read_folds(begun: Beginnings, item_key: tf.Tensor, num_requests: tf.Tensor, num_folds: int) -> tf.Tensor:
    """`data.taste.fold_of_users` of raw histories, [B] int64.

    Args:
      begun: of B lives.
      item_key: from `data.taste.item_keys`, [V] int64.
      num_requests: B, scalar int32.
      num_folds: K.
    """
    first = tf.math.unsorted_segment_min(begun.timestamp, begun.row, num_requests)
    counts = begun.timestamp < begun.timestamp.dtype.max
    at = tf.where(counts & (begun.timestamp == tf.gather(first, begun.row)))[:, 0]
    key = tf.gather(item_key, tf.gather(begun.item, at))
    key = tf.math.unsorted_segment_max(key, tf.gather(begun.row, at), num_requests)
    # A life without events has neither: any fold will do.
    return fold_of_lives(tf.where(first < first.dtype.max, first, 0), tf.maximum(key, 0), num_folds)


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
    """Cuts some runs out of raw lives, in order of time: the request's form of `CategoryOrder`. O(n + m log m).

    Only what is cut out, m events, is brought into order: a few categories of a long life, usually. Where lives were
    sent in order of time and the pairs of a request are few, nothing is sorted at all. Events of one time stay in the
    order they were sent in.

    Args:
      lives: of B requests.
      row: request of each pair, [R] int32, ascending; no pair occurs twice.
      category: [R] int32.
      num_runs: B C, scalar int32.
      num_categories: C.
    """
    owned, row = lives.owned, tf.convert_to_tensor(row)
    # Runs are laid out by the place of a pair among those of its request, then by request.
    place, num_requests = tf.range(tf.size(row)) - tf.searchsorted(row, row), num_runs // num_categories
    num_places = tf.maximum(tf.reduce_max(place) + 1, 1)
    pair = (row * num_categories + category)[:, None]
    place_of_run = tf.tensor_scatter_nd_update(tf.fill([num_runs], -1), pair, place)
    place_of_item = tf.where(owned.run < 0, -1, tf.gather(place_of_run, tf.maximum(owned.run, 0)))
    slot_of_item = tf.where(place_of_item < 0, -1, place_of_item * num_requests + owned.request)
    # Single numbers by `gather_nd`, in two thirds of the time of `gather`.
    place_of_event = tf.gather_nd(place_of_item, owned.place[:, None])
    at = tf.where(place_of_event >= 0)[:, 0]
    is_few = num_places <= _FEW_PLACES
    at = tf.cond(is_few, lambda: tf.gather(at, _group(tf.gather(place_of_event, at), num_places)), lambda: at)
    item, timestamp = tf.gather(owned.place, at), tf.gather(lives.timestamp, at)
    ago = tf.minimum(tf.reduce_max(timestamp) - timestamp, _FOREVER_S - 1)
    key = tf.cast(tf.gather(slot_of_item, item), tf.int64) * _FOREVER_S - ago  # by slot, then by time

    def sort() -> list[tf.Tensor]:
        order = tf.argsort(key, stable=True)
        return [tf.gather(column, order) for column in (at, item, timestamp)]

    at, item, timestamp = tf.cond(tf.reduce_all(key[1:] >= key[:-1]), lambda: [at, item, timestamp], sort)
    counts = tf.math.unsorted_segment_sum(tf.cast(owned.count, tf.int64), slot_of_item, num_places * num_requests)
    slot = place * num_requests + row
    count, stop = tf.gather(counts, slot), tf.gather(tf.cumsum(counts), slot)
    return Runs(tf.gather(owned.item, item), timestamp, tf.gather(lives.weight, at), stop - count, stop)


def _group(place: tf.Tensor, num_places: tf.Tensor) -> tf.Tensor:
    """Stable order by small numbers without sorting, O(m P): [m] int32, each below P -> places, [m] int64."""
    return tf.where(place[None] == tf.range(num_places)[:, None])[:, 1]
