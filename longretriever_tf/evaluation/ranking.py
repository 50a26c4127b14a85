"""The arithmetic of retrieval metrics, vectorised. Imports no TensorFlow.

Rules that hold throughout:
  Empty truth: the user has no value (NaN) and no part in any mean.
  Short list: a list is padded with -1; a padded position is a miss and still counts as a position.
  Ties: equal scores rank by item index, lower first, so that every metric is deterministic.
  Not retrieved: an item with score -inf is in no list and has no rank, however small its category.
"""

from typing import NamedTuple

import numpy as np

from longretriever_tf.common.schema import FIRST_KNOWN

NOT_RANKED = np.iinfo(np.int64).max
"""Rank of an item that was not retrieved: a miss at every k."""

_MAX_COMPARISONS = 8_000_000  # scores compared at once when ranking: bounds memory, not results


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k best scores of each row, best first.

    Args:
      scores: [B, V] float32, without NaN.
      k: list length, above 0; beyond V the list is padded.

    Returns:
      [B, k] int64; -1 where fewer than k scores are above -inf.

    >>> top_k(np.array([[1.0, 3.0, 3.0, -np.inf]], np.float32), 4)
    array([[ 1,  2,  0, -1]])
    """
    if np.isnan(scores.max(initial=-np.inf)):  # a maximum over NaN is NaN: one pass, no mask
        raise ValueError("scores hold NaN, which has no rank; expected numbers, or -inf for an item not retrieved")
    lists = np.full((len(scores), k), -1, np.int64)
    # Row by row: a row fits the cache, and what was not retrieved is never sorted.
    for row, scored in zip(lists, scores, strict=True):
        best = _best_of_row(scored, k)
        row[: len(best)] = best
    return lists


def _best_of_row(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k best of [V] scores, best first, equal ones by lower index; fewer where -inf leaves fewer."""
    retrieved = np.flatnonzero(scores > -np.inf)
    kept = scores[retrieved]
    if len(kept) > k:
        border = np.partition(kept, len(kept) - k)[len(kept) - k]
        above, level = np.flatnonzero(kept > border), np.flatnonzero(kept == border)
        at = np.sort(np.concatenate([above, level[: k - len(above)]]))  # at the border the lower indices win
        retrieved, kept = retrieved[at], kept[at]
    return retrieved[np.argsort(-kept, kind="stable")]


def is_in_top_k(scores: np.ndarray, row: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """Whether each (row, item) pair is among the k best of its row, [P] bool: `top_k` without the lists, much faster.

    Args:
      scores: [B, V] float32, without NaN.
      row, item: [P] int.
      k: list length, above 0.
    """
    num_items = scores.shape[1]
    if k >= num_items:
        found: np.ndarray = scores[row, item] > -np.inf
        return found
    last = np.partition(scores, num_items - k, axis=1)[:, num_items - k]  # score of each row's k-th best
    mine, bar = scores[row, item], last[row]
    found = mine > bar
    for pair in np.flatnonzero((mine == bar) & (mine > -np.inf)):  # few: a tie at the border goes to the lower index
        line = scores[row[pair]]
        found[pair] = np.sum(line > bar[pair]) + np.sum(line[: item[pair]] == bar[pair]) < k
    return found


def hit_matrix(lists: np.ndarray, truth_offset: np.ndarray, truth_item: np.ndarray) -> np.ndarray:
    """Which positions of each list hold an item of its user's truth.

    Args:
      lists: distinct item indices, best first, [U, K] int; -1 pads.
      truth_offset: [U + 1] int64; user u owns `truth_item[truth_offset[u]:truth_offset[u + 1]]`.
      truth_item: distinct within a user, [P] int64.

    Returns:
      [U, K] bool.

    >>> hit_matrix(np.array([[7, 3], [3, -1]]), np.array([0, 1, 3]), np.array([3, 3, 9]))
    array([[False,  True],
           [ True, False]])
    """
    num_users = len(lists)
    base = 1 + max(int(lists.max(initial=0)), int(truth_item.max(initial=0)))
    truth_row = np.repeat(np.arange(num_users), np.diff(truth_offset))
    keys = np.where(lists >= 0, np.arange(num_users)[:, None] * base + lists, -1)  # [U, K]
    return np.isin(keys, truth_row * base + truth_item)


def per_user_metrics(hits: np.ndarray, truth_size: np.ndarray, ks: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Recall, hit rate, NDCG and MRR of each user at each k.

    recall@k = hits in the first k / |truth|; hit_rate@k = 1 if there is any; mrr@k = 1 / rank of the first, 0 if none;
    ndcg@k = sum of 1 / log2(rank + 1) over the hits, divided by that of min(k, |truth|) hits at the first ranks.

    Args:
      hits: [U, K] bool, best first.
      truth_size: [U] int.
      ks: list lengths, each at most K.

    Returns:
      `{"recall@20": [U] float64, ...}`, NaN for users with empty truth.

    >>> metrics = per_user_metrics(np.array([[False, True, False]]), np.array([4]), (3,))
    >>> float(metrics["recall@3"][0]), float(metrics["mrr@3"][0])
    (0.25, 0.5)
    """
    if max(ks) > hits.shape[1]:
        raise ValueError(f"`ks`={ks}: expected at most the list length, {hits.shape[1]}")
    gain = 1.0 / np.log2(np.arange(hits.shape[1]) + 2.0)  # [K]
    ideal = np.concatenate([[0.0], np.cumsum(gain)])
    size = np.where(truth_size > 0, truth_size, np.nan)  # NaN spreads to every metric of a user without truth
    first = np.where(hits.any(axis=1), hits.argmax(axis=1), NOT_RANKED)
    metrics = {}
    for k in ks:
        num_hits = hits[:, :k].sum(axis=1)
        best = np.where(truth_size > 0, ideal[np.minimum(truth_size, k)], np.nan)
        metrics[f"recall@{k}"] = num_hits / size
        metrics[f"hit_rate@{k}"] = np.where(truth_size > 0, num_hits > 0, np.nan)
        metrics[f"ndcg@{k}"] = hits[:, :k] @ gain[:k] / best
        metrics[f"mrr@{k}"] = np.where(truth_size > 0, np.where(first < k, 1.0 / (first + 1.0), 0.0), np.nan)
    return metrics


def mean_over_users(values: np.ndarray) -> float:
    """Mean over the users with a value, of [U] float64 with NaN for empty truth; at least one must have one."""
    has_value = ~np.isnan(values)
    if not has_value.any():
        raise ValueError("no user has a truth; a mean over nobody does not exist")
    return float(values[has_value].mean())


def rank_in_slice(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rank of one target within each row, 0 the best.

    Args:
      scores: of one category's items, [P, n] float32.
      target: column of the target, [P] int.

    Returns:
      [P] int64: how many columns score higher, or equal with a lower index; `NOT_RANKED` for a target at -inf.

    >>> rank_in_slice(np.array([[0.5, 0.9, 0.5]], np.float32), np.array([2]))
    array([2])
    """
    target_score = np.take_along_axis(scores, target[:, None], axis=1)  # [P, 1]
    ahead = (scores == target_score) & (np.arange(scores.shape[1]) < target[:, None])
    rank = ((scores > target_score) | ahead).sum(axis=1)
    return np.where(target_score[:, 0] > -np.inf, rank, NOT_RANKED)


def rank_within_category(
    scores: np.ndarray, row: np.ndarray, item: np.ndarray, category_offset: np.ndarray
) -> np.ndarray:
    """Rank of each (row, item) pair among the scores of the item's own category, 0 the best.

    Args:
      scores: [B, V] float32, items sorted by category.
      row: row of `scores` of each pair, [P] int.
      item: [P] int.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.

    Returns:
      [P] int64, `NOT_RANKED` where the pair's score is -inf.
    """
    rank = np.empty(len(item), np.int64)
    category = np.searchsorted(category_offset, item, side="right") - 1
    order = np.argsort(category, kind="stable")
    for pairs in np.split(order, np.flatnonzero(np.diff(category[order])) + 1):
        if len(pairs) == 0:  # np.split of no pairs gives one empty part
            continue
        start, stop = category_offset[category[pairs[0]]], category_offset[category[pairs[0]] + 1]
        step = max(1, _MAX_COMPARISONS // int(stop - start))
        for part in np.split(pairs, range(step, len(pairs), step)):
            rank[part] = rank_in_slice(scores[row[part], start:stop], item[part] - start)
    return rank


def listed_depth(scores: np.ndarray, row: np.ndarray, item: np.ndarray, category_offset: np.ndarray) -> int:
    """How deep categories are listed around pairs that are not: the least number of items above -inf in any of them.

    Args:
      scores: [B, V] float32, items sorted by category.
      row: row of `scores` of each pair, [P] int.
      item: of each pair, at -inf, [P] int.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.

    Returns:
      `NOT_RANKED` without any pair.

    >>> scores = np.array([[0.5, 0.1, -np.inf, 0.2]], np.float32)
    >>> listed_depth(scores, np.array([0]), np.array([2]), np.array([0, 3, 4]))
    2
    """
    if not len(item):
        return NOT_RANKED
    category = np.searchsorted(category_offset, item, side="right") - 1
    listed = (
        np.count_nonzero(scores[r, category_offset[c] : category_offset[c + 1]] > -np.inf)
        for r, c in np.unique(np.stack([row, category], axis=1), axis=0)
    )
    return int(min(listed))


def recall_of_ranks(rank: np.ndarray, ks: tuple[int, ...]) -> dict[str, float]:
    """Share of pairs with a rank below k, over pairs and not over users: `{"recall@20": ...}`; of no pairs, none.

    >>> recall_of_ranks(np.array([0, 4, 19, 20]), (5, 20))
    {'recall@5': 0.5, 'recall@20': 0.75}
    """
    return {f"recall@{k}": float(np.mean(rank < k)) for k in ks} if len(rank) else {}


def count_exposures(lists: np.ndarray, ks: tuple[int, ...], num_items: int) -> np.ndarray:
    """How many lists show each item among their first k, [len(ks), V] int64; chunks of users combine by a sum."""
    shown = np.empty((len(ks), num_items), np.int64)
    for i, k in enumerate(ks):
        items = lists[:, :k]
        shown[i] = np.bincount(items[items >= 0], minlength=num_items)
    return shown


def coverage(shown: np.ndarray, ks: tuple[int, ...], category_offset: np.ndarray) -> dict[str, float]:
    """item_coverage@k and category_coverage@k: the shares of the known items, and of the categories that hold any,
    that `shown` ([len(ks), V], see `count_exposures`) shows at all; reserved rows are neither.
    """
    start, stop = np.maximum(category_offset[:-1], FIRST_KNOWN), category_offset[1:]
    start, stop = start[stop > start], stop[stop > start]
    seen = shown > 0
    count = np.pad(np.cumsum(seen, axis=1), ((0, 0), (1, 0)))  # [len(ks), V + 1]
    shares = {}
    for i, k in enumerate(ks):
        shares[f"item_coverage@{k}"] = float(seen[i, FIRST_KNOWN:].mean())
        shares[f"category_coverage@{k}"] = float(np.mean(count[i, stop] > count[i, start]))
    return shares


class Interval(NamedTuple):
    """A mean difference and its 95% interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(a: np.ndarray, b: np.ndarray, seed: int, n: int = 2000) -> Interval:
    """Mean of a - b over users, with the 2.5th and 97.5th percentile of `n` resamplings of the users.

    Args:
      a: a metric per user, [U] float64; NaN where the user has no truth.
      b: the same users' metric under another method, [U] float64.
      seed: of the resampling.
      n: resamplings.
    """
    if a.shape != b.shape:
        raise ValueError(f"`a` and `b` must hold the same users: got shapes {a.shape} and {b.shape}")
    difference = (a - b)[~np.isnan(a - b)]
    if len(difference) == 0:
        raise ValueError("no user has a value in both `a` and `b`")
    sums = resampled_sums(difference[None], seed, n)[:, 0]
    return percentile_interval(float(difference.mean()), sums / len(difference))


def percentile_interval(value: float, resampled: np.ndarray) -> Interval:
    """A value with the 2.5th and 97.5th percentile of its resamplings [n] float64."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def resampled_sums(values: np.ndarray, seed: int, n: int) -> np.ndarray:
    """Sums over users in `n` resamplings with replacement, the same users for every row: the bootstrap of all metrics.

    Args:
      values: [R, U] float64, finite.
      seed: of the resampling.
      n: resamplings.

    Returns:
      [n, R] float64.
    """
    random, num_users = np.random.default_rng(seed), values.shape[1]
    drawn = (np.bincount(random.integers(num_users, size=num_users), minlength=num_users) for _ in range(n))
    return np.stack([values @ times for times in drawn])
