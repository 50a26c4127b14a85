"""What the recipe adds to the logits of eq. 2, term by term. Each is switched by a flag, and none is in the paper.

item bias       --item_stats         a learned bias and weighted statistics of the item, whoever asks
repeat term     --repeat_term        a logit for each token, added to the logit of the token's own item
availability    --loss=full          items that nobody had taken before the request do not compete
vector head     --vector_loss_weight a second loss without the repeat term (`models.retriever`)
weights         --score_weights_users what the terms weigh in requests, fitted where users are few
"""

import numpy as np
import tensorflow as tf

from longretriever_tf.data.recipe.score_weights import PLAIN, ScoreWeights
from longretriever_tf.data.search.hard_search import Tokens
from longretriever_tf.models.encoder import flat_rows
from longretriever_tf.models.towers import UserState

_REPEATS = 5
"""Column of `hard_search.item_tokens`: log1p of the count decayed with a half-life of 180 days."""


def item_bias(stats: tf.Tensor, weight: tf.Tensor, learned: tf.Tensor) -> tf.Tensor:
    """What an item's logit gains whoever asks.

    Args:
      stats: item statistics (`data.recipe.item_stats`), [..., n, 3].
      weight: of each statistic, [3].
      learned: bias of each item, [n].

    Returns:
      [..., n] float32.
    """
    known = tf.matmul(flat_rows(stats), weight[:, None])  # one product, not one for each time
    return tf.reshape(known, tf.shape(stats)[:-1]) + learned


def add_repeat_logits(
    logits: tf.Tensor, repeat_logit: tf.Tensor, is_real: tf.Tensor, token_column: tf.Tensor
) -> tf.Tensor:
    """Adds the repeat term: each token's logit to that of its own item.

    It models repeats without using embedding capacity.

    Args:
      logits: [R, n].
      repeat_logit: [R, L].
      is_real: [R, L] bool.
      token_column: column of each token's item in `logits`, [R, L] int32.
    """
    where = tf.where(is_real)
    columns = tf.cast(tf.gather_nd(token_column, where), tf.int64)
    return tf.tensor_scatter_nd_add(logits, tf.stack([where[:, 0], columns], 1), tf.gather_nd(repeat_logit, where))


def add_padded_repeat_logits(logits: tf.Tensor, repeat_logit: tf.Tensor, token_column: tf.Tensor) -> tf.Tensor:
    """`add_repeat_logits` in static shapes, for training: padded tokens add the 0 they hold, to some column.

    Args:
      logits: [R, n], n above 0.
      repeat_logit: [R, L], 0 where padded.
      token_column: a column of `logits` for every token, [R, L] int32.
    """
    shape = tf.shape(token_column)
    row = tf.broadcast_to(tf.range(shape[0])[:, None], shape)
    return tf.tensor_scatter_nd_add(logits, tf.stack([row, token_column], 2), repeat_logit)


def complete_availability(is_available: tf.Tensor, num_items: tf.Tensor) -> tf.Tensor:
    """The availability mask [R, n] bool; a batch that has none, [R, 0], lets all items compete."""
    # `cond` traces the full softmax also for batches without the full category.
    missing = num_items - tf.shape(is_available)[1]
    return tf.pad(is_available, [[0, 0], [0, missing]], constant_values=True)


def mask_unavailable(logits: tf.Tensor, is_available: tf.Tensor) -> tf.Tensor:
    """The least float in place of the logits of items that are not available: [R, n], [R, n] bool -> [R, n]."""
    return tf.where(is_available, logits, logits.dtype.min)


def weigh_items(
    weights: ScoreWeights,
    vectors: np.ndarray,
    bias: np.ndarray,
    item_stats: np.ndarray,
    takers: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What an index holds of items under some weights: vectors [V, D] and biases [V].

    Args:
      weights: of the terms.
      vectors, bias: as learned.
      item_stats: [V, 3].
      takers: log of how many users took each item, [V]; None: nobody counted.
    """
    if weights == PLAIN:
        return vectors, bias
    popularity = np.float32(weights.popularity) * item_stats[:, 0]
    if takers is not None:
        popularity += np.float32(weights.takers) * takers
    return np.float32(weights.logit) * vectors, np.float32(weights.logit) * bias + popularity


def weigh_repeats(weights: ScoreWeights, state: UserState, tokens: Tokens) -> UserState:
    """The repeat logits under some weights; user vectors stay, since the vectors of the items carry their weight."""
    if weights == PLAIN:
        return state
    own = tf.linalg.matvec(interacted_terms(tokens), [weights.interacted, weights.repeats])
    return state._replace(repeat_logit=weights.logit * state.repeat_logit + own)


def interacted_terms(tokens: Tokens) -> tf.Tensor:
    """What `ScoreWeights.interacted` and `repeats` weigh: 1, and log1p of the decayed count; [R, L, 2], 0 if padded."""
    is_real = tf.cast(tokens.item > 0, tf.float32)
    return tf.stack([is_real, is_real * tokens.features[:, :, _REPEATS]], 2)
