"""What interests are drawn and merged by: the learned score, or eq. 3 of the paper."""

import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.data.recipe.score_weights import PLAIN, ScoreWeights
from longretriever_tf.models.interest_model import TASKS, InterestModel
from longretriever_tf.retrieval.requests import Histories, InterestScores


def learned_scores(
    interest: InterestModel | None,
    histories: Histories,
    history_embedding: tf.Tensor,
    weights: ScoreWeights = PLAIN,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Log p(category | user) for the tasks "all" and "novel", [B, C] each.

    Args:
      interest: the learned score; None: each category's popularity in everyone's behavior stands in.
      histories: B of them.
      history_embedding: of each, [B, D]; [B, 0] unless the model reads it.
      weights: of the learned score and of popularity.
    """
    known = (tf.range(tf.shape(histories.stats)[1]) >= schema.FIRST_KNOWN)[None]
    if interest is None:
        popularity = histories.stats[:, :, 0]
        share = tf.nn.log_softmax(tf.where(known, popularity, popularity.dtype.min), 1)
        return share, share
    learned = interest(histories.features, histories.bag, history_embedding)
    every, novel = learned[:, :, TASKS.index("all")], learned[:, :, TASKS.index("novel")]
    if weights == PLAIN:
        return every, novel

    def weigh(log_share: tf.Tensor, interest: float, popularity: float) -> tf.Tensor:
        score = interest * log_share + popularity * histories.stats[:, :, 0]
        return tf.nn.log_softmax(tf.where(known, score, score.dtype.min), 1)

    return (
        weigh(every, weights.interest, weights.category_popularity),
        weigh(novel, weights.interest_novel, weights.category_popularity_novel),
    )


def by_learned_score(
    every: tf.Tensor, novel: tf.Tensor, is_seen: tf.Tensor, unseen_boost: float = 0.0
) -> InterestScores:
    """Interests by the learned score.

    Args:
      every, novel: `learned_scores`, [B, C] each.
      is_seen: categories that the history holds, [B, C] bool.
      unseen_boost: added to the score of all others, which is then normalised again.
    """
    known = (tf.range(tf.shape(every)[1]) >= schema.FIRST_KNOWN)[None]
    if unseen_boost:
        explores = tf.where(known & ~is_seen, unseen_boost, 0.0)
        every, novel = (tf.nn.log_softmax(score + explores, 1) for score in (every, novel))
    return InterestScores(every, tf.broadcast_to(known, tf.shape(every)), every, novel, novel)


def by_eq3(eq3: tf.Tensor, is_seen: tf.Tensor, every: tf.Tensor, novel: tf.Tensor) -> InterestScores:
    """Interests by eq. 3, which draws seen categories alone.

    Without any history eq. 3 is silent: everyone's categories speak. Where lists are merged by shares, a category that
    the user has not seen counts as the weakest seen one.

    Args:
      eq3: the sums of eq. 3, [B, C] float32.
      is_seen: categories that the history holds, [B, C] bool.
      every, novel: `learned_scores`.
    """
    known = (tf.range(tf.shape(every)[1]) >= schema.FIRST_KNOWN)[None]
    is_empty = ~tf.reduce_any(is_seen, 1, keepdims=True)
    least = tf.reduce_min(tf.where(is_seen, eq3, eq3.dtype.max), 1, keepdims=True)
    filled = tf.where(is_empty, tf.exp(every), tf.where(is_seen, eq3, least))
    total = tf.reduce_sum(tf.where(is_seen | is_empty, filled, 0.0), 1, keepdims=True)
    log_share = tf.math.log(tf.maximum(filled / tf.maximum(total, 1e-30), 1e-30))
    score = tf.where(is_empty, tf.exp(every), eq3)
    # Eq. 3 knows one task: the share that it merges novel items by is the same.
    return InterestScores(score, known & (is_seen | is_empty), log_share, log_share, novel)
