"""What a request may ask for: how many interests, which categories, what to leave out, how to merge."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.config.config import RetrievalConfig
from longretriever_tf.config.input_names import BANDIT_PRIOR
from longretriever_tf.retrieval.admission import require
from longretriever_tf.retrieval.bandit import BANDITS, Bandit, read_bandit
from longretriever_tf.retrieval.id_tables import IdTable
from longretriever_tf.retrieval.merge import MERGES

DEFAULT_K = 100

MAX_WEIGHT = 1e9
"""Of a history's event: sums over a history stay finite."""

_CATEGORY_LISTS = ("allowed_category", "forbidden_category", "forced_category", "reward_category")


class RequestOptions(NamedTuple):
    """The optional columns of B requests, looked up.

    Attributes:
      k: list length, [B] int32.
      num_interests: N, [B] int32; 0: the best M, and every other category that the threshold lets in.
      top_interests: M, [B] int32, at least N and at least 1.
      interest_threshold: least estimate of a category's best log p(item | user) that is searched where N is 0, [B]
        float32.
      seed: of the draw, [B] int64.
      exploration: how many of the N go to categories that the user has not seen, [B] int32; added where N is 0.
      is_allowed: categories that may be searched, [B, C] bool.
      forced_weight: above 0 where a category must be searched; its probability is multiplied by it, [B, C] float32.
      excluded: item index of items to leave out, [B, E] int32; UNKNOWN is no one.
      is_novel: leave out everything that the history holds, and ask for novel items, [B] bool.
      merge: position of the strategy in `merge.MERGES`, [B] int32.
      bandit: whose shares are drawn, and the rewards.
      unknown_category: names in the lists of categories that the model does not know, [B, U] string, "" where padded.
      num_unknown_excluded: items to leave out that the model does not know, [B] int32.
    """

    k: tf.Tensor
    num_interests: tf.Tensor
    top_interests: tf.Tensor
    interest_threshold: tf.Tensor
    seed: tf.Tensor
    exploration: tf.Tensor
    is_allowed: tf.Tensor
    forced_weight: tf.Tensor
    excluded: tf.Tensor
    is_novel: tf.Tensor
    merge: tf.Tensor
    bandit: Bandit
    unknown_category: tf.Tensor
    num_unknown_excluded: tf.Tensor


def default_columns(
    retrieval: RetrievalConfig,
    item_id_dtype: tf.DType,
    has_actions: bool = False,
    event_features: Iterable[str] = (),
) -> dict[str, tf.Tensor]:
    """Each optional column with its default: one value for all requests, [1], or an empty list of them, [1, 0].

    Args:
      retrieval: of the run.
      item_id_dtype: int64 or string.
      has_actions: the model was trained on a log with actions.
      event_features: columns of --event_features of the training; "" is unknown.
    """

    def empty(kind: tf.DType) -> tf.Tensor:
        return tf.zeros([1, 0], kind) if kind != tf.string else tf.constant([], tf.string, [1, 0])

    return {
        "k": tf.constant([DEFAULT_K], tf.int32),
        "num_interests": tf.constant([retrieval.num_interests], tf.int32),
        "top_interests": tf.constant([retrieval.top_interests], tf.int32),
        "interest_threshold": tf.constant([retrieval.interest_threshold], tf.float32),
        "seed": tf.constant([-1], tf.int64),
        "exploration": tf.constant([0], tf.int32),
        "merge": tf.constant([retrieval.merge]),
        "goal": tf.constant(["all"]),
        "history_weight": tf.constant([[1.0]]),
        **({"history_action": tf.constant([[""]])} if has_actions else {}),
        "exclude_item_id": empty(item_id_dtype),
        "allowed_category": empty(tf.string),
        "forbidden_category": empty(tf.string),
        "forced_category": empty(tf.string),
        "forced_weight": empty(tf.float32),
        "bandit": tf.constant(BANDITS[:1]),
        "bandit_prior": tf.constant([BANDIT_PRIOR], tf.float32),
        "reward_category": empty(tf.string),
        "reward_trials": empty(tf.float32),
        "reward_successes": empty(tf.float32),
        **{name: tf.constant([""]) for name in event_features},
    }


def read_request_options(
    columns: Mapping[str, tf.Tensor],
    num_requests: tf.Tensor,
    categories: IdTable,
    items: IdTable,
    num_categories: int,
    strict: bool,
) -> RequestOptions:
    """Looks the optional columns up and brings them to one row per request.

    Impossible values are brought to the nearest possible one (k and M to 1, N below 0 to 1, N to C, M to N); unknown
    names in a list match nothing, and the answer names them; an unknown merge, goal or bandit fails with
    InvalidArgument, naming the value, and so do a threshold that is no number and rewards that are no counts.

    Args:
      columns: `default_columns`, or what the request says instead.
      num_requests: B.
      categories: name to index.
      items: raw id to index.
      num_categories: C.
      strict: fail with InvalidArgument where a list holds an unknown name.
    """
    batch, table = num_requests[None], tf.stack([num_requests, num_categories])

    def per_request(name: str) -> tf.Tensor:
        return tf.broadcast_to(columns[name], batch)

    index = {name: categories.lookup(columns[name]) for name in _CATEGORY_LISTS}
    one = tf.ones([1, 1])
    allowed, forbidden = (_by_category(index[name], one, num_categories) > 0 for name in _CATEGORY_LISTS[:2])
    # A list that is empty, or holds "" alone, allows everything: REST rows pad their lists with "".
    says_nothing = tf.reduce_all(columns["allowed_category"] == "", 1, keepdims=True)
    excluded = items.lookup(columns["exclude_item_id"])
    forced = _forced_weight(index["forced_category"], columns["forced_weight"], num_categories)
    known = (tf.range(num_categories) >= schema.FIRST_KNOWN)[None]
    num_interests = per_request("num_interests")
    num_interests = tf.where(num_interests < 0, 1, tf.minimum(num_interests, num_categories))
    unknown = [unknown_names(columns[name], index[name], name, strict) for name in _CATEGORY_LISTS]
    is_asked = _choice(per_request("bandit"), BANDITS, "bandit") > 0
    seed = per_request("seed")
    fresh = tf.random.uniform(tf.shape(seed), maxval=tf.int64.max, dtype=tf.int64)
    return RequestOptions(
        k=tf.maximum(per_request("k"), 1),
        num_interests=num_interests,
        top_interests=tf.maximum(per_request("top_interests"), tf.maximum(num_interests, 1)),
        interest_threshold=_number(per_request("interest_threshold"), "interest_threshold"),
        seed=tf.where(seed < 0, fresh, seed),
        exploration=tf.clip_by_value(
            per_request("exploration"), 0, tf.where(num_interests > 0, num_interests, num_categories)
        ),
        is_allowed=tf.broadcast_to(known & (allowed | says_nothing) & ~forbidden, table),
        forced_weight=tf.broadcast_to(forced, table),
        excluded=tf.broadcast_to(excluded, tf.stack([num_requests, tf.shape(excluded)[1]])),
        is_novel=_choice(per_request("goal"), ("all", "novel"), "goal") == 1,
        merge=_choice(per_request("merge"), tuple(MERGES), "merge"),
        bandit=read_bandit(columns, is_asked, per_request("bandit_prior"), index["reward_category"]),
        unknown_category=_join_names(unknown, num_requests),
        num_unknown_excluded=tf.broadcast_to(_count_unknown(columns["exclude_item_id"], excluded, strict), batch),
    )


def check_actions(action: tf.Tensor, item_id: tf.Tensor) -> list[tf.Operation]:
    """Fails where a history's actions are not one for each event, [B, T], or one for all, [B, 1] or [1, 1]."""
    shape, given = tf.shape(item_id), tf.shape(action)
    says = "`history_action` must hold one action per `history_item_id`, in its shape; got"
    return require(tf.reduce_all((given == shape) | (given == 1)), says, given, "for", shape)


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


def _forced_weight(index: tf.Tensor, weights: tf.Tensor, num_categories: int) -> tf.Tensor:
    """[B or 1, G] categories and as many weights, or none (1.0 each) -> [B or 1, C] float32."""
    named, given = tf.shape(index)[1], tf.shape(weights)[1]
    says = "`forced_weight` must hold one weight per `forced_category`, or none; got"
    fits = require((given == 0) | (given == named), says, given, "for", named)
    require(tf.reduce_all(weights <= MAX_WEIGHT), f"`forced_weight` must be numbers up to {MAX_WEIGHT:g}; got", weights)
    with tf.control_dependencies(fits):
        weights = tf.cond(given == 0, lambda: tf.ones(tf.shape(index)), lambda: tf.maximum(weights, 0.0))
    return _by_category(index, weights, num_categories)


def _by_category(index: tf.Tensor, value: tf.Tensor, num_categories: int) -> tf.Tensor:
    """The largest value that a list gives each category, 0 where it names none: [b, G] each -> [b, C] float32.

    Padding and unknown names give nothing. Long lists cost their own length, not that times C.
    """
    shape = tf.broadcast_dynamic_shape(tf.shape(index), tf.shape(value))
    index, value = tf.broadcast_to(index, shape), tf.broadcast_to(value, shape)
    cell = tf.range(shape[0])[:, None] * num_categories + index
    cell = tf.where(index >= schema.FIRST_KNOWN, cell, -1)  # negative segments are left out
    largest = tf.math.unsorted_segment_max(value, cell, shape[0] * num_categories)
    return tf.reshape(tf.maximum(largest, 0.0), [shape[0], num_categories])


def unknown_names(names: tf.Tensor, index: tf.Tensor, column: str, strict: bool) -> tf.Tensor:
    """The names that are no category, "" elsewhere, in the shape of `names`; "" is padding, and unknown to no one.

    Args:
      names: any shape, string.
      index: what they were looked up as.
      column: what the request calls them.
      strict: fail with InvalidArgument where there is one.
    """
    unknown = tf.where(index < schema.FIRST_KNOWN, names, "")
    says = f"`{column}` names categories that this model does not know (export --strict):"
    checks = require(tf.reduce_all(unknown == ""), says, tf.boolean_mask(unknown, unknown != "")) if strict else []
    with tf.control_dependencies(checks):
        return tf.identity(unknown)


def _join_names(lists: list[tf.Tensor], num_requests: tf.Tensor) -> tf.Tensor:
    """The names of several lists of each request, [b, n] each, "" elsewhere -> [B, U], as wide as the most."""
    nothing = tf.fill(tf.stack([num_requests, 0]), "")
    is_any = tf.reduce_any([tf.reduce_any(names != "") for names in lists])

    def join() -> tf.Tensor:
        wide = [tf.broadcast_to(names, tf.stack([num_requests, tf.shape(names)[1]])) for names in lists]
        every = tf.concat(wide, 1)
        return tf.ragged.boolean_mask(every, every != "").to_tensor("")

    # A branch, since few requests name anything, and fewer what is unknown.
    return tf.ensure_shape(tf.cond(is_any, join, lambda: nothing), [None, None])


def _count_unknown(raw: tf.Tensor, index: tf.Tensor, strict: bool) -> tf.Tensor:
    """Items to leave out that are none of the model's, [b, E] -> [b] int32; what pads such lists is not counted."""
    padding = tf.constant([""] if raw.dtype == tf.string else [0, raw.dtype.min], raw.dtype)
    is_unknown = (index < schema.FIRST_KNOWN) & tf.reduce_all(raw[:, :, None] != padding, 2)
    checks = []
    if strict:
        says = "`exclude_item_id` names items that this model does not know (export --strict):"
        checks = require(~tf.reduce_any(is_unknown), says, tf.boolean_mask(raw, is_unknown))
    with tf.control_dependencies(checks):
        return tf.reduce_sum(tf.cast(is_unknown, tf.int32), 1)


def _number(column: tf.Tensor, name: str) -> tf.Tensor:
    """The column, once it is known that it holds numbers."""
    says = f"`{name}` must be a number; got"
    with tf.control_dependencies(require(~tf.reduce_any(tf.math.is_nan(column)), says, column)):
        return tf.identity(column)


def _choice(column: tf.Tensor, options: tuple[str, ...], name: str) -> tf.Tensor:
    """Position of each value among `options`, [B] int32."""
    hits = column[:, None] == tf.constant(options)[None]
    known = tf.reduce_all(tf.reduce_any(hits, 1))
    require(known, f"`{name}` must be one of {', '.join(options)}; got", column)
    return tf.argmax(tf.cast(hits, tf.int32), 1, output_type=tf.int32)
