"""Training as a first version in TensorFlow Recommenders would have it; bench_plain_training.py measures against it.

One element per example, its history cut and padded to L one by one, shuffled in a buffer, `group_by_window` by
category, the same Pre-LN encoder over all L tokens, the Retrieval task over the batch, Keras's Adam.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.models.encoder import Encoder
from longretriever_tf.models.stateless_dropout import StatelessRng

_SHUFFLE = 10_000


def make_plain_dataset(config: Config, prepared: Prepared, examples: Examples, seed: int) -> tf.data.Dataset:
    """Batches of (token items [R, L], features [R, L, 2], category [R], target item [R]), one category each."""
    columns = (examples.start, examples.stop, examples.time, examples.category, examples.target_start)
    keys = np.random.default_rng(seed).permutation(np.stack([column.astype(np.int64) for column in columns], 1))
    size = config.train.batch_size
    return (
        read_plain_rows(prepared, config.model.max_length, keys)
        .shuffle(_SHUFFLE, seed=seed)
        .group_by_window(lambda item, features, category, target: category, lambda _, part: part.batch(size), size)
        .prefetch(4)
    )


def read_plain_rows(prepared: Prepared, length: int, keys: np.ndarray) -> tf.data.Dataset:
    """Elements (token items [L], features [L, 2], category, target item), in order.

    Args:
      prepared: the window.
      length: L.
      keys: start and stop of the history in the category order, time, category, position of the target, [X, 5] int64.
    """
    items, timestamps = tf.constant(prepared.order.item), tf.constant(prepared.order.timestamp)

    def read(key: tf.Tensor) -> tuple[tf.Tensor, ...]:
        start, stop, time = tf.maximum(key[0], key[1] - length), key[1], key[2]
        age = tf.cast(time - timestamps[start:stop][::-1], tf.float32) / DAY_S
        gap = tf.concat([age[1:] - age[:-1], age[:1] * 0], 0)
        features = tf.math.log1p(tf.stack([age, gap], 1))
        padding = [[0, length - tf.size(age)], [0, 0]]
        item = tf.pad(items[start:stop][::-1], padding[:1])
        shaped = tf.ensure_shape(item, [length]), tf.ensure_shape(tf.pad(features, padding), [length, 2])
        return *shaped, key[3], tf.gather(items, key[4])

    return tf.data.Dataset.from_tensor_slices(keys).map(read, num_parallel_calls=tf.data.AUTOTUNE)


class PlainRetriever(tfrs.Model):
    """Item ids and the encoder over L padded tokens; `train_step` is Keras's."""

    def __init__(self, config: Config, prepared: Prepared) -> None:
        super().__init__()
        model, dim = config.model, config.model.dim
        self._seed = config.train.seed
        self._items = tf.keras.layers.Embedding(prepared.corpus.num_items, dim)
        self._categories = tf.keras.layers.Embedding(prepared.corpus.num_categories, dim)
        self._features = tf.keras.layers.Dense(dim)
        self._position = self.add_weight(name="position", shape=[1 + model.max_length, dim])
        self._encoder = Encoder(dim, model.num_layers, model.num_heads, model.ff_dim, model.dropout)
        self._task = tfrs.tasks.Retrieval(remove_accidental_hits=True)
        self.compile(optimizer=tf.keras.optimizers.Adam(config.train.learning_rate))

    def compute_loss(self, inputs: tuple[tf.Tensor, ...], training: bool = False) -> tf.Tensor:
        """The in-batch softmax over one category's batch."""
        item, features, category, target = inputs
        random = StatelessRng(self._seed, self.optimizer.iterations) if training else None
        user = self.user_vectors(item, features, category, random)
        return self._task(user, self._items(target), candidate_ids=target, compute_metrics=False)

    def make_step(self) -> Callable[[Any], tf.Tensor]:
        """Keras's training step as a compiled function: batch in, loss out."""
        return tf.function(lambda batch: self.train_step(batch)["loss"], reduce_retracing=True)

    def user_vectors(
        self, item: tf.Tensor, features: tf.Tensor, category: tf.Tensor, random: StatelessRng | None = None
    ) -> tf.Tensor:
        """[R, D] of the rows that `read_plain_rows` makes."""
        tokens = self._items(item) + self._features(features)
        x = tf.concat([self._categories(category)[:, None], tokens], 1) + self._position
        mask = tf.pad(item > 0, [[0, 0], [1, 0]], constant_values=True)
        return self._encoder(x, mask, cls_only=False, random=random)[:, 0]

    def item_vectors(self) -> np.ndarray:
        """[V, D]."""
        return self._items(tf.range(self._items.input_dim)).numpy()
