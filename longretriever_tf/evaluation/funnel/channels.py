"""Retrieval channels that feed one ranker: their lists, what is exposed of them, and the counts behind AER and UER.

Imports no TensorFlow. A channel is any `Scorer`, cut to its top k; a pair is one (user, item); an exposure is a pair
among the ranker's best of its user.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.evaluation.evaluator import Scorer
from longretriever_tf.evaluation.ground_truth import Truth
from longretriever_tf.evaluation.ranking import top_k

COUNTS = (
    "retrieved",
    "exposed",
    "converted",
    "unique",
    "unique_exposed",
    "unique_converted",
    "owned",
    "owned_exposed",
    "novel",
    "novel_exposed",
    "page",
    "page_converted",
)
"""What `count_channel` counts of each user's list; page: all the exposures of the stand, of every channel."""


@dataclasses.dataclass(frozen=True)
class CandidatePairs:
    """Distinct (user, item) pairs, users by position, ascending by user, then by item.

    Attributes:
      row: position of the user, [n] int64.
      item: [n] int64.
      num_users: users, those without any pair included.
      num_items: V.
    """

    row: np.ndarray
    item: np.ndarray
    num_users: int
    num_items: int

    def key(self) -> np.ndarray:
        """Position of the user * V + item, ascending, [n] int64."""
        return self.row * self.num_items + self.item

    def has(self, row: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether each of these pairs is among the given ones, [n] bool."""
        return np.isin(self.key(), row.astype(np.int64) * self.num_items + item)

    def has_list(self, lists: np.ndarray) -> np.ndarray:
        """Whether each pair is in its user's list ([U, k], -1 pads), [n] bool."""
        row, rank = np.nonzero(lists >= 0)
        return self.has(row, lists[row, rank])


def cut_lists(
    scorers: Sequence[Scorer],
    users: np.ndarray,
    k: int,
    chunk: int = 512,
    on_progress: Callable[[int], Any] = lambda num_users: None,
) -> dict[str, np.ndarray]:
    """The k best items of each scorer for each user, by the scorer's name.

    Chunks of users are the outer loop, so that scorers over one model can share its work.

    Args:
      scorers: over one item vocabulary.
      users: rows of the log, [U] int64.
      k: list length.
      on_progress: called with the number of users that a scorer has just done.

    Returns:
      name to [U, k] int64, best first, -1 where a list is short.
    """
    assert len({scorer.name for scorer in scorers}) == len(scorers), [scorer.name for scorer in scorers]
    lists = {scorer.name: np.full((len(users), k), -1, np.int64) for scorer in scorers}
    for start in range(0, len(users), chunk):
        part = users[start : start + chunk]
        for scorer in scorers:
            scores = scorer.score(part)
            scores[:, :FIRST_KNOWN] = -np.inf
            lists[scorer.name][start : start + len(part)] = top_k(scores, k)
            on_progress(len(part))
    return lists


def translate_lists(lists: np.ndarray, new_item: np.ndarray) -> np.ndarray:
    """Lists in the items of another vocabulary.

    Args:
      lists: [U, k] int64, -1 pads.
      new_item: the item's index there, or one below `schema.FIRST_KNOWN` where it has none, [V] int.

    Returns:
      [U, k] int64; -1 for an item that the other vocabulary lacks.
    """
    item = new_item[np.maximum(lists, 0)].astype(np.int64)
    return np.where((lists >= 0) & (item >= FIRST_KNOWN), item, -1)


def pool(lists: Sequence[np.ndarray], num_items: int) -> CandidatePairs:
    """All pairs that at least one channel retrieved.

    Args:
      lists: one [U, k] int64 per channel, -1 pads.
      num_items: V.
    """
    keys = []
    for channel in lists:
        row, rank = np.nonzero(channel >= 0)
        keys.append(row * num_items + channel[row, rank])
    key = np.unique(np.concatenate(keys))
    return CandidatePairs(key // num_items, key % num_items, len(lists[0]), num_items)


def expose(pairs: CandidatePairs, is_candidate: np.ndarray, score: np.ndarray, size: int) -> np.ndarray:
    """What the ranker shows: each user's `size` best candidates.

    Args:
      pairs: n pairs.
      is_candidate: the pairs that the stand's channels retrieved, [n] bool.
      score: of the ranker, higher is better; ties go to the lower item, [n] float.
      size: exposures per user, fewer where a user has fewer candidates.

    Returns:
      [n] bool.
    """
    at = np.flatnonzero(is_candidate)
    order = at[np.lexsort((pairs.item[at], -score[at], pairs.row[at]))]
    row = pairs.row[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)  # within the user, since `row` ascends
    exposed = np.zeros(len(pairs.row), bool)
    exposed[order[rank < size]] = True
    return exposed


def count_channel(
    pairs: CandidatePairs, own: np.ndarray, others: Sequence[np.ndarray], exposed: np.ndarray, truth: Truth
) -> dict[str, np.ndarray]:
    """Per user, the counts behind a channel's ratios.

    Args:
      pairs: all the pairs of the stand at least.
      own: the channel's lists, [U, k] int64.
      others: the lists of the stand's other channels: an item in none of them is unique to this channel.
      exposed: from `expose`, over the stand's candidates, [n] bool.
      truth: of the same users, in the same order.

    Returns:
      each of `COUNTS` to [U] int64.
    """
    mine = pairs.has_list(own)
    unique = mine.copy()
    for lists in others:
        unique &= ~pairs.has_list(lists)
    taken = pairs.has(truth.pair_row(), truth.item)
    interacted = pairs.has(truth.interacted_row(), truth.interacted_item)
    masks = {
        "retrieved": mine,
        "exposed": mine & exposed,
        "converted": mine & exposed & taken,
        "unique": unique,
        "unique_exposed": unique & exposed,
        "unique_converted": unique & exposed & taken,
        "owned": mine & interacted,
        "owned_exposed": mine & interacted & exposed,
        "novel": mine & ~interacted,
        "novel_exposed": mine & ~interacted & exposed,
        "page": exposed,
        "page_converted": exposed & taken,
    }
    return {name: np.bincount(pairs.row[masks[name]], minlength=pairs.num_users) for name in COUNTS}


RATIOS: Mapping[str, tuple[str, str]] = {
    "aer": ("exposed", "retrieved"),
    "uer": ("unique_exposed", "retrieved"),
    "conversion": ("unique_converted", "unique_exposed"),
    "uer_of_unique": ("unique_exposed", "unique"),
    "unique_share": ("unique", "retrieved"),
    "conversion_of_exposed": ("converted", "exposed"),
    "owned_share": ("owned", "retrieved"),
    "owned_exposed": ("owned_exposed", "owned"),
    "novel_exposed": ("novel_exposed", "novel"),
    "page_conversion": ("page_converted", "page"),
}
"""Metrics as (numerator, denominator), each summed over users first, as a platform counts impressions.

aer, uer, conversion: the paper's three. uer = unique_share * uer_of_unique, so "counting only items that no other
channel retrieved" can be read both ways: over all that the channel retrieved, or over its unique items.
"""
