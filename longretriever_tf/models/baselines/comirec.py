"""ComiRec-SA (Cen et al., KDD 2020): interests by self-attention; the target picks one in training."""

import tensorflow as tf

from longretriever_tf.common.graph import as_it_stands
from longretriever_tf.config.config import Config
from longretriever_tf.models.baselines.user_side import Interests, Queries
from longretriever_tf.models.stateless_dropout import StatelessRng


class SelfAttentiveInterests(tf.keras.layers.Layer):
    """V = softmax(W2 tanh(W1 H)) H, the softmax over the events, one row of W2 per interest."""

    uses_position = True

    def __init__(self, config: Config) -> None:
        super().__init__(name="self_attentive_interests")
        self._hidden = tf.keras.layers.Dense(config.model.ff_dim, activation="tanh", use_bias=False, name="hidden")
        self._attend = tf.keras.layers.Dense(config.baseline.num_capsules, use_bias=False, name="attend")

    @as_it_stands
    def call(self, events: tf.Tensor, is_real: tf.Tensor, random: StatelessRng | None = None) -> Interests:
        """See `interests.UserSide`; K = `num_capsules`, all real."""
        del random
        logits = self._attend(self._hidden(events))  # [R, L, K]
        weight = tf.nn.softmax(tf.where(is_real[:, :, None], logits, logits.dtype.min), axis=1)
        weight *= tf.cast(is_real, tf.float32)[:, :, None]  # a user without events has no interests: zeros
        vector = tf.matmul(weight, events, transpose_a=True)  # [R, K, D]
        return Interests(vector, tf.ones(tf.shape(vector)[:2], tf.bool))

    def queries(self, interests: Interests, target_row: tf.Tensor, target_vector: tf.Tensor) -> Queries:
        """The interest nearest to the target answers for it."""
        num, many, dim = tf.unstack(tf.shape(interests.vector))
        product = tf.linalg.matvec(tf.gather(interests.vector, target_row), target_vector)  # [t, K]
        nearest = tf.argmax(product, 1, output_type=tf.int32)
        flat = tf.reshape(interests.vector, [num * many, dim])
        return Queries(flat, tf.repeat(tf.range(num), many), target_row * many + nearest)
