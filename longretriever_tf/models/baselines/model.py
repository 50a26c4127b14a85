"""A baseline whole: the same item tower as LongRetriever's, a user side of its own, and their loss."""

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from longretriever_tf.config.config import Config
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.item_stats import NUM_STATS
from longretriever_tf.data.search.hard_search import NUM_EVENT_FEATURES
from longretriever_tf.models import logit_terms
from longretriever_tf.models.baselines.batches import UserBatch
from longretriever_tf.models.baselines.comirec import SelfAttentiveInterests
from longretriever_tf.models.baselines.mind import CapsuleInterests
from longretriever_tf.models.baselines.two_tower import TransformerInterest
from longretriever_tf.models.baselines.user_side import EventEmbedding, Interests, Queries
from longretriever_tf.models.build import find_weights, read_weights
from longretriever_tf.models.stateless_dropout import StatelessRng
from longretriever_tf.models.towers import ItemTower


class RecentRetriever(tfrs.Model):
    """Scores an item by the best inner product with one of the user's interests, plus the item's bias if it has one.

    Args:
      config: the run's config; `model.model` picks the user side.
      corpus: vocabularies.
      item_svd: [V, svd_dim] float32.
      item_stats: for training with an item bias, the statistics of all items at each of their times, [T, V, 3] float32.
    """

    def __init__(
        self, config: Config, corpus: Corpus, item_svd: np.ndarray, item_stats: np.ndarray | None = None
    ) -> None:
        super().__init__(name=config.model.model)
        self._config = config
        self.item_tower = ItemTower(config.model, corpus, item_svd)
        self.user_side = _make_user_side(config)
        self.event_embedding = EventEmbedding(config, self.user_side.uses_position)
        self._num_interests = 1 if config.model.model == "two_tower" else config.baseline.num_capsules
        # Here and not in the batches, 50 MB of each: they would be copied to the device at every step.
        self._item_stats = None if item_stats is None else tf.constant(item_stats)
        self._stats_weight = None
        if config.baseline.item_bias:
            self._stats_weight = self.add_weight(name="stats_weight", shape=[NUM_STATS], initializer="zeros")
        self._task = tfrs.tasks.Retrieval(temperature=config.model.temperature, remove_accidental_hits=True)

    def interests(
        self, item_vectors: tf.Tensor, is_real: tf.Tensor, features: tf.Tensor, random: StatelessRng | None = None
    ) -> Interests:
        """The user side.

        Args:
          item_vectors: of the latest events, newest first, [R, L, D] float32.
          is_real: [R, L] bool.
          features: [R, L, 2] float32.
          random: draws of this training step; None at inference.
        """
        interests = self.user_side(self.event_embedding(item_vectors, is_real, features, random), is_real, random)
        vector = tf.ensure_shape(interests.vector, [None, self._num_interests, self._config.model.dim])
        return interests._replace(vector=self._normalized(vector))

    def item_bias(self, stats: tf.Tensor) -> tf.Tensor | None:
        """What every item's logit gains whoever asks: statistics [..., V, 3] -> [..., V]; None without `item_bias`."""
        if self._stats_weight is None:
            return None
        return logit_terms.item_bias(stats, self._stats_weight, self.item_tower.bias[:, 0])

    def compute_loss(self, inputs: tuple[UserBatch, StatelessRng | None], training: bool = False) -> tf.Tensor:
        """Mean weighted negative log-likelihood of the targets, scalar; `training` is unused, the draws say it."""
        del training
        batch, random = inputs
        item_vectors = self.item_tower(batch.item, random)
        tokens = tf.gather(item_vectors, batch.token_local)
        interests = self.interests(tokens, batch.token_item > 0, batch.features, random)
        target_vectors = tf.gather(item_vectors, batch.target_local)
        queries = self.user_side.queries(interests, batch.target_row, target_vectors)
        queries = queries._replace(vector=self._normalized(queries.vector))
        if self._config.train.loss == "full":
            return self._full_softmax(batch, item_vectors, queries)
        return self._sampled_softmax(batch, item_vectors, queries)

    def _full_softmax(self, batch: UserBatch, item_vectors: tf.Tensor, queries: Queries) -> tf.Tensor:
        """Softmax over the items that anyone had taken before the example's time."""
        logits = tf.matmul(queries.vector, item_vectors, transpose_b=True) / self._config.model.temperature  # [q, V]
        if self._stats_weight is not None:
            bias = self.item_bias(tf.gather(self._item_stats, batch.stats_rows))
            logits += tf.gather(bias, tf.gather(batch.stats_row, queries.row))
        is_available = batch.first_time[None] < tf.gather(batch.time, queries.row)[:, None]
        logits = tf.where(is_available, logits, logits.dtype.min)
        at = tf.stack([queries.of_target, batch.target_local], 1)
        log_likelihood = tf.gather_nd(logits, at) - tf.gather(tf.reduce_logsumexp(logits, 1), queries.of_target)
        likely = tf.where(batch.target_weight > 0, log_likelihood, 0.0)
        weight = batch.target_weight
        return -tf.math.divide_no_nan(tf.reduce_sum(weight * likely), tf.reduce_sum(weight))

    def _sampled_softmax(self, batch: UserBatch, item_vectors: tf.Tensor, queries: Queries) -> tf.Tensor:
        """The TFRS Retrieval task: negatives are the other users' targets and the uniform draws, corrected by log Q.

        A user's own other targets are no negatives: a batch holds them far more often than Q says.
        """
        local = tf.concat([batch.target_local, batch.negative_local], 0)
        probability = tf.concat([batch.target_probability, batch.negative_probability], 0)
        num_targets = tf.size(batch.target_row)
        owner = tf.concat([batch.target_row, tf.fill([tf.size(batch.negative_local)], -1)], 0)
        mask = owner[None] != batch.target_row[:, None]
        loss = self._task(
            tf.gather(queries.vector, queries.of_target),
            tf.gather(item_vectors, local),
            sample_weight=batch.target_weight,
            compute_metrics=False,
            candidate_sampling_probability=probability if self._config.train.logq else None,
            candidate_ids=tf.gather(batch.item, local),
            score_mask=mask | tf.eye(num_targets, tf.size(local), dtype=tf.bool),
        )
        return tf.math.divide_no_nan(loss, tf.reduce_sum(batch.target_weight))

    def _normalized(self, x: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(x, -1) if self._config.model.normalize else x


def build_baseline(
    config: Config, corpus: Corpus, item_svd: np.ndarray, item_stats: np.ndarray | None = None
) -> RecentRetriever:
    """Makes the baseline that `config.model.model` names, weights drawn from `config.train.seed`.

    Args:
      config: the run's config.
      corpus: vocabularies.
      item_svd: [V, svd_dim] float32.
      item_stats: what training with an item bias reads, [T, V, 3] float32.
    """
    tf.keras.utils.set_random_seed(config.train.seed)
    model = RecentRetriever(config, corpus, item_svd, item_stats)
    item_vectors = model.item_tower(tf.ones([1], tf.int32))
    model.interests(item_vectors[None], tf.ones([1, 1], tf.bool), tf.zeros([1, 1, NUM_EVENT_FEATURES]))
    return model


def load_baseline(config: Config, corpus: Corpus, item_svd: np.ndarray) -> RecentRetriever:
    """The trained model of a finished run of a neural baseline.

    Raises:
      UserError: the run has not finished, or its weights are of another shape.
    """
    path = find_weights(config)
    model = build_baseline(config, corpus, item_svd)
    read_weights(config, path, {"retriever": model})
    return model


def _make_user_side(config: Config) -> tf.keras.layers.Layer:
    kind = config.model.model
    if kind == "two_tower":
        policy = "mixed_bfloat16" if config.train.mixed_precision else "float32"
        return TransformerInterest(config, tf.keras.mixed_precision.Policy(policy))
    return {"mind": CapsuleInterests, "comirec": SelfAttentiveInterests}[kind](config)
