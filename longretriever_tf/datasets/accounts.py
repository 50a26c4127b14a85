"""What became of every row of a log: read, left out by reason, merged, kept. Imports no TensorFlow.

The counts of a log are a flat dictionary. Those of `CHAIN` add up: rows = left out + merged + kept. Those of `BESIDE`
tell of users and baskets and belong to no sum.
"""

from collections.abc import Mapping

import numpy as np

ROWS = "rows"
KEPT = "kept"

LEFT_OUT = {
    "unknown_item": "whose item is not in the items table",
    "no_category": "of products without a category",
    "not_listed": "of products that the product table lacks",
}
"""Rows that are left out, by reason."""

MERGED = {
    "same_basket": "with the same item in the same basket",
    "same_second": "with the same user, item and second",
}
"""Rows that become one with another row."""

CHAIN = (ROWS, *LEFT_OUT, *MERGED, KEPT)

LONG_BASKETS = "long_baskets"
BASKETS = "baskets"
CUT_BASKETS = "cut_baskets"
LONGEST_BASKET_S = "longest_basket_s"
USERS_LEFT_OUT = "users_left_out"
USERS_WITHOUT_EVENTS = "users_without_events"

BESIDE = (BASKETS, LONG_BASKETS, CUT_BASKETS, LONGEST_BASKET_S, USERS_LEFT_OUT, USERS_WITHOUT_EVENTS)


def close(counts: Mapping[str, int], in_basket: np.ndarray, keep: np.ndarray) -> dict[str, int]:
    """The counts of a source with what merging adds, in order; zeros of the reasons to leave out are not told.

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
    told = [name for name in (*CHAIN, *BESIDE) if name in closed and (closed[name] or name not in LEFT_OUT)]
    assert adds_up(closed), closed
    return {name: int(closed[name]) for name in told}


def adds_up(counts: Mapping[str, int]) -> bool:
    """Whether every row is either left out, merged or kept."""
    return counts[ROWS] == sum(counts.get(name, 0) for name in CHAIN[1:])


def describe(counts: Mapping[str, int]) -> str:
    """The chain in one line; empty where nobody counted.

    >>> describe({"rows": 1234, "unknown_item": 30, "same_basket": 0, "same_second": 4, "kept": 1200})
    '1,234 rows read = 30 left out, whose item is not in the items table + 4 merged, with the same user, item and \
second + 1,200 events kept'
    """
    if ROWS not in counts:
        return ""
    parts = [f"{counts[name]:,} left out, {why}" for name, why in LEFT_OUT.items() if counts.get(name)]
    parts += [f"{counts[name]:,} merged, {why}" for name, why in MERGED.items() if counts.get(name)]
    return f"{counts[ROWS]:,} rows read = " + " + ".join([*parts, f"{counts[KEPT]:,} events kept"])


def describe_baskets(counts: Mapping[str, int], hours: float) -> str:
    """What became of baskets that span more than `hours`, in one sentence; empty where there is none."""
    if not counts.get(LONG_BASKETS):
        return ""
    longest = counts[LONGEST_BASKET_S] / 3600
    span = f"{longest / 24:,.0f} days" if longest >= 48 else f"{longest:,.0f} hours"
    what = (
        f"cut into {counts[CUT_BASKETS]:,} baskets at their pauses"
        if counts.get(CUT_BASKETS)
        else "kept whole (--long_baskets=keep), each at its earliest time"
    )
    share = f"{counts[LONG_BASKETS]:,} of {counts[BASKETS]:,} baskets"
    return f"{share} span more than {hours:g} hours, the longest {span}: {what}"
