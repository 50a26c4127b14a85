"""The log once more, sorted by (user, category, time): each (user, category) is one contiguous run.

A hard search is then a slice: the run's events up to the request's time. Imports no TensorFlow.
"""

import dataclasses

import numpy as np

from longretriever_tf.data.corpus import Corpus, EncodedLog


@dataclasses.dataclass(frozen=True)
class CategoryOrder:
    """Events sorted by user, category, time; equal times keep the log's order.

    Attributes:
      item: item index, [E] int32.
      timestamp: seconds UTC, [E] int64.
      weight: [E] float32.
      run_user, run_category: owner of each run, [R] int64.
      run_offset: run r owns events `run_offset[r]:run_offset[r + 1]`, [R + 1] int64.
      num_distinct: distinct items of the run among its events up to and including this one, [E] int32.
      num_categories: C, to number (user, category) pairs.
    """

    item: np.ndarray
    timestamp: np.ndarray
    weight: np.ndarray
    segment_user: np.ndarray
    segment_category: np.ndarray
    segment_offset: np.ndarray
    num_distinct: np.ndarray
    num_categories: int

    def find_segments(self, user: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Run of each (user, category), [n] int64; -1 where the user never seen the category."""
        keys = self.segment_user * self.num_categories + self.segment_category
        wanted = np.asarray(user, np.int64) * self.num_categories + category
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, at, -1)

    def num_distinct_within(self, window: int) -> np.ndarray:
        """Distinct items among the `window` latest events of the run up to and including each event, [E] int32."""
        length = np.diff(self.segment_offset)
        run = np.repeat(np.arange(len(length)), length)
        by_item = np.lexsort((self.item, run))  # stable: time order within a (run, item) stays
        same = (np.diff(run[by_item]) == 0) & (np.diff(self.item[by_item]) == 0)
        # An event stands for its item from its own position until the item's next event, or until it leaves the window.
        until = np.minimum(self.segment_offset[run + 1], np.arange(len(run)) + window)
        until[by_item[:-1][same]] = np.minimum(until[by_item[:-1][same]], by_item[1:][same])
        left = np.bincount(until, minlength=len(run) + 1)[: len(run)]
        return np.cumsum(1 - left).astype(np.int32)

    def slices_before(self, user: np.ndarray, category: np.ndarray, time: int) -> tuple[np.ndarray, np.ndarray]:
        """Slice of each (user, category)'s events strictly before one `time`: starts and stops, [n] int64 each."""
        counts = (
            np.add.reduceat(self.timestamp < time, self.segment_offset[:-1]) if len(self.segment_user) else np.zeros(0)
        )
        run = self.find_segments(user, category)
        start = np.where(run >= 0, self.segment_offset[run], 0)
        return start, np.where(run >= 0, start + counts[run], 0)


def build_category_order(log: EncodedLog, corpus: Corpus) -> CategoryOrder:
    """Sorts the log once; O(E log E)."""
    user = log.event_user()
    category = corpus.item_category[log.item].astype(np.int64)
    order = np.lexsort((category, user))  # stable: time order within a (user, category) stays
    item, key = log.item[order], (user * corpus.num_categories + category)[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    by_item = np.lexsort((item, key))
    pair = key[by_item] * corpus.num_items + item[by_item]
    is_first = np.zeros(len(item), np.int64)
    is_first[by_item[np.flatnonzero(np.diff(pair, prepend=-1))]] = 1
    running = np.cumsum(is_first)
    base = np.repeat(running[starts] - 1, np.diff(np.append(starts, len(item)))) if len(starts) else running
    return CategoryOrder(
        item=item,
        timestamp=log.timestamp[order],
        weight=log.weight[order],
        segment_user=key[starts] // corpus.num_categories,
        segment_category=key[starts] % corpus.num_categories,
        segment_offset=np.append(starts, len(item)).astype(np.int64),
        num_distinct=(running - base).astype(np.int32),
        num_categories=corpus.num_categories,
    )
