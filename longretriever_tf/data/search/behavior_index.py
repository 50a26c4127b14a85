"""The log once more, sorted by (user, category, time): each (user, category) is one contiguous segment.

A hard search is then a slice: the segment's events up to the request's time. Imports no TensorFlow.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from longretriever_tf.config.config import ModelConfig
from longretriever_tf.data.corpus import Corpus, EncodedLog
from longretriever_tf.data.search.history_limit import visible_histories


@dataclasses.dataclass(frozen=True)
class CategoryOrder:
    """Events sorted by user, category, time; equal times keep the log's order.

    Attributes:
      item: item index, [E] int32.
      timestamp: seconds UTC, [E] int64.
      weight: [E] float32.
      segment_user, segment_category: owner of each segment, [R] int64.
      segment_offset: segment r owns events `segment_offset[r]:segment_offset[r + 1]`, [R + 1] int64.
      num_distinct: distinct items of the segment among its events up to and including this one, [E] int32.
      num_categories: C, to number (user, category) pairs.
      is_target: events that are to be retrieved, [E] bool; None: every event is.
      event_feature: as of `EncodedLog`, [E, F] int32; None: the log has none.
    """

    item: np.ndarray
    timestamp: np.ndarray
    weight: np.ndarray
    segment_user: np.ndarray
    segment_category: np.ndarray
    segment_offset: np.ndarray
    num_distinct: np.ndarray
    num_categories: int
    is_target: np.ndarray | None = None
    event_feature: np.ndarray | None = None

    def targets(self) -> np.ndarray:
        """`is_target` as a mask, [E] bool."""
        return np.ones(len(self.item), bool) if self.is_target is None else self.is_target

    def find_segments(self, user: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Segment of each (user, category), [n] int64; -1 where the log holds no event of them."""
        keys = self.segment_user * self.num_categories + self.segment_category
        wanted = np.asarray(user, np.int64) * self.num_categories + category
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, at, -1)

    def num_distinct_within(self, window: int) -> np.ndarray:
        """Distinct items among the `window` latest events of the segment up to and including each event, [E] int32."""
        length = np.diff(self.segment_offset)
        segment = np.repeat(np.arange(len(length)), length)
        by_item = np.lexsort((self.item, segment))  # stable: time order within a (segment, item) stays
        same = (np.diff(segment[by_item]) == 0) & (np.diff(self.item[by_item]) == 0)
        # An event stands for its item from its own position until the item's next event, or until it leaves the window.
        until = np.minimum(self.segment_offset[segment + 1], np.arange(len(segment)) + window)
        until[by_item[:-1][same]] = np.minimum(until[by_item[:-1][same]], by_item[1:][same])
        left = np.bincount(until, minlength=len(segment) + 1)[: len(segment)]
        return np.cumsum(1 - left).astype(np.int32)


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
        is_target=None if log.is_target is None else log.is_target[order],
        event_feature=None if log.event_feature is None else log.event_feature[order],
    )


class Windows(NamedTuple):
    """Where the hard search of n (user, category, time) requests reads in a category order, [n] int64 each.

    Attributes:
      start, stop: S_u is made of the events `start:stop`, the latest of the category strictly before the time.
      num_before: events of the category in all that the history shows before the time.
    """

    start: np.ndarray
    stop: np.ndarray
    num_before: np.ndarray


def max_sliced(config: ModelConfig) -> int:
    """How many of a category's latest events a search reads."""
    return config.max_events if config.subsequence == "items" else config.max_length


def hard_search_windows(
    config: ModelConfig, log: EncodedLog, order: CategoryOrder, segment: np.ndarray, stop: np.ndarray, time: np.ndarray
) -> Windows:
    """The windows of S_u; a request's graph cuts the same ones out of raw histories (`retrieval.multi_context`).

    Args:
      config: says how many events a window holds and how much of a history may be read.
      log: the encoded log.
      order: its category order.
      segment: of each request, [n] int64.
      stop: the first event of the segment at or after the time, [n] int64.
      time: seconds UTC, [n] int64.
    """
    first = order.segment_offset[segment]
    if config.history_events:
        first = np.minimum(stop, _first_visible(config, log, order, segment, time))
    return Windows(np.maximum(first, stop - max_sliced(config)), stop, stop - first)


def _first_visible(
    config: ModelConfig, log: EncodedLog, order: CategoryOrder, segment: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """The first event of each segment that the visible history holds (`history_limit`), [n] int64."""
    oldest, _ = visible_histories(log, order.segment_user[segment], time, config.history_events)
    since = log.timestamp[np.minimum(oldest, len(log.timestamp) - 1)]
    low = int(order.timestamp.min())
    span = int(order.timestamp.max()) - low + 2
    owner = np.repeat(np.arange(len(order.segment_user)), np.diff(order.segment_offset))
    key = owner * span + (order.timestamp - low)
    return np.searchsorted(key, segment * span + np.clip(since - low, 0, span - 1))
