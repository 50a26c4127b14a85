"""What an answer says of the interests behind it."""

import tensorflow as tf

from longretriever_tf.retrieval.interests import ORIGINS, Interests
from longretriever_tf.retrieval.requests import Requests


def explain_interests(requests: Requests, interests: Interests, category_name: tf.Tensor) -> dict[str, tf.Tensor]:
    """The chosen interests: names, scores, ranks, origins, events, time of the last one; [B, N] each.

    Args:
      requests: B requests.
      interests: the chosen ones, [B, N].
      category_name: [C] string.
    """
    category, interacted = interests.category, requests.histories.interacted
    count = tf.where(interests.is_real, tf.gather(requests.count, category, batch_dims=1), 0.0)
    last = tf.math.unsorted_segment_max(requests.histories.last, interacted.segment, tf.size(requests.count))
    last = tf.gather(tf.reshape(last, tf.shape(requests.count)), category, batch_dims=1)
    return {
        "interest_category": tf.gather(category_name, category),
        "interest_score": interests.score,
        "interest_rank_drawn": interests.rank,
        "interest_origin": tf.where(interests.is_real, tf.gather(tf.constant(ORIGINS), interests.origin), ""),
        "interest_num_events": tf.cast(count, tf.int32),
        "interest_last_timestamp": tf.where(count > 0, last, 0),
        "num_interests_drawn": tf.reduce_sum(tf.cast(interests.is_real, tf.int32), 1),
    }
