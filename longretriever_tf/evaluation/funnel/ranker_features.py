"""What the downstream ranker sees of a (user, item) pair: everything strictly before a time, nothing of a channel.

Imports no TensorFlow.
"""

import numpy as np
import scipy.sparse

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.data.corpus import Corpus, EncodedLog
from longretriever_tf.data.recipe.item_stats import build_item_stats
from longretriever_tf.evaluation.counting.popularity import fit_popularity

_POPULARITY_DAYS = (7.0, 90.0)
_OWN_DAYS = (30.0, 180.0)
_RECENT_DAYS = 28.0


class RankerFeatures:
    """Features of pairs as of a time.

    Args:
      log: the encoded log, of all time; only events strictly before `as_of` are read.
      corpus: vocabularies, fitted at or before `as_of`.
      item_vectors: unit rows from co-occurrence before `corpus.cut` (`fit_item_svd`), [V, D] float32.
      as_of: seconds UTC.

    Attributes:
      names: of the columns, [F].
    """

    def __init__(self, log: EncodedLog, corpus: Corpus, item_vectors: np.ndarray, as_of: int) -> None:
        assert corpus.cut <= as_of, (corpus.cut, as_of)
        self._past, self._corpus, self._as_of = log.before(as_of), corpus, as_of
        self._item_table, item_names = self._describe_items()
        self._user_table, user_names = self._describe_users()
        self._item_vectors = item_vectors
        self._user_vectors = self._embed_users()
        keys = {"item": np.arange(corpus.num_items), "category": corpus.item_category}
        keys |= {name: corpus.item_feature[:, f] for f, name in enumerate(corpus.feature_values)}
        self._counters = {name: _Counter(self._past, key, as_of) for name, key in keys.items()}
        own = [f"{column} of {name}" for name in keys for column in _Counter.COLUMNS]
        self.names = (*item_names, *user_names, "affinity", *own)

    def __call__(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Features of n pairs.

        Args:
          user: rows of the log, [n] int64.
          item: [n] int64.

        Returns:
          [n, F] float32; NaN where a feature does not exist (days since an event that never was).
        """
        affinity = np.einsum("nd,nd->n", self._user_vectors[user], self._item_vectors[item])
        parts = [self._item_table[item], self._user_table[user], affinity[:, None]]
        parts += [counter.look_up(user, item, self._user_table[:, 0]) for counter in self._counters.values()]
        return np.concatenate(parts, axis=1).astype(np.float32, copy=False)

    def _describe_items(self) -> tuple[np.ndarray, list[str]]:
        past, corpus = self._past, self._corpus
        stats = build_item_stats(past, corpus.item_category, np.array([self._as_of]), corpus.num_categories)
        category = stats.category[-1][corpus.item_category]
        item = stats.item[-1]
        decayed = [fit_popularity(past, corpus.num_items, self._as_of, days) for days in _POPULARITY_DAYS]
        columns = [*item.T, *category.T, item[:, 0] - category[:, 0], *(np.log(0.05 + count) for count in decayed)]
        columns.append(np.log1p(corpus.category_size[corpus.item_category]))
        names = [
            f"{what} of any {whose}" for whose in ("item", "category") for what in ("popularity", "idle", "repeat")
        ]
        names += ["popularity within category", *(f"popularity, {days:g} days" for days in _POPULARITY_DAYS)]
        return np.stack(columns, axis=1).astype(np.float32), [*names, "category size"]

    def _describe_users(self) -> tuple[np.ndarray, list[str]]:
        past, num_users = self._past, self._past.num_users
        user, days = past.event_user(), (self._as_of - past.timestamp) / DAY_S
        count = np.diff(past.offset)
        pair = np.unique(user * self._corpus.num_items + past.item)
        distinct = np.bincount(pair // self._corpus.num_items, minlength=num_users)
        recent = np.bincount(user[days <= _RECENT_DAYS], minlength=num_users)
        idle = np.full(num_users, np.nan)
        idle[count > 0] = days[past.offset[1:][count > 0] - 1]
        columns = [count, np.log1p(distinct), 1.0 - distinct / np.maximum(count, 1), np.log1p(recent), idle]
        names = ["events of user", "items of user", "repeat of user", "recent events of user", "idle of user"]
        return np.stack(columns, axis=1).astype(np.float32), names

    def _embed_users(self) -> np.ndarray:
        """Unit-length decayed sums of the vectors of each user's items, [U, D] float32."""
        past = self._past
        weight = np.exp((past.timestamp - self._as_of) / DAY_S / _OWN_DAYS[1])
        taken = scipy.sparse.csr_matrix(
            (weight, past.item, past.offset), shape=(past.num_users, self._corpus.num_items), dtype=np.float32
        )
        total = taken @ self._item_vectors
        norm = np.linalg.norm(total, axis=1, keepdims=True)
        return (total / np.where(norm > 0, norm, 1.0)).astype(np.float32)


class _Counter:
    """A user's own events, counted by a key of the item (the item itself, its category, its brand, ...)."""

    COLUMNS = ("count", *(f"{days:g}-day count" for days in _OWN_DAYS), "share", "days since", "gap", "days over gap")

    def __init__(self, past: EncodedLog, key_of_item: np.ndarray, as_of: int) -> None:
        self._key_of_item, self._num_keys = key_of_item.astype(np.int64), int(key_of_item.max()) + 1
        key = past.event_user() * self._num_keys + self._key_of_item[past.item]
        self._keys, group = np.unique(key, return_inverse=True)
        days = (as_of - past.timestamp) / DAY_S
        size = len(self._keys)
        count = np.bincount(group, minlength=size)
        decayed = [np.bincount(group, np.exp(-days / decay), size) for decay in _OWN_DAYS]
        last, first = np.full(size, np.inf), np.zeros(size)
        np.minimum.at(last, group, days)
        np.maximum.at(first, group, days)
        gap = np.where(count > 1, (first - last) / np.maximum(count - 1, 1), np.nan)
        since = last / np.maximum(gap, 0.5)  # half a day: several purchases of one day say nothing of a rhythm
        # A last row for what the user never had.
        table = np.stack([count, *decayed, np.zeros(size), last, gap, since], axis=1)  # [size, 7]
        never = np.array([[0.0, 0.0, 0.0, 0.0, np.nan, np.nan, np.nan]])
        self._table = np.concatenate([table, never]).astype(np.float32)

    def look_up(self, user: np.ndarray, item: np.ndarray, user_count: np.ndarray) -> np.ndarray:
        """[n, 7] float32; the share is of the user's events, `user_count` [U]."""
        key = user * self._num_keys + self._key_of_item[item]
        at = np.minimum(np.searchsorted(self._keys, key), max(len(self._keys) - 1, 0))
        is_known = self._keys[at] == key if len(self._keys) else np.zeros(len(key), bool)
        columns = self._table[np.where(is_known, at, len(self._keys))]
        columns[:, 3] = columns[:, 0] / np.maximum(user_count[user], 1)
        return columns
