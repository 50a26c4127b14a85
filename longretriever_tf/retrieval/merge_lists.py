"""The lists of a request's interests become one: `merge` in the graph, by the strategy that the request asks for."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.data.search.hard_search import flat_ranges
from longretriever_tf.retrieval.index.exact import FlatScores
from longretriever_tf.retrieval.interests import Interests
from longretriever_tf.retrieval.merge import MERGES, Candidates
from longretriever_tf.retrieval.request_options import RequestOptions


class Lists(NamedTuple):
    """The lists of N interests of B requests, each best first.

    Attributes:
      item: item index, [B, N, W] int32, 0 where padded.
      logit: [B, N, W] float32, 0 where padded.
      log_partition: of each category, [B, N] float32.
    """

    item: tf.Tensor
    logit: tf.Tensor
    log_partition: tf.Tensor


class Merged(NamedTuple):
    """One list of each request, best first, K wide.

    Attributes:
      item: item index, [B, K] int32, 0 where padded.
      score: [B, K] float32, 0 where padded.
      interest: which of the N interests brought it, [B, K] int32.
      is_real: [B, K] bool.
    """

    item: tf.Tensor
    score: tf.Tensor
    interest: tf.Tensor
    is_real: tf.Tensor


def merge_lists(lists: Lists, interests: Interests, share: tf.Tensor, options: RequestOptions) -> Merged:
    """Merges and cuts at each request's k.

    Args:
      lists: of the interests.
      interests: the chosen ones, [B, N].
      share: log p(category | user) for the request's task, [B, C].
      options: k (the result is as wide as the largest), merge, forced weights.
    """
    shape, width = tf.shape(lists.item), tf.reduce_max(options.k)
    merged = _merge(lists, *weigh_interests(interests, share, options), options)
    merged = tf.where(lists.item > 0, merged, merged.dtype.min)
    flat = tf.reshape(merged, [shape[0], -1])
    # A list is never longer than what its interests hold, and always as wide as asked.
    best, at = tf.math.top_k(flat, tf.minimum(width, tf.shape(flat)[1]))
    pad = [[0, 0], [0, width - tf.shape(best)[1]]]
    best, at = tf.pad(best, pad, constant_values=best.dtype.min), tf.pad(at, pad)
    real = (best > best.dtype.min) & (tf.range(width)[None] < options.k[:, None])
    at = tf.where(real, at, 0)
    item = tf.gather(tf.reshape(lists.item, [shape[0], -1]), at, batch_dims=1)
    return Merged(tf.where(real, item, 0), tf.where(real, best, 0.0), at // tf.maximum(shape[2], 1), real)


def can_merge_flat(options: RequestOptions) -> tf.Tensor:
    """Whether all requests are merged calibrated, scalar bool: no rank within an interest's list is asked for."""
    return tf.reduce_all(options.merge == list(MERGES).index("calibrated"))


def merge_flat(
    scores: FlatScores,
    first_item: tf.Tensor,
    where: tf.Tensor,
    interests: Interests,
    share: tf.Tensor,
    options: RequestOptions,
) -> Merged:
    """`merge_lists`, calibrated, of whole categories: one top-k over all items of a request's interests.

    Args:
      scores: of the items of R interests' categories.
      first_item: of the category of each interest, [R] int32.
      where: request and position among the N of each interest, [R, 2] int32, ascending.
      interests, share, options: of `merge_lists`.
    """
    log_interest = tf.gather_nd(weigh_interests(interests, share, options)[0], where)
    weight = tf.gather(tf.gather(log_interest, scores.order) - scores.log_partition, scores.block)
    logit, zero = scores.logit, tf.zeros([])
    merged = MERGES["calibrated"](Candidates(logit, logit, zero, weight, zero, zero, zero))
    merged = tf.where(logit > logit.dtype.min, merged, merged.dtype.min)  # what is left out stays so
    row = tf.gather(where[:, 0], scores.order)
    by_request = tf.argsort(row, stable=True)
    order, size, begin = (tf.gather(column, by_request) for column in (scores.order, scores.size, scores.start))
    start = tf.cumsum(size, exclusive=True)
    merged = tf.gather(merged, flat_ranges(begin, begin + size)[1])
    num_rows, width = tf.shape(options.k)[0], tf.reduce_max(options.k)
    total = tf.math.unsorted_segment_sum(scores.size, row, num_rows)
    table = tf.RaggedTensor.from_row_lengths(merged, total, validate=False).to_tensor(merged.dtype.min)
    best, at = tf.math.top_k(table, tf.minimum(width, tf.shape(table)[1]))
    pad = [[0, 0], [0, width - tf.shape(best)[1]]]
    best, at = tf.pad(best, pad, constant_values=best.dtype.min), tf.pad(at, pad)
    real = (best > best.dtype.min) & (tf.range(width)[None] < options.k[:, None])
    at = tf.where(real, at + tf.cumsum(total, exclusive=True)[:, None], 0)
    block = tf.searchsorted(start, tf.reshape(at, [-1]), side="right") - 1
    block = tf.where(real, tf.reshape(block, tf.shape(at)), 0)
    pad_one = [[0, 1]]  # requests without any interest have no block to point at
    query = tf.gather(tf.pad(order, pad_one), block)
    item = tf.gather(tf.pad(first_item, pad_one), query) + at - tf.gather(tf.pad(start, pad_one), block)
    interest = tf.gather(tf.pad(where[:, 1], pad_one), query)
    return Merged(tf.where(real, item, 0), tf.where(real, best, 0.0), tf.where(real, interest, 0), real)


def weigh_interests(interests: Interests, share: tf.Tensor, options: RequestOptions) -> tuple[tf.Tensor, tf.Tensor]:
    """What the interests weigh in a merge: log p(category | user), forced weights included, and quotas; [B, N] each.

    Args:
      interests, share, options: of `merge_lists`.
    """
    log_interest = tf.gather(share, interests.category, batch_dims=1)
    weight = tf.gather(options.forced_weight, interests.category, batch_dims=1)
    log_interest += tf.where(weight > 0, tf.math.log(tf.maximum(weight, 1e-30)), 0.0)
    return log_interest, tf.math.ceil(tf.cast(options.k, tf.float32)[:, None] * tf.exp(log_interest))


def _merge(lists: Lists, log_interest: tf.Tensor, quota: tf.Tensor, options: RequestOptions) -> tf.Tensor:
    """Merged scores, [B, N, W]; `log_interest` and `quota` are [B, N]."""
    num_interests, width = tf.shape(lists.item)[1], tf.shape(lists.item)[2]
    log_interest, quota = log_interest[:, :, None], quota[:, :, None]
    rank = tf.cast(tf.range(width), tf.float32)[None, None]

    def by(strategy: Callable[[Candidates], tf.Tensor]) -> tf.Tensor:
        candidates = Candidates(
            logit=lists.logit,
            log_probability=lists.logit - lists.log_partition[:, :, None],
            rank=rank,
            log_interest=log_interest,
            order=tf.cast(tf.range(num_interests), tf.float32)[None, :, None],
            num_interests=tf.cast(num_interests, tf.float32),
            is_beyond_quota=tf.cast(rank >= quota, tf.float32),
        )
        return tf.broadcast_to(strategy(candidates), tf.shape(lists.logit))

    def row_by_row() -> tf.Tensor:
        merged = tf.zeros_like(lists.logit)
        for number, strategy in enumerate(MERGES.values()):
            merged = tf.where((options.merge == number)[:, None, None], by(strategy), merged)
        return merged

    # The strategy asked for alone is computed; requests of one call may ask for several.
    first = tf.reduce_max(options.merge)
    asked = tf.where(tf.reduce_all(options.merge == first), first, len(MERGES))
    branches = [lambda strategy=strategy: by(strategy) for strategy in MERGES.values()]
    return tf.switch_case(asked, [*branches, row_by_row])
