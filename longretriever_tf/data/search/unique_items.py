"""The distinct items of histories, in the graph: histories repeat themselves, so what can be asked once per item is
cheap.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.data.search.hard_search import HALF_LIVES_DAYS, Events, decays
from longretriever_tf.data.search.user_activity import EMBEDDING_HALF_LIFE_DAYS

_PART = 1 << 15
"""Events that one call of `tf.unique` is given."""


class InteractedItems(NamedTuple):
    """The distinct items of B histories, histories in order.

    Attributes:
      request: row of the history, [d] int32, ascending.
      item: item index, [d] int32; UNKNOWN where it is not in the corpus.
      segment: row * C + category of the item, [d] int32; -1, which sums over segments leave out, for unknown items.
      count: how often it was taken, [d] float32.
      decayed: the same, each time decayed with the half-life of history embeddings, [d] float32.
      inverse: which of them each event is of, [n] int32.
    """

    request: tf.Tensor
    item: tf.Tensor
    segment: tf.Tensor
    count: tf.Tensor
    decayed: tf.Tensor
    inverse: tf.Tensor


class _Distinct(NamedTuple):
    """Distinct (request, number) pairs, [d] int32 each, which of them each event is of, [n], and counts, [d]."""

    request: tf.Tensor
    number: tf.Tensor
    inverse: tf.Tensor
    count: tf.Tensor


def find_interacted(
    history: Events, item_category: tf.Tensor, num_requests: tf.Tensor, num_categories: int
) -> InteractedItems:
    """Distinct items of each history, without sorting: O(events).

    Args:
      history: any events, requests in order.
      item_category: [V] int32.
      num_requests: B, scalar int32.
      num_categories: C.
    """
    distinct = _unique_indices(history.request, history.item, num_requests, item_category.shape[0])
    return _describe(distinct, history.age, item_category, num_categories)


def find_interacted_ids(
    request: tf.Tensor,
    item_id: tf.Tensor,
    age: tf.Tensor,
    lookup: Callable[[tf.Tensor], tf.Tensor],
    item_category: tf.Tensor,
    num_requests: tf.Tensor,
    num_categories: int,
) -> InteractedItems:
    """`find_interacted` of raw ids: what they mean is looked up once for each distinct one, where ids allow that.

    Args:
      request: row of the history, [n] int32, ascending.
      item_id: [n] int32 or int64.
      age: days before the request, [n] float32.
      lookup: ids to item indices, UNKNOWN where there is none.
      item_category: [V] int32.
      num_requests: B, scalar int32.
      num_categories: C.
    """
    low, high = tf.reduce_min(item_id), tf.reduce_max(item_id)
    span = high - low  # negative where int64 cannot hold it

    def by_id() -> _Distinct:
        distinct = _unique_pairs(request, tf.cast(item_id - low, tf.int32), tf.cast(high - low, tf.int32) + 1)
        return distinct._replace(number=lookup(tf.cast(distinct.number, item_id.dtype) + low))

    def by_index() -> _Distinct:
        return _unique_indices(request, lookup(item_id), num_requests, item_category.shape[0])

    # Keys of 32 bits are hashed in half the time; ids spread wider than that are looked up first.
    is_narrow = (span >= 0) & (span < tf.int32.max // tf.cast(tf.maximum(num_requests, 1), span.dtype))
    return _describe(tf.cond(is_narrow, by_id, by_index), age, item_category, num_categories)


def _unique_indices(request: tf.Tensor, item: tf.Tensor, num_requests: tf.Tensor, num_items: int) -> _Distinct:
    def with_keys_of(kind: tf.DType) -> _Distinct:
        return _unique_pairs(tf.cast(request, kind), tf.cast(item, kind), tf.constant(num_items, kind))

    # 32 bits suffice for all but huge batches.
    is_narrow = tf.cast(num_requests, tf.int64) * num_items < tf.int32.max
    return tf.cond(is_narrow, lambda: with_keys_of(tf.int32), lambda: with_keys_of(tf.int64))


def _unique_pairs(request: tf.Tensor, number: tf.Tensor, width: tf.Tensor) -> _Distinct:
    """Distinct (request, number) pairs, by one key each.

    Args:
      request: [n].
      number: from 0 to below `width`, [n].
      width: scalar of the same type, which must hold all keys.
    """
    key, inverse, count = _unique_by_parts(request * width + number, request)
    row = key // width
    return _Distinct(tf.cast(row, tf.int32), tf.cast(key - row * width, tf.int32), inverse, count)


def _unique_by_parts(key: tf.Tensor, request: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`tf.unique_with_counts`, some requests at a time; requests, which share no key, are in order.

    The operation hashes into a table of twice as many places as it is given keys: one that fits the processor's cache
    answers in half the time.
    """

    def by_parts() -> list[tf.Tensor]:
        row = tf.cast(request, tf.int32)
        num_requests = row[-1] + 1
        at_once = tf.maximum(1, tf.cast(_PART * tf.cast(num_requests, tf.int64) // tf.size(key, tf.int64), tf.int32))
        num = (num_requests + at_once - 1) // at_once
        bounds = tf.searchsorted(row, tf.minimum(tf.range(num + 1) * at_once, num_requests))
        arrays = [tf.TensorArray(kind, num, infer_shape=False) for kind in (key.dtype, tf.int32, tf.int32)]

        def one(i: tf.Tensor, num_before: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
            distinct, inverse, count = tf.unique_with_counts(key[bounds[i] : bounds[i + 1]])
            parts = zip(arrays, (distinct, inverse + num_before, count), strict=True)
            return i + 1, num_before + tf.size(distinct), *(array.write(i, part) for array, part in parts)

        arrays = tf.while_loop(lambda i, *_: i < num, one, (0, 0, *arrays), parallel_iterations=1)[2:]
        return [tf.ensure_shape(array.concat(), [None]) for array in arrays]

    # A branch, since a loop costs a single request a tenth of what is done in it.
    return tf.cond(tf.size(key) <= _PART, lambda: list(tf.unique_with_counts(key)), by_parts)


def _describe(distinct: _Distinct, age: tf.Tensor, item_category: tf.Tensor, num_categories: int) -> InteractedItems:
    request, item, inverse, count = distinct
    decayed = tf.math.unsorted_segment_sum(_decay(age), inverse, tf.size(item))
    segment = tf.where(item < schema.FIRST_KNOWN, -1, request * num_categories + tf.gather(item_category, item))
    return InteractedItems(request, item, segment, tf.cast(count, tf.float32), decayed, inverse)


def _decay(age: tf.Tensor) -> tf.Tensor:
    """By the half-life of history embeddings, which is one of the tokens', so TensorFlow computes it once for both."""
    return decays(age)[HALF_LIVES_DAYS.index(EMBEDDING_HALF_LIFE_DAYS)]
