"""Logits of whole categories for users of a log: the towers over (user, category) pairs in large, even batches."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.data.recipe.tokens import make_tokens, max_sliced
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.history_limit import visible_segments, visible_since
from longretriever_tf.data.search.user_activity import user_activity
from longretriever_tf.models.retriever import LongRetriever, embed_corpus
from longretriever_tf.models.towers import UserInputs

_MAX_TOKENS = 32_768
"""Tokens encoded at once, padding included: large enough to drown the cost of a call, small enough for the caches."""

_MAX_PAIRS = 200_000
"""Pairs whose vectors are held at once: bounds memory where categories are many."""


class Pairs(NamedTuple):
    """R (user, category) pairs and where their events lie in the category order.

    Attributes:
      user: rows of the log, [R] int64.
      category: [R] int64.
      start, stop: the events that the search reads, [R] int64; equal where it finds none.
      num_before: events of the category before the time, [R] int64.
    """

    user: np.ndarray
    category: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    num_before: np.ndarray

    def take(self, rows: np.ndarray) -> "Pairs":
        return Pairs(*(column[rows] for column in self))


class Encoded(NamedTuple):
    """What the user tower says of R pairs.

    Attributes:
      embedding: e_u(c), [R, D] float32.
      pair: pair of each token, [t] int64.
      item: the token's item, [t] int64.
      boost: added to that item's logit, [t] float32.
    """

    embedding: np.ndarray
    pair: np.ndarray
    item: np.ndarray
    repeat_logit: np.ndarray


class CategoryScorer:
    """Logits of every item of a category, for users of a log as of one time.

    Args:
      config: the run's config.
      prepared: the window before the time.
      model: the towers.
    """

    def __init__(self, config: Config, prepared: Prepared, model: LongRetriever) -> None:
        self._config, self._prepared, self._model = config, prepared, model
        corpus, order = prepared.corpus, prepared.order
        with tf.device("/CPU:0"):
            self._order = tf.constant(order.item), tf.constant(order.timestamp), tf.constant(order.weight)
            self._profile = tf.constant(prepared.log.profile)
            self._stats = tf.constant(prepared.stats.item[-1:])
            self._history_embedding = tf.constant(prepared.history_embedding)
        everyone, history_events = np.arange(prepared.log.num_users), config.model.history_events
        as_of = np.full(len(everyone), prepared.as_of)
        self._since = visible_since(prepared.log, everyone, as_of, history_events)
        self._activity = tf.constant(user_activity(prepared.log, everyone, as_of, history_events))
        vectors, self._item_bias = embed_corpus(model, corpus, prepared.stats.item[-1])
        self._token_vectors = tf.constant(vectors)
        self._item_vectors = vectors / np.float32(config.model.temperature)
        rows = tf.TensorSpec([None], tf.int64)
        signature = [Pairs(*[rows] * len(Pairs._fields))]
        self._encode = tf.function(self._encode_pairs, input_signature=signature, autograph=False)
        # What a search finds nothing for is told apart by the category alone, unless the tower reads more of the user.
        self._shares_empty = not (config.model.profile or config.model.reads_history_embedding)

    def logits(self, users: np.ndarray, category: int) -> np.ndarray:
        """Logits of one category's items, [B, n] float32.

        Args:
          users: rows of the log, [B].
          category: index.
        """
        low, high = self._prepared.corpus.category_offset[category : category + 2]
        return self._logits_of(users, np.array([category]))[:, low:high]

    def all_logits(self, users: np.ndarray) -> np.ndarray:
        """Logits of every item by its own category's user vector, [B, V] float32; -inf for reserved rows."""
        return self._logits_of(users, np.arange(schema.FIRST_KNOWN, self._prepared.corpus.num_categories))

    def corpus_logits(self, users: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Logits of the whole corpus by the user vector of one category per user: no search within categories.

        Args:
          users: rows of the log, [B].
          category: of each user, [B].

        Returns:
          [B, V] float32; -inf for reserved rows.
        """
        encoded = self.encode(self._find(users, category))
        out = encoded.embedding @ self._item_vectors.T + self._item_bias
        np.add.at(out, (encoded.pair, encoded.item), encoded.repeat_logit)
        out[:, : schema.FIRST_KNOWN] = -np.inf
        return out

    def encode(self, pairs: Pairs) -> Encoded:
        """The user tower over R pairs, batched by like length: little padding, few calls."""
        made = np.empty((len(pairs.user), self._item_vectors.shape[1]), np.float32)
        tokens = []
        for rows in self._batches(pairs.stop - pairs.start):
            embedding, pair, item, repeat_logit = self._encode(pairs.take(rows))
            made[rows] = embedding
            tokens.append((rows[pair.numpy()], item.numpy(), repeat_logit.numpy()))
        if not tokens:
            return Encoded(made, *(np.zeros(0, kind) for kind in (np.int64, np.int64, np.float32)))
        return Encoded(made, *map(np.concatenate, zip(*tokens, strict=True)))

    def _logits_of(self, users: np.ndarray, categories: np.ndarray) -> np.ndarray:
        offset = self._prepared.corpus.category_offset
        out = np.full((len(users), self._prepared.corpus.num_items), -np.inf, np.float32)
        step = max(1, _MAX_PAIRS // max(len(users), 1))
        for block in np.split(categories, range(step, len(categories), step)):
            encoded = self._encode_block(users, block)
            embedding = encoded.embedding.reshape(len(users), len(block), -1)
            for place, category in enumerate(block):
                low, high = offset[category : category + 2]
                np.matmul(embedding[:, place], self._item_vectors[low:high].T, out=out[:, low:high])
                out[:, low:high] += self._item_bias[low:high]
            np.add.at(out, (encoded.pair // len(block), encoded.item), encoded.repeat_logit)
        return out

    def _encode_block(self, users: np.ndarray, categories: np.ndarray) -> Encoded:
        """All pairs of some users and categories, users first; equal ones are encoded once."""
        pairs = self._find(np.repeat(users, len(categories)), np.tile(categories, len(users)))
        if not self._shares_empty:
            return self.encode(pairs)
        is_empty = pairs.stop == pairs.start
        _, first, copy_of = np.unique(
            np.where(is_empty, -1 - pairs.category, np.arange(len(is_empty))), return_index=True, return_inverse=True
        )
        encoded = self.encode(pairs.take(first))
        return encoded._replace(embedding=encoded.embedding[copy_of], pair=first[encoded.pair])

    def _find(self, users: np.ndarray, categories: np.ndarray) -> Pairs:
        """The hard search of each pair: its slice of the category order."""
        order = self._prepared.order
        run = order.find_segments(users, categories)
        first = np.where(run >= 0, order.segment_offset[run], 0)
        stop = np.where(run >= 0, order.segment_offset[run + 1], 0)
        if self._config.model.history_events:
            first = np.minimum(stop, visible_segments(order, run, self._since[users]))
        start = np.maximum(first, stop - max_sliced(self._config.model))
        columns = (users, categories, start, stop, stop - first)
        return Pairs(*(column.astype(np.int64, copy=False) for column in columns))

    def _batches(self, length: np.ndarray) -> Iterator[np.ndarray]:
        """Rows in batches of at most `_MAX_TOKENS` tokens, shortest subsequences first."""
        rows = np.argsort(length, kind="stable")
        width = 1 + np.minimum(length[rows], self._config.model.max_length)
        start = 0
        while start < len(rows):
            # Sorted by length: the last row of a batch is its widest.
            fits = width[start:] * np.arange(1, len(rows) - start + 1) <= _MAX_TOKENS
            stop = start + max(1, int(np.searchsorted(~fits, True)))
            yield rows[start:stop]
            start = stop

    def _encode_pairs(self, pairs: Pairs) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        num = tf.shape(pairs.user)[0]
        time = tf.fill([num], tf.constant(self._prepared.as_of, tf.int64))
        events = hard_search.slice_events(*self._order, pairs.start, pairs.stop, time)
        stats_row, activity = tf.zeros([num], tf.int32), tf.gather(self._activity, pairs.user)
        tokens = make_tokens(self._config.model, events, pairs.num_before, self._stats, stats_row, activity)
        is_real = tokens.item > 0
        inputs = UserInputs(
            tf.gather(self._token_vectors, tokens.item),
            is_real,
            tokens.features,
            tf.cast(pairs.category, tf.int32),
            tf.gather(self._profile, pairs.user),
            tf.gather(self._history_embedding, pairs.user),
        )
        state = self._model.user_tower(inputs)
        at = tf.where(is_real)
        item = tf.cast(tf.gather_nd(tokens.item, at), tf.int64)
        return state.embedding, at[:, 0], item, tf.gather_nd(state.repeat_logit, at)
