"""What the numbers of a log's history mean: how well the method fits, and what looks wrong in the log.

The bounds are rules of thumb, each written where it is read; the sentence always shows the number that it rests on.
"""

from typing import NamedTuple

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.config.config import TrainConfig
from longretriever_tf.datasets import accounts
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.inspection.measures import Categories, HistoryMeasures
from longretriever_tf.inspection.statistics import Statistics, new_item_share, to_date

_TO_THE_SECOND = "to the second"
_FEWEST_USERS = 100
_MOST_BOTS = 0.05
"""Above this share of the users with a history, those with many events are no exceptions."""


class FitRating(NamedTuple):
    """One verdict: `good`, `fair` or `poor`, on what, and why."""

    verdict: str
    topic: str
    reason: str


def evaluate_fit(statistics: Statistics) -> list[FitRating]:
    """How the method fits this log: size, long histories, deep subsequences, targets within reach, hard negatives,
    repeats.
    """
    histories, users = statistics["lives"], statistics["log"]["users"]
    beyond = histories["share_beyond_last"]["200"]
    depth = statistics["subsequences"]["share_found_more_than_short"]
    large = 1 - statistics["negatives"]["event_share_below"]["64"]
    repeats = histories["repeat_share"]
    come_back = (
        "people come back to items: --repeat_term pays, and novel items must be measured apart"
        if repeats >= 0.2
        else "people rarely return to an item: --repeat_term matters little"
        if repeats > 0
        else 'nobody takes an item twice: ask for novel items (goal="novel"), and compare by the metrics on novel items'
    )
    return [
        _rate_size(users, statistics["log"]["events"]),
        _rate("long histories", beyond, (0.4, 0.1), f"{beyond:.0%} of events lie beyond their user's last 200", _LONG),
        _rate(
            "deep subsequences",
            depth,
            (0.5, 0.25),
            f"{depth:.0%} of events find more than 3 earlier ones of their category",
            _DEEP,
        ),
        *(_evaluate_targets(statistics["split"]["test"]) if statistics["split"] else []),
        _rate(
            "hard negatives", large, (0.8, 0.4), f"{large:.0%} of events lie in categories of 64 items or more", _HARD
        ),
        _rate("repeats", repeats, (0.05, 0.0), f"{repeats:.0%} of events repeat an item", (come_back, come_back)),
    ]


def _evaluate_targets(test: Statistics) -> list[FitRating]:
    unseen, novel = test["all"]["untouched"], test["novel"]["untouched"]
    top = test["all"]["top_20"]
    return [
        _rate(
            "targets within reach",
            1 - novel,
            (0.9, 0.7),
            f"{unseen:.0%} of test targets ({novel:.0%} of novel ones) lie in categories that their user has never "
            "seen",
            _REACH,
        ),
        _rate(
            "few interests",
            top,
            (0.7, 0.3),
            f"{top:.0%} of test targets lie in their user's top 20 interests ({test['all']['top_5']:.0%} in the top 5)",
            _FEW,
        ),
    ]


def _rate_size(users: int, events: int) -> FitRating:
    """Small is what `training.score_weights` weighs the parts of."""
    if users < _FEWEST_USERS:
        return FitRating("poor", "size", f"{users:,} users: {_SIZE[2]}")
    is_small = TrainConfig().weighs_parts(users, events)
    reason = f"{users:,} users, {events:,} events: {_SIZE[is_small]}"
    return FitRating("fair" if is_small else "good", "size", reason)


def _rate(topic: str, value: float, bounds: tuple[float, float], statement: str, reasons: tuple[str, ...]) -> FitRating:
    """Good from the first bound on, fair from the second on, else poor; one reason for each."""
    level = 0 if value >= bounds[0] else 1 if value >= bounds[1] else 2
    return FitRating(("good", "fair", "poor")[level], topic, f"{statement}: {reasons[level]}")


_SIZE = (
    "on the logs of this size that were measured it leads every counting baseline",
    "expect it level with the best counting baseline, give or take a little; after training, a phase as long as the "
    "training itself weighs its parts (--score_weights_users, --score_weights_events)",
    "too few to weigh its parts by: hold it against evaluate --baselines=all before you trust it",
)
_LONG = (
    "a model of recent events misses most of it, hard search does not",
    "only heavy users have more events than a model of recent events can read",
    "a two-tower model of recent events already reads nearly everything",
)
_DEEP = (
    "the tower has something to read",
    "for half of the events or more, profile, popularity and the interest score must give the answer",
    "the context is too fine, or histories are too short: try a coarser --context",
)
_REACH = (
    "searching known categories reaches them",
    "let --interest=learned score all categories, seen or not",
    "preferences cross categories here: keep --interest=learned and --user_context",
)
_FEW = (
    "few searches per request suffice",
    "keep --num_interests=0, which searches as many as can enter the list, and merge them calibrated",
    "a few interests cannot hold the answer: search many, or take a coarser --context",
)
_HARD = (
    "in-context batches find enough hard negatives",
    "keep --loss=full, or raise --small_category with --loss=in_batch",
    "in-context batches find too few negatives: keep --loss=full, or take a coarser --context",
)


def find_warnings(log: LifelongLog, history: HistoryMeasures, statistics: Statistics) -> list[str]:
    """Unusual things, one sentence each, with number and consequence; empty for an ordinary log."""
    return [
        *_time_warnings(log, history),
        *_user_warnings(log, history, statistics),
        *_item_warnings(statistics, history.categories),
        *_split_warnings(statistics),
    ]


def _time_warnings(log: LifelongLog, history: HistoryMeasures) -> list[str]:
    warnings = []
    shared, baskets = _shared_time_share(log), log.basket_id[log.basket_id >= 0]
    if shared > 0.2 and not len(baskets):
        warnings.append(
            f"{shared:.0%} of events share their time with another event of the same user: they are never "
            f"each other's history. Timestamps are {_resolution(log.timestamp)}; {_cure_of_ties(log.timestamp)}"
        )
    if len(baskets) > 100 and len(np.unique(baskets)) > 0.99 * len(baskets):
        warnings.append(
            f"nearly each of {len(baskets):,} events in a basket has a basket of its own: the column parts nothing "
            "(the number of a line, not of an order?)"
        )
    warnings += _merge_warnings(log)
    second, count = _commonest(log.timestamp)
    if count > max(0.01 * log.num_events, 100):
        warnings.append(
            f"{count / log.num_events:.1%} of all events carry the one timestamp {to_date(second)} UTC: a "
            "default value, or a bulk import?"
        )
    gap, start = _longest_gap(history)
    if gap >= max(3, 0.01 * len(history.events_per_day)):
        warnings.append(
            f"no event at all for {gap} days from {to_date(start)[:10]} on: is a part of the log "
            "missing? Ages and windows follow the clock, not the events"
        )
    return warnings


def _merge_warnings(log: LifelongLog) -> list[str]:
    rows, same = log.counts.get(accounts.ROWS, 0), log.counts.get("same_second", 0)
    if same <= 0.1 * rows:
        return []
    return [
        f"{same:,} of {rows:,} rows were merged with another of the same user, item and second: rows written twice, or "
        f"times that are too coarse? ({_resolution(log.timestamp)})"
    ]


def _cure_of_ties(timestamp: np.ndarray) -> str:
    """What can be done: times are kept to the second, so that finer ones order events but part none."""
    if _resolution(timestamp) == _TO_THE_SECOND:
        return (
            "times are kept to the second, so finer ones would only order such events; if these are orders, name "
            "their column by --basket_column"
        )
    return "give them to the second, or --basket_column if these are orders"


def _shared_time_share(log: LifelongLog) -> float:
    """Share of events that have another event of their user at the same second."""
    same = (np.diff(log.timestamp) == 0) & (np.diff(log.event_user()) == 0)
    return float((np.append(same, False) | np.append(False, same)).mean())


def _commonest(values: np.ndarray) -> tuple[int, int]:
    """The most frequent value, the smallest of several, and its count."""
    values = np.sort(values)
    start = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    counts = np.diff(start, append=len(values))
    return int(values[start[counts.argmax()]]), int(counts.max())


def request_warnings(timestamp: np.ndarray, request_features: tuple[str, ...]) -> list[str]:
    """A warning where --request_features names what the times of the events, seconds UTC, cannot say."""
    if "hour" not in request_features or _resolution(timestamp) != "whole days":
        return []
    return ["times are whole days, so --request_features=hour is the same for all: leave hour out"]


def _resolution(timestamp: np.ndarray) -> str:
    for seconds, words in ((schema.DAY_S, "whole days"), (3600, "whole hours"), (60, "whole minutes")):
        if not (timestamp % seconds).any():
            return words
    return _TO_THE_SECOND


def _longest_gap(history: HistoryMeasures) -> tuple[int, int]:
    """Length in days of the longest run of days without an event, and its first second."""
    active = np.flatnonzero(history.events_per_day)
    gaps = np.diff(active) - 1
    if not len(gaps):
        return 0, history.day_start
    longest = int(gaps.argmax())
    return int(gaps[longest]), history.day_start + int(active[longest] + 1) * schema.DAY_S


def _user_warnings(log: LifelongLog, history: HistoryMeasures, statistics: Statistics) -> list[str]:
    warnings = []
    num_users, single = len(history.events_per_user), int((history.events_per_user == 1).sum())
    if single > 0.05 * num_users:
        warnings.append(
            f"{single:,} users ({single / num_users:.0%}) have one event: no history, nothing to learn from"
        )
    bots, bound = _implausible_users(np.diff(log.offset))
    if len(bots):
        events = int(np.diff(log.offset)[bots].sum())
        named = ", ".join(f"{log.user_id[u]} ({log.offset[u + 1] - log.offset[u]:,})" for u in bots[:3])
        warnings.append(
            f"{len(bots):,} user{'s' if len(bots) > 1 else ''} with more than {bound:,.0f} events, far beyond the "
            f"others, hold {events / log.num_events:.0%} of the log: bots, shared accounts or a default id? {named}"
        )
    if statistics["log"]["users_without_events"]:
        warnings.append(f"{statistics['log']['users_without_events']:,} users of the users table have no event")
    return warnings


def _implausible_users(counts: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows of users beyond median x exp(5 robust deviations of log counts), most events first, and that bound.

    Event counts are about log-normal; the median absolute deviation is not moved by the bots that it looks for. It is
    taken as at least 0.5, so that a log of nearly equal histories accuses no one below 12 times the median. Users of a
    single event are left out: where they are many, they would make everybody else look strange. For the same reason
    nobody is accused where more than a few would be.
    """
    active = counts > 1
    if not active.any():
        return np.zeros(0, np.int64), 0.0
    logs = np.log(counts[active])
    median = np.median(logs)
    deviation = max(1.4826 * float(np.median(np.abs(logs - median))), 0.5)
    bound = float(np.exp(median + 5 * deviation))
    rows = np.flatnonzero(counts > bound)
    if len(rows) > _MOST_BOTS * active.sum():
        rows = rows[:0]
    return rows[np.argsort(-counts[rows], kind="stable")], bound


def _item_warnings(statistics: Statistics, categories: Categories) -> list[str]:
    warnings = []
    sizes = categories.items_per_category[categories.events_per_category > 0]
    lone = int((sizes == 1).sum())
    if lone > 0.05 * len(sizes):
        warnings.append(f"{lone:,} of {len(sizes):,} categories have one item: no negatives, the item is the category")
    share = float(categories.events_per_category.max() / categories.events_per_category.sum())
    if share > 0.5:
        name = categories.contexts.name[categories.events_per_category.argmax()]
        warnings.append(f"category {str(name)!r} holds {share:.0%} of the events: the context hardly divides the log")
    return warnings + _missing_warnings(statistics)


def _missing_warnings(statistics: Statistics) -> list[str]:
    """One sentence per table for the columns that are mostly missing."""
    warnings = []
    for table, rows in (("item", "items"), ("user", "users")):
        columns = {
            c["column"]: c["missing_share"]
            for c in statistics["columns"]
            if c["table"] == table and c["missing_share"] > 0.5
        }
        if columns:
            named = ", ".join(f"{column} {share:.0%}" for column, share in columns.items())
            warnings.append(f"columns missing for most {rows} ('missing' is then a value of its own): {named}")
    return warnings


def _split_warnings(statistics: Statistics) -> list[str]:
    warnings = []
    split = statistics["split"]
    for name in split.keys() - {"train"}:
        if split[name]["target_users"] < 500:
            warnings.append(
                f"only {split[name]['target_users']:,} users have targets in the {name} window: differences "
                "between models will be noise; raise --window_days"
            )
        if (share := new_item_share(split[name])) > 0.2:
            warnings.append(
                f"{share:.0%} of what users take in the {name} window are items without an event before it, which no "
                "list made by then can hold: publish new items by refresh, as often as they come"
            )
        if split[name]["events_per_day"] < 0.3 * split["train"]["events_per_day"]:
            warnings.append(
                f"the {name} window holds {split[name]['events_per_day']:,.0f} events a day, training "
                f"{split['train']['events_per_day']:,.0f}: the log thins out towards its end"
            )
    return sorted(warnings)
