"""The correction of a user's own items (`data.recipe.own_correction`), as a query of an index carries it."""

import tensorflow as tf

from longretriever_tf.data.recipe.own_correction import OwnCorrection
from longretriever_tf.data.search.hard_search import Tokens
from longretriever_tf.retrieval.merge import MERGES
from longretriever_tf.retrieval.request_options import RequestOptions
from longretriever_tf.retrieval.requests import Subsequences


def known_part(correction: OwnCorrection, tokens: Tokens) -> tf.Tensor:
    """What the correction says before anything is scored, of each token; [R, L], 0 where padded."""
    known = correction.intercept + tf.linalg.matvec(tokens.features, tf.constant(correction.features, tf.float32))
    return tf.where(tokens.item > 0, known, 0.0)


def own_gains(
    correction: OwnCorrection, pairs: Subsequences, share: tf.Tensor, options: RequestOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """`own_gain` [R, L] and `own_slope` [R] of `index.exact.Queries`.

    Both are 0 for requests that the correction is not for: of novel items, and those whose lists are merged by another
    strategy than log p(item | user).

    Args:
      correction: of the run.
      pairs: R encoded pairs.
      share: log p(category | user), [B, C].
      options: of B requests.
    """
    corrected = (options.merge == list(MERGES).index("calibrated")) & ~options.is_novel
    corrects = tf.cast(tf.gather(corrected, pairs.row), tf.float32)
    slope = tf.constant(correction.log_probability, tf.float32) * corrects
    of_pair = tf.gather_nd(share, tf.stack([pairs.row, pairs.category], 1))
    gain = known_part(correction, pairs.tokens) * corrects[:, None] + (slope * of_pair)[:, None]
    return tf.where(pairs.tokens.item > 0, gain, 0.0), slope
