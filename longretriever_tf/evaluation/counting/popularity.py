"""The simplest baselines: popularity, popularity in the user's own categories, the user's own items.

Each is fitted on the events strictly before a cut and is a `Scorer`. Decay is exponential throughout: an event of age a
days counts exp(-a / decay_days), its age measured back from the cut. Imports no TensorFlow.
"""

import dataclasses

import numpy as np

from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.common.schema import DAY_S, FIRST_KNOWN
from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.evaluation.evaluator import Scorer
from longretriever_tf.evaluation.ground_truth import is_known_before

POPULARITY_DECAY_DAYS = 30.0
OWN_DECAY_DAYS = 180.0


def fit_popularity(log: EncodedLog, num_items: int, cut: int, decay_days: float = POPULARITY_DECAY_DAYS) -> np.ndarray:
    """Decayed count of each item's events before `cut`, [V] float64; 0 where it has none. Target events alone count."""
    past = is_known_before(log, cut) & log.targets()
    return np.bincount(log.item[past], decay(log.timestamp[past], cut, decay_days), minlength=num_items)


@dataclasses.dataclass(frozen=True)
class Popularity:
    """The same list for everyone: the most popular items.

    Attributes:
      popularity: [V] float64, from `fit_popularity`.
    """

    popularity: np.ndarray
    name: str = "popularity"

    def score(self, users: np.ndarray) -> np.ndarray:
        """Popularity, once per user: [B, V] float32."""
        return np.tile(self.popularity.astype(np.float32), (len(users), 1))


@dataclasses.dataclass(frozen=True)
class CategoryPopularity:
    """Popular items of the categories that the user has seen.

    score(u, v) = (share of u's past events in v's category) * (v's share of its category's popularity). Items of
    unseen categories follow after all others, by popularity.

    Attributes:
      log: the encoded log; only events before `cut` are read.
      cut: seconds UTC.
      popularity: [V] float64.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.
    """

    log: EncodedLog
    cut: int
    popularity: np.ndarray
    category_offset: np.ndarray
    name: str = "category popularity"

    def score(self, users: np.ndarray) -> np.ndarray:
        """[B, V] float32."""
        row, item, _ = _events_of(self.log, users, self.cut)
        size = np.diff(self.category_offset)
        num_categories = len(size)
        item_category = np.repeat(np.arange(num_categories), size)
        taken = np.bincount(row * num_categories + item_category[item], minlength=len(users) * num_categories)
        taken = taken.reshape(len(users), num_categories)
        share = taken / np.maximum(taken.sum(axis=1, keepdims=True), 1)
        total = np.bincount(item_category, self.popularity, minlength=num_categories)
        within = self.popularity / np.maximum(total, np.finfo(np.float64).tiny)[item_category]
        scores = np.repeat(share.astype(np.float32), size, axis=1) * within.astype(np.float32)  # [B, V]
        return np.where(scores > 0, scores, below_zero(self.popularity))


@dataclasses.dataclass(frozen=True)
class OwnItems:
    """The user's own items by decayed count, then all other items by popularity.

    Own items score 1 / (1 + rank), ranked by decayed count, then popularity, then index: the order is exact where a
    float32 sum of count and popularity would lose one of them to rounding.

    Attributes:
      log: the encoded log; only events before `cut` are read.
      cut: seconds UTC.
      popularity: [V] float64.
      decay_days: decay of the user's own events, slower than that of popularity.
    """

    log: EncodedLog
    cut: int
    popularity: np.ndarray
    decay_days: float = OWN_DECAY_DAYS
    name: str = "own items"

    def score(self, users: np.ndarray) -> np.ndarray:
        """[B, V] float32."""
        num_items = len(self.popularity)
        row, item, timestamp = _events_of(self.log, users, self.cut)
        pair, event_pair = np.unique(row * num_items + item, return_inverse=True)
        count = np.bincount(event_pair, decay(timestamp, self.cut, self.decay_days), minlength=len(pair))
        row, item = pair // num_items, pair % num_items
        order = np.lexsort((item, -self.popularity[item], -count, row))
        first = np.searchsorted(row, row)  # `order` permutes within a row, so a row's first pair stays where it is
        scores = np.tile(below_zero(self.popularity), (len(users), 1))
        scores[row[order], item[order]] = 1.0 / (1.0 + np.arange(len(pair)) - first)
        return scores


def fit_baselines(log: EncodedLog, num_items: int, category_offset: np.ndarray, cut: int) -> tuple[Scorer, ...]:
    """The three baselines of every table, fitted on the events before `cut`."""
    popularity = fit_popularity(log, num_items, cut)
    return (
        Popularity(popularity),
        CategoryPopularity(log, cut, popularity, category_offset),
        OwnItems(log, cut, popularity),
    )


def decay(timestamp: np.ndarray, cut: int, decay_days: float) -> np.ndarray:
    """exp(-age / decay_days) of events `timestamp` [n] int64 before `cut`, [n] float64."""
    weight: np.ndarray = np.exp((timestamp - cut) / (DAY_S * decay_days))
    return weight


def below_zero(popularity: np.ndarray) -> np.ndarray:
    """Negative scores in the order of popularity, [V] float32: a fallback that sorts after every positive score.

    -1 / share keeps the order of small shares, which 'share - 1' would round into ties.
    """
    share = popularity / max(popularity.max(), np.finfo(np.float64).tiny)
    below: np.ndarray = (-1.0 / np.maximum(share, 1e-38)).astype(np.float32)  # 1e38 still fits float32
    return below


def _events_of(log: EncodedLog, users: np.ndarray, cut: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events before `cut` of some users: position in `users`, item, timestamp, [n] int64 each."""
    row, event = flat_ranges(log.offset[users], log.offset[users + 1])
    item, timestamp = log.item[event].astype(np.int64), log.timestamp[event]
    past = (timestamp < cut) & (item >= FIRST_KNOWN)
    return row[past], item[past], timestamp[past]
