"""lambda(u, c): how many items of each category the user will take next, learned; over all categories, seen or not.

Eq. 3 scores only what the user has seen, and decays it by a fixed law. This small network reads eq. 3's score among
other sums over the history (`data.recipe.interest_features`), the bag of its categories and, where the towers do, its
history embedding across categories (`data.recipe.history_embedding`): what leads to categories that the user has never
seen. It is trained on snapshots, for two tasks: all items, and novel ones (items that the user has never taken).
"""

import tensorflow as tf

from longretriever_tf.common.graph import as_it_stands
from longretriever_tf.data.batches.interests import InterestBatch
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.interest_features import NUM_FEATURES
from longretriever_tf.models.encoder import flat_rows
from longretriever_tf.models.stateless_dropout import StatelessRng, dropout

TASKS = ("all", "novel")


class InterestModel(tf.keras.layers.Layer):
    """Logits of the next items' categories.

    Args:
      corpus: for the number of categories.
      history_dropout: dropout of the history embedding.
      dim: width of category embeddings and of the history's summary.
      hidden: width of the network.
    """

    def __init__(self, corpus: Corpus, history_dropout: float, dim: int = 32, hidden: int = 64) -> None:
        super().__init__(name="interest")
        self._history_dropout = history_dropout
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
        # The history embedding has layers of its own: in one with hundreds of categories it would start out small.
        self._embed_bag = tf.keras.layers.Dense(dim, name="embed_bag")
        self._embed_history = tf.keras.layers.Dense(dim, use_bias=False, name="embed_taste")
        self._wanted = tf.keras.layers.Dense(len(TASKS) * dim, name="wanted")
        self._wanted_by_history_embedding = tf.keras.layers.Dense(
            len(TASKS) * dim, use_bias=False, kernel_initializer="zeros", name="wanted_by_taste"
        )
        self._from_features = tf.keras.layers.Dense(hidden, name="from_features")
        self._from_category = tf.keras.layers.Dense(hidden, use_bias=False, name="from_category")
        self._from_history = tf.keras.layers.Dense(hidden, use_bias=False, name="from_life")
        # Names in checkpoints of before 0.2, which still have to load.
        self._embed_taste, self._from_life = self._embed_history, self._from_history
        self._wanted_by_taste = self._wanted_by_history_embedding
        self._hidden = tf.keras.layers.Dense(hidden // 2, activation="relu", name="hidden")
        self._output = tf.keras.layers.Dense(len(TASKS), name="output")

    @property
    def category_table(self) -> tf.Variable:
        """Embeddings of the categories, [C, dim]."""
        return self._category

    @property
    def bag_kernel(self) -> tf.Variable:
        """What reads the bag of categories: a row for each, [C, dim]."""
        return self._embed_bag.kernel

    @as_it_stands
    def call(
        self, features: tf.Tensor, bag: tf.Tensor, history_embedding: tf.Tensor, random: StatelessRng | None = None
    ) -> tf.Tensor:
        """Log p(category | user, task), [B, C, 2].

        Args:
          features: of each (history, category), [B, C, F].
          bag: of categories, [B, C].
          history_embedding: what each history says across categories, [B, D]; [B, 0] where the towers read none.
          random: draws of this training step; None at inference.
        """
        history_embedding = dropout(history_embedding, self._history_dropout, random)
        history = tf.tanh(self._embed_bag(bag) + self._embed_history(history_embedding))  # [B, dim]
        standard = (features - self.feature_mean) * self.feature_scale
        shape = tf.shape(standard)
        hidden = self._from_features(flat_rows(standard))
        hidden = tf.reshape(hidden, [shape[0], shape[1], hidden.shape[1]])
        hidden += self._from_category(self._category)[None] + self._from_history(history)[:, None]
        logits = self._output(self._hidden(flat_rows(tf.nn.relu(hidden))))
        logits = tf.reshape(logits, [shape[0], shape[1], len(TASKS)])
        wanted_by_task = tf.split(
            self._wanted(history) + self._wanted_by_history_embedding(history_embedding), len(TASKS), axis=1
        )
        for task, wanted in enumerate(wanted_by_task):
            affinity = tf.matmul(wanted, self._category, transpose_b=True)
            logits += tf.one_hot(task, len(TASKS)) * affinity[:, :, None]
        # Rows 0 and 1 (padding, unknown) hold no items: never an interest.
        closed = tf.concat([tf.fill([2], logits.dtype.min), tf.zeros([tf.shape(features)[1] - 2])], 0)
        return tf.nn.log_softmax(logits + closed[None, :, None], axis=1)

    def compute_loss(self, inputs: tuple[InterestBatch, StatelessRng | None], training: bool = False) -> tf.Tensor:
        """Weighted multinomial negative log-likelihood over both tasks, scalar.

        Args:
          inputs: B histories and what was taken next; and the draws of this training step.
          training: unused; the draws say it.
        """
        del training
        batch, random = inputs
        log_p = self.call(batch.features, batch.bag, batch.history_embedding, random)
        weighted = batch.counts * batch.weight[:, None, None]
        nll = -tf.reduce_sum(tf.where(batch.counts > 0, weighted * log_p, 0.0), [0, 1])
        return tf.reduce_sum(tf.math.divide_no_nan(nll, tf.reduce_sum(weighted, [0, 1])))
