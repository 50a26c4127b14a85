"""History embeddings of requests, in the graph: which fold a raw history falls into, and what it sums to."""

import tensorflow as tf

from longretriever_tf.data.recipe.history_embedding import LEAST, LENGTH, fold_of_histories
from longretriever_tf.data.search.request_history import Beginnings
from longretriever_tf.data.search.unique_items import InteractedItems


def read_folds(begun: Beginnings, item_key: tf.Tensor, num_requests: tf.Tensor, num_folds: int) -> tf.Tensor:
    """`data.recipe.history_embedding.fold_of_users` of raw histories, [B] int64.

    Args:
      begun: of B histories.
      item_key: from `data.recipe.history_embedding.item_keys`, [V] int64.
      num_requests: B, scalar int32.
      num_folds: K.
    """
    first = tf.math.unsorted_segment_min(begun.timestamp, begun.row, num_requests)
    counts = begun.timestamp < begun.timestamp.dtype.max
    at = tf.where(counts & (begun.timestamp == tf.gather(first, begun.row)))[:, 0]
    key = tf.gather(item_key, tf.gather(begun.item, at))
    key = tf.math.unsorted_segment_max(key, tf.gather(begun.row, at), num_requests)
    # A history without events has neither: any fold will do.
    return fold_of_histories(tf.where(first < first.dtype.max, first, 0), tf.maximum(key, 0), num_folds)


def embed_history_before(
    interacted: InteractedItems, history_embedding_rows: tf.Tensor, first_row: tf.Tensor, num_requests: tf.Tensor
) -> tf.Tensor:
    """`history_embedding.build_history_embeddings` of raw histories: decayed sum of the items' SVD rows, scaled, [B,
    D].

    Args:
      interacted: of B requests; a row is read once, however often its item was taken.
      history_embedding_rows: the folds' tables, one after the other, [K V, D] bfloat16 or float32.
      first_row: where the table of each request's fold starts, [B] int64.
      num_requests: B, scalar int32.
    """

    def total(first: tf.Tensor, item: tf.Tensor, decayed: tf.Tensor) -> tf.Tensor:
        rows = tf.cast(tf.gather(history_embedding_rows, first + tf.cast(item, tf.int64)), tf.float32)
        return tf.linalg.matvec(rows, decayed, transpose_a=True)

    def history_by_history() -> tf.Tensor:
        stop = tf.cumsum(
            tf.math.unsorted_segment_sum(tf.ones_like(interacted.request), interacted.request, num_requests)
        )
        sums = tf.TensorArray(tf.float32, num_requests, element_shape=history_embedding_rows.shape[1:])

        def one(row: tf.Tensor, low: tf.Tensor, sums: tf.TensorArray) -> tuple:
            high = stop[row]
            return (
                row + 1,
                high,
                sums.write(row, total(first_row[row], interacted.item[low:high], interacted.decayed[low:high])),
            )

        # The rows of a whole batch could be gigabytes.
        return tf.while_loop(lambda row, *_: row < num_requests, one, (0, 0, sums), parallel_iterations=1)[2].stack()

    # A branch, since a loop costs a single request a third of what is done in it.
    sums = tf.cond(
        num_requests == 1, lambda: total(first_row[0], interacted.item, interacted.decayed)[None], history_by_history
    )
    return LENGTH * tf.math.l2_normalize(sums, 1, epsilon=LEAST)
