"""Slow, obvious oracles that the fast code is held to. Plain Python and numpy, one case at a time."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from longretriever_tf.datasets.log import LifelongLog

DAY_S = 86_400
HALF_LIVES = (10, 30, 90, 180)
NEVER_DAYS = 3650


def ranked_list(scores: np.ndarray, k: int) -> list[int]:
    """Items of one user, best first, equal scores by lower index; -inf leaves an item out."""
    order = sorted(range(len(scores)), key=lambda v: (-scores[v], v))
    return [v for v in order if scores[v] > -np.inf][:k]


def list_metrics(items: list[int], truth: set[int], k: int) -> dict[str, float]:
    """Metrics at k of one user's list, rank by rank; `truth` is not empty."""
    ranks = [rank for rank, item in enumerate(items[:k], start=1) if item in truth]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(truth)) + 1))
    return {
        f"recall@{k}": len(ranks) / len(truth),
        f"hit_rate@{k}": float(len(ranks) > 0),
        f"ndcg@{k}": sum(1 / math.log2(rank + 1) for rank in ranks) / ideal,
        f"mrr@{k}": 1 / ranks[0] if ranks else 0.0,
    }


def window_truth(histories: list[list[tuple[int, int]]], cut: int, start: int, stop: int) -> dict[int, tuple[set, set]]:
    """Per user with history and truth: items in [start, stop) that anyone took before cut, and the user's earlier ones.

    Args:
      histories: per user (item, timestamp) events; items below 2 are outside the vocabulary.
    """
    sold = {item for history in histories for item, t in history if t < cut and item >= 2}
    found = {}
    for user, history in enumerate(histories):
        taken = {item for item, t in history if start <= t < stop} & sold
        if taken and any(t < cut for _, t in history):
            found[user] = (taken, {item for item, t in history if t < cut and item >= 2})
    return found


class Behavior(NamedTuple):
    """One event of a raw log."""

    item: Any
    category: str
    timestamp: int
    basket: int
    weight: float


def request_history(log: LifelongLog, user: int) -> list[Behavior]:
    """Every behavior of a user row, oldest first, in raw ids."""
    events = range(int(log.offset[user]), int(log.offset[user + 1]))
    category = log.items.features[log.context]
    return [
        Behavior(
            log.items.item_id[row],
            str(category[row]),
            int(log.timestamp[e]),
            int(log.basket_id[e]),
            float(log.weight[e]),
        )
        for e in events
        for row in [log.item_row[e]]
    ]


def hard_search(history: Iterable[Behavior], category: str, time: int, basket: int, limit: int) -> list[Behavior]:
    """S_u(c, t), oldest first: the last `limit` of the category, strictly before by time and never of the basket."""
    found = [b for b in history if b.category == category and b.timestamp < time and (b.basket != basket or basket < 0)]
    return found[-limit:]


def visible(history: Sequence[Behavior], time: int, history_events: int) -> list[Behavior]:
    """What --history_events leaves of a history before `time`: behaviors with fewer than so many strictly after
    them."""
    past = [b for b in history if b.timestamp < time]
    return [b for b in past if not history_events or sum(o.timestamp > b.timestamp for o in past) < history_events]


def event_tokens(found: list[Behavior], time: int, length: int) -> list[tuple[Any, list[float]]]:
    """Tokens of a search, newest first: (item, [log age, log gap to the event found before it])."""
    tokens = []
    for at, behavior in enumerate(found):
        age = (time - behavior.timestamp) / DAY_S
        gap = (behavior.timestamp - found[at - 1].timestamp) / DAY_S if at else 0.0
        tokens.append((behavior.item, [math.log1p(age), math.log1p(gap)]))
    return tokens[::-1][:length]


def item_tokens(found: list[Behavior], num_before: int, time: int, length: int) -> list[tuple[Any, list[float]]]:
    """Tokens of the distinct items of a search, newest first, with the 13 features of `hard_search.item_tokens`."""
    ages = [(b.item, (time - b.timestamp) / DAY_S) for b in reversed(found)]
    shared = [num_before, min((age for _, age in ages), default=0.0), sum(2 ** (-age / 30) for _, age in ages)]
    tokens = []
    for item in dict.fromkeys(item for item, _ in ages):
        own = [age for other, age in ages if other == item]
        recency, count = min(own), len(own)
        gap = (max(own) - recency) / (count - 1) if count > 1 else 0.0
        rhythm = math.log1p(recency / max(gap, 0.5)) if count > 1 else 0.0
        features = [math.log1p(count), math.log1p(recency)]
        features += [math.log1p(sum(2 ** (-age / half) for age in own)) for half in HALF_LIVES]
        features += [math.log1p(gap), rhythm, float(count > 1), count / len(ages)]
        tokens.append((item, features + [math.log1p(value) for value in shared]))
    return tokens[:length]


def stats_at(log: LifelongLog, as_of: int, owner: Callable[[int], Any]) -> dict[Any, list[float]]:
    """Popularity, staleness and repeat rate strictly before `as_of` of whatever `owner` makes of an item row.

    An event is a repeat if its user had taken the same item at an earlier event.
    """
    ages: dict[Any, list[float]] = {}
    repeats: dict[Any, int] = {}
    for user in range(log.num_users):
        taken = set()
        for e in range(int(log.offset[user]), int(log.offset[user + 1])):
            if log.timestamp[e] < as_of:
                row = int(log.item_row[e])
                key = owner(row)
                ages.setdefault(key, []).append((as_of - int(log.timestamp[e])) / DAY_S)
                repeats[key] = repeats.get(key, 0) + (row in taken)
                taken.add(row)
    return {
        key: [math.log(0.05 + sum(2 ** (-age / 30) for age in own)), math.log1p(min(own)), repeats[key] / len(own)]
        for key, own in ages.items()
    }


NEVER_STATS = [math.log(0.05), math.log1p(NEVER_DAYS), 0.0]
"""`stats_at` of what nobody took."""


def activity_at(times: Iterable[int], as_of: int) -> list[float]:
    """The user's activity strictly before `as_of`: log1p of events, days since the last, 30-day decayed count."""
    ages = [(as_of - t) / DAY_S for t in times if t < as_of]
    return [math.log1p(x) for x in (len(ages), min(ages, default=NEVER_DAYS), sum(2 ** (-age / 30) for age in ages))]


def interest_score(found: Iterable[Behavior], time: int, floor: float) -> float:
    """Eq. 3: the sum of weight / max(days, floor) over the behaviors of a category."""
    return sum(b.weight / max((time - b.timestamp) / DAY_S, floor) for b in found)


def interest_sums(found: Sequence[Behavior], time: int, floor: float) -> list[float]:
    """Of one category: score, count, distinct items, four decayed counts, days since the last and the first."""
    ages = [(time - b.timestamp) / DAY_S for b in found]
    decayed = [sum(2 ** (-age / half) for age in ages) for half in HALF_LIVES]
    sums = [interest_score(found, time, floor), len(ages), len({b.item for b in found}), *decayed]
    return [float(x) for x in (*sums, min(ages, default=0), max(ages, default=0))]


def slices_before(order, user: np.ndarray, category: np.ndarray, time: int) -> tuple[np.ndarray, np.ndarray]:
    """Slice of each (user, category)'s events strictly before one `time`: starts and stops, [n] int64 each."""
    segment = order.find_segments(user, category)
    start = np.where(segment >= 0, order.segment_offset[segment], 0)
    after = np.where(segment >= 0, order.segment_offset[segment + 1], 0)
    count = [np.count_nonzero(order.timestamp[a:b] < time) for a, b in zip(start, after, strict=True)]
    return start, start + np.array(count, np.int64)
