"""Two-tower on recent events: this package's own Transformer, read at [CLS]. One vector per user."""

import tensorflow as tf

from longretriever_tf.common.graph import as_it_stands
from longretriever_tf.config.config import Config
from longretriever_tf.models.baselines.user_side import Interests, Queries
from longretriever_tf.models.encoder import Encoder
from longretriever_tf.models.stateless_dropout import StatelessRng


class TransformerInterest(tf.keras.layers.Layer):
    """[CLS] before the events, through `models.encoder.Encoder`.

    Args:
      config: the run's config.
      policy: precision of the Transformer.
    """

    uses_position = True

    def __init__(self, config: Config, policy: tf.keras.mixed_precision.Policy | None = None) -> None:
        super().__init__(name="transformer_interest")
        model = config.model
        self._cls = self.add_weight(
            name="cls", shape=[1, 1, model.dim], initializer=tf.keras.initializers.RandomNormal(stddev=0.05)
        )
        self._encoder = Encoder(model.dim, model.num_layers, model.num_heads, model.ff_dim, model.dropout, policy)

    @as_it_stands
    def call(self, events: tf.Tensor, is_real: tf.Tensor, random: StatelessRng | None = None) -> Interests:
        """See `interests.UserSide`; K = 1."""
        num = tf.shape(events)[0]
        x = tf.concat([tf.repeat(self._cls, num, axis=0), events], 1)  # [R, 1 + L, D]
        mask = tf.concat([tf.ones([num, 1], tf.bool), is_real], 1)
        vector = tf.cast(self._encoder(x, mask, cls_only=True, random=random), tf.float32)
        return Interests(vector, tf.ones([num, 1], tf.bool))

    def queries(self, interests: Interests, target_row: tf.Tensor, target_vector: tf.Tensor) -> Queries:
        """The user's one vector for every target."""
        del target_vector
        vector = interests.vector[:, 0]
        return Queries(vector, tf.range(tf.shape(vector)[0]), target_row)
