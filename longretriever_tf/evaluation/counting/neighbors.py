"""Neighborhood baselines: TIFU-kNN over users, ItemKNN over items. Imports no TensorFlow."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from longretriever_tf.evaluation.counting.interactions import InteractionMatrix, LastCallCache
from longretriever_tf.evaluation.ranking import top_k

MAX_SIMILAR_ITEMS = 20_000
"""ItemKNN compares this many of the most taken items; the others follow by popularity."""

_BLOCK = 128  # items compared at once: bounds memory, not results


def neighbor_mean(past: InteractionMatrix, decay_days: float, num_neighbors: int) -> LastCallCache:
    """Mean decayed counts of each user's nearest users: a function from users [B] to [B, V] float32.

    Nearness is the cosine of log(1 + decayed count), so that no single staple decides it. Neighbors are other users
    with a common item, so there may be fewer than `num_neighbors`; without any, the mean is 0.
    """
    counts = past.counts(decay_days)
    direction = _unit_rows(counts.log1p())

    def mean(users: np.ndarray) -> np.ndarray:
        near = (direction[users] @ direction.T).toarray()  # [B, U]
        near[np.arange(len(users)), users] = 0
        near[near <= 0] = -np.inf
        neighbor = top_k(near, num_neighbors)  # [B, num_neighbors], -1 pads
        size = np.sum(neighbor >= 0, axis=1)
        row, _ = np.nonzero(neighbor >= 0)
        share = (1.0 / np.maximum(size, 1)).astype(np.float32)[row]
        weight = scipy.sparse.csr_array((share, (row, neighbor[neighbor >= 0])), shape=near.shape)
        return (weight @ counts).toarray()

    return LastCallCache(mean)


@dataclasses.dataclass(frozen=True)
class TifuKnn:
    """Temporal item frequency of the user and of his neighbors (TIFU-kNN; Hu et al., SIGIR 2020).

    score = alpha * own decayed counts + (1 - alpha) * mean decayed counts of the nearest users; items that neither
    took follow by popularity. Decay is exponential in days, where the original decays by groups of baskets.

    Attributes:
      past: the events before the cut.
      decay_days: decay of the counts.
      alpha: weight of the user's own, 0 to 1.
      neighbors: from `neighbor_mean` with the same decay; settings of another alpha may share it.
    """

    past: InteractionMatrix
    decay_days: float
    alpha: float
    neighbors: LastCallCache
    name: str = "TIFU-kNN"

    def score(self, users: np.ndarray) -> np.ndarray:
        """[B, V] float32."""
        scores = np.float32(1 - self.alpha) * self.neighbors(users)
        self.past.add_counts(scores, users, self.decay_days, self.alpha)
        np.copyto(scores, self.past.fallback, where=scores <= 0)
        return scores


class Similar(NamedTuple):
    """Similarity of items, best first.

    Attributes:
      item: items compared, [m] int64 ascending.
      near: positions in `item` of each one's nearest, [m, k] int64; -1 pads.
      value: their similarity, [m, k] float32.
    """

    item: np.ndarray
    near: np.ndarray
    value: np.ndarray


def find_similar(
    past: InteractionMatrix, shrinkage: float, num_similar: int, max_items: int = MAX_SIMILAR_ITEMS
) -> Similar:
    """The nearest items of each item: users in common / (sqrt(takers * takers) + shrinkage).

    The item itself is among its nearest (all of its takers are in common), so a repeat adds to its score; for novel
    items that makes no difference.
    """
    item = past.most_taken(max_items)
    taken = past.taken[:, item].tocsc()
    length = np.sqrt(past.num_takers[item]).astype(np.float32)
    near, value = [], []
    for start in range(0, len(item), _BLOCK):
        block = slice(start, start + _BLOCK)
        common = (taken[:, block].T @ taken).toarray()  # [b, m]
        common /= length[block, None] * length + np.float32(shrinkage)
        common[common <= 0] = -np.inf
        near.append(top_k(common, num_similar))
        value.append(np.take_along_axis(common, np.maximum(near[-1], 0), axis=1))
    empty = np.zeros((0, num_similar))
    return Similar(item, np.concatenate([*near, empty.astype(np.int64)]), np.concatenate([*value, empty]))


class ItemKnn:
    """Items near to what the user took: score(u, v) = sum of similarity(v, j) over the taken j among v's nearest.

    Items without any sign, and those not compared, follow by popularity.

    Args:
      past: the events before the cut.
      similar: from `find_similar`.
      num_similar: how many of the nearest count, at most as many as `similar` holds.
    """

    name = "ItemKNN"

    def __init__(self, past: InteractionMatrix, similar: Similar, num_similar: int) -> None:
        near, value = similar.near[:, :num_similar], similar.value[:, :num_similar]
        row, column = np.nonzero(near >= 0)
        pairs = similar.item[near[row, column]], similar.item[row]
        shape = (past.num_items, past.num_items)
        self._past = past
        self._similarity = scipy.sparse.csr_array((value[row, column].astype(np.float32), pairs), shape=shape)

    def score(self, users: np.ndarray) -> np.ndarray:
        """[B, V] float32."""
        scores = (self._past.taken[users] @ self._similarity).toarray()
        np.copyto(scores, self._past.fallback, where=scores <= 0)
        return scores


def _unit_rows(matrix: Any) -> Any:
    """The CSR matrix with rows of Euclidean length 1; empty rows stay empty."""
    length = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    unit = matrix.copy()
    unit.data = (unit.data / length[row]).astype(np.float32)
    return unit
