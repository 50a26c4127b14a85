"""The distinct items of lives, in the graph: lives repeat themselves, so what can be asked once per item is cheap."""

from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.data import taste
from longretriever_tf.data.hard_search import Events, halve


class OwnedItems(NamedTuple):
    """The distinct items of B lives, lives in order.

    Attributes:
      request: row of the life, [d] int32, ascending.
      item: item index, [d] int32.
      run: row * C + category of the item, [d] int32.
      count: how often it was taken, [d] float32.
      faded: the same, each time decayed with the half-life of tastes, [d] float32.
      place: where each event's own item stands among them, [n] int32.
    """

    request: tf.Tensor
    item: tf.Tensor
    run: tf.Tensor
    count: tf.Tensor
    faded: tf.Tensor
    place: tf.Tensor


def find_owned(life: Events, item_category: tf.Tensor, num_requests: tf.Tensor, num_categories: int) -> OwnedItems:
    """Distinct items of each life, without sorting: O(events).

    Args:
      life: any events, requests in order.
      item_category: [V] int32.
      num_requests: B, scalar int32.
      num_categories: C.
    """
    num_items = item_category.shape[0]

    def find(kind: tf.DType) -> list[tf.Tensor]:
        key, place, count = tf.unique_with_counts(tf.cast(life.request, kind) * num_items + tf.cast(life.item, kind))
        request = key // num_items
        return [tf.cast(request, tf.int32), tf.cast(key - request * num_items, tf.int32), place, count]

    # Keys of 32 bits are told apart in half the time; they suffice for all but huge batches.
    is_narrow = tf.cast(num_requests, tf.int64) * num_items < tf.int32.max
    request, item, place, count = tf.cond(is_narrow, lambda: find(tf.int32), lambda: find(tf.int64))
    faded = tf.math.unsorted_segment_sum(halve(life.age, taste.HALF_LIFE_DAYS), place, tf.size(item))
    run = request * num_categories + tf.gather(item_category, item)
    return OwnedItems(request, item, run, tf.cast(count, tf.float32), faded, place)


def life_taste(owned: OwnedItems, taste_rows: tf.Tensor, first_row: tf.Tensor, num_requests: tf.Tensor) -> tf.Tensor:
    """`data.taste.build_tastes` of raw lives: decayed sum of the items' SVD rows, scaled, [B, D].

    Args:
      owned: of B requests; a row is read once, however often its item was taken.
      taste_rows: the folds' tables, one after the other, [K V, D] float32.
      first_row: where the table of each request's fold starts, [B] int64.
      num_requests: B, scalar int32.
    """
    stop = tf.cumsum(tf.math.unsorted_segment_sum(tf.ones_like(owned.request), owned.request, num_requests))
    sums = tf.TensorArray(tf.float32, num_requests, element_shape=taste_rows.shape[1:])

    def one(row: tf.Tensor, low: tf.Tensor, sums: tf.TensorArray) -> tuple:
        high = stop[row]
        rows = tf.gather(taste_rows, first_row[row] + tf.cast(owned.item[low:high], tf.int64))
        return row + 1, high, sums.write(row, tf.linalg.matvec(rows, owned.faded[low:high], transpose_a=True))

    # Life by life: the rows of a whole batch could be gigabytes.
    sums = tf.while_loop(lambda row, *_: row < num_requests, one, (0, 0, sums), parallel_iterations=1)[2]
    return taste.LENGTH * tf.math.l2_normalize(sums.stack(), 1, epsilon=taste.LEAST)
