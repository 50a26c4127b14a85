"""User tower (eq. 1) and item tower. The user tower never sees a candidate; the item tower never sees a user."""

import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.graph import as_it_stands
from longretriever_tf.config.config import ModelConfig
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.request_features import num_request_values
from longretriever_tf.data.recipe.tokens import num_token_features
from longretriever_tf.models.encoder import Encoder, flat_rows
from longretriever_tf.models.stateless_dropout import StatelessRng, dropout

_EMBEDDING_STDDEV = 0.05


def _table(layer: tf.keras.layers.Layer, name: str, rows: int, dim: int) -> tf.Variable:
    # Columns are called as people like; a name within a graph holds ASCII letters, digits and a few signs.
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return layer.add_weight(
        name=name, shape=[rows, dim], initializer=tf.keras.initializers.RandomNormal(stddev=_EMBEDDING_STDDEV)
    )


class ItemTower(tf.keras.layers.Layer):
    """g(v): the sum of embeddings of the item's category, side features, optionally its id, and a projected SVD row.

    Args:
      config: widths and switches.
      corpus: vocabularies and the item feature table.
      item_svd: frozen SVD of the training user x item matrix, [V, svd_dim] float32; rows of unknown items are 0.
      fold_svd: for training, an SVD for each fold that has not seen its users, from `history_embedding.fit_folds`,
        [K, V, svd_dim]; None: training reads `item_svd`.
    """

    def __init__(
        self, config: ModelConfig, corpus: Corpus, item_svd: np.ndarray, fold_svd: np.ndarray | None = None
    ) -> None:
        super().__init__(name="item_tower")
        self._rate, self._config = config.unknown_rate, config
        self._features = tf.constant(corpus.item_feature)
        self._item_category = tf.constant(corpus.item_category)
        self.category_table = _table(self, "category", corpus.num_categories, config.dim)
        self.feature_tables = [
            _table(self, f"feature_{name}", len(values), config.dim) for name, values in corpus.feature_values.items()
        ]
        self.id_table = _table(self, "item_id", corpus.num_items, config.dim) if config.item_id else None
        self.bias = self.add_weight(name="item_bias", shape=[corpus.num_items, 1], initializer="zeros")
        self.svd = tf.constant(item_svd) if config.svd_dim else None
        # Half the bytes and the same numbers: `fit_folds` has rounded them to what bfloat16 holds.
        self._fold_svd = None if fold_svd is None else tf.constant(fold_svd.reshape(-1, config.svd_dim), tf.bfloat16)
        self._project = (
            tf.keras.layers.Dense(config.dim, use_bias=False, name="project_svd") if config.svd_dim else None
        )

    @as_it_stands
    def call(self, item: tf.Tensor, random: StatelessRng | None = None, fold: tf.Tensor | None = None) -> tf.Tensor:
        """Item vectors, [n, D] float32.

        Args:
          item: item index, [n] int32.
          random: draws of this training step.
          fold: through which table of `fold_svd` to read, [n] int32; None, or without such tables: `item_svd`.
        """
        features = tf.gather(self._features, item)
        svd = None
        if self._fold_svd is not None and fold is not None:
            svd = tf.cast(tf.gather(self._fold_svd, fold * len(self._item_category) + item), tf.float32)
        elif self.svd is not None:
            svd = tf.gather(self.svd, item)
        return self.embed(tf.gather(self._item_category, item), features, item, svd, random)

    def embed(
        self,
        category: tf.Tensor,
        features: tf.Tensor,
        item: tf.Tensor,
        svd: tf.Tensor | None,
        random: StatelessRng | None = None,
    ) -> tf.Tensor:
        """Vectors from feature indices, known item or not (`item` = UNKNOWN, svd = 0): [n, D] float32.

        Args:
          category: [n] int32.
          features: indices of side features, [n, F] int32.
          item: item index, [n] int32.
          svd: [n, svd_dim] float32, or None where the tower has none.
          random: draws of this training step: ids and values fall to unknown at `unknown_rate`.
        """
        if random is not None and self._rate > 0:
            features = tf.where(random.keep(tf.shape(features), self._rate), features, schema.UNKNOWN)
            item = tf.where(random.keep(tf.shape(item), self._rate), item, schema.UNKNOWN)
            if svd is not None:
                svd *= tf.cast(random.keep(tf.shape(item), self._rate), tf.float32)[:, None]
        vectors = tf.gather(self.category_table, category)
        for f, table in enumerate(self.feature_tables):
            vectors += tf.gather(table, features[:, f])
        if self.id_table is not None:
            vectors += tf.gather(self.id_table, item)
        if svd is not None and self._project is not None:
            vectors += self._project(svd)
        return tf.math.l2_normalize(vectors, 1) if self._config.normalize else vectors


class UserInputs(NamedTuple):
    """What the user tower reads of R requests.

    Attributes:
      item_vectors: item vector of each token, [R, L, D] float32.
      is_real: False where padded, [R, L] bool.
      features: of each token, [R, L, F] float32.
      category: the category searched, [R] int32.
      profile: the columns of the profile, then those of the request, [R, P + F + Q] int32: `event_features`, then
        `request_features`.
      history_embedding: what the whole history says across categories, [R, svd_dim] float32; [R, 0] unless
        `user_context`.
    """

    item_vectors: tf.Tensor
    is_real: tf.Tensor
    features: tf.Tensor
    category: tf.Tensor
    profile: tf.Tensor
    history_embedding: tf.Tensor


class UserState(NamedTuple):
    """What the user tower computes of R requests.

    Attributes:
      embedding: e_u(c), [R, D] float32.
      repeat_logit: added to the logit of each token's own item, [R, L] float32; 0 without `repeat_term`.
    """

    embedding: tf.Tensor
    repeat_logit: tf.Tensor


class UserTower(tf.keras.layers.Layer):
    """[CLS] (with the category searched), profile and request tokens, an optional history token, then behaviors.

    Behaviors come newest first.
    """

    def __init__(
        self, config: ModelConfig, corpus: Corpus, policy: tf.keras.mixed_precision.Policy | None = None
    ) -> None:
        super().__init__(name="user_tower")
        self._config = config
        dim, width = config.dim, num_token_features(config)
        self._num_profile = len(corpus.profile_values) if config.profile else 0
        self._num_request = len(corpus.event_values) + len(config.request_features)
        self._num_prefix = 1 + self._num_profile + self._num_request + int(config.reads_history_embedding)
        self.category_table = _table(self, "category", corpus.num_categories, dim)
        self.profile_tables = [
            _table(self, f"profile_{name}", len(values), dim) for name, values in corpus.profile_values.items()
        ][: self._num_profile]
        num_values = {f"event_{name}": len(values) for name, values in corpus.event_values.items()}
        for name, rows in zip(config.request_features, num_request_values(config.request_features), strict=True):
            num_values[f"request_{name}"] = rows
        self.request_tables = [_table(self, name, rows, dim) for name, rows in num_values.items()]
        self._cls = _table(self, "cls", 1, dim)
        self._position = _table(self, "position", self._num_prefix + config.max_length, dim)
        self._type = _table(self, "token_type", 4, dim)  # cls, profile, history, behavior
        self.feature_mean = self.add_weight(name="feature_mean", shape=[width], trainable=False, initializer="zeros")
        self.feature_scale = self.add_weight(name="feature_scale", shape=[width], trainable=False, initializer="ones")
        self._embed_features = tf.keras.layers.Dense(dim, name="embed_features")
        self._embed_history = tf.keras.layers.Dense(dim, name="embed_life") if config.reads_history_embedding else None
        self._embed_life = self._embed_history  # its name in checkpoints of before 0.2
        self._encoder = Encoder(dim, config.num_layers, config.num_heads, config.ff_dim, config.dropout, policy)
        self._repeat_hidden, self._repeat = None, None
        if config.repeat_term:
            self._repeat_hidden = tf.keras.layers.Dense(dim, activation="relu", name="copy_hidden")
            self._repeat = tf.keras.layers.Dense(1, name="copy")
        self._copy_hidden, self._copy = self._repeat_hidden, self._repeat  # their names in checkpoints

    @as_it_stands
    def call(self, inputs: UserInputs, random: StatelessRng | None = None) -> UserState:
        """Encodes R subsequences; `random` holds the draws of this training step, None at inference."""
        item_vectors, is_real, features, category, _, _ = inputs
        standard = (features - self.feature_mean) * self.feature_scale
        real = tf.cast(is_real, tf.float32)[:, :, None]
        embedded = tf.reshape(self._embed_features(flat_rows(standard)), tf.shape(item_vectors))
        behaviors = (item_vectors + embedded) * real + self._type[3]
        x = tf.concat([*self._prefix(inputs, random), behaviors], 1)  # [R, S, D]
        x = dropout(x + self._position[: tf.shape(x)[1]], self._config.dropout, random)
        mask = tf.concat([tf.ones([tf.shape(category)[0], self._num_prefix], tf.bool), is_real], 1)
        states = tf.cast(self._encoder(x, mask, cls_only=self._repeat is None, random=random), tf.float32)
        # Split, not sliced: the gradient of each slice would be as large as the states.
        parts = tf.split(states, [1] if self._repeat is None else [1, self._num_prefix - 1, -1], 1)
        embedding = parts[0][:, 0]
        if self._config.normalize:
            embedding = tf.math.l2_normalize(embedding, 1)
        if self._repeat is None or self._repeat_hidden is None:
            return UserState(embedding, tf.zeros(tf.shape(is_real)))
        read = tf.concat([parts[-1], standard], 2)
        repeat_logit = tf.reshape(self._repeat(self._repeat_hidden(flat_rows(read))), tf.shape(is_real))
        return UserState(embedding, repeat_logit * real[:, :, 0])

    def _prefix(self, inputs: UserInputs, random: StatelessRng | None) -> list[tf.Tensor]:
        """[CLS], profile, request and history tokens, each [R, 1, D]."""
        category, profile, history_embedding = inputs.category, inputs.profile, inputs.history_embedding
        rate = self._config.unknown_rate
        if random is not None and rate > 0:
            category = tf.where(random.keep(tf.shape(category), rate), category, schema.UNKNOWN)
            profile = tf.where(random.keep(tf.shape(profile), rate), profile, schema.UNKNOWN)
        tokens = [(self._cls + self._type[0] + tf.gather(self.category_table, category))[:, None]]
        for p, table in enumerate(self.profile_tables):
            tokens.append((tf.gather(table, profile[:, p]) + self._type[1])[:, None])
        for q, table in enumerate(self.request_tables):  # the last columns, whether or not the profile is read
            tokens.append((tf.gather(table, profile[:, q - self._num_request]) + self._type[1])[:, None])
        if self._embed_history is not None:
            history_embedding = dropout(history_embedding, self._config.history_dropout, random)
            tokens.append((self._embed_history(history_embedding) + self._type[2])[:, None])
        return tokens
