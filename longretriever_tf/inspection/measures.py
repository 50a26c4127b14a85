"""A log in arrays: how long histories are, what hard search would find, what a batch would learn from.

Pure numpy over a `LifelongLog`; `inspection.statistics` turns the arrays into numbers, `inspection.plots` into plots.
"""

import dataclasses

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.text import code_text, find_rows
from longretriever_tf.datasets import build_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.splits import SPLITS, Cuts


@dataclasses.dataclass(frozen=True)
class Contexts:
    """One item column, read as the context.

    Attributes:
      column: its name.
      name: the values, [C] of str, sorted.
      item_category: row of `name` for each item of the table, [V] int64.
    """

    column: str
    name: np.ndarray
    item_category: np.ndarray


@dataclasses.dataclass(frozen=True)
class Categories:
    """Histories cut by category: the subsequences that hard search reads and the items that a batch draws from.

    Attributes:
      contexts: the context column.
      categories_per_user: distinct categories of each user with an event, [U] int64.
      subsequence_length: events of each (user, category) that has one, [R] int64.
      num_earlier: behaviors of its own category that a hard search strictly before each event finds, without the
        bound L, [E] int64, in no stated order.
      read_age: how many later events its user has, for each event among the latest L of its (user, category): the
        events that hard search reads at the log's end, [n] int64.
      items_per_category: items with an event, [C] int64; 0 for a category that only the item table names.
      events_per_category: [C] int64.
    """

    contexts: Contexts
    categories_per_user: np.ndarray
    subsequence_length: np.ndarray
    num_earlier: np.ndarray
    read_age: np.ndarray
    items_per_category: np.ndarray
    events_per_category: np.ndarray


@dataclasses.dataclass(frozen=True)
class HistoryMeasures:
    """The whole log, all time; users, items and categories without an event count nowhere.

    Attributes:
      categories: histories by category, under the log's own context.
      events_per_user: by user row, users without an event left out, [U] int64.
      is_repeat: whether the user had this item strictly before, [E] bool.
      day_start: first second of the first day, UTC.
      events_per_day, repeats_per_day: [days] int64.
    """

    categories: Categories
    events_per_user: np.ndarray
    is_repeat: np.ndarray
    day_start: int
    events_per_day: np.ndarray
    repeats_per_day: np.ndarray


@dataclasses.dataclass(frozen=True)
class Window:
    """The targets of an evaluation window: the distinct items that a user takes in it.

    A pair (user, item) counts as a target if the user has a history before the window and the item an event before it.

    Attributes:
      start, stop: seconds UTC, start included, stop not.
      num_events, num_users: all that the window holds, of every action.
      num_pairs: distinct (user, item), of target actions where the log has some.
      num_new_user_pairs: pairs of users without a history before the window: no target.
      num_new_item_pairs: of the others, pairs whose item has no event before the window: no target.
      target_user, target_item: rows of the user and of the item of each target, [P] int64.
      is_novel: whether the user never had the item before the window, [P] bool.
      interest_rank: rank of the item's category among the user's categories by eq. 3 at the window's start, 0 the
        best, ties by name; -1 for a category that the user has never seen, [P] int64.
    """

    start: int
    stop: int
    num_events: int
    num_users: int
    num_pairs: int
    num_new_user_pairs: int
    num_new_item_pairs: int
    target_user: np.ndarray
    target_item: np.ndarray
    is_novel: np.ndarray
    interest_rank: np.ndarray


def read_contexts(log: LifelongLog, column: str) -> Contexts:
    """The item column as categories; empty values are a category of their own (`build_log.fill_missing`)."""
    return Contexts(column, *code_text(build_log.fill_missing(log.items.features[column])))


def measure_history(log: LifelongLog, contexts: Contexts, max_length: int) -> HistoryMeasures:
    """Measures the whole log; O(E log E).

    Args:
      log: a log with at least one event.
      contexts: which column is the category.
      max_length: L, the bound of hard search.
    """
    assert log.num_events, "an empty log has no history"
    events_per_user, is_repeat = np.diff(log.offset), _find_repeats(log)
    first_day, last_day = int(log.timestamp.min()) // schema.DAY_S, int(log.timestamp.max()) // schema.DAY_S
    day = log.timestamp // schema.DAY_S - first_day
    num_days = last_day - first_day + 1
    return HistoryMeasures(
        categories=measure_categories(log, contexts, max_length),
        events_per_user=events_per_user[events_per_user > 0],
        is_repeat=is_repeat,
        day_start=first_day * schema.DAY_S,
        events_per_day=np.bincount(day, minlength=num_days),
        repeats_per_day=np.bincount(day[is_repeat], minlength=num_days),
    )


def _find_repeats(log: LifelongLog) -> np.ndarray:
    """Whether the user had the item at a strictly earlier time, [E] bool."""
    order, start = _sorted_segments(log.event_user().astype(np.int64) * len(log.items.item_id) + log.item_row)
    first = np.repeat(log.timestamp[order[start]], np.diff(start, append=len(order)))
    is_repeat = np.empty(len(order), bool)
    is_repeat[order] = log.timestamp[order] > first
    return is_repeat


def measure_categories(log: LifelongLog, contexts: Contexts, max_length: int) -> Categories:
    """Measures the whole log with `contexts` as its category; O(E log E)."""
    num_events, num_categories = log.num_events, len(contexts.name)
    user, category = log.event_user(), contexts.item_category[log.item_row]
    order, start = _sorted_segments(user * np.int64(num_categories) + category)
    length = np.diff(start, append=num_events)
    num_later = (log.offset[user + 1] - 1 - np.arange(num_events))[order]
    from_end = np.repeat(start + length, length) - np.arange(num_events)  # 1 is the segment's latest
    per_user = np.bincount(user[order[start]], minlength=log.num_users)
    has_event = np.bincount(log.item_row, minlength=len(log.items.item_id)) > 0
    return Categories(
        contexts=contexts,
        categories_per_user=per_user[per_user > 0],
        subsequence_length=length,
        num_earlier=_count_earlier(log.timestamp[order], start, length),
        read_age=num_later[from_end <= max_length],
        items_per_category=np.bincount(contexts.item_category[has_event], minlength=num_categories),
        events_per_category=np.bincount(category, minlength=num_categories),
    )


def _sorted_segments(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order that sorts `key`, stable within equal keys, [n]; where the segment of each key starts in it."""
    order = np.argsort(key, kind="stable")
    return order, np.flatnonzero(np.diff(key[order], prepend=-1))


def _count_earlier(timestamp: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Events of the same segment strictly before each event, [E]; events of one time have the same count."""
    position = np.arange(len(timestamp))
    is_time = np.diff(timestamp, prepend=timestamp[0] - 1) != 0
    is_time[start] = True
    return np.maximum.accumulate(np.where(is_time, position, 0)) - np.repeat(start, length)


def taken_events(log: LifelongLog) -> np.ndarray:
    """The events that are to be retrieved, [E] bool: of target actions; all where the log has none."""
    return np.ones(log.num_events, bool) if log.is_target is None else log.is_target


def measure_windows(log: LifelongLog, contexts: Contexts, cuts: Cuts, day_floor: float) -> dict[str, Window]:
    """The validation and the test window by name; the history of each is everything before it."""
    return {split: measure_window(log, contexts, *cuts.window_of(split), day_floor) for split in SPLITS}


def measure_window(log: LifelongLog, contexts: Contexts, start: int, stop: int, day_floor: float) -> Window:
    """Measures the targets of `[start, stop)`; eq. 3 is read at `start`, its days at least `day_floor`."""
    user = log.event_user().astype(np.int64)
    is_past, is_inside = log.timestamp < start, (log.timestamp >= start) & (log.timestamp < stop)
    num_items = len(log.items.item_id)
    key = user * num_items + log.item_row
    taken = taken_events(log)
    pairs = _distinct(key[is_inside & taken])
    pair_user, pair_item = pairs // num_items, pairs % num_items
    is_known_user = np.bincount(user[is_past], minlength=log.num_users)[pair_user] > 0
    is_known_item = np.bincount(log.item_row[is_past], minlength=num_items)[pair_item] > 0
    is_target = is_known_user & is_known_item
    target_user, target_item = pair_user[is_target], pair_item[is_target]
    return Window(
        start=start,
        stop=stop,
        num_events=int(is_inside.sum()),
        num_users=len(_distinct(user[is_inside])),
        num_pairs=len(pairs),
        num_new_user_pairs=int((~is_known_user).sum()),
        num_new_item_pairs=int((is_known_user & ~is_known_item).sum()),
        target_user=target_user,
        target_item=target_item,
        is_novel=find_rows(_distinct(key[is_past & taken]), pairs[is_target]) < 0,
        interest_rank=rank_targets(log, contexts, start, target_user, target_item, day_floor),
    )


def rank_targets(
    log: LifelongLog, contexts: Contexts, start: int, target_user: np.ndarray, target_item: np.ndarray, day_floor: float
) -> np.ndarray:
    """Rank of each target's category among its user's by eq. 3 at `start`, [P] int64; -1 where never seen."""
    num_categories, is_past = len(contexts.name), log.timestamp < start
    key = log.event_user()[is_past].astype(np.int64) * num_categories + contexts.item_category[log.item_row[is_past]]
    days = (start - log.timestamp[is_past]) / schema.DAY_S
    seen, rank = _rank_interests(key, num_categories, log.event_weight[is_past] / np.maximum(days, day_floor))
    at = find_rows(seen, target_user * num_categories + contexts.item_category[target_item])
    return np.where(at >= 0, np.append(rank, -1)[at], -1)


def _rank_interests(key: np.ndarray, num_categories: int, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 3: the (user, category) keys seen, [R] sorted, and each one's rank within its user, [R].

    Args:
      key: user x C + category of each past event, [n] int64.
      num_categories: C.
      score: weight / max(days, floor) of each past event, [n].
    """
    by_key, start = _sorted_segments(key)
    seen = key[by_key[start]]
    total = np.add.reduceat(score[by_key], start) if len(start) else np.zeros(0)
    owner = seen // num_categories
    order = np.lexsort((-total, owner))  # stable: equal scores stay in the order of the categories' names
    first = np.flatnonzero(np.diff(owner, prepend=-1))  # `order` permutes within owners, so the starts are the same
    rank = np.empty(len(seen), np.int64)
    rank[order] = np.arange(len(seen)) - np.repeat(first, np.diff(first, append=len(seen)))
    return seen, rank


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sorted distinct values; several times faster than np.unique, which hashes integers first."""
    values = np.sort(values)
    return values[np.diff(values, prepend=values[:1] - 1) != 0]
