"""What a whole history says of each category, seen or not, as of a time; in the graph. Includes eq. 3's score."""

from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.data.search.hard_search import HALF_LIVES_DAYS, Events, decays
from longretriever_tf.data.search.unique_items import InteractedItems, find_interacted
from longretriever_tf.data.search.user_activity import EMBEDDING_HALF_LIFE_DAYS, HALF_LIFE_DAYS, NEVER_DAYS


class HistorySummary(NamedTuple):
    """Per (request, category) sums over a whole history, [B, C] float32 each, 0 where the category was never seen.

    Attributes:
      score: eq. 3, sum of weight / max(days, floor): what interests may be drawn by.
      closeness: the same with a floor of one day, whatever `day_floor` says: what the learned score reads.
      count: events.
      distinct: distinct items.
      decayed: counts decayed with half-lives of 10, 30, 90, 180 days, [B, C, 4].
      recency, oldest: days since the last and the first event.
    """

    score: tf.Tensor
    closeness: tf.Tensor
    count: tf.Tensor
    distinct: tf.Tensor
    decayed: tf.Tensor
    recency: tf.Tensor
    oldest: tf.Tensor


def interest_score(age: tf.Tensor, weight: tf.Tensor, day_floor: float | tf.Tensor) -> tf.Tensor:
    """One event's part of eq. 3: weight / max(days, floor), [n]."""
    return weight / tf.maximum(age, day_floor)


def summarise_history(
    history: Events,
    item_category: tf.Tensor,
    num_requests: tf.Tensor,
    num_categories: int,
    day_floor: float = 1.0,
    interacted: InteractedItems | None = None,
    item_ages: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> HistorySummary:
    """Sums whole histories by category in one pass, without sorting. O(events + B C).

    Args:
      history: all events before each request, any order.
      item_category: [V] int32.
      num_requests: B, scalar int32.
      num_categories: C.
      day_floor: floor of eq. 3, days.
      interacted: the distinct items, where they are known already.
      item_ages: days since the last and the first event of each of them, where these are known too, [d] float32 each.
    """
    size = num_requests * num_categories
    interacted = interacted or find_interacted(history, item_category, num_requests, num_categories)
    shape = tf.stack([num_requests, num_categories])
    sums = tf.math.unsorted_segment_sum

    def total(values: tf.Tensor) -> tf.Tensor:
        """Of all events, by item first: looking each event's segment up would take longer. Column by column: stacked
        columns are summed several times more slowly.
        """
        return total_interacted(sums(values, interacted.inverse, tf.size(interacted.item)))

    def total_interacted(values: tf.Tensor) -> tf.Tensor:
        """Of the distinct items."""
        return tf.reshape(sums(values, interacted.segment, size), shape)

    closeness = total(interest_score(history.age, history.weight, 1.0))
    count, decayed_weight = total_interacted(interacted.count), total_interacted(interacted.decayed)
    by_days = dict(zip(HALF_LIVES_DAYS, decays(history.age), strict=True))
    decayed = [decayed_weight if days == EMBEDDING_HALF_LIFE_DAYS else total(by_days[days]) for days in HALF_LIVES_DAYS]
    seen = count > 0
    extremes = (tf.math.unsorted_segment_min, tf.math.unsorted_segment_max)
    if item_ages is None:
        latest, earliest = (extreme(history.age, interacted.inverse, tf.size(interacted.item)) for extreme in extremes)
        item_ages = latest, earliest
    ends = [
        tf.where(seen, tf.reshape(extreme(ages, interacted.segment, size), shape), 0.0)
        for extreme, ages in zip(extremes, item_ages, strict=True)
    ]
    return HistorySummary(
        score=closeness if day_floor == 1.0 else total(interest_score(history.age, history.weight, day_floor)),
        closeness=closeness,
        count=count,
        distinct=total_interacted(tf.ones_like(interacted.count)),
        decayed=tf.ensure_shape(tf.stack(decayed, 2), [None, num_categories, len(HALF_LIVES_DAYS)]),
        recency=ends[0],
        oldest=ends[1],
    )


def history_activity(history: HistorySummary) -> tf.Tensor:
    """`data.search.user_activity.user_activity` of raw histories: log1p of events, days since the last, decayed
    count, [B, 3].
    """
    count = tf.reduce_sum(history.count, 1)
    decayed = tf.reduce_sum(history.decayed[:, :, HALF_LIVES_DAYS.index(HALF_LIFE_DAYS)], 1)
    days = tf.reduce_min(tf.where(history.count > 0, history.recency, history.recency.dtype.max), 1)
    return tf.math.log1p(tf.stack([count, tf.where(count > 0, days, NEVER_DAYS), decayed], 1))


def category_bag(history: HistorySummary) -> tf.Tensor:
    """The history as a bag of categories: log1p of the 90-day decayed counts, [B, C]."""
    return tf.math.log1p(history.decayed[:, :, 2])
