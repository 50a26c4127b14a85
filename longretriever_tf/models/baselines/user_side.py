"""What the three baselines share: how a recent event becomes a vector, and what a user side answers."""

from typing import NamedTuple, Protocol

import tensorflow as tf

from longretriever_tf.common.graph import as_it_stands
from longretriever_tf.config.config import Config
from longretriever_tf.data.search.hard_search import NUM_EVENT_FEATURES
from longretriever_tf.models.stateless_dropout import StatelessRng, dropout


class Interests(NamedTuple):
    """Vectors of R users.

    Attributes:
      vector: [R, K, D] float32.
      is_real: [R, K] bool; False where a user has fewer than K.
    """

    vector: tf.Tensor
    is_real: tf.Tensor


class Queries(NamedTuple):
    """Which vector answers for which target in training.

    Attributes:
      vector: [q, D] float32.
      row: example of each query, [q] int32.
      of_target: query of each target, [t] int32.
    """

    vector: tf.Tensor
    row: tf.Tensor
    of_target: tf.Tensor


class UserSide(Protocol):
    """The part that tells one baseline from another, a Keras layer."""

    def __call__(self, events: tf.Tensor, is_real: tf.Tensor, random: StatelessRng | None = None) -> Interests:
        """Embedded events [R, L, D] float32, newest first, and which are real, [R, L] bool, to interests."""
        ...

    def queries(self, interests: Interests, target_row: tf.Tensor, target_vector: tf.Tensor) -> Queries:
        """Picks or mixes a user's interests for each target: rows [t] int32, item vectors [t, D]."""
        ...


class EventEmbedding(tf.keras.layers.Layer):
    """Item vector, age and gap of each event, and its position counted from the newest.

    Args:
      config: the run's config.
      use_position: whether positions have an embedding.
    """

    def __init__(self, config: Config, use_position: bool) -> None:
        super().__init__(name="event_embedding")
        self._rate, dim = config.model.dropout, config.model.dim
        shape = [NUM_EVENT_FEATURES]
        self.feature_mean = self.add_weight(name="feature_mean", shape=shape, trainable=False, initializer="zeros")
        self.feature_scale = self.add_weight(name="feature_scale", shape=shape, trainable=False, initializer="ones")
        self._embed_features = tf.keras.layers.Dense(dim, name="embed_features")
        self._position = None
        if use_position:
            self._position = self.add_weight(
                name="position",
                shape=[config.baseline.recent_length, dim],
                initializer=tf.keras.initializers.RandomNormal(stddev=0.05),
            )

    @as_it_stands
    def call(
        self, item_vectors: tf.Tensor, is_real: tf.Tensor, features: tf.Tensor, random: StatelessRng | None = None
    ) -> tf.Tensor:
        """[R, L, D], [R, L] bool and [R, L, 2] -> [R, L, D] float32, 0 where padded."""
        standard = (features - self.feature_mean) * self.feature_scale
        x = item_vectors + self._embed_features(standard)
        if self._position is not None:
            x += self._position[: tf.shape(x)[1]]
        return dropout(x, self._rate, random) * tf.cast(is_real, tf.float32)[:, :, None]
