"""Which interests a request searches.

Random in top (section 4 of the paper): keep the M best interests, draw N of them without replacement. Where a request
names no N, all that can still enter its list: the M best, and every category whose best item is probable enough.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.retrieval.request_options import RequestOptions

ORIGINS = ("drawn", "explored", "forced", "popular")
"""Why an interest is there; `popular`: the request has no history, so the draw rests on everyone's behavior."""


class Interests(NamedTuple):
    """N interests per request, best first.

    Attributes:
      category: [B, N] int32, 0 where there are fewer than N.
      score: the interest score, [B, N] float32, 0 where padded.
      rank: rank among all interests of the request, 1 the best, [B, N] int32, 0 where padded.
      is_real: [B, N] bool.
      origin: index in `ORIGINS`, [B, N] int32.
    """

    category: tf.Tensor
    score: tf.Tensor
    rank: tf.Tensor
    is_real: tf.Tensor
    origin: tf.Tensor


def draw_interests(
    score: tf.Tensor, allowed: tf.Tensor, num_interests: tf.Tensor, top_interests: tf.Tensor, seed: tf.Tensor
) -> Interests:
    """Draws N of the top M interests of each request, uniformly without replacement; N = M is deterministic.

    Args:
      score: [B, C] float32, finite, higher is better; equal scores: the lower index first.
      allowed: categories that may be drawn, [B, C] bool.
      num_interests: N of each request, [B] int32; the result is as wide as the largest.
      top_interests: M of each request, [B] int32 (where fewer are allowed: all of them).
      seed: of each row's draw, [B] int64: a row's draw depends on its own seed alone, not on its row of the batch.

    Returns:
      Interests, best first.
    """
    width = tf.reduce_max(num_interests)
    top = tf.clip_by_value(tf.reduce_max(top_interests), 1, tf.shape(score)[1])
    lowest = score.dtype.min
    best, category = tf.math.top_k(tf.where(allowed, score, lowest), top)  # [B, top]
    rank = tf.range(top)[None]
    is_real = (best > lowest) & (rank < top_interests[:, None])
    # Keys of unreal ranks are negative, so that they are drawn only where real ones run out.
    keys = _row_uniform(seed, top)
    drawn = tf.math.top_k(tf.where(is_real, keys, keys - 2.0), tf.minimum(width, top)).indices
    real = tf.gather(is_real, drawn, batch_dims=1) & (tf.range(tf.shape(drawn)[1])[None] < num_interests[:, None])
    drawn = tf.sort(tf.where(real, drawn, top), axis=1)  # back to best first, unreal ones last
    real = drawn < top
    at = tf.minimum(drawn, top - 1)
    pad = [[0, 0], [0, width - tf.shape(drawn)[1]]]
    return Interests(
        tf.pad(tf.where(real, tf.gather(category, at, batch_dims=1), 0), pad),
        tf.pad(tf.where(real, tf.gather(best, at, batch_dims=1), 0.0), pad),
        tf.pad(tf.where(real, drawn + 1, 0), pad),
        tf.pad(real, pad),
        tf.zeros(tf.stack([tf.shape(score)[0], width]), tf.int32),
    )


_BEST_WEIGHT = 0.75
_SEEN_GAIN = 0.8
"""Chosen on the validation window of Complete Journey (`benchmarks/bench_interests.py`): a list of 100 then keeps its
recall with fewer categories than log p(category | user) alone would take. The exact bound, log p(category | user) of at
least that of the last item in the list, takes a median of 134 of 302 categories, 185 for novel items. How often a user
returned within the category says more, but grows with the length of a history: of 20,000 events everything passed."""


def best_log_share(item_bias: np.ndarray, category_offset: np.ndarray) -> np.ndarray:
    """Log share of each category's best item within it, were all users alike, [C] float32; 0 where there is no item.

    Large categories have no item near probability 1.

    Args:
      item_bias: what an item's logit is without a user, [V].
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1].
    """
    size = np.diff(category_offset)
    best, filled = np.zeros(len(size), np.float32), size > 0
    if filled.any():
        starts = category_offset[:-1][filled]
        bias = item_bias[: category_offset[-1]].astype(np.float64)
        top = np.maximum.reduceat(bias, starts)
        bias[starts[0] :] -= np.repeat(top, size[filled])
        best[filled] = -np.log(np.add.reduceat(np.exp(bias), starts))
    return best


def estimate_best(log_share: tf.Tensor, best_share: tf.Tensor, is_seen: tf.Tensor, is_novel: tf.Tensor) -> tf.Tensor:
    """Estimate of the best log p(item | user) of each category, before any is searched: [B, C] float32.

    Args:
      log_share: log p(category | user), [B, C] float32.
      best_share: of `best_log_share`, [C] float32.
      is_seen: categories that the history holds, [B, C] bool: people return to their own items there.
      is_novel: requests for novel items, where they do not, [B] bool.
    """
    returns = is_seen & ~is_novel[:, None]
    return log_share + _BEST_WEIGHT * best_share + tf.where(returns, _SEEN_GAIN, 0.0)


def pass_threshold(
    score: tf.Tensor, best: tf.Tensor, drawable: tf.Tensor, options: RequestOptions
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What the draw takes from, and how many: of requests that name no N, all that the threshold lets in.

    Args:
      score: what interests are drawn by, [B, C] float32.
      best: of `estimate_best`, [B, C] float32.
      drawable: categories that may be drawn, [B, C] bool.
      options: of the requests.

    Returns:
      Drawable categories, [B, C] bool; N and M, [B] int32 each.
    """
    num, top, by_threshold = options.num_interests, options.top_interests, options.num_interests == 0

    def passed() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        is_best = _mark(*_best(score, drawable, tf.where(by_threshold, top, 0)), tf.shape(score))
        passes = drawable & (is_best | (best >= options.interest_threshold[:, None]))
        kept = tf.where(by_threshold[:, None], passes, drawable)
        count = tf.maximum(_count(passes), 1)
        return kept, tf.where(by_threshold, count, num), tf.where(by_threshold, count, top)

    return tf.cond(tf.reduce_any(by_threshold), passed, lambda: (drawable, num, top))


def choose_interests(
    score: tf.Tensor,
    best: tf.Tensor,
    affinity: tf.Tensor,
    is_interest: tf.Tensor,
    is_seen: tf.Tensor,
    options: RequestOptions,
) -> Interests:
    """The interests of each request: the forced, `exploration` unseen ones, the rest drawn from the top M.

    Where a request names N, all of these are N together. Where it leaves them to the threshold, forced and explored
    ones are added to those that pass.

    Args:
      score: what interests are drawn by, [B, C] float32.
      best: what the threshold is held against, of `estimate_best`, [B, C] float32.
      affinity: what unseen categories are ranked by, [B, C] float32.
      is_interest: categories that the draw may take, [B, C] bool.
      is_seen: categories that the history holds, [B, C] bool.
      options: of the requests.

    Returns:
      Interests: the drawn ones best first, then the explored, then the forced.
    """
    allowed, by_threshold = options.is_allowed, options.num_interests == 0
    drawable, num_interests, top_interests = pass_threshold(score, best, allowed & is_interest, options)

    def draw(drawable: tf.Tensor, room: tf.Tensor) -> Interests:
        return draw_interests(score, drawable, room, top_interests, options.seed)

    def with_special() -> Interests:
        is_forced = allowed & (options.forced_weight > 0)
        forced, is_wanted = _best(options.forced_weight, is_forced, _count(is_forced))
        room = tf.maximum(num_interests - _count(is_forced), 0)
        unseen = allowed & ~is_seen & ~is_forced & ~(drawable & by_threshold[:, None])
        explored, is_new = _best(
            affinity, unseen, tf.where(by_threshold, options.exploration, tf.minimum(options.exploration, room))
        )
        taken = is_forced | _mark(explored, is_new, tf.shape(score))
        left = drawable & ~taken
        drawn = draw(left, tf.where(by_threshold, tf.maximum(_count(left), 1), room - _count(is_new)))
        parts = [(drawn.category, drawn.is_real), (explored, is_new), (forced, is_wanted)]
        category, is_real = (tf.concat(part, 1) for part in zip(*parts, strict=True))
        origin = tf.concat([tf.fill(tf.shape(part), code) for code, (part, _) in enumerate(parts)], 1)
        own = tf.gather(score, category, batch_dims=1)
        return Interests(category, tf.where(is_real, own, 0.0), tf.zeros_like(category), is_real, origin)

    is_special = tf.reduce_any(options.forced_weight > 0) | tf.reduce_any(options.exploration > 0)
    # A branch, since few requests force or explore, and each of both costs as much as the draw.
    chosen = Interests(*tf.cond(is_special, with_special, lambda: draw(drawable, num_interests)))
    own = tf.gather(score, chosen.category, batch_dims=1)
    return chosen._replace(rank=tf.where(chosen.is_real, 1 + _num_better(score, allowed, own), 0))


def _num_better(score: tf.Tensor, allowed: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
    """How many allowed scores [B, C] are above each of `own` [B, N]: [B, N] int32; without a [B, N, C] array."""
    ascending = tf.sort(tf.where(allowed, -score, score.dtype.max), axis=1)
    return tf.searchsorted(ascending, -own, side="left")


def _mark(column: tf.Tensor, is_real: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """True at the real columns of each row: [B, X] int32 and bool -> `shape` bool."""
    at = tf.where(is_real)
    at = tf.stack([tf.cast(at[:, 0], tf.int32), tf.gather_nd(column, at)], 1)
    return tf.scatter_nd(at, tf.ones([tf.shape(at)[0]], tf.int32), shape) > 0


def _count(mask: tf.Tensor) -> tf.Tensor:
    """How many are true in each row, [B, n] bool -> [B] int32."""
    return tf.reduce_sum(tf.cast(mask, tf.int32), 1)


def _best(score: tf.Tensor, allowed: tf.Tensor, num: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The `num` best allowed categories of each row ([B] int32), best first: [B, n] int32, and which are real."""
    width = tf.minimum(tf.reduce_max(num), tf.shape(score)[1])
    best, category = tf.math.top_k(tf.where(allowed, score, score.dtype.min), width)
    is_real = (best > score.dtype.min) & (tf.range(width)[None] < num[:, None])
    return tf.where(is_real, category, 0), is_real


def _row_uniform(seed: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in [0, 1) that depend on (row's seed, column) alone, [B, size] float32.

    One stateless draw takes one seed; a hash per row (splitmix64) gives each row a stream of its own in one pass.
    """
    column = tf.cast(tf.range(size), tf.uint64)
    state = tf.cast(seed, tf.uint64)[:, None] * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    state += (column + tf.constant(1, tf.uint64)) * tf.constant(0xD1B54A32D192ED03, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(shift, tf.uint64)))
        state *= tf.constant(factor, tf.uint64)
    state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(31, tf.uint64)))
    top_bits = tf.bitwise.right_shift(state, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(top_bits, tf.int64), tf.float32) / float(1 << 24)
