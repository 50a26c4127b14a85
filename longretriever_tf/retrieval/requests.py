"""What the exported graph makes of requests on their way from raw columns to lists."""

from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.history_summary import HistorySummary
from longretriever_tf.data.search.request_history import RequestHistories, Segments
from longretriever_tf.models.towers import UserState


class Histories(NamedTuple):
    """B raw histories, read.

    Attributes:
      histories: the events before each request.
      fold: which table their history embeddings are read through, [B] int64; see `data.recipe.history_embedding`.
      summary: their sums by category.
      bag: the histories as bags of categories, [B, C] float32.
      features: what the learned interest score reads, [B, C, F] float32.
      stats: of the categories, as of the cut, [B, C, 3] float32.
    """

    histories: RequestHistories
    fold: tf.Tensor
    summary: HistorySummary
    bag: tf.Tensor
    features: tf.Tensor
    stats: tf.Tensor


class InterestScores(NamedTuple):
    """What interests are chosen and merged by, [B, C] each.

    Attributes:
      drawn_by: the score that interests are drawn by, whatever the task: eq. 3, or `log_share` itself. Drawn by the
        score for novel items instead, lists of novel items were worse on validation.
      is_interest: categories that may be drawn, bool.
      log_share: log p(category | user) that lists are merged by.
      log_share_novel: the same for the task "novel".
      affinity: what unseen categories are ranked by: the learned log share of novel items.
    """

    drawn_by: tf.Tensor
    is_interest: tf.Tensor
    log_share: tf.Tensor
    log_share_novel: tf.Tensor
    affinity: tf.Tensor


class Requests(NamedTuple):
    """B requests, looked up.

    Attributes:
      histories: the events before each request.
      count: events of each category, [B, C] float32.
      time: [B] int64.
      profile: columns of the profile that the towers read, of `event_features`, then of the request's time,
        [B, P + F + Q] int32.
      activity: [B, 3] float32.
      history_embedding: what each history says across categories, [B, D] float32; [B, 0] unless the model reads it.
      interests: their scores.
    """

    histories: RequestHistories
    count: tf.Tensor
    time: tf.Tensor
    profile: tf.Tensor
    activity: tf.Tensor
    history_embedding: tf.Tensor
    interests: InterestScores


class Subsequences(NamedTuple):
    """R encoded (request, category) pairs.

    Attributes:
      row: request of each pair, [R] int32.
      category: [R] int32.
      segments: all events of each.
      tokens: S_u of each.
      state: e_u and repeat logits of each.
    """

    row: tf.Tensor
    category: tf.Tensor
    segments: Segments
    tokens: hard_search.Tokens
    state: UserState
