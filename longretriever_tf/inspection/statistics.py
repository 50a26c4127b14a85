"""The numbers of a log's history, as one plain dictionary: what `inspect` writes as JSON and renders as text.

Shares are between 0 and 1. An event counts once for each thing that it belongs to; nothing is sampled.
"""

from typing import Any

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.inspection.actions import action_statistics
from longretriever_tf.inspection.measures import (
    Categories,
    HistoryMeasures,
    Window,
    measure_categories,
    rank_targets,
    read_contexts,
    taken_events,
)

RECENT = (50, 200)
"""Events that a short-history model reads: what lies beyond them is what only hard search reads."""

SHORT = 3
"""A subsequence of at most this many behaviors says little."""

BATCH = (64, 512)
"""Items that an in-context batch wants: one of them is the positive, the others its negatives."""

TOP = (5, 20, 60)
"""Numbers of interests for which the split says how many targets are within reach."""

Statistics = dict[str, Any]


def describe(values: np.ndarray) -> dict[str, float]:
    """Minimum, median, mean, p90, p99 and maximum of a non-empty array; percentiles interpolate linearly.

    >>> describe(np.array([1, 2, 3, 10]))["median"]
    2.5
    """
    median, p90, p99 = np.percentile(values, [50, 90, 99])
    return {
        "min": float(values.min()),
        "median": float(median),
        "mean": float(values.mean()),
        "p90": float(p90),
        "p99": float(p99),
        "max": float(values.max()),
    }


def history_statistics(
    log: LifelongLog, history: HistoryMeasures, windows: dict[str, Window], max_length: int
) -> Statistics:
    """All the numbers, JSON-ready.

    Args:
      log: the log.
      history: its measures under the log's own context.
      windows: `measure_windows`, or empty where the log is too short to split.
      max_length: L, the bound of hard search.
    """
    return {
        "log": _log_statistics(log, history),
        "lives": _user_statistics(history),
        "subsequences": subsequence_statistics(history.categories, max_length),
        "negatives": negative_statistics(history.categories),
        "split": _split_statistics(log, windows),
        "columns": _column_statistics(log),
        "actions": action_statistics(log),
        "counts": dict(log.counts),
    }


def _log_statistics(log: LifelongLog, history: HistoryMeasures) -> Statistics:
    first, last = int(log.timestamp.min()), int(log.timestamp.max())
    return {
        "events": log.num_events,
        "users": len(history.events_per_user),
        "users_without_events": log.num_users - len(history.events_per_user),
        "items": int(history.categories.items_per_category.sum()),
        "items_without_events": len(log.items.item_id) - int(history.categories.items_per_category.sum()),
        "context": history.categories.contexts.column,
        "categories": int((history.categories.events_per_category > 0).sum()),
        "first": to_date(first),
        "last": to_date(last),
        "days": (last - first) / schema.DAY_S,
        "has_baskets": bool((log.basket_id >= 0).any()),
        "baskets": len(np.unique(log.basket_id[log.basket_id >= 0])),
        "has_weights": bool((log.weight != 1).any()),
    }


def to_date(second: int) -> str:
    """Seconds since 1970 as `YYYY-MM-DD HH:MM` UTC."""
    return str(np.datetime64(second, "s").astype("datetime64[m]")).replace("T", " ")


def _user_statistics(history: HistoryMeasures) -> Statistics:
    per_user, num_events = history.events_per_user, len(history.is_repeat)
    return {
        "events_per_user": describe(per_user),
        "categories_per_user": describe(history.categories.categories_per_user),
        "share_beyond_last": {str(n): float(np.maximum(per_user - n, 0).sum() / num_events) for n in RECENT},
        "share_read_beyond_last": {str(n): float((history.categories.read_age >= n).mean()) for n in RECENT},
        "repeat_share": float(history.is_repeat.mean()),
    }


def subsequence_statistics(categories: Categories, max_length: int) -> Statistics:
    """How much one category of one history holds, per (user, category) and as each event finds it."""
    length, earlier = categories.subsequence_length, categories.num_earlier
    return {
        "max_length": max_length,
        "pairs": len(length),
        "length": describe(length),
        "share_short": float((length <= SHORT).mean()),
        "share_above_max": float((length > max_length).mean()),
        "found": describe(earlier),
        "share_found_none": float((earlier == 0).mean()),
        "share_found_more_than_short": float((earlier > SHORT).mean()),
    }


def negative_statistics(categories: Categories) -> Statistics:
    """How many items an in-context batch can find, per category and as the average event meets them."""
    is_live = categories.events_per_category > 0
    items, events = categories.items_per_category[is_live], categories.events_per_category[is_live]
    largest = np.argsort(-events, kind="stable")[:10]
    names = categories.contexts.name[is_live]
    return {
        "items_per_category": describe(items),
        "categories_below": {str(n): int((items < n).sum()) for n in BATCH},
        "event_share_below": {str(n): float(events[items < n].sum() / events.sum()) for n in BATCH},
        "largest": [{"category": str(names[c]), "events": int(events[c]), "items": int(items[c])} for c in largest],
    }


def _split_statistics(log: LifelongLog, windows: dict[str, Window]) -> Statistics:
    """Train and each window; empty without windows. Train ends where validation starts."""
    if not windows:
        return {}
    is_train = log.timestamp < windows["validation"].start
    user = log.event_user().astype(np.int64)
    key = np.sort((user * len(log.items.item_id) + log.item_row)[is_train & taken_events(log)])
    first = int(log.timestamp.min())
    days = (windows["validation"].start - first) / schema.DAY_S
    train = {
        "start": to_date(first),
        "days": days,
        "events": int(is_train.sum()),
        "events_per_day": float(is_train.sum() / days),
        "users": int((np.bincount(user[is_train]) > 0).sum()),
        "pairs": int((np.diff(key, prepend=-1) != 0).sum()),
    }
    return {"train": train, **{name: _window_statistics(window) for name, window in windows.items()}}


def _window_statistics(window: Window) -> Statistics:
    days = (window.stop - window.start) / schema.DAY_S
    return {
        "start": to_date(window.start),
        "days": days,
        "events": window.num_events,
        "events_per_day": window.num_events / days,
        "users": window.num_users,
        "pairs": window.num_pairs,
        "new_user_pairs": window.num_new_user_pairs,
        "new_item_pairs": window.num_new_item_pairs,
        "targets": len(window.is_novel),
        "target_users": len(np.unique(window.target_user)),
        "novel_share": _share(window.is_novel),
        "all": reach_statistics(window.interest_rank),
        "novel": reach_statistics(window.interest_rank[window.is_novel]),
    }


def new_item_share(window: Statistics) -> float:
    """Share of a window's (user, item) pairs whose item has no event before the window; 0 of no pairs."""
    return window["new_item_pairs"] / max(window["pairs"], 1)


def reach_statistics(rank: np.ndarray) -> Statistics:
    """Share of targets whose category is among the user's top interests, and share of those never seen."""
    return {**{f"top_{n}": _share((rank >= 0) & (rank < n)) for n in TOP}, "untouched": _share(rank < 0)}


def _share(holds: np.ndarray) -> float:
    """Share of true entries; 0 of none."""
    return float(holds.mean()) if len(holds) else 0.0


def _column_statistics(log: LifelongLog) -> list[Statistics]:
    """Distinct values and missing shares of each item column (context included), profile column and event column."""
    rows = []
    tables = [
        ("item", log.items.features, np.bincount(log.item_row, minlength=len(log.items.item_id))),
        ("user", log.profile, np.diff(log.offset)),
    ]
    for name, column in log.event_features.items():
        tables.append(("event", {name: column.value[column.row]}, np.ones(log.num_events, np.int64)))
    for table, columns, num_events in tables:
        for name, values in columns.items():
            is_missing = (values == schema.MISSING) | (values == schema.MISSING_CONTEXT)
            row = {
                "table": table,
                "column": name,
                "values": len(np.unique(values[~is_missing & (num_events > 0)])),
                "missing_share": _share(is_missing[num_events > 0]),
                "missing_event_share": float(num_events[is_missing].sum() / max(num_events.sum(), 1)),
            }
            rows.append(row)
    return rows


def context_statistics(
    log: LifelongLog, windows: dict[str, Window], max_length: int, day_floor: float
) -> list[Statistics]:
    """What each item column would be like as the context: coarse ones have long subsequences, fine ones few items."""
    rows = []
    for column in log.items.features:
        contexts = read_contexts(log, column)
        categories = measure_categories(log, contexts, max_length)
        subsequences, negatives = subsequence_statistics(categories, max_length), negative_statistics(categories)
        row = {
            "column": column,
            "categories": int((categories.events_per_category > 0).sum()),
            "median_items": negatives["items_per_category"]["median"],
            "event_share_below_64": negatives["event_share_below"]["64"],
            "share_short": subsequences["share_short"],
            "share_found_none": subsequences["share_found_none"],
            "largest_share": float(categories.events_per_category.max() / log.num_events),
        }
        if test := windows.get("test"):
            ranks = test.interest_rank
            if column != log.context:
                ranks = rank_targets(log, contexts, test.start, test.target_user, test.target_item, day_floor)
            row |= reach_statistics(ranks)
        rows.append(row)
    return rows
