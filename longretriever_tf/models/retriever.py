"""LongRetriever: the two towers and, here alone, their loss (eq. 2)."""

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.in_context import Batch
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.item_stats import NUM_STATS
from longretriever_tf.models.encoder import flat_rows
from longretriever_tf.models.stateless_dropout import StatelessRng
from longretriever_tf.models.towers import ItemTower, UserState, UserTower


class LongRetriever(tfrs.Model):
    """Two towers trained in context: a batch holds one category, so every negative is a same-category negative.

    Args:
      config: the run's config.
      corpus: vocabularies.
      item_svd: [V, svd_dim] float32, see `data.recipe.item_svd`.
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
        self._vector_head = None
        if config.model.repeat_term and config.train.vector_loss_weight:
            self._vector_head = tf.keras.layers.Dense(
                config.model.dim, use_bias=False, kernel_initializer="zeros", name="vector_head"
            )
            self._vector_head.build([None, config.model.dim])
        self._stats_weight = self.add_weight(
            name="stats_weight", shape=[NUM_STATS], initializer="zeros", trainable=config.model.item_stats
        )

    def encode(self, batch: Batch, item_vectors: tf.Tensor, random: StatelessRng | None = None) -> UserState:
        """The user tower over a batch; `item_vectors` are those of `batch.item`, [n, D]."""
        return self.user_tower(
            tf.gather(item_vectors, batch.token_local),
            batch.token_item > 0,
            batch.features,
            batch.category,
            batch.profile,
            batch.history_embedding,
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
        known = tf.matmul(flat_rows(stats), self._stats_weight[:, None])  # one product, not one for each time
        return tf.reshape(known, tf.shape(stats)[:-1]) + tf.gather(self.item_tower.bias, item)[:, 0]

    def score(self, embedding: tf.Tensor, item_vectors: tf.Tensor) -> tf.Tensor:
        """Inner products over temperature: [R, D], [n, D] -> [R, n]."""
        return tf.matmul(embedding, item_vectors, transpose_b=True) / self._config.model.temperature

    def compute_loss(self, inputs: tuple[Batch, StatelessRng | None], training: bool = False) -> tf.Tensor:
        """Mean weighted negative log-likelihood of the targets, scalar.

        Args:
          inputs: the batch, and the draws of this step (None: no dropout).
          training: unused; the draws say it.
        """
        del training
        return self._loss(*inputs)

    def grouped_loss(self, batch: Batch, random: StatelessRng | None, num_groups: int) -> tf.Tensor:
        """The mean of several batches' losses under the full softmax, scalar.

        Args:
          batch: batches of like size, one after the other: `item`, rows and targets are G equal parts, and the rows of
            `stats_row` count through (time, group).
          random: the draws of this step.
          num_groups: G.
        """
        return self._loss(batch, random, num_groups)

    def _loss(self, batch: Batch, random: StatelessRng | None, num_groups: int = 1) -> tf.Tensor:
        item_vectors = self.item_tower(batch.item, random)
        state = self.encode(batch, item_vectors, random)
        if self._config.train.loss == "full":
            return self._full_softmax(batch, item_vectors, state, num_groups)
        return tf.cond(
            batch.scores_full_category,
            lambda: self._full_softmax(batch, item_vectors, state),
            lambda: self._in_batch_softmax(batch, item_vectors, state),
        )

    def _full_softmax(self, batch: Batch, item_vectors: tf.Tensor, state: UserState, num_groups: int = 1) -> tf.Tensor:
        """Softmax over the category's items that anyone had taken before the example's time."""
        num_items = tf.shape(item_vectors)[0] // num_groups
        bias = None
        if self._config.model.item_stats:
            bias = tf.reshape(self.item_bias(batch.item, batch.stats), [-1, num_items])
            bias = tf.gather(bias, batch.stats_row)  # [R, n]
        token_column, target_column = batch.token_local, batch.target_local
        if num_groups > 1:
            token_column, target_column = token_column % num_items, target_column % num_items
        # `cond` traces this branch for batches that are not whole too, whose `is_available` has no column.
        missing = num_items - tf.shape(batch.is_available)[1]
        is_available = tf.pad(batch.is_available, [[0, 0], [0, missing]], constant_values=True)
        at = tf.stack([batch.target_row, target_column], 1)
        weight = batch.target_weight * tf.cast(tf.gather_nd(is_available, at), tf.float32)

        def judge(embedding: tf.Tensor, repeat_logit: tf.Tensor | None) -> tf.Tensor:
            """Log-likelihood of each target, [t]."""
            logits = self._score_groups(embedding, item_vectors, num_groups)  # [R, n]
            logits = logits if bias is None else logits + bias
            logits = logits if repeat_logit is None else add_padded_repeat_logits(logits, repeat_logit, token_column)
            logits = tf.where(is_available, logits, logits.dtype.min)
            return tf.gather_nd(logits, at) - tf.gather(tf.reduce_logsumexp(logits, 1), batch.target_row)

        log_likelihood = judge(state.embedding, state.repeat_logit if self._config.model.repeat_term else None)
        if self._vector_head is not None:
            # What copying explains would teach the towers nothing. A vector of its own has to explain repeats without
            # it; what the towers learn by that helps where nothing can be copied: on novel items.
            alone = state.embedding + self._vector_head(state.embedding)
            log_likelihood += self._config.train.vector_loss_weight * judge(alone, None)
        likely = tf.where(weight > 0, log_likelihood, 0.0)
        total, mass = (tf.reduce_sum(tf.reshape(part, [num_groups, -1]), 1) for part in (weight * likely, weight))
        num_real = tf.math.count_nonzero(mass, dtype=tf.float32)
        return -tf.math.divide_no_nan(tf.reduce_sum(tf.math.divide_no_nan(total, mass)), num_real)

    def _score_groups(self, embedding: tf.Tensor, item_vectors: tf.Tensor, num_groups: int) -> tf.Tensor:
        """Each group's rows against its own items: [G R, D], [G n, D] -> [G R, n]."""
        if num_groups == 1:
            return self.score(embedding, item_vectors)
        dim, num_rows = embedding.shape[1], tf.shape(embedding)[0]
        rows = tf.reshape(embedding, [num_groups, -1, dim])
        scores = self.score(rows, tf.reshape(item_vectors, [num_groups, -1, dim]))  # [G, R, n]
        return tf.reshape(scores, [num_rows, -1])

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


def add_repeat_logits(
    logits: tf.Tensor, repeat_logit: tf.Tensor, is_real: tf.Tensor, token_local: tf.Tensor
) -> tf.Tensor:
    """Adds each token's boost to the logit of its own item (the copy term).

    Args:
      logits: [R, n].
      boost: [R, L].
      is_real: [R, L] bool.
      token_local: column of each token's item in `logits`, [R, L] int32.
    """
    where = tf.where(is_real)
    columns = tf.cast(tf.gather_nd(token_local, where), tf.int64)
    return tf.tensor_scatter_nd_add(logits, tf.stack([where[:, 0], columns], 1), tf.gather_nd(repeat_logit, where))


def add_padded_repeat_logits(logits: tf.Tensor, repeat_logit: tf.Tensor, token_local: tf.Tensor) -> tf.Tensor:
    """`add_boosts` in static shapes, for training: padded tokens add the 0 they hold, to some column of their row.

    Args:
      logits: [R, n], n above 0.
      boost: [R, L], 0 where padded.
      token_local: a column of `logits` for every token, [R, L] int32.
    """
    shape = tf.shape(token_local)
    row = tf.broadcast_to(tf.range(shape[0])[:, None], shape)
    return tf.tensor_scatter_nd_add(logits, tf.stack([row, token_local], 2), repeat_logit)
