"""Scores the whole corpus by a neural baseline: the best inner product with one of the user's interests."""

import numpy as np
import tensorflow as tf

from longretriever_tf.common.graph import graph_function
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.models.baselines.batches import RecentReader
from longretriever_tf.models.baselines.model import RecentRetriever

_ITEMS_AT_ONCE = 65_536


class RecentScorer:
    """The `Scorer` of a trained baseline.

    Args:
      config: the run's config.
      prepared: the window before the time of the requests.
      model: the baseline.
    """

    def __init__(self, config: Config, prepared: Prepared, model: RecentRetriever) -> None:
        kind, self._length = config.model.model, config.baseline.recent_length
        self.name = f"two_tower, last {self._length} events" if kind == "two_tower" else kind
        self._prepared, self._model = prepared, model
        self._reader = RecentReader(prepared.log, self._length)
        every = np.arange(prepared.corpus.num_items, dtype=np.int32)
        parts = [every[i : i + _ITEMS_AT_ONCE] for i in range(0, len(every), _ITEMS_AT_ONCE)]
        self._item_vectors = tf.concat([model.item_tower(part) for part in parts], 0)
        # Logits where there is a bias, inner products where there is none: the same order.
        self._bias = model.item_bias(tf.constant(prepared.stats.item[-1]))
        self._scale = 1.0 if self._bias is None else 1.0 / config.model.temperature
        rows = tf.TensorSpec([None], tf.int64)
        self._score = graph_function(self._score_rows, input_signature=[rows, rows])

    def score(self, users: np.ndarray) -> np.ndarray:
        """Inner products with the nearest interest, with `item_bias` logits, [B, V] float32.

        Args:
          users: rows of the log, [B] int64.
        """
        offset = self._prepared.log.offset
        stop = offset[users + 1]
        return self._score(np.maximum(offset[users], stop - self._length), stop).numpy().copy()

    def _score_rows(self, start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            time = tf.fill(tf.shape(start), tf.constant(self._prepared.as_of, tf.int64))
            tokens = self._reader.read(start, stop, time)
        vectors = tf.gather(self._item_vectors, tokens.item)
        interests = self._model.interests(vectors, tokens.item > 0, tokens.features)
        best = tf.fill([tf.size(start), tf.shape(self._item_vectors)[0]], tf.float32.min)
        for k in range(interests.vector.shape[1]):
            scores = tf.matmul(interests.vector[:, k], self._item_vectors, transpose_b=True)
            best = tf.where(interests.is_real[:, k, None], tf.maximum(best, scores), best)
        return best if self._bias is None else self._scale * best + self._bias
