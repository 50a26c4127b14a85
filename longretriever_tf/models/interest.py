"""lambda(u, c): how many items of each category the user will take next, learned; over all categories, touched or not.

Eq. 3 scores only what the user touched, and decays it by a fixed law. This small network reads eq. 3's score among
other sums over the life (`data.interest_features`) and is trained on the same snapshots as the towers, for two goals:
all items, and novel ones (items that the user has never taken).
"""

import tensorflow as tf

from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.interest_features import NUM_FEATURES
from longretriever_tf.models.encoder import flat_rows

GOALS = ("all", "novel")


class InterestModel(tf.keras.layers.Layer):
    """Logits of the next items' categories.

    Args:
      corpus: for the number of categories.
      dim: width of category embeddings and of the life's summary.
      hidden: width of the network.
    """

    def __init__(self, corpus: Corpus, dim: int = 32, hidden: int = 64) -> None:
        super().__init__(name="interest")
        self.feature_mean = self.add_weight(
            name="feature_mean", shape=[NUM_FEATURES], trainable=False, initializer="zeros"
        )
        self.feature_scale = self.add_weight(
            name="feature_scale", shape=[NUM_FEATURES], trainable=False, initializer="ones"
        )
        self._category = self.add_weight(
            name="category_kernel",
            shape=[corpus.num_categories, dim],
            initializer=tf.keras.initializers.RandomNormal(stddev=0.05),
        )
        self._embed_life = tf.keras.layers.Dense(dim, activation="tanh", name="embed_life")
        self._taste = tf.keras.layers.Dense(len(GOALS) * dim, name="taste")
        self._from_features = tf.keras.layers.Dense(hidden, name="from_features")
        self._from_category = tf.keras.layers.Dense(hidden, use_bias=False, name="from_category")
        self._from_life = tf.keras.layers.Dense(hidden, use_bias=False, name="from_life")
        self._hidden = tf.keras.layers.Dense(hidden // 2, activation="relu", name="hidden")
        self._output = tf.keras.layers.Dense(len(GOALS), name="output")

    def call(self, features: tf.Tensor, bag: tf.Tensor) -> tf.Tensor:
        """[B, C, F] features and the [B, C] bag of categories -> log p(category | user, goal), [B, C, 2]."""
        life = self._embed_life(bag)  # [B, dim]
        standard = (features - self.feature_mean) * self.feature_scale
        shape = tf.shape(standard)
        hidden = self._from_features(flat_rows(standard))
        hidden = tf.reshape(hidden, [shape[0], shape[1], hidden.shape[1]])
        hidden += self._from_category(self._category)[None] + self._from_life(life)[:, None]
        logits = self._output(self._hidden(flat_rows(tf.nn.relu(hidden))))
        logits = tf.reshape(logits, [shape[0], shape[1], len(GOALS)])
        for goal, taste in enumerate(tf.split(self._taste(life), len(GOALS), axis=1)):
            affinity = tf.matmul(taste, self._category, transpose_b=True)
            logits += tf.one_hot(goal, len(GOALS)) * affinity[:, :, None]
        # Rows 0 and 1 (padding, unknown) hold no items: never an interest.
        closed = tf.concat([tf.fill([2], logits.dtype.min), tf.zeros([tf.shape(features)[1] - 2])], 0)
        return tf.nn.log_softmax(logits + closed[None, :, None], axis=1)

    def loss(self, features: tf.Tensor, bag: tf.Tensor, counts: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Weighted multinomial negative log-likelihood over both goals, scalar.

        Args:
          features: [B, C, F].
          bag: [B, C].
          counts: distinct items taken next, by goal, [B, C, 2].
          weight: [B].
        """
        log_p = self.call(features, bag)
        weighted = counts * weight[:, None, None]
        nll = -tf.reduce_sum(tf.where(counts > 0, weighted * log_p, 0.0), [0, 1])
        return tf.reduce_sum(tf.math.divide_no_nan(nll, tf.reduce_sum(weighted, [0, 1])))
