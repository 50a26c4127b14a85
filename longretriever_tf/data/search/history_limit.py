"""The rule of --history_events: of a whole history, only the H latest events are read (and how it began:
`data.recipe.history_embedding`).

An event is visible if fewer than H events of the history lie strictly between it and the request. So the time (basket)
that the border falls into counts whole, and the order of simultaneous events, which a request need not keep, decides
nothing. Whoever reads histories of a log asks this module; `request_history.keep_visible` is the same rule for raw
histories. Imports no TensorFlow.
"""

import numpy as np

from longretriever_tf.data.corpus import EncodedLog


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
