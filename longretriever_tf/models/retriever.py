"""LongRetriever: the two towers and, here alone, their loss (eq. 2)."""

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from longretriever_tf.config import Config
from longretriever_tf.data.batches import Batch
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.item_stats import NUM_STATS
from longretriever_tf.models.random import StepRandom
from longretriever_tf.models.towers import ItemTower, UserState, UserTower


class LongRetriever(tfrs.Model):
    """Two towers trained in context: a batch holds one category, so every negative is a same-category negative.

    Args:
      config: the run's config.
      corpus: vocabularies.
      item_svd: [V, svd_dim] float32, see `data.item_svd`.
      policy: precision of the Transformer; float32 by default.
    """

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        item_svd: np.ndarray,
        policy: tf.keras.mixed_precision.Policy | None = None,
    ) -> None:
        super().__init__(name="long_retriever")
        self._config = config
        self.item_tower = ItemTower(config.model, corpus, item_svd)
        self.user_tower = UserTower(config.model, corpus, policy)
        self._task = tfrs.tasks.Retrieval(temperature=config.model.temperature, remove_accidental_hits=True)
        self._stats_weight = self.add_weight(
            name="stats_weight", shape=[NUM_STATS], initializer="zeros", trainable=config.model.item_stats
        )

    def encode(self, batch: Batch, item_vectors: tf.Tensor, random: StepRandom | None = None) -> UserState:
        """The user tower over a batch; `item_vectors` are those of `batch.item`, [n, D]."""
        return self.user_tower(
            tf.gather(item_vectors, batch.token_local),
            batch.token_item > 0,
            batch.features,
            batch.category,
            batch.profile,
            batch.taste,
            random,
        )

    def item_bias(self, item: tf.Tensor, stats: tf.Tensor) -> tf.Tensor:
        """What an item's logit gains whoever asks: learned bias plus weighted statistics.

        Args:
          item: [n] int32.
          stats: item statistics, [..., n, 3].

        Returns:
          [..., n] float32; zeros without `item_stats`.
        """
        if not self._config.model.item_stats:
            return tf.zeros(tf.shape(stats)[:-1])
        return tf.linalg.matvec(stats, self._stats_weight) + tf.gather(self.item_tower.bias, item)[:, 0]

    def score(self, embedding: tf.Tensor, item_vectors: tf.Tensor) -> tf.Tensor:
        """Inner products over temperature: [R, D], [n, D] -> [R, n]."""
        return tf.matmul(embedding, item_vectors, transpose_b=True) / self._config.model.temperature

    def compute_loss(self, inputs: tuple[Batch, StepRandom | None], training: bool = False) -> tf.Tensor:
        """Mean weighted negative log-likelihood of the targets, scalar.

        Args:
          inputs: the batch, and the draws of this step (None: no dropout).
          training: unused; the draws say it.
        """
        del training
        batch, random = inputs
        item_vectors = self.item_tower(batch.item, random)
        state = self.encode(batch, item_vectors, random)
        if self._config.train.loss == "full":
            return self._full_softmax(batch, item_vectors, state)
        return tf.cond(
            batch.is_whole,
            lambda: self._full_softmax(batch, item_vectors, state),
            lambda: self._in_batch_softmax(batch, item_vectors, state),
        )

    def _full_softmax(self, batch: Batch, item_vectors: tf.Tensor, state: UserState) -> tf.Tensor:
        """Softmax over the category's items that anyone had taken before the example's moment."""
        logits = self.score(state.embedding, item_vectors)
        if self._config.model.item_stats:
            logits += tf.gather(self.item_bias(batch.item, batch.stats), batch.stats_row)
        if self._config.model.copy:
            logits = add_boosts(logits, state.boost, batch.token_item > 0, batch.token_local)
        # `cond` traces this branch for batches that are not whole too, whose `is_available` has no column.
        missing = tf.shape(logits)[1] - tf.shape(batch.is_available)[1]
        is_available = tf.pad(batch.is_available, [[0, 0], [0, missing]], constant_values=True)
        logits = tf.where(is_available, logits, logits.dtype.min)
        at = tf.stack([batch.target_row, batch.target_local], 1)
        weight = batch.target_weight * tf.cast(tf.gather_nd(is_available, at), tf.float32)
        log_likelihood = tf.gather_nd(logits, at) - tf.gather(tf.reduce_logsumexp(logits, 1), batch.target_row)
        likely = tf.where(weight > 0, log_likelihood, 0.0)
        return -tf.math.divide_no_nan(tf.reduce_sum(weight * likely), tf.reduce_sum(weight))

    def _in_batch_softmax(self, batch: Batch, item_vectors: tf.Tensor, state: UserState) -> tf.Tensor:
        """The TFRS Retrieval task: the batch's other targets are the negatives, corrected by log Q(item | category)."""
        loss = self._task(
            tf.gather(state.embedding, batch.target_row),
            tf.gather(item_vectors, batch.target_local),
            sample_weight=batch.target_weight,
            compute_metrics=False,
            candidate_sampling_probability=batch.target_probability if self._config.train.logq else None,
            candidate_ids=tf.gather(batch.item, batch.target_local),
        )
        return tf.math.divide_no_nan(loss, tf.reduce_sum(batch.target_weight))


def add_boosts(logits: tf.Tensor, boost: tf.Tensor, is_real: tf.Tensor, token_local: tf.Tensor) -> tf.Tensor:
    """Adds each token's boost to the logit of its own item (the copy term).

    Args:
      logits: [R, n].
      boost: [R, L].
      is_real: [R, L] bool.
      token_local: column of each token's item in `logits`, [R, L] int32.
    """
    where = tf.where(is_real)
    columns = tf.cast(tf.gather_nd(token_local, where), tf.int64)
    return tf.tensor_scatter_nd_add(logits, tf.stack([where[:, 0], columns], 1), tf.gather_nd(boost, where))
