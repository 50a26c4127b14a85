"""What became of every row of a log: read, left out by reason, merged, kept. Imports no TensorFlow.

The counts of a log are a flat dictionary. Those of `CHAIN` add up: rows = left out + merged + kept. Those of
`OTHER_COUNTS` are of users and baskets and belong to no sum.
"""

from collections.abc import Iterable, Mapping

import numpy as np

ROWS = "rows"
KEPT = "kept"

LEFT_OUT = {
    "other_action": "that --format does not count (other actions, no id)",
    "unknown_item": "whose item is not in the items table",
    "no_category": "of products without a category",
    "not_listed": "of products that the product table lacks",
    "last_days": "in the days that --skip_last_days skips",
}
"""Rows that are left out, by reason."""

MERGED = {
    "same_basket": "with the same item in the same basket",
    "same_second": "with the same user, item and second",
}
"""Rows that become one with another row."""

CHAIN = (ROWS, *LEFT_OUT, *MERGED, KEPT)

BASKETS = "baskets"
LONG_BASKETS = "long_baskets"
CUT_BASKETS = "cut_baskets"
LONGEST_BASKET_S = "longest_basket_s"
MAX_BASKET_S = "max_basket_s"
USERS_LEFT_OUT = "users_left_out"
USERS_WITHOUT_EVENTS = "users_without_events"

OTHER_COUNTS = (
    BASKETS,
    LONG_BASKETS,
    CUT_BASKETS,
    LONGEST_BASKET_S,
    MAX_BASKET_S,
    USERS_LEFT_OUT,
    USERS_WITHOUT_EVENTS,
)


def close(counts: Mapping[str, int], in_basket: np.ndarray, keep: np.ndarray) -> dict[str, int]:
    """The counts of a source and of merging, in order; counts of 0 are left out, except for rows, merged and kept.

    Args:
      counts: rows and the reasons to leave them out; without rows, the events are all that was read.
      in_basket: whether each event belongs to a basket, [E] bool.
      keep: events that are kept, [E'] int64.
    """
    baskets, kept_in_basket = int(in_basket.sum()), int(in_basket[keep].sum())
    closed = {ROWS: len(in_basket), **counts}
    closed["same_basket"] = baskets - kept_in_basket
    closed["same_second"] = len(in_basket) - baskets - (len(keep) - kept_in_basket)
    closed[KEPT] = len(keep)
    always = (ROWS, *MERGED, KEPT)
    assert adds_up(closed), closed
    return {name: int(closed[name]) for name in (*CHAIN, *OTHER_COUNTS) if name in always or closed.get(name)}


def add_up(parts: Iterable[Mapping[str, int]], whole: Mapping[str, int]) -> dict[str, int]:
    """The counts of a log that was made in parts, in the order of `close`.

    Args:
      parts: what `close` counted for each part of the users.
      whole: what was counted for all of them: rows and the reasons to leave them out.
    """
    total: dict[str, int] = {}
    for counts in parts:
        for name, count in counts.items():
            if name in (LONGEST_BASKET_S, MAX_BASKET_S):
                total[name] = max(total.get(name, 0), count)
            else:
                total[name] = total.get(name, 0) + count
    total |= {name: count for name, count in whole.items() if count or name == ROWS}
    assert adds_up(total), total
    return {name: total[name] for name in (*CHAIN, *OTHER_COUNTS) if name in total}


def adds_up(counts: Mapping[str, int]) -> bool:
    """Whether every row is either left out, merged or kept."""
    return counts[ROWS] == sum(counts.get(name, 0) for name in CHAIN[1:])


def describe(counts: Mapping[str, int]) -> str:
    """The chain in one line; empty without counts.

    >>> describe({"rows": 1234, "unknown_item": 30, "same_basket": 0, "same_second": 4, "kept": 1200})
    '1,234 rows read = 30 left out, whose item is not in the items table + 4 merged, with the same user, item and \
second + 1,200 events kept'
    """
    (_, *parts), rows = [f"{count:,} {words}" for count, words in lines(counts)] or [""], counts.get(ROWS, 0)
    return f"{rows:,} rows read = {' + '.join(parts)}" if parts else ""


def lines(counts: Mapping[str, int]) -> list[tuple[int, str]]:
    """The chain as numbers with words, the first the sum of the others; empty without counts."""
    if ROWS not in counts:
        return []
    left = [(counts[name], f"left out, {why}") for name, why in LEFT_OUT.items() if counts.get(name)]
    merged = [(counts[name], f"merged, {why}") for name, why in MERGED.items() if counts.get(name)]
    return [(counts[ROWS], "rows read"), *left, *merged, (counts[KEPT], "events kept")]


def notes(counts: Mapping[str, int]) -> list[str]:
    """What the counts say of baskets and users, one sentence each."""
    sentences = [describe_baskets(counts)] if counts.get(LONG_BASKETS) else []
    if counts.get(USERS_LEFT_OUT):
        sentences.append(
            f"{counts[USERS_LEFT_OUT]:,} users have only events that are left out, so they are left out too"
        )
    if counts.get(USERS_WITHOUT_EVENTS):
        sentences.append(f"{counts[USERS_WITHOUT_EVENTS]:,} users of the users table have no event, and are left out")
    return sentences


def describe_baskets(counts: Mapping[str, int], uncut: str = "kept whole, each at its first time") -> str:
    """What became of the baskets that last too long, in one sentence; `uncut` for those that were not cut."""
    longest, hours = counts[LONGEST_BASKET_S] / 3600, counts[MAX_BASKET_S] / 3600
    span = f"{longest / 24:,.0f} days" if longest >= 48 else f"{longest:,.0f} hours"
    what = f"cut into {counts[CUT_BASKETS]:,} where they pause" if counts.get(CUT_BASKETS) else uncut
    return (
        f"{counts[LONG_BASKETS]:,} of {counts[BASKETS]:,} baskets span more than {hours:g} hours, the longest {span}: "
        f"{what}"
    )
