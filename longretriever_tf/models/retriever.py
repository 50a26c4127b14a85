"""LongRetriever: the two towers and, here alone, their loss (eq. 2)."""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from longretriever_tf.common.graph import as_it_stands
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.in_context import Batch
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.item_stats import NUM_STATS
from longretriever_tf.data.recipe.tokens import num_token_features
from longretriever_tf.models import logit_terms
from longretriever_tf.models.stateless_dropout import StatelessRng
from longretriever_tf.models.towers import ItemTower, UserInputs, UserState, UserTower

_ITEMS_AT_ONCE = 65_536


class LongRetriever(tfrs.Model):
    """Two towers trained in context: a batch holds one category, so every negative is a same-category negative.

    A Keras model: its batches come from `data.batches.in_context`, and dropout draws by (seed, step), so that `fit`
    makes the steps of `training.loop`:

      source = BatchSource(config, prepared, examples)
      model = LongRetriever(config, prepared.corpus, prepared.item_svd)
      model.compile(optimizer=LazyAdamW(learning_rate=1e-3, weight_decay=0.01, total_steps=source.num_batches()))
      model.fit(source.make_dataset(epoch=0))

    Args:
      config: the run's config.
      corpus: vocabularies.
      item_svd: [V, svd_dim] float32, see `data.recipe.item_svd`.
      policy: precision of the Transformer; float32 by default.
      fold_svd: [K, V, svd_dim], which --cross_fit_items trains the item tower on, see `models.towers.ItemTower`.
    """

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        item_svd: np.ndarray,
        policy: tf.keras.mixed_precision.Policy | None = None,
        fold_svd: np.ndarray | None = None,
    ) -> None:
        super().__init__(name="long_retriever")
        self._config = config
        arguments = {"config": config, "corpus": corpus, "item_svd": item_svd, "fold_svd": fold_svd}
        self._arguments = self._no_dependency(arguments)
        self.item_tower = ItemTower(config.model, corpus, item_svd, fold_svd)
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
        num_asked = len(corpus.event_values) + len(config.model.request_features)
        self._create_weights(len(corpus.profile_values) + num_asked)

    def _create_weights(self, num_profile: int) -> None:
        """Calls both towers once: Keras makes the weights of Dense layers then."""
        model = self._config.model
        one = tf.ones([1, 1], tf.int32)
        self.user_tower(
            UserInputs(
                item_vectors=self.item_tower(one[0])[None],
                is_real=one > 0,
                features=tf.zeros([1, 1, num_token_features(model)]),
                category=one[0],
                profile=tf.ones([1, num_profile], tf.int32),
                history_embedding=tf.zeros([1, model.svd_dim if model.reads_history_embedding else 0]),
            )
        )
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`: arrays among them, so they do not make a JSON file."""
        return dict(self._arguments)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "LongRetriever":
        """A model of the same arguments, with weights of its own."""
        del custom_objects
        return cls(**config)

    def call(self, batch: Batch, training: bool = False) -> tf.Tensor:
        """Inner products of the batch's examples with its items, over temperature: [G R, n] float32; no dropout."""
        del training
        item_vectors = self.item_tower(tf.reshape(batch.item, [-1]))
        return self._score(batch, self.encode(batch, item_vectors).embedding, item_vectors)

    @as_it_stands
    def encode(self, batch: Batch, item_vectors: tf.Tensor, random: StatelessRng | None = None) -> UserState:
        """The user tower over a batch; `item_vectors` are those of its flat items, [G n, D]."""
        inputs = UserInputs(
            item_vectors=tf.gather(item_vectors, batch.token_local),
            is_real=batch.token_item > 0,
            features=batch.features,
            category=batch.category,
            profile=batch.profile,
            history_embedding=batch.recipe.history_embedding,
        )
        return self.user_tower(inputs, random)

    def item_bias(self, item: tf.Tensor, stats: tf.Tensor) -> tf.Tensor:
        """`logit_terms.item_bias` of items [n] int32 with statistics [..., n, 3]: [..., n]; 0 without `item_stats`."""
        if not self._config.model.item_stats:
            return tf.zeros(tf.shape(stats)[:-1])
        return logit_terms.item_bias(stats, self._stats_weight, tf.gather(self.item_tower.bias, item)[:, 0])

    def compute_loss(self, inputs: Batch | tuple[Batch, StatelessRng | None], training: bool = False) -> tf.Tensor:
        """Eq. 2: mean weighted negative log-likelihood of the targets, scalar; the mean of the groups' own means.

        Args:
          inputs: the batch; or the batch and the draws of the step (None: no dropout).
          training: of a batch alone, whether to drop out: by the run's seed and the step of the compiled optimizer.
        """
        if isinstance(inputs, Batch):
            random = StatelessRng(self._config.train.seed, self.optimizer.iterations) if training else None
            inputs = inputs, random
        batch, random = inputs
        fold = tf.repeat(batch.recipe.fold, tf.shape(batch.item)[1])
        item_vectors = self.item_tower(tf.reshape(batch.item, [-1]), random, fold)
        state = self.encode(batch, item_vectors, random)
        if self._config.train.loss == "full":
            return self._full_softmax(batch, item_vectors, state)
        return tf.cond(
            batch.scores_full_category,
            lambda: self._full_softmax(batch, item_vectors, state),
            lambda: self._in_batch_softmax(batch, item_vectors, state),
        )

    def _in_batch_softmax(self, batch: Batch, item_vectors: tf.Tensor, state: UserState) -> tf.Tensor:
        """The paper's: the batch's other targets are the negatives, corrected by log Q(item | category)."""
        loss = self._task(
            tf.gather(state.embedding, batch.target_row),
            tf.gather(item_vectors, batch.target_local),
            sample_weight=batch.target_weight,
            compute_metrics=False,
            candidate_sampling_probability=batch.target_probability if self._config.train.logq else None,
            candidate_ids=tf.gather(tf.reshape(batch.item, [-1]), batch.target_local),
        )
        return tf.math.divide_no_nan(loss, tf.reduce_sum(batch.target_weight))

    @as_it_stands
    def _full_softmax(self, batch: Batch, item_vectors: tf.Tensor, state: UserState) -> tf.Tensor:
        """All items of the category that anyone had taken before the example's time are the negatives."""
        num_items, num_groups = tf.shape(batch.item)[1], batch.item.shape[0]
        target = tf.stack([batch.target_row, batch.target_local % num_items], 1)
        is_available = logit_terms.complete_availability(batch.recipe.is_available, num_items)
        weight = batch.target_weight * tf.cast(tf.gather_nd(is_available, target), tf.float32)
        bias = None
        if self._config.model.item_stats:
            bias = self.item_bias(tf.reshape(batch.item, [-1]), batch.recipe.stats)
            bias = tf.gather(tf.reshape(bias, [-1, num_items]), batch.recipe.stats_row)  # [G R, n]

        def log_likelihood(embedding: tf.Tensor, repeat_logit: tf.Tensor | None) -> tf.Tensor:
            """Log-likelihood of each target, [t]."""
            logits = self._score(batch, embedding, item_vectors)
            if bias is not None:
                logits += bias
            if repeat_logit is not None:
                logits = logit_terms.add_padded_repeat_logits(logits, repeat_logit, batch.token_local % num_items)
            logits = logit_terms.mask_unavailable(logits, is_available)
            return tf.gather_nd(logits, target) - tf.gather(tf.reduce_logsumexp(logits, 1), batch.target_row)

        likelihood = log_likelihood(state.embedding, state.repeat_logit if self._config.model.repeat_term else None)
        if self._vector_head is not None:
            # Targets that the repeat term explains give the towers no gradient; a second loss restores it: here a
            # vector of its own has to explain repeats without the term, which helps on novel items.
            alone = state.embedding + self._vector_head(state.embedding)
            likelihood += self._config.train.vector_loss_weight * log_likelihood(alone, None)
        likelihood = tf.where(weight > 0, likelihood, 0.0)
        total, mass = (tf.reduce_sum(tf.reshape(part, [num_groups, -1]), 1) for part in (weight * likelihood, weight))
        num_real = tf.math.count_nonzero(mass, dtype=tf.float32)
        return -tf.math.divide_no_nan(tf.reduce_sum(tf.math.divide_no_nan(total, mass)), num_real)

    def _score(self, batch: Batch, embedding: tf.Tensor, item_vectors: tf.Tensor) -> tf.Tensor:
        """e_u(c) . g(v) / temperature, each group against its own items: [G R, D], [G n, D] -> [G R, n]."""
        num_groups, dim = batch.item.shape[0], embedding.shape[1]
        if num_groups == 1:  # the product of one matrix: as a batch of one it takes up to twice as long
            return tf.matmul(embedding, item_vectors, transpose_b=True) / self._config.model.temperature
        users, items = (tf.reshape(rows, [num_groups, -1, dim]) for rows in (embedding, item_vectors))
        scores = tf.matmul(users, items, transpose_b=True) / self._config.model.temperature  # [G, R, n]
        return tf.reshape(scores, [tf.shape(embedding)[0], -1])


def embed_corpus(retriever: LongRetriever, corpus: Corpus, item_stats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [V, D] and biases [V] of every item, as of the statistics given, as an index holds them."""
    every = np.arange(corpus.num_items, dtype=np.int32)
    parts = [every[i : i + _ITEMS_AT_ONCE] for i in range(0, len(every), _ITEMS_AT_ONCE)]
    vectors = np.concatenate([retriever.item_tower(part).numpy() for part in parts])
    return vectors, retriever.item_bias(tf.constant(every), tf.constant(item_stats)).numpy()
