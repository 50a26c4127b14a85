"""The plain model evaluated as ours is: its logits under the same interest scores and the same merge."""

from typing import Any

import numpy as np
import tensorflow as tf
from plain_training import PlainRetriever, read_plain_rows

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.config.config import Config, RetrievalConfig
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer

_BATCH = 2048


class PlainLogits:
    """Logits of every item by its own category's user vector, as `evaluation.retriever_scorer` has them.

    Args:
      config: the run's.
      prepared: the window before the time.
      model: trained.
    """

    def __init__(self, config: Config, prepared: Prepared, model: PlainRetriever) -> None:
        self._length, self._prepared = config.model.max_length, prepared
        self._items = model.item_vectors()
        self._encode = tf.function(model.user_vectors, reduce_retracing=True)

    def all_logits(self, users: np.ndarray) -> np.ndarray:
        """[B, V] float32; -inf for reserved rows.

        Args:
          users: rows of the log, [B] int64.
        """
        corpus, order = self._prepared.corpus, self._prepared.order
        categories = np.arange(FIRST_KNOWN, corpus.num_categories)
        segment = order.find_segments(np.repeat(users, len(categories)), np.tile(categories, len(users)))
        seen = np.flatnonzero(segment >= 0)
        # A user who has never seen a category gets the vector of an empty history: encoded once, after the others.
        start = np.append(order.segment_offset[segment[seen]], np.zeros(len(categories), np.int64))
        stop = np.append(order.segment_offset[segment[seen] + 1], np.zeros(len(categories), np.int64))
        category = np.append(categories[seen % len(categories)], categories)
        vectors = self._user_vectors(start, stop, category)
        embedding = np.tile(vectors[len(seen) :], (len(users), 1))
        embedding[seen] = vectors[: len(seen)]
        embedding = embedding.reshape(len(users), len(categories), -1)
        scores = np.full((len(users), corpus.num_items), -np.inf, np.float32)
        for index, one in enumerate(categories.tolist()):
            low, high = corpus.category_offset[one : one + 2]
            scores[:, low:high] = embedding[:, index] @ self._items[low:high].T
        return scores

    def _user_vectors(self, start: np.ndarray, stop: np.ndarray, category: np.ndarray) -> np.ndarray:
        keys = np.stack([start, stop, np.full(len(start), self._prepared.as_of), category, np.zeros(len(start))], 1)
        rows = read_plain_rows(self._prepared, self._length, keys.astype(np.int64)).batch(_BATCH)
        return np.concatenate([self._encode(item, features, at).numpy() for item, features, at, _ in rows])


def make_plain_scorer(ours: LongRetrieverScorer, retrieval: RetrievalConfig, logits: PlainLogits) -> Any:
    """The `Scorer` of the plain model, by the interest scores of `ours` and the merge of `retrieval`."""
    scorer = ours.with_retrieval("plain", retrieval, every_category=True)
    scorer._all_logits, scorer._cache = logits.all_logits, {}
    return scorer
