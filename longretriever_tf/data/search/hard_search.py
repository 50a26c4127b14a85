"""Hard search, in the graph: S_u(c, t), the latest behaviors of category c strictly before t, as tokens.

Training batches, evaluation and the exported signature all call this module; `tests/reference.py` holds the slow
oracle that it is compared with. A search is two steps: a slice of a category order (made by numpy for a whole log, by
`request_history.order_segments` for a request), then tokens from the sliced events.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.common import schema

HALF_LIVES_DAYS = (10.0, 30.0, 90.0, 180.0)
NUM_ITEM_FEATURES = 13
"""Token features that `item_tokens` computes; item statistics (3) and user activity (3) make 19."""
NUM_EVENT_FEATURES = 2
NUM_ACTION_COUNTS = 2
"""Token features of --action_counts, after the others of `item_tokens`."""


class Events(NamedTuple):
    """Events of R requests, flat, requests in order, each oldest first.

    Attributes:
      request: row of the request, [n] int32.
      item: item index, [n] int32.
      age: days before the request, [n] float32, above 0.
      weight: [n] float32.
      is_target: events of target actions, [n] bool; None where nobody asks.
    """

    request: tf.Tensor
    item: tf.Tensor
    age: tf.Tensor
    weight: tf.Tensor
    is_target: tf.Tensor | None = None


class Tokens(NamedTuple):
    """Tokens of R subsequences, newest first, padded to the longest of the batch.

    Attributes:
      item: item index, [R, L] int32, 0 where padded.
      features: [R, L, F] float32, 0 where padded.
    """

    item: tf.Tensor
    features: tf.Tensor


def slice_events(
    item: tf.Tensor,
    timestamp: tf.Tensor,
    weight: tf.Tensor,
    start: tf.Tensor,
    stop: tf.Tensor,
    time: tf.Tensor,
    is_target: tf.Tensor | None = None,
) -> Events:
    """Cuts the events `start:stop` of each request out of a category order (or of time-ordered histories).

    Args:
      item: [E] int32.
      timestamp: [E] int64.
      weight: [E] float32.
      start: [R] int64.
      stop: [R] int64, every event before it strictly earlier than `time`.
      time: time of each request, [R] int64 seconds.
      is_target: events of target actions, [E] bool.
    """
    request, at = flat_ranges(start, stop)
    seconds = tf.gather(time, request) - tf.gather(timestamp, at)
    age = tf.cast(seconds, tf.float32) / schema.DAY_S
    is_target = None if is_target is None else tf.gather(is_target, at)
    return Events(request, tf.gather(item, at), age, tf.gather(weight, at), is_target)


def flat_ranges(start: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The numbers of all ranges one after the other, [n], and which range each is of, [n] int32; [R] int64 each.

    >>> [part.numpy().tolist() for part in flat_ranges(tf.constant([3, 7, 7]), tf.constant([5, 7, 9]))]
    [[0, 0, 2, 2], [3, 4, 7, 8]]
    """
    ranges = tf.raw_ops.RaggedRange(starts=start, limits=stop, deltas=tf.ones([], start.dtype))
    ends, at = tf.cast(ranges.rt_nested_splits[1:], tf.int32), ranges.rt_dense_values
    # A number is of the range that as many others end before. Counted along all numbers, which takes half as long as
    # looking each up, and as `tf.repeat`, where ranges differ in length.
    ended = tf.scatter_nd(ends[:, None], tf.ones_like(ends), [tf.size(at) + 1])
    return tf.cumsum(ended)[:-1], at


def event_tokens(events: Events, num_requests: tf.Tensor, max_length: int) -> Tokens:
    """One token per event, newest first (the paper's S_u): features log1p(age), log1p(gap to the event before)."""
    counts = tf.math.bincount(events.request, minlength=num_requests, maxlength=num_requests)
    slot = _slot_from_newest(events.request, counts)
    older = tf.concat([events.age[:1], events.age[:-1]], 0)
    same = tf.concat([[False], events.request[1:] == events.request[:-1]], 0)[: tf.size(older)]
    gap = tf.where(same, older - events.age, 0.0)
    features = tf.math.log1p(tf.stack([events.age, gap], 1))
    return _to_dense(events.request, slot, events.item, features, counts, max_length)


def item_tokens(events: Events, num_requests: tf.Tensor, category_count: tf.Tensor, max_length: int) -> Tokens:
    """One token per distinct item, newest first, with its count, recency and rhythm.

    Features: log1p of count, days since last, counts decayed with half-lives of 10, 30, 90 and 180 days, mean gap;
    log(1 + recency / mean gap) and whether there is a gap; share of the subsequence; then three that all tokens of a
    request share: log1p of the category's event count, days since its last event, 30-day decayed count; then the two of
    `_action_counts`, where events tell their actions.

    Args:
      events: the category's latest events of each request.
      num_requests: R, scalar int32.
      category_count: events of the category in the whole history before the request, [R] int64.
      max_length: L.
    """
    flat = tf.range(tf.size(events.request))
    stride = tf.cast(tf.reduce_max(tf.concat([events.item, [0]], 0)), tf.int64) + 1
    key = tf.cast(events.request, tf.int64) * stride + tf.cast(events.item, tf.int64)
    by_item = tf.argsort(key, stable=True)
    key = tf.gather(key, by_item)
    is_new = tf.concat([[True], key[1:] != key[:-1]], 0)[: tf.size(key)]
    segment = tf.cumsum(tf.cast(is_new, tf.int32)) - 1
    age = tf.gather(events.age, by_item)
    count = tf.math.segment_sum(tf.ones_like(age), segment)
    recency, oldest = tf.math.segment_min(age, segment), tf.math.segment_max(age, segment)
    newest_at = tf.math.segment_max(tf.gather(flat, by_item), segment)
    request, item = tf.gather(events.request, newest_at), tf.gather(events.item, newest_at)
    decayed = tf.math.segment_sum(decay(age), segment)
    total = tf.math.unsorted_segment_sum(count, request, num_requests)
    gap = (oldest - recency) / tf.maximum(count - 1.0, 1.0)
    has_gap = tf.cast(count > 1.0, tf.float32)
    shared = [tf.cast(category_count, tf.float32), _segment_min(recency, request, num_requests)]
    shared.append(tf.math.unsorted_segment_sum(decayed[:, 1], request, num_requests))
    features = tf.concat(
        [
            tf.math.log1p(tf.stack([count, recency], 1)),
            tf.math.log1p(decayed),
            tf.stack(
                [
                    tf.math.log1p(gap),
                    has_gap * tf.math.log1p(recency / tf.maximum(gap, 0.5)),
                    has_gap,
                    count / tf.maximum(tf.gather(total, request), 1.0),
                ],
                1,
            ),
            tf.gather(tf.math.log1p(tf.stack(shared, 1)), request),
            *_action_counts(age, events.is_target, by_item, segment),
        ],
        1,
    )
    # Tokens come sorted by (request, item); counting marks over the time-ordered events ranks them without a sort.
    mark = tf.scatter_nd(newest_at[:, None], tf.ones_like(newest_at), tf.shape(flat))
    rank = tf.gather(tf.cumsum(mark), newest_at) - 1
    counts = tf.math.bincount(request, minlength=num_requests, maxlength=num_requests)
    last = tf.gather(tf.cumsum(counts), request) - 1
    return _to_dense(request, last - rank, item, features, counts, max_length)


def _action_counts(
    age: tf.Tensor, is_target: tf.Tensor | None, by_item: tf.Tensor, segment: tf.Tensor
) -> list[tf.Tensor]:
    """log1p of each segment's decayed count of target events, and of the others, [s, 2]; nothing without targets."""
    if is_target is None:
        return []
    faded = decays(age)[HALF_LIVES_DAYS.index(90.0)]
    target = tf.where(tf.gather(is_target, by_item), faded, 0.0)
    return [tf.math.log1p(tf.math.segment_sum(tf.stack([target, faded - target], 1), segment))]


def decay(age: tf.Tensor) -> tf.Tensor:
    """2 ** (-age / half-life) for each of `HALF_LIVES_DAYS`: [n] days -> [n, 4]."""
    return tf.stack(decays(age), 1)


def decays(age: tf.Tensor) -> list[tf.Tensor]:
    """`decay`, a tensor for each half-life: powers of the slowest, since products take a fifth of an exponential."""
    days = HALF_LIVES_DAYS[-1]
    decayed = [halve(age, days)]
    for shorter in reversed(HALF_LIVES_DAYS[:-1]):
        decayed.insert(0, math.prod([decayed[0]] * round(days / shorter)))
        days = shorter
    return decayed


def halve(age: tf.Tensor, half_life: float) -> tf.Tensor:
    """2 ** (-age / half_life); as an exponential, which TensorFlow computes many times faster than a power."""
    return tf.exp(age * (-math.log(2.0) / half_life))


def _segment_min(values: tf.Tensor, segment: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Minimum per segment; 0 where a segment is empty (TensorFlow's own answer there is the largest float)."""
    least = tf.math.unsorted_segment_min(values, segment, size)
    return tf.where(least < values.dtype.max, least, 0.0)


def _slot_from_newest(request: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """0 for the newest event of each request, 1 for the one before, ...: [n] int32."""
    return tf.gather(tf.cumsum(counts), request) - 1 - tf.range(tf.size(request))


def _to_dense(
    request: tf.Tensor, slot: tf.Tensor, item: tf.Tensor, features: tf.Tensor, counts: tf.Tensor, max_length: int
) -> Tokens:
    """Scatters flat tokens to [R, longest, ...], keeping the `max_length` newest."""
    keep = tf.where(slot < max_length)[:, 0]
    at = tf.gather(tf.stack([request, slot], 1), keep)
    longest = tf.minimum(tf.reduce_max(tf.concat([counts, [0]], 0)), max_length)
    shape = tf.stack([tf.size(counts), longest])
    return Tokens(
        tf.scatter_nd(at, tf.gather(item, keep), shape),
        tf.ensure_shape(
            tf.scatter_nd(at, tf.gather(features, keep), tf.concat([shape, [features.shape[-1]]], 0)),
            [None, None, features.shape[-1]],
        ),
    )
