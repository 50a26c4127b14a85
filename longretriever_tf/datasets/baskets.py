"""Baskets that last too long to be one time: counted, and cut by a stated rule. Imports no TensorFlow."""

from typing import NamedTuple

import numpy as np

from longretriever_tf.datasets import accounts
from longretriever_tf.datasets.build_log import first_of_segments

MAX_HOURS = 24.0
"""A basket that spans more than this is no single time."""

_PAUSE_SHARE = 0.25
"""Of the longest span: a pause of more than this within a basket that is too long begins another basket."""


class CutBaskets(NamedTuple):
    """Baskets after the cut.

    Attributes:
      basket_id: [E] int64; -1 where an event belongs to no basket.
      counts: by the names of `accounts`.
      first_long: row of an event of the basket that spans most, -1 where none is too long.
    """

    basket_id: np.ndarray
    counts: dict[str, int]
    first_long: int


def cut_long_baskets(basket_id: np.ndarray, timestamp: np.ndarray, max_hours: float = MAX_HOURS) -> CutBaskets:
    """Cuts each basket that spans more than `max_hours`: where it pauses, then where it still is too long.

    A receipt number that restarts every day makes one basket of many visits. Pauses of more than a quarter of
    `max_hours` separate the visits; parts that are still too long are cut every `max_hours` from their first event. No
    event then lies more than `max_hours` after the first of its basket. Short baskets stay as they are.

    Args:
      basket_id: [E] int64, unique across users; -1: no basket.
      timestamp: seconds, [E] int64.
      max_hours: above 0.

    One basket on two days, at 0 h and 20 h, and one of two hours:

    >>> cut_long_baskets(np.array([4, 4, 4, 5, 5]), np.array([0, 20, 26, 0, 2]) * 3600).basket_id.tolist()
    [0, 1, 1, 2, 2]
    """
    limit = int(max_hours * 3600)
    rows = np.flatnonzero(basket_id >= 0)
    order = rows[np.lexsort((timestamp[rows], basket_id[rows]))]
    start = first_of_segments((basket_id,), order)
    if not len(start):
        return CutBaskets(basket_id, {accounts.BASKETS: 0}, -1)
    length = np.diff(start, append=len(order))
    time = timestamp[order]
    span = time[start + length - 1] - time[start]
    is_long = span > limit
    counts = {accounts.BASKETS: len(start), accounts.LONG_BASKETS: int(is_long.sum())}
    if not is_long.any():
        return CutBaskets(basket_id, counts, -1)
    begins = np.zeros(len(order), bool)
    begins[start] = True
    inside = np.repeat(is_long, length)
    begins |= inside & (np.diff(time, prepend=time[0]) > limit * _PAUSE_SHARE)
    piece_start = np.flatnonzero(begins)
    since = time - np.repeat(time[piece_start], np.diff(piece_start, append=len(order)))
    window = np.where(inside, since // max(limit, 1), 0)
    begins[1:] |= window[1:] != window[:-1]
    cut = basket_id.copy()
    cut[order] = np.cumsum(begins) - 1
    counts[accounts.CUT_BASKETS] = int(begins[inside].sum())
    counts[accounts.LONGEST_BASKET_S], counts[accounts.MAX_BASKET_S] = int(span.max()), limit
    return CutBaskets(cut, counts, int(order[start[span.argmax()]]))
