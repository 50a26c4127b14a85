"""What a life says of each category, touched or not, as of a moment; in the graph. Includes eq. 3's score."""

from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.data import taste
from longretriever_tf.data.activity import HALF_LIFE_DAYS, NEVER_DAYS
from longretriever_tf.data.hard_search import HALF_LIVES_DAYS, Events, decays
from longretriever_tf.data.owned_items import OwnedItems, find_owned

NUM_FEATURES = 25


class LifeSummary(NamedTuple):
    """Per (request, category) sums over a whole life, [B, C] float32 each, 0 where the category was never touched.

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


def summarise_life(
    life: Events,
    item_category: tf.Tensor,
    num_requests: tf.Tensor,
    num_categories: int,
    day_floor: float,
    owned: OwnedItems | None = None,
    item_ages: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> LifeSummary:
    """Sums whole lives by category in one pass, without sorting. O(events + B C).

    Args:
      life: all events before each request, any order.
      item_category: [V] int32.
      num_requests: B, scalar int32.
      num_categories: C.
      day_floor: floor of eq. 3, days.
      owned: the distinct items, where they are known already.
      item_ages: days since the last and the first event of each of them, where these are known too, [d] float32 each.
    """
    size = num_requests * num_categories
    owned = owned or find_owned(life, item_category, num_requests, num_categories)
    shape = tf.stack([num_requests, num_categories])
    sums = tf.math.unsorted_segment_sum

    def total(values: tf.Tensor) -> tf.Tensor:
        """Of all events, by item first: looking each event's run up would take longer. Column by column: stacked
        columns are summed several times more slowly.
        """
        return total_owned(sums(values, owned.place, tf.size(owned.item)))

    def total_owned(values: tf.Tensor) -> tf.Tensor:
        """Of the distinct items."""
        return tf.reshape(sums(values, owned.run, size), shape)

    closeness = total(interest_score(life.age, life.weight, 1.0))
    count, faded = total_owned(owned.count), total_owned(owned.faded)
    by_days = dict(zip(HALF_LIVES_DAYS, decays(life.age), strict=True))
    decayed = [faded if days == taste.HALF_LIFE_DAYS else total(by_days[days]) for days in HALF_LIVES_DAYS]
    touched = count > 0
    extremes = (tf.math.unsorted_segment_min, tf.math.unsorted_segment_max)
    if item_ages is None:
        latest, earliest = (extreme(life.age, owned.place, tf.size(owned.item)) for extreme in extremes)
        item_ages = latest, earliest
    ends = [
        tf.where(touched, tf.reshape(extreme(ages, owned.run, size), shape), 0.0)
        for extreme, ages in zip(extremes, item_ages, strict=True)
    ]
    return LifeSummary(
        score=closeness if day_floor == 1.0 else total(interest_score(life.age, life.weight, day_floor)),
        closeness=closeness,
        count=count,
        distinct=total_owned(tf.ones_like(owned.count)),
        decayed=tf.ensure_shape(tf.stack(decayed, 2), [None, num_categories, len(HALF_LIVES_DAYS)]),
        recency=ends[0],
        oldest=ends[1],
    )


def life_activity(life: LifeSummary) -> tf.Tensor:
    """`data.activity.user_activity` of raw lives: log1p of events, days since the last, decayed count, [B, 3]."""
    count = tf.reduce_sum(life.count, 1)
    decayed = tf.reduce_sum(life.decayed[:, :, HALF_LIVES_DAYS.index(HALF_LIFE_DAYS)], 1)
    days = tf.reduce_min(tf.where(life.count > 0, life.recency, life.recency.dtype.max), 1)
    return tf.math.log1p(tf.stack([count, tf.where(count > 0, days, NEVER_DAYS), decayed], 1))


def category_bag(life: LifeSummary) -> tf.Tensor:
    """The life as a bag of categories: log1p of the 90-day decayed counts, [B, C]."""
    return tf.math.log1p(life.decayed[:, :, 2])


def interest_features(life: LifeSummary, category_stats: tf.Tensor, category_size: tf.Tensor) -> tf.Tensor:
    """Features of each (request, category) for the learned interest score.

    Args:
      life: sums of each life.
      category_stats: popularity, staleness and repeat rate of each category at the request's time, [B, C, 3].
      category_size: items of each category, [C] float32.

    Returns:
      [B, C, NUM_FEATURES] float32, finite.
    """
    touched = tf.cast(life.count > 0, tf.float32)
    total = tf.reduce_sum(life.count, 1, keepdims=True)
    active = tf.reduce_sum(life.decayed[:, :, 1], 1, keepdims=True)
    gap = (life.oldest - life.recency) / tf.maximum(life.count - 1.0, 1.0)
    recency = tf.where(touched > 0, life.recency, NEVER_DAYS)
    share = life.count / tf.maximum(total, 1.0)
    counts = tf.exp(category_stats[:, :, 0])
    popularity = counts / tf.reduce_sum(counts, 1, keepdims=True)
    pair = [
        tf.math.log1p(life.count),
        *tf.unstack(tf.math.log1p(life.decayed), axis=2),
        tf.math.log1p(recency),
        touched,
        share,
        life.decayed[:, :, 1] / tf.maximum(active, 0.01),
        tf.math.log1p(gap),
        tf.where(life.count > 1, tf.math.log1p(life.recency / tf.maximum(gap, 0.5)), 0.0),
        tf.math.log(life.closeness + 1e-3),
        tf.math.log1p(life.distinct),
        touched - life.distinct / tf.maximum(life.count, 1.0),
        tf.math.log((share + 1e-4) / (popularity + 1e-4)),
    ]
    anyone = tf.reduce_max(touched, 1, keepdims=True)
    user = [
        tf.math.log1p(total),
        tf.math.log1p(tf.reduce_min(recency, 1, keepdims=True)),
        tf.math.log1p(active),
        tf.math.log1p(anyone * tf.reduce_max(life.oldest, 1, keepdims=True)),
        tf.math.log1p(tf.reduce_sum(touched, 1, keepdims=True)),
        tf.reduce_sum(life.distinct, 1, keepdims=True) / tf.maximum(total, 1.0),
    ]
    shape = tf.shape(life.count)
    shared = [tf.broadcast_to(column, shape) for column in (*user, tf.math.log1p(category_size)[None])]
    # Stacked on the first axis, then turned: several times faster than number by number into the last one.
    return tf.concat([tf.transpose(tf.stack(pair + shared), [1, 2, 0]), category_stats], 2)
