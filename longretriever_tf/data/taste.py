"""What a whole life says across categories: the decayed sum of its items' SVD rows. Imports no TensorFlow.

The user tower reads one category at a time; this vector carries what the rest of the life says of it. In training, the
SVD of a user's taste must not have seen that user: co-occurrence fitted on the user's own future would tell the targets
away, and the tower would trust it too much. So tastes are cross-fitted: users fall into folds, and those of a fold are
read through an SVD of the other folds' users, rotated onto the full one, which alone serves.
"""

import numpy as np
import scipy.sparse

from longretriever_tf import schema
from longretriever_tf.data.corpus import Corpus, EncodedLog
from longretriever_tf.data.item_svd import fit_item_svd
from longretriever_tf.data.ranges import flat_ranges
from longretriever_tf.data.recent import visible_lives

HALF_LIFE_DAYS = 90.0
LENGTH = 3.0
"""Length of a taste vector: entries are then of the size of standardised features."""


def fit_folds(log: EncodedLog, corpus: Corpus, item_svd: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """An SVD for each fold that has not seen its users, in the basis of the full one.

    Args:
      log: events before the cut.
      corpus: the corpus.
      item_svd: of all users, [V, D] float32.
      num_folds: K; 0 trusts the full SVD (quicker, and leaks).
      seed: of the solver's start vector.

    Returns:
      [K, V, D] float32.
    """
    event_fold = fold_of_users(log, num_folds)[log.event_user()] if num_folds else np.zeros(0)
    tables = [np.zeros((0, *item_svd.shape), np.float32)]
    for fold in range(num_folds):
        part = fit_item_svd(log, corpus, item_svd.shape[1], seed, event_fold != fold).astype(np.float64)
        left, _, right = np.linalg.svd(part.T @ item_svd)  # the rotation nearest to the full basis (Procrustes)
        tables.append((part @ (left @ right)).astype(np.float32)[None])
    return np.concatenate(tables)


def fold_of_users(log: EncodedLog, num_folds: int) -> np.ndarray:
    """Fold of each user, [U] int64: users with a life take turns, so that users without one move nobody."""
    return (np.cumsum(np.diff(log.offset) > 0) - 1) % max(num_folds, 1)


def build_tastes(
    log: EncodedLog, item_svd: np.ndarray, folds: np.ndarray, grid: np.ndarray, history_events: int = 0
) -> np.ndarray:
    """Tastes of all users at the moments of `grid`, from events strictly before each.

    Args:
      log: the encoded log.
      item_svd: of all users, [V, D] float32: read at the last moment, which is where requests stand.
      folds: from `fit_folds`, [K, V, D]: read at the moments before it.
      grid: seconds UTC, ascending, [S] int64.
      history_events: see `data.recent`; 0: the whole life.

    Returns:
      [S, U, D] float32, rows of length `LENGTH`, or 0 for an empty life.
    """
    tastes = np.zeros((len(grid), log.num_users, item_svd.shape[1]), np.float32)
    if not item_svd.shape[1]:
        return tastes
    fold, num_users, num_items = fold_of_users(log, len(folds)), log.num_users, len(item_svd)
    everyone = np.tile(np.arange(num_users), len(grid))
    start, stop = visible_lives(log, everyone, np.repeat(grid, num_users), history_events)
    for row, moment in enumerate(grid.tolist()):
        mine = slice(row * num_users, (row + 1) * num_users)
        user, event = flat_ranges(start[mine], stop[mine])
        weight = np.exp2((log.timestamp[event] - moment) / schema.DAY_S / HALF_LIFE_DAYS)
        counts = scipy.sparse.csr_matrix((weight, (user, log.item[event])), shape=(num_users, num_items))
        if row == len(grid) - 1 or not len(folds):
            tastes[row] = _scaled(counts @ item_svd)
            continue
        for k, table in enumerate(folds):
            tastes[row, fold == k] = _scaled(counts[fold == k] @ table)
    return tastes


def _scaled(sums: np.ndarray) -> np.ndarray:
    """Rows brought to `LENGTH`."""
    norm = np.sqrt(np.maximum(np.sum(sums**2, axis=1, keepdims=True), 1e-12))
    return (LENGTH * sums / norm).astype(np.float32)
