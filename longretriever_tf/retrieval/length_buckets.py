"""The user tower over many subsequences at once: rows of like length share a batch, so that little is padding."""

from collections.abc import Callable

import tensorflow as tf

from longretriever_tf.data.search.hard_search import Tokens
from longretriever_tf.models.towers import UserState

_ROWS = 32
"""Rows of a batch: fewer are padded less, more drown the cost of a call. Up to so many are encoded at once."""

_MAX_BATCHES = 64
"""Of one call: where rows are many, as in evaluation, those of a larger batch are still of like length."""


def encode_by_length(encode: Callable[[Tokens, tf.Tensor], UserState], tokens: Tokens, dim: int) -> UserState:
    """Encodes R subsequences in batches, shortest first.

    Args:
      encode: the tower: tokens of some rows, [r, l], and which rows they are, [r] int32.
      tokens: of all of them, [R, L], each row's real ones first.
      dim: D, width of the embeddings.

    Returns:
      UserState of all, in the order of `tokens`; repeat logits are 0 where padded, [R, L].
    """
    num = tf.shape(tokens.item)[0]
    # A branch, since sorting, gathering and the loop cost a single request more than its padding.
    state = tf.cond(num > _ROWS, lambda: _encode_in_batches(encode, tokens, num), lambda: encode(tokens, tf.range(num)))
    return UserState(tf.ensure_shape(state.embedding, [None, dim]), tf.ensure_shape(state.repeat_logit, [None, None]))


def _encode_in_batches(
    encode: Callable[[Tokens, tf.Tensor], UserState], tokens: Tokens, num_rows: tf.Tensor
) -> UserState:
    length, width = tf.math.count_nonzero(tokens.item, 1, dtype=tf.int32), tf.shape(tokens.item)[1]
    size = tf.maximum(_ROWS, num_rows // _MAX_BATCHES)
    order, num = tf.argsort(length), (num_rows + size - 1) // size
    arrays = [tf.TensorArray(tf.float32, num, infer_shape=False) for _ in UserState._fields]

    def one(i: tf.Tensor, embeddings: tf.TensorArray, repeat_logits: tf.TensorArray) -> tuple:
        rows = order[i * size : (i + 1) * size]
        longest = tf.gather(length, rows[-1])
        # Rows first: cutting the columns first would copy all rows for each batch.
        some = Tokens(tf.gather(tokens.item, rows)[:, :longest], tf.gather(tokens.features, rows)[:, :longest])
        state = encode(some, rows)
        repeat_logit = tf.pad(state.repeat_logit, [[0, 0], [0, width - longest]])
        return i + 1, embeddings.write(i, state.embedding), repeat_logits.write(i, repeat_logit)

    arrays = tf.while_loop(lambda i, *_: i < num, one, (0, *arrays), parallel_iterations=1)[1:]
    back = tf.math.invert_permutation(order)
    return UserState(*(tf.gather(array.concat(), back) for array in arrays))
