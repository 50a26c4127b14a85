"""How active a user is overall, strictly before a time: three numbers that every token of a request shares."""

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.data.search.history_limit import visible_histories

NUM_ACTIVITY = 3
"""Columns: log1p(events), log1p(days since the last event), log1p(events decayed with a 30-day half-life)."""

HALF_LIFE_DAYS = 30.0
EMBEDDING_HALF_LIFE_DAYS = 90.0
"""Of history embeddings (`data.recipe.history_embedding`): kept here so that what is decayed once serves both."""

NEVER_DAYS = 3650.0


def user_activity(log: EncodedLog, user: np.ndarray, time: np.ndarray, history_events: int = 0) -> np.ndarray:
    """Activity of `user` strictly before `time`.

    Prefix sums per user make each lookup one binary search, so a million requests cost no pass over histories.

    Args:
      log: the encoded log.
      user: user rows, [n].
      time: seconds UTC, [n].
      history_events: only the latest so many events of the history are there; 0: all. See `data.search.history_limit`.

    Returns:
      [n, NUM_ACTIVITY] float32.
    """
    decayed_at = _decayed_counts(log)
    start, stop = visible_histories(log, user, time, history_events)
    count = stop - start
    safe = np.maximum(stop - 1, 0)
    days = np.where(count > 0, (time - log.timestamp[safe]) / schema.DAY_S, NEVER_DAYS)
    decayed = np.where(count > 0, decayed_at[safe] * np.exp2(-days / HALF_LIFE_DAYS), 0.0)
    hidden = np.maximum(start - 1, 0)
    is_hidden = (count > 0) & (start > log.offset[user])
    fade = np.exp2(-np.where(is_hidden, time - log.timestamp[hidden], 0) / schema.DAY_S / HALF_LIFE_DAYS)
    decayed -= np.where(is_hidden, decayed_at[hidden] * fade, 0.0)
    return np.log1p(np.stack([count, days, decayed], axis=1)).astype(np.float32)


def _decayed_counts(log: EncodedLog) -> np.ndarray:
    """The user's decayed event count just after each event, [E]: D_j = 1 + D_(j-1) 2^(-gap / half-life).

    Runs over positions in history, all users at once: prefix sums of growing powers would lose the young histories'
    digits.
    """
    decayed = np.ones(len(log.timestamp))
    fade = np.exp2(-np.diff(log.timestamp, prepend=0) / schema.DAY_S / HALF_LIFE_DAYS)
    length = np.diff(log.offset)
    longest_first = np.argsort(-length, kind="stable")
    start, ascending = log.offset[:-1][longest_first], np.sort(length)
    for j in range(1, int(length.max(initial=0))):
        at = start[: len(length) - np.searchsorted(ascending, j, side="right")] + j
        decayed[at] += decayed[at - 1] * fade[at]
    return decayed
