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
    every: tf.Tensor,
    novel: tf.Tensor,
    is_seen: tf.Tensor,
    popularity: tf.Tensor,
    unseen_boost: float = 0.0,
    unseen_weight: float = 0.0,
) -> InterestScores:
    """Interests by the learned score.

    Args:
      every, novel: `learned_scores`, [B, C] each.
      is_seen: categories that the history holds, [B, C] bool.
      popularity: log popularity of each category, [B, C].
      unseen_boost: added to the score of all others, which is then normalised again.
      unseen_weight: of `raise_unseen`; where it is 0, popularity is not read.
    """
    known = (tf.range(tf.shape(every)[1]) >= schema.FIRST_KNOWN)[None]
    if unseen_boost:
        explores = tf.where(known & ~is_seen, unseen_boost, 0.0)
        every, novel = (tf.nn.log_softmax(score + explores, 1) for score in (every, novel))
    if unseen_weight:
        is_unseen = known & ~is_seen & tf.reduce_any(is_seen, 1, keepdims=True)
        every, novel = (raise_unseen(score, is_unseen, popularity, unseen_weight) for score in (every, novel))
    return InterestScores(every, tf.broadcast_to(known, tf.shape(every)), every, novel, novel)


_LEAST_MASS = 1e-3
"""Of unseen categories: below it they hold next to nothing that the user will take, and their gain stays finite."""


def raise_unseen(log_share: tf.Tensor, is_unseen: tf.Tensor, popularity: tf.Tensor, weight: float) -> tf.Tensor:
    """Log p(category | user) with unseen categories raised, normalised again, [B, C].

    A list in the order of p(item | user) has the largest expected recall. Let q be the part of p that lies in unseen
    categories. A hit there adds p / q to the recall of what lies there: recall plus `weight` times that recall is
    largest where p counts 1 + weight / q in unseen categories. Where q is large, they are raised little.

    Among each other, unseen categories stand by the geometric mean of the learned score, which knows least of them, and
    of popularity; together they keep q. On Complete Journey's validation window that finds more there for each place.

    Args:
      log_share: log p(category | user), [B, C].
      is_unseen: categories with items that the history does not hold, [B, C] bool; none of users without history.
      popularity: log popularity of each category, [B, C].
      weight: of the recall within unseen categories, at least 0.
    """
    mass = tf.reduce_sum(tf.where(is_unseen, tf.exp(log_share), 0.0), 1, keepdims=True)
    among = tf.nn.log_softmax(tf.where(is_unseen, (log_share + popularity) / 2, log_share.dtype.min), 1)
    raised = among + tf.math.log(tf.maximum(mass, 1e-30)) + tf.math.log1p(weight / tf.maximum(mass, _LEAST_MASS))
    return tf.nn.log_softmax(tf.where(is_unseen, raised, log_share), 1)


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
