"""The rule of --history_events: of a whole history, only the H latest events are read (and how it began:
`data.recipe.history_embedding`).

An event is visible if fewer than H events of the history lie strictly between it and the request. So the time (basket)
that the border falls into counts whole, and the order of simultaneous events, which a request need not keep, decides
nothing. Whoever reads histories of a log asks this module; `raw_lives.keep_visible` is the same rule for raw histories.
Imports no TensorFlow.
"""

import numpy as np

from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.data.search.behavior_index import CategoryOrder


def visible_histories(
    log: EncodedLog, user: np.ndarray, time: np.ndarray, history_events: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the visible history of each (user, time) starts and stops in the time-ordered log, [n] int64 each.

    Args:
      log: the encoded log.
      user: user rows, [n].
      time: seconds UTC, [n]; events at or after it are not there.
      history_events: H; 0: the whole history.
    """
    user = np.asarray(user, np.int64)
    start = log.offset[user]
    if not len(log.timestamp):
        return start, start.copy()
    # One ascending key over (user, time) turns "how many events of this user before t" into one searchsorted.
    low = int(log.timestamp.min())
    span = int(log.timestamp.max()) - low + 2
    key = log.event_user() * span + (log.timestamp - low)
    stop = np.searchsorted(key, user * span + np.clip(time - low, 0, span - 1))
    if not history_events:
        return start, stop
    border = np.maximum(start, stop - history_events)
    at_border = key[np.minimum(border, len(key) - 1)]
    # The first event of the border's own time; a history without events stays empty.
    return np.where(stop > start, np.maximum(start, np.searchsorted(key, at_border)), start), stop


def visible_segments(order: CategoryOrder, run: np.ndarray, since: np.ndarray) -> np.ndarray:
    """First event at or after `since` of each run of a category order, [n] int64; 0 for a run of -1.

    Args:
      order: the category order.
      run: [n], -1 where there is none.
      since: seconds UTC, [n] int64.
    """
    if not len(order.timestamp):
        return np.zeros(len(run), np.int64)
    low = int(order.timestamp.min())
    span = int(order.timestamp.max()) - low + 2
    owner = np.repeat(np.arange(len(order.segment_user)), np.diff(order.segment_offset))
    first = np.searchsorted(owner * span + (order.timestamp - low), run * span + np.clip(since - low, 0, span - 1))
    return np.where(run >= 0, first, 0)


def visible_since(log: EncodedLog, user: np.ndarray, time: np.ndarray, history_events: int) -> np.ndarray:
    """The time of the oldest visible event of each (user, time), [n] int64; `time` itself for an empty history."""
    start, stop = visible_histories(log, user, time, history_events)
    if not len(log.timestamp):
        return np.asarray(time, np.int64)
    return np.where(stop > start, log.timestamp[np.minimum(start, len(log.timestamp) - 1)], time)
