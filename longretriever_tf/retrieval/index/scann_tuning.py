"""Finds, for one category, the cheapest ScaNN search that reaches a stated recall against exact search."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.retrieval.index.scann import (
    TUNED_K,
    Searcher,
    SearchParameters,
    build_handle,
    search_handle,
    take_apart,
)

_TREE_FROM = 1000
"""Smaller categories get no tree: ScaNN scores all their items in microseconds."""

_SHARES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 1.0)
"""Shares of the leaves that are tried."""

_REORDERS = (2, 5, 20)
"""Multiples of the list length that are scored exactly, tried."""

_TIE = 1e-5
"""Logits this close are equal: items with the same features have the same vector."""


class CheckQueries(NamedTuple):
    """User vectors that a category's search is tuned and measured on, the two apart.

    Attributes:
      tune: [q, D] float32.
      check: [p, D] float32.
      num_real: how many of all are vectors of real histories; the others are item vectors plus noise.
    """

    tune: np.ndarray
    check: np.ndarray
    num_real: int


def recall_of(position: np.ndarray, logits: np.ndarray, k: int) -> float:
    """Share of the k best that a search found, averaged over queries; an item that ties with the k-th best counts.

    Args:
      position: items found, [q, n], n <= k, below 0 where there is none; none twice.
      logits: exact ones of all items, [q, items].
      k: at most the number of items.
    """
    least = -np.partition(-logits, k - 1, axis=1)[:, k - 1 : k]
    logit = np.take_along_axis(logits, np.maximum(position, 0), 1)
    hit = (position >= 0) & (logit >= least - _TIE * np.maximum(1.0, np.abs(least)))
    return float(hit.sum(1).mean() / k)


def tune_searcher(
    category: int, vectors: np.ndarray, queries: CheckQueries, bias_scale: float, target: float, sample_size: int
) -> Searcher | None:
    """Trains a searcher and picks its effort; None where no effort short of scoring all items reaches the target.

    Args:
      category: index.
      vectors: item vectors, the bias over `bias_scale` as last coordinate, [n, D + 1].
      queries: what to tune on and what to hold the choice to.
      bias_scale: the queries' last coordinate.
      target: recall of the best min(100, n).
      sample_size: items drawn for the log-partition.
    """
    num, k = len(vectors), min(TUNED_K, len(vectors))
    tune, check = (np.pad(part, ((0, 0), (0, 1)), constant_values=bias_scale) for part in queries[:2])
    logits, check_logits = tune @ vectors.T, check @ vectors.T
    sample = draw_sample(logits, sample_size, np.random.default_rng(category))
    if num < _TREE_FROM:
        return whole_searcher(category, vectors, sample)
    efforts = _efforts(num, vectors.shape[1])
    handle = build_handle(vectors, efforts[-1])
    for effort in efforts:
        if all(
            recall_of(_search(handle, part, k, effort), exact, k) >= target
            for part, exact in ((tune, logits), (check, check_logits))
        ):
            return take_apart(handle, category, effort, *sample)
    return None


def whole_searcher(category: int, vectors: np.ndarray, sample: tuple[np.ndarray, np.ndarray]) -> Searcher:
    """A searcher that scores every item: nothing to tune, and nothing to miss."""
    effort = SearchParameters(0, 0, 0)
    return take_apart(build_handle(vectors, effort), category, effort, *sample)


def draw_sample(logits: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Items that stand for all in the log-partition: positions [m] int32 and log weights [m] float32.

    A small category is taken whole. Else items are drawn in proportion to their mean softmax over the queries, half of
    the draws uniformly, and weigh one over their expected number of draws: sums over the sample are unbiased.

    Args:
      logits: [q, n].
      size: number of draws.
      rng: source of the draws.
    """
    num = logits.shape[1]
    if num <= size:
        return np.arange(num, dtype=np.int32), np.zeros(num, np.float32)
    share = np.exp(logits - logits.max(1, keepdims=True)).astype(np.float64)
    share = (share / share.sum(1, keepdims=True)).mean(0)
    probability = 0.5 * share / share.sum() + 0.5 / num
    position, draws = np.unique(rng.choice(num, size, p=probability), return_counts=True)
    return position.astype(np.int32), np.log(draws / (size * probability[position])).astype(np.float32)


def _efforts(num: int, dim: int) -> list[SearchParameters]:
    """From the cheapest to the dearest, by the number of products taken."""
    leaves = int(np.sqrt(num))
    k = TUNED_K
    candidates = [
        SearchParameters(leaves, max(1, round(share * leaves)), min(num, multiple * k))
        for share in _SHARES
        for multiple in _REORDERS
    ]
    return sorted(candidates, key=lambda one: one.leaves_to_search / leaves * num / 8 + 2.0 * one.reorder)


def _search(handle: tf.Tensor, queries: np.ndarray, k: int, effort: SearchParameters) -> np.ndarray:
    position, _ = search_handle(handle, tf.constant(queries), k, effort.leaves_to_search, effort.reorder)
    return position.numpy()
