"""Do new events still look like the log? Shares of what training has not seen, and how far popularity has moved.

Popularity moves by chance and by season too, so each distance stands next to the same one between two earlier spans of
the log, as long as the new events' own. Imports no TensorFlow.
"""

import math
from typing import NamedTuple

import numpy as np

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.common.text_table import render_table, terminal_width, wrap_text
from longretriever_tf.data.later_events import LaterEvents, find_ids
from longretriever_tf.datasets.log import LifelongLog

AS_USUAL, REFRESH, TRAIN = "as usual", "refresh", "train again"
_MANY_NEW = 0.1
"""Share of events of unknown items or categories from which on training anew is proposed, and refresh from a fifth."""

_FAR = 1.5
"""So many times the usual distance, and `_LEAST_GAP` beyond it, counts as moved."""

_LEAST_GAP = 0.05


class Drift(NamedTuple):
    """New events against a log; shares are of the new events.

    Attributes:
      num_events, num_known: new events, and how many of them the log holds already; these are left out.
      days: from the first to the last.
      new_items, new_categories, new_users: shares of events of items, categories, users that the log does not know;
        categories are those of known items, and of others where the events say it.
      repeats, usual_repeats: share of events whose user had taken the item before, now and in the last span of the log.
      events_per_day, usual_events_per_day: likewise.
      item_distance, category_distance: total variation distance of popularity between the last span of the log and the
        new events, 0 (the same) to 1 (nothing in common).
      usual_item_distance, usual_category_distance: the same between the last two spans of the log; NaN where it is
        shorter.
    """

    num_events: int
    num_known: int
    days: float
    new_items: float
    new_categories: float
    new_users: float
    repeats: float
    usual_repeats: float
    events_per_day: float
    usual_events_per_day: float
    item_distance: float
    usual_item_distance: float
    category_distance: float
    usual_category_distance: float


def measure_drift(log: LifelongLog, new: LaterEvents, new_category: np.ndarray | None = None) -> Drift:
    """Holds new events to the end of a log.

    Args:
      log: at least one event.
      new: the events of a day or more; those that the log holds too are left out, unless nothing else is there.
      new_category: of each new event, [n] of str, where the events say it.
    """
    item, user = find_ids(log.items.item_id, new.item_id), find_ids(log.user_id, new.user_id)
    is_known = _is_in(log, user, item, new.timestamp)
    if not is_known.all():
        keep = ~is_known
        item, user, new = item[keep], user[keep], new.take(keep)
        new_category = None if new_category is None else new_category[keep]
    span = max(int(new.timestamp.max() - new.timestamp.min()) + 1, DAY_S)
    end = min(int(log.timestamp.max()) + 1, int(new.timestamp.min()))
    last, before = (_span_of(log, end - i * span, span) for i in (0, 1))
    categories, of_item = np.unique(log.items.features[log.context], return_inverse=True)
    category = np.where(item >= 0, of_item[item], -1)
    if new_category is not None:
        category = np.where(category >= 0, category, find_ids(categories, new_category))
    is_new_category = (category < 0) & ((item >= 0) if new_category is None else True)
    some = np.random.default_rng(0).permutation(last)[: len(item)]  # as few as the new ones: fewer events, more chance
    distances = [
        (_distance(values[last], now, size), _distance(values[before], values[some], size))
        for values, now, size in (
            (log.item_row, item, len(of_item)),
            (of_item[log.item_row], category, len(categories)),
        )
    ]
    return Drift(
        num_events=len(item),
        num_known=int(is_known.sum()),
        days=span / DAY_S,
        new_items=float((item < 0).mean()),
        new_categories=float(is_new_category.mean()),
        new_users=float((user < 0).mean()),
        repeats=float(np.isin(user * len(of_item) + item, _pairs(log, len(of_item)))[(user >= 0) & (item >= 0)].sum())
        / len(item),
        usual_repeats=_usual_repeats(log, last, end - span, len(of_item)),
        events_per_day=len(item) * DAY_S / span,
        usual_events_per_day=len(last) * DAY_S / span,
        item_distance=distances[0][0],
        usual_item_distance=distances[0][1],
        category_distance=distances[1][0],
        usual_category_distance=distances[1][1],
    )


def decide(drift: Drift) -> tuple[str, list[str]]:
    """The verdict, one of `AS_USUAL`, `REFRESH`, `TRAIN`, and its reasons with the numbers that they rest on."""
    train, refresh = [], []
    for share, what in ((drift.new_items, "items"), (drift.new_categories, "categories")):
        words = f"{share:.1%} of the events are of {what} that the log does not know"
        if share >= _MANY_NEW:
            train.append(words)
        elif share >= _MANY_NEW / 5:
            refresh.append(words)
    moved = [
        f"{name} popularity has moved by {now:.2f}, and usually does by {usual:.2f}"
        for name, now, usual in (
            ("category", drift.category_distance, drift.usual_category_distance),
            ("item", drift.item_distance, drift.usual_item_distance),
        )
        if now > max(_FAR * usual, usual + _LEAST_GAP)
    ]
    refresh += moved
    if train or len(moved) == 2:
        return TRAIN, train + refresh
    return (REFRESH, refresh) if refresh else (AS_USUAL, [])


def _is_in(log: LifelongLog, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Which events the log holds already, [n] bool."""
    both = (user >= 0) & (item >= 0)
    # Of those days alone: a set of all events of a long log would not fit into memory.
    rows = np.flatnonzero((log.timestamp >= time.min()) & (log.timestamp <= time.max()))
    columns = log.event_user()[rows], log.item_row[rows], log.timestamp[rows]
    held = set(zip(*(column.tolist() for column in columns), strict=True))
    events = zip(user.tolist(), item.tolist(), time.tolist(), strict=True)
    return both & np.fromiter((event in held for event in events), bool, len(time))


def _span_of(log: LifelongLog, end: int, span: int) -> np.ndarray:
    """Events of the log within `span` seconds before `end`."""
    return np.flatnonzero((log.timestamp >= end - span) & (log.timestamp < end))


def _pairs(log: LifelongLog, num_items: int, until: int | None = None) -> np.ndarray:
    """(user, item) pairs of the log, of events before `until`, as numbers."""
    pair = log.event_user().astype(np.int64) * num_items + log.item_row
    return np.unique(pair if until is None else pair[log.timestamp < until])


def _usual_repeats(log: LifelongLog, rows: np.ndarray, start: int, num_items: int) -> float:
    """Share of some events whose user had taken the item before `start`."""
    pair = log.event_user()[rows].astype(np.int64) * num_items + log.item_row[rows]
    return float(np.isin(pair, _pairs(log, num_items, start)).mean()) if len(rows) else float("nan")


def _distance(left: np.ndarray, right: np.ndarray, size: int) -> float:
    """Total variation distance between the shares of two samples; -1 stands for all that is unknown."""
    if not (len(left) and len(right)):
        return float("nan")
    shares = [
        np.bincount(np.where(values < 0, size, values), minlength=size + 1) / len(values) for values in (left, right)
    ]
    return float(0.5 * np.abs(shares[0] - shares[1]).sum())


def _shown(value: float, form: str) -> str:
    """The number, or a dash where the log is too short to give one."""
    return "-" if math.isnan(value) else format(value, form)


def render(drift: Drift) -> str:
    """The block of the report, its verdict last."""
    word, reasons = decide(drift)
    rows = [
        ["events a day", f"{drift.events_per_day:,.0f}", f"{drift.usual_events_per_day:,.0f}"],
        ["of items that the log does not know", f"{drift.new_items:.1%}", ""],
        ["of categories that it does not know", f"{drift.new_categories:.1%}", ""],
        ["of users that it does not know", f"{drift.new_users:.1%}", ""],
        ["repeats of the user's own items", f"{drift.repeats:.1%}", _shown(drift.usual_repeats, ".1%")],
        ["distance of item popularity", _shown(drift.item_distance, ".2f"), _shown(drift.usual_item_distance, ".2f")],
        [
            "distance of category popularity",
            _shown(drift.category_distance, ".2f"),
            _shown(drift.usual_category_distance, ".2f"),
        ],
    ]
    note = (
        f"{drift.num_events:,} new events in {drift.days:.1f} days"
        + (f" ({drift.num_known:,} more are in the log already)" if drift.num_known else "")
        + ", next to the log's last such span. Distances: 0 the same, 1 nothing in common; usual is that of the log's "
        "last two spans."
    )
    lines = ["DO NEW EVENTS LOOK LIKE THE LOG?", *wrap_text(note)]
    lines += [f"  {line}" for line in render_table(["", "new", "usual"], rows, width=terminal_width() - 2)]
    usual = "they look like the log"
    if math.isnan(drift.usual_item_distance):
        usual = "nothing speaks against them, but the log has no two earlier spans of that length to compare with"
    advice = {
        AS_USUAL: usual,
        REFRESH: "refresh (docs/every_day.md)",
        TRAIN: "train again; a refresh would leave out too much",
    }[word]
    return "\n".join([*lines, "", f"New events: {advice}" + (f" ({'; '.join(reasons)})" if reasons else "")])
