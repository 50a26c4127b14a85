"""What a request may turn: how many interests, which categories, what to leave out, how to merge."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf import schema
from longretriever_tf.config import RetrievalConfig
from longretriever_tf.retrieval.merge import MERGES

DEFAULT_K = 100


MAX_WEIGHT = 1e9
"""Of a history's event: sums over a life stay finite."""


def require(condition: tf.Tensor, *words: str | tf.Tensor) -> list[tf.Operation]:
    """Fails the request with InvalidArgument and these words unless `condition` holds, scalar bool.

    Returns:
      What must wait for it, for `tf.control_dependencies`; nothing outside a graph. Without `tf.debugging.Assert`'s
      branch around the words, which costs each request more than the words do.
    """
    done = tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(word) for word in words], summarize=8)
    return [done] if done is not None else []


class Controls(NamedTuple):
    """The optional columns of B requests, looked up.

    Attributes:
      k: list length, [B] int32.
      num_interests: N, [B] int32.
      top_interests: M, [B] int32, at least N.
      seed: of the draw, [B] int64.
      exploration: how many of the N go to categories that the user never touched, [B] int32.
      is_allowed: categories that may be searched, [B, C] bool.
      forced_weight: above 0 where a category must be searched; its probability is multiplied by it, [B, C] float32.
      excluded: item index of items to leave out, [B, E] int32; UNKNOWN is no one.
      is_novel: leave out everything that the history holds, and ask for novel items, [B] bool.
      merge: position of the strategy in `merge.MERGES`, [B] int32.
    """

    k: tf.Tensor
    num_interests: tf.Tensor
    top_interests: tf.Tensor
    seed: tf.Tensor
    exploration: tf.Tensor
    is_allowed: tf.Tensor
    forced_weight: tf.Tensor
    excluded: tf.Tensor
    is_novel: tf.Tensor
    merge: tf.Tensor


def default_columns(retrieval: RetrievalConfig, item_id_dtype: tf.DType) -> dict[str, tf.Tensor]:
    """Each optional column with its default: one value for all requests, [1], or an empty list of them, [1, 0]."""

    def empty(kind: tf.DType) -> tf.Tensor:
        return tf.zeros([1, 0], kind) if kind != tf.string else tf.constant([], tf.string, [1, 0])

    return {
        "k": tf.constant([DEFAULT_K], tf.int32),
        "num_interests": tf.constant([retrieval.num_interests], tf.int32),
        "top_interests": tf.constant([retrieval.top_interests], tf.int32),
        "seed": tf.constant([-1], tf.int64),
        "exploration": tf.constant([0], tf.int32),
        "merge": tf.constant([retrieval.merge]),
        "goal": tf.constant(["all"]),
        "history_weight": tf.constant([[1.0]]),
        "exclude_item_id": empty(item_id_dtype),
        "allowed_category": empty(tf.string),
        "forbidden_category": empty(tf.string),
        "forced_category": empty(tf.string),
        "forced_weight": empty(tf.float32),
    }


def read_controls(
    columns: Mapping[str, tf.Tensor],
    num_requests: tf.Tensor,
    categories: tf.lookup.StaticHashTable,
    items: tf.lookup.StaticHashTable,
    num_categories: int,
    max_k: int,
) -> Controls:
    """Looks the optional columns up and brings them to one row per request.

    Impossible values are brought to the nearest possible one (k and N to 1, N to C, M to N); unknown names in a list
    are no one; an unknown merge or goal, or a k above the limit, fails with InvalidArgument, naming the value.

    Args:
      columns: `default_columns`, or what the request says instead.
      num_requests: B.
      categories: name to index.
      items: raw id to index.
      num_categories: C.
      max_k: the longest list that may be asked for: the answer and what is sorted for it grow with k.
    """
    batch, table = num_requests[None], tf.stack([num_requests, num_categories])

    def per_request(name: str) -> tf.Tensor:
        return tf.broadcast_to(columns[name], batch)

    def mask(name: str) -> tf.Tensor:
        """Categories that a list names, [B or 1, C] bool."""
        return tf.reduce_any(tf.one_hot(categories.lookup(columns[name]), num_categories, True, False), 1)

    allowed, forbidden = mask("allowed_category"), mask("forbidden_category")
    # A list that is empty, or holds "" alone, allows everything: REST rows pad their lists with "".
    says_nothing = tf.reduce_all(columns["allowed_category"] == "", 1, keepdims=True)
    excluded = items.lookup(columns["exclude_item_id"])
    forced = _forced_weight(columns["forced_category"], columns["forced_weight"], categories, num_categories)
    known = (tf.range(num_categories) >= schema.FIRST_KNOWN)[None]
    num_interests = tf.clip_by_value(per_request("num_interests"), 1, num_categories)
    k = per_request("k")
    require(tf.reduce_all(k <= max_k), f"`k` must be at most {max_k} (export --max_k); got", k)
    seed = per_request("seed")
    fresh = tf.random.uniform(tf.shape(seed), maxval=tf.int64.max, dtype=tf.int64)
    return Controls(
        # Clipped although it is refused: nothing makes the refusal come before the memory is asked for.
        k=tf.clip_by_value(k, 1, max_k),
        num_interests=num_interests,
        top_interests=tf.maximum(per_request("top_interests"), num_interests),
        seed=tf.where(seed < 0, fresh, seed),
        exploration=tf.clip_by_value(per_request("exploration"), 0, num_interests),
        is_allowed=tf.broadcast_to(known & (allowed | says_nothing) & ~forbidden, table),
        forced_weight=tf.broadcast_to(forced, table),
        excluded=tf.broadcast_to(excluded, tf.stack([num_requests, tf.shape(excluded)[1]])),
        is_novel=_choice(per_request("goal"), ("all", "novel"), "goal") == 1,
        merge=_choice(per_request("merge"), tuple(MERGES), "merge"),
    )


def check_history(item_id: tf.Tensor, timestamp: tf.Tensor, weight: tf.Tensor) -> list[tf.Operation]:
    """Fails where the columns of a history do not belong together, or weights are none; see `require`.

    Args:
      item_id: [B, T].
      timestamp: [B, T].
      weight: [B, T], [B, 1], or one for all, [1, 1].
    """
    shape, times, weights = tf.shape(item_id), tf.shape(timestamp), tf.shape(weight)
    one_each = "`{}` must hold one {} per `history_item_id`, in its shape; got"
    good = (weight >= 0) & (weight <= MAX_WEIGHT)  # NaN is neither
    return [
        *require(tf.reduce_all(times == shape), one_each.format("history_timestamp", "time"), times, "for", shape),
        *require(
            tf.reduce_all((weights == shape) | (weights == 1)),
            *(one_each.format("history_weight", "weight"), weights, "for", shape),
        ),
        *require(tf.reduce_all(good), f"`history_weight` must be numbers from 0 to {MAX_WEIGHT:g}; got", weight),
    ]


def _forced_weight(
    names: tf.Tensor, weights: tf.Tensor, categories: tf.lookup.StaticHashTable, num_categories: int
) -> tf.Tensor:
    """[B or 1, G] names and as many weights, or none (1.0 each) -> [B or 1, C] float32."""
    named, given = tf.shape(names)[1], tf.shape(weights)[1]
    says = "`forced_weight` must hold one weight per `forced_category`, or none; got"
    fits = require((given == 0) | (given == named), says, given, "for", named)
    require(tf.reduce_all(weights <= MAX_WEIGHT), f"`forced_weight` must be numbers up to {MAX_WEIGHT:g}; got", weights)
    with tf.control_dependencies(fits):
        weights = tf.cond(given == 0, lambda: tf.ones(tf.shape(names)), lambda: tf.maximum(weights, 0.0))
    index = categories.lookup(names)
    weights = tf.where((index >= schema.FIRST_KNOWN) & (names != ""), weights, 0.0)
    forced = tf.one_hot(index, num_categories) * weights[:, :, None]
    return tf.reduce_max(tf.pad(forced, [[0, 0], [0, 1], [0, 0]]), 1)


def _choice(column: tf.Tensor, options: tuple[str, ...], name: str) -> tf.Tensor:
    """Position of each value among `options`, [B] int32."""
    hits = column[:, None] == tf.constant(options)[None]
    known = tf.reduce_all(tf.reduce_any(hits, 1))
    require(known, f"`{name}` must be one of {', '.join(options)}; got", column)
    return tf.argmax(tf.cast(hits, tf.int32), 1, output_type=tf.int32)
