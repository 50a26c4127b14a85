"""What a whole history says across categories: the decayed sum of its items' SVD rows. Imports no TensorFlow.

The user tower reads one category at a time; this vector carries what the rest of the history says of it. The SVD that a
user's history is read through must not have seen that user: in training, co-occurrence fitted on the user's own future
would give the targets away; in a request, the user's own past would make what the user took look like what everybody
takes. So history embeddings are cross-fitted: histories fall into folds, and those of a fold are read through an SVD of
the other folds' users, rotated onto the full one. The fold follows from how a history begins, which a raw history says
too: requests need no user id, but must send the beginning. Of a history without it, every table but one has seen the
user: no error, but a little of the gain is lost.
"""

import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.common.text import is_text
from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.data.recipe.item_svd import DistinctPairs, fit_pairs_svd, refit_pairs_svd
from longretriever_tf.data.recipe.svd_growth import align_rows, fold_in_rows
from longretriever_tf.data.search.history_limit import visible_histories
from longretriever_tf.data.search.user_activity import EMBEDDING_HALF_LIFE_DAYS

LENGTH = 3.0
"""Length of a history embedding vector: entries are then of the size of standardised features."""

_PRIME = 2**31 - 1

_CHUNK_EVENTS = 4_000_000
_ROW_EVENTS = 16
"""So many events of histories are summed at once; a row of the result counts as a few. Bounds memory."""

LEAST = 1e-30
"""Squared sums below this, of histories that ended decades ago, shrink to 0."""


def fit_folds(
    pairs: DistinctPairs, item_svd: np.ndarray, user_fold: np.ndarray, num_folds: int, seed: int
) -> np.ndarray:
    """An SVD for each fold that has not seen its users, in the basis of the full one.

    Args:
      pairs: what each user has taken before the cut.
      item_svd: of all users, [V, D] float32.
      user_fold: from `fold_of_users`, [U].
      num_folds: K; 0 trusts the full SVD (quicker, smaller, and leaks).
      seed: of the solver's start vector.

    Returns:
      [K, V, D] float32, every number one that bfloat16 holds, as exports store them; [1, V, D] for 0 folds.
    """
    if not num_folds:
        return _rounded(item_svd)[None]
    (num_items, dim) = item_svd.shape
    folds = (fit_pairs_svd(pairs, num_items, dim, seed, user_fold != fold) for fold in range(num_folds))
    return np.stack([_rounded(align_rows(part, item_svd)) for part in folds])


def refit_folds(
    pairs: DistinctPairs, item_svd: np.ndarray, starts: np.ndarray, user_fold: np.ndarray, seed: int
) -> np.ndarray:
    """`fit_folds` from the tables of an earlier fit, none of which has seen the users of its fold.

    Args:
      pairs: what each user has taken before the cut.
      item_svd: of all users, [V, D] float32.
      starts: the earlier tables by the items of today, 0 for new ones, [K, V, D] float32.
      user_fold: from `fold_of_users` for the same K, [U].
      seed: of the solver.
    """
    if len(starts) == 1:
        return _rounded(item_svd)[None]
    folds = (refit_pairs_svd(pairs, start, seed, user_fold != fold) for fold, start in enumerate(starts))
    return np.stack([_rounded(align_rows(part, item_svd)) for part in folds])


def grow_folds(pairs: DistinctPairs, tables: np.ndarray, earlier_row: np.ndarray, user_fold: np.ndarray) -> np.ndarray:
    """The tables of an earlier fit with rows for new items, each from users whom its SVD has not to see.

    Args:
      pairs: what each user has taken before the cut.
      tables: of the earlier fit, [K, W, D] float32.
      earlier_row: row of each item in them, -1 where it is new, [V].
      user_fold: from `fold_of_users` for the same K, [U].

    Returns:
      [K, V, D] float32, as of `fit_folds`.
    """
    if len(tables) == 1:
        return _rounded(fold_in_rows(pairs, tables[0], earlier_row))[None]
    parts = (fold_in_rows(pairs, table, earlier_row, user_fold != fold) for fold, table in enumerate(tables))
    return np.stack([_rounded(part) for part in parts])


def _rounded(rows: np.ndarray) -> np.ndarray:
    """To the nearest number that bfloat16 holds, float32: half the bytes where they are read, and no other answer."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    even = (bits >> 16) & 1
    return ((bits + 0x7FFF + even) & np.uint32(0xFFFF0000)).view(np.float32)


def item_keys(item_id: np.ndarray) -> np.ndarray:
    """A number for each item by its raw id alone, the same in every corpus and process: [V] int64 below 2**31."""
    if not is_text(item_id):
        return item_id.astype(np.int64) % _PRIME * 1_012_924_417 % _PRIME
    return np.array([zlib.crc32(raw.encode()) for raw in item_id.tolist()], np.int64) % _PRIME


def fold_of_histories(first: Any, key: Any, num_folds: int) -> Any:
    """Fold of each history, below `num_folds`; NumPy arrays and tensors alike.

    Args:
      first: time of the history's first events, seconds UTC, int64.
      key: the largest of the `item_keys` of their items, int64. Logs whose histories all begin at one time tell them
        apart by this.
      num_folds: K, at least 1.
    """
    mixed = first % _PRIME * 1_012_924_417 + key * 906_185_749  # below 2**62
    return mixed % _PRIME // 32_768 % num_folds


def fold_of_users(log: EncodedLog, item_key: np.ndarray, num_folds: int) -> np.ndarray:
    """Fold of each user of a log, [U] int64; whoever has no history is in fold 0.

    Args:
      log: the encoded log.
      item_key: from `item_keys`, [V].
      num_folds: K.
    """
    fold, living = np.zeros(log.num_users, np.int64), np.flatnonzero(np.diff(log.offset) > 0)
    if not len(living):
        return fold
    user = log.event_user()
    first = np.zeros(log.num_users, np.int64)
    first[living] = log.timestamp[log.offset[living]]
    key = np.zeros(log.num_users, np.int64)
    begins = np.flatnonzero(log.timestamp == first[user])
    np.maximum.at(key, user[begins], item_key[log.item[begins]])
    fold[living] = fold_of_histories(first[living], key[living], max(num_folds, 1))
    return fold


def build_history_embeddings(
    log: EncodedLog,
    user_fold: np.ndarray,
    history_embedding_rows: np.ndarray,
    user: np.ndarray,
    time: np.ndarray,
    history_events: int = 0,
) -> np.ndarray:
    """History embeddings of users at times, from events strictly before each.

    A user's rows depend on which times are asked together, in their last digits alone.

    Args:
      log: the encoded log.
      user_fold: from `fold_of_users`, [U].
      history_embedding_rows: from `fit_folds`, [K, V, D]; each user is read through the table of the own fold.
      user: rows of the log, [n].
      time: seconds UTC, [n] int64.
      history_events: see `data.search.history_limit`; 0: the whole history.

    Returns:
      [n, D] float32, rows of length `LENGTH`, or 0 for an empty history.

    Raises:
      UserError: they would fill more than half of the machine's memory.
    """
    _, num_items, dim = history_embedding_rows.shape
    room, memory = 4 * len(user) * dim, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if room > 0.5 * memory:
        raise UserError(
            f"--user_context: history embeddings of {len(user):,} (user, time) pairs fill {room / 1e9:.0f} GB, and "
            f"this machine has {memory / 1e9:.0f} GB; take fewer times (--examples=snapshot with fewer "
            "--num_snapshots), lower --svd_dim, or use --nouser_context"
        )
    history_embeddings = np.zeros((len(user), dim), np.float32)
    if not dim:
        return history_embeddings
    by_user = np.lexsort((time, user))
    user, time = user[by_user], time[by_user]
    start, stop = visible_histories(log, user, time, history_events)
    is_first = np.diff(user, prepend=-1) != 0
    if not history_events:  # an event is summed once; what it has become by a later time, all of them have become alike
        start = np.where(is_first, start, np.roll(stop, 1))
    for low, high in _chunks(is_first, stop - start):
        rows = slice(low, high)
        sums = _weighted_sums(log, user_fold[user[rows]], history_embedding_rows, start[rows], stop[rows], time[rows])
        if not history_events:
            _run_on(sums, is_first[rows], time[rows])
        history_embeddings[by_user[rows]] = _scaled(sums)
    return history_embeddings


def _chunks(is_first: np.ndarray, num_events: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of rows with whole users and about as many events and rows each as memory should hold."""
    before = np.concatenate([[0], np.cumsum(num_events + _ROW_EVENTS)])
    begins = np.append(np.flatnonzero(is_first), len(is_first))
    chunk = before[begins[:-1]] // _CHUNK_EVENTS
    bounds = begins[np.append(np.flatnonzero(np.diff(chunk, prepend=-1)), len(begins) - 1)]
    return zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)


def _weighted_sums(
    log: EncodedLog, fold: np.ndarray, tables: np.ndarray, start: np.ndarray, stop: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Rows of the items of events `start:stop` of the log, summed as decayed at each time, [n, D] float32."""
    row, event = flat_ranges(start, stop)
    weight = np.exp2((log.timestamp[event] - time[row]) / schema.DAY_S / EMBEDDING_HALF_LIFE_DAYS)
    shape = len(time), tables.shape[1]
    counts = scipy.sparse.csr_matrix((weight.astype(np.float32), (row, log.item[event])), shape=shape)
    sums = np.zeros((len(time), tables.shape[2]), np.float32)
    for k, table in enumerate(tables):
        sums[fold == k] = counts[fold == k] @ table
    return sums


def _run_on(sums: np.ndarray, is_first: np.ndarray, time: np.ndarray) -> None:
    """Adds to each row, in place, the row before of the same user as it has decayed since; all users at once."""
    begin = np.flatnonzero(is_first)
    rank = np.arange(len(time)) - np.repeat(begin, np.diff(np.append(begin, len(time))))
    passed = np.where(is_first, 0, np.diff(time, prepend=time[:1]))
    fade = np.exp2(-passed / schema.DAY_S / EMBEDDING_HALF_LIFE_DAYS).astype(np.float32)
    by_rank, ends = np.argsort(rank, kind="stable"), np.cumsum(np.bincount(rank))
    for low, high in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        at = by_rank[low:high]
        sums[at] += sums[at - 1] * fade[at, None]


def _scaled(sums: np.ndarray) -> np.ndarray:
    """Rows brought to `LENGTH`."""
    norm = np.sqrt(np.maximum(np.sum(sums**2, axis=1, keepdims=True), LEAST))
    return (LENGTH * sums / norm).astype(np.float32)
