"""What a call must hold to before anything is computed for it: its columns fit each other, and the limits.

Every column waits for these checks (`admit`), so that a call which asks for too much is refused before the memory for
it is asked for: TensorFlow runs operations as soon as their inputs are there, in no order of the source.
"""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.config.config import RetrievalConfig

PER_CATEGORY = 30
"""Candidates that a (row, category) pair counts for: its features and its score take as much memory."""

_PER_INTEREST = 1000
"""Candidates that a searched interest counts for at least: its subsequence and its encoding take as much."""

LATEST_S = 100_000_000_000
"""Seconds since 1970 that no time lies beyond (the year 5138): what does is milliseconds, or less."""

_YEAR_S = 366 * 86_400
_YEARS_BEFORE, _YEARS_AFTER = 40, 100
"""A request lies this near to the end of what the model was trained on: other units of time do not."""


class Bounds(NamedTuple):
    """What a call may ask for.

    Attributes:
      max_k: longest list.
      max_candidates: rows x interests x k, and rows x categories x 30.
      max_values: of one column.
      num_categories: C.
      least_k: what an interest counts for at least, however short its list.
      cut: when training ended, seconds UTC.
    """

    max_k: int
    max_candidates: int
    max_values: int
    num_categories: int
    least_k: int
    cut: int


def bounds_of(retrieval: RetrievalConfig, num_categories: int, widest: int, cut: int) -> Bounds:
    """The bounds that an export's flags set.

    Args:
      retrieval: the flags.
      num_categories: C.
      widest: items of the largest category that is scored side by side with others.
      cut: when training ended, seconds UTC.
    """
    least_k = max(_PER_INTEREST, widest // 2)  # a logit takes half of what a candidate does
    return Bounds(retrieval.max_k, retrieval.max_candidates, retrieval.max_values, num_categories, least_k, cut)


def require(condition: tf.Tensor, *words: str | tf.Tensor) -> list[tf.Operation]:
    """Fails the request with InvalidArgument and these words unless `condition` holds, scalar bool.

    Returns:
      What must wait for it, for `tf.control_dependencies`; nothing outside a graph. Without `tf.debugging.Assert`'s
      branch around the words, which costs each request more than the words do.
    """
    done = tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(word) for word in words], summarize=8)
    return [done] if done is not None else []


def admit(
    columns: Mapping[str, tf.Tensor], optional: Mapping[str, tf.Tensor], bounds: Bounds, lists: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """The same columns, once they are checked.

    Args:
      columns: of one signature, by name.
      optional: those that may hold one row for all requests.
      bounds: what a call may ask for.
      lists: how many lists of length k a row asks for, [n] int32; None where the signature returns none.

    Returns:
      `columns`, each waiting for the checks.
    """
    sizes, rows = _check_sizes(columns, optional, bounds)
    # What is counted from rows waits for them: two columns that differ have no number of rows.
    with tf.control_dependencies(sizes):
        checks = [*sizes, *_check_work(columns, bounds, tf.identity(rows), lists), *_check_times(columns, bounds)]
    with tf.control_dependencies(checks):
        return {name: tf.identity(column) for name, column in columns.items()}


def _check_sizes(
    columns: Mapping[str, tf.Tensor], optional: Mapping[str, tf.Tensor], bounds: Bounds
) -> tuple[list[tf.Operation], tf.Tensor]:
    """One row per request in every column, or one for all in an optional one; and no column too large."""
    counts = {name: tf.shape(column, tf.int64)[0] for name, column in columns.items()}
    rows = next(counts[name] for name in columns if name not in optional)
    fits = [
        (count == rows) | (count == 1) if name in optional else count == rows
        for name, count in counts.items()
        if count is not rows
    ]
    counted = [word for name, count in counts.items() for word in (f"{name}:", count)]
    says = "columns of one call must have one row per request (optional ones: or one row for all); rows of each column:"
    checks = require(tf.reduce_all(tf.stack(fits)), says, *counted) if fits else []
    # A list for all rows is as large as one for each: it is held against every row.
    width = {name: tf.shape(column, tf.int64)[1] for name, column in columns.items() if column.shape.rank == 2}
    longest = tf.reduce_max(tf.stack([*width.values(), tf.constant(1, tf.int64)]))
    says = (
        f"rows x the longest row of a column must be at most {bounds.max_values} (export --max_values), padding "
        "included; got rows:"
    )
    counted = [word for name, size in width.items() for word in (f"{name}:", size)]
    return checks + require(rows * longest <= bounds.max_values, says, rows, "widths:", *counted), rows


def _check_work(
    columns: Mapping[str, tf.Tensor], bounds: Bounds, rows: tf.Tensor, lists: tf.Tensor | None
) -> list[tf.Operation]:
    """Rows x interests x k, and rows x categories."""
    if "history_item_id" not in columns:
        return []
    limit, num_categories = f"{bounds.max_candidates} (export --max_candidates)", bounds.num_categories
    checks = require(
        rows * num_categories * PER_CATEGORY <= bounds.max_candidates,
        f"rows x categories x {PER_CATEGORY} of one call must be at most {limit}; got rows:",
        *(rows, "categories:", num_categories),
    )
    if "k" not in columns:
        return checks
    k = columns["k"]
    checks += require(tf.reduce_all(k <= bounds.max_k), f"`k` must be at most {bounds.max_k} (export --max_k); got", k)
    if lists is None:
        return checks
    most = tf.clip_by_value(tf.reduce_max(lists), 1, num_categories)
    lists = rows * tf.cast(most, tf.int64)
    return checks + _check_lists(bounds, rows, lists, lists, k, "interests:", most)


def admit_interests(is_real: tf.Tensor, k: tf.Tensor, bounds: Bounds) -> list[tf.Operation]:
    """Fails where the interests that were chosen are too many together: `num_interests` of 0 says no number before.

    Args:
      is_real: the interests of B requests, [B, N] bool.
      k: of the requests, [B] int32.
      bounds: what a call may ask for.
    """
    rows, num = tf.shape(is_real, tf.int64)[0], tf.math.count_nonzero(is_real)
    return _check_lists(bounds, rows, num, tf.size(is_real, tf.int64), k, "interests of all rows:", num)


def _check_lists(
    bounds: Bounds, rows: tf.Tensor, num: tf.Tensor, padded: tf.Tensor, k: tf.Tensor, words: str, told: tf.Tensor
) -> list[tf.Operation]:
    """Lists of length k of one call, `num` of them, and so many where each row has as many as the widest."""
    longest = tf.clip_by_value(tf.reduce_max(k), 1, bounds.max_k)
    says = (
        f"rows x interests x k of one call must be at most {bounds.max_candidates} (export --max_candidates), k "
        f"counting as {bounds.least_k} or more: ask for fewer rows, a lower `num_interests` (0: as many as pass "
        "`interest_threshold`) or a lower `k`; got rows:"
    )
    counted = tf.maximum(longest, bounds.least_k)
    product = tf.maximum(num * tf.cast(counted, tf.int64), padded * tf.cast(longest, tf.int64))
    return require(product <= bounds.max_candidates, says, rows, words, told, "k:", counted)


def _check_times(columns: Mapping[str, tf.Tensor], bounds: Bounds) -> list[tf.Operation]:
    """Seconds since 1970: a time in milliseconds, or of another log, would silently make another list."""
    if "request_timestamp" not in columns:
        return []
    times, as_of = columns["history_timestamp"], columns["request_timestamp"]
    latest = min(bounds.cut + _YEARS_AFTER * _YEAR_S, LATEST_S)
    earliest = max(bounds.cut - _YEARS_BEFORE * _YEAR_S, 1)
    unit = "seconds since 1970 UTC (milliseconds are divided by 1000)"
    return [
        *require(
            tf.reduce_all((as_of >= earliest) & (as_of <= latest)),
            f"`request_timestamp` must be {unit}, from {earliest} to {latest} for this model; got",
            as_of,
        ),
        *require(
            tf.reduce_all((times >= 0) & (times <= latest)),
            f"`history_timestamp` must be {unit}, from 1 to {latest} for this model, or 0 for padding; "
            "the least and the greatest:",
            *(tf.reduce_min(times), tf.reduce_max(times)),
        ),
    ]
