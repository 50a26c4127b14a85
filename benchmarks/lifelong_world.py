"""A generated world of lifelong histories: who takes which item, and when, each a function of the seed and a number.

Nothing is stored but the sizes of the categories: a user's length, interests and staples are hashes of the seed, the
user and a counter. So any stretch of time of any user can be made alone, and all stretches together are one history.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri
from zipf_sizes import zipf_sizes

DAY_S = 86_400
END = 1_735_689_600
"""When every log ends: 2025-01-01 UTC."""
MAX_EVENTS = 100_000
"""Events of the longest history."""

_LENGTH_SIGMA = 1.3  # of the logarithm of lengths: median 0.43 of the mean, the 99th percentile 20 medians
_BASKET_EVENTS = 6  # on average
_STAPLE_SHARE = 0.6  # of events: one of the items that the user takes again and again
_STAPLES = 6  # of a user in a category
_WHIM_SHARE = 0.2  # of events: in no rhythm
_GOLDEN = (5**0.5 - 1) / 2
_SLOTS = 160  # interests of a user; slot s gets events as 1 / (s + _EVEN)
_EVEN = 5
_USERS_TOGETHER = 16_384
_TABLE = 1 << 20

_LENGTH, _JOIN, _LEAVE, _CUT, _WHEN, _INTEREST, _STAPLE, _LAUNCH, _FEATURE = (np.uint64(n) for n in range(1, 10))
"""What a hash is for, so that two uses of one user and counter differ."""


class LogSizes(NamedTuple):
    """What is asked for."""

    num_events: int
    num_users: int
    num_items: int
    num_categories: int
    days: int
    files: int
    seed: int


class LogRows(NamedTuple):
    """Rows of the log, all [n]: user and item indices, seconds, a basket's number, how many were taken."""

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    basket: np.ndarray
    quantity: np.ndarray


def _hash(seed: int, purpose: np.uint64, *parts: np.ndarray) -> np.ndarray:
    """64 mixed bits of the seed and each row of `parts` (whole numbers of any type), uint64."""
    mixed = np.full(1, (seed * 0x9E3779B97F4A7C15 + int(purpose)) % 2**64, np.uint64)
    for part in parts:
        mixed = (mixed ^ part.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _uniform(bits: np.ndarray) -> np.ndarray:
    """[0, 1) from 64 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


class LifelongWorld:
    """Items in categories, and users whose interests drift.

    Args:
      sizes: of the world.
    """

    def __init__(self, sizes: LogSizes) -> None:
        self.sizes = sizes
        of_category = zipf_sizes(sizes.num_items, sizes.num_categories, 0.6)
        of_category[0] += sizes.num_items - of_category.sum()  # what the rounding left
        self.offset = np.concatenate([[0], np.cumsum(of_category)])
        # Demand falls faster than size: a large category sells more of each item.
        share = np.cumsum(np.arange(1, sizes.num_categories + 1) ** -0.9)
        self._category_of = np.searchsorted(share / share[-1], (np.arange(_TABLE) + 0.5) / _TABLE)

    def events(self, file: int) -> Iterator[LogRows]:
        """The events of one file, which is one stretch of time of every user, in pieces of a few hundred thousand."""
        for first in range(0, self.sizes.num_users, _USERS_TOGETHER):
            users = np.arange(first, min(first + _USERS_TOGETHER, self.sizes.num_users))
            length, (joins, leaves) = self.lengths(users), self._spans(users)
            piece = np.cumsum(length) // (max(1, 200_000 * self.sizes.files // 2))
            for rows in np.split(np.arange(len(users)), np.flatnonzero(np.diff(piece)) + 1):
                baskets = self._baskets(file, users[rows], length[rows], joins[rows], leaves[rows])
                if len(baskets[0]):
                    yield self._take(np.random.default_rng([self.sizes.seed, file, users[rows[0]]]), *baskets)

    def lengths(self, users: np.ndarray) -> np.ndarray:
        """Events of each user of one block: log-normal, 1 to MAX_EVENTS, with the block's share of all as their sum."""
        sizes, n = self.sizes, len(users)
        first, last = int(users[0]), int(users[-1]) + 1
        quota = last * sizes.num_events // sizes.num_users - first * sizes.num_events // sizes.num_users
        rng = np.random.default_rng([sizes.seed, int(_LENGTH), first])
        # One user of each quantile, in any order: every block looks alike, and its longest may be of any length.
        z = ndtri(np.clip((rng.permutation(n) + rng.random(n)) / n, 1e-12, 1 - 1e-12))
        raw = np.exp(_LENGTH_SIGMA * z)
        low, high = 0.0, MAX_EVENTS / raw.min()
        for _ in range(60):
            middle = (low + high) / 2
            is_much = np.clip(raw * middle, 1, MAX_EVENTS).sum() > quota
            low, high = (low, middle) if is_much else (middle, high)
        ends = np.cumsum(np.clip(raw * low, 1, MAX_EVENTS))
        ends = np.minimum(np.floor(ends + 1e-6).astype(np.int64), quota)
        ends[-1] = quota
        return np.diff(ends, prepend=0)

    def _spans(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """When users come and go, in parts of the log: most are there from its start to its end."""
        seed = self.sizes.seed
        joins, leaves = _uniform(_hash(seed, _JOIN, users)), _uniform(_hash(seed, _LEAVE, users))
        joins = np.maximum(joins - 0.6, 0) / 0.4 * 0.9
        return joins, np.where(leaves < 0.8, 1.0, joins + (1 - joins) * (0.2 + 0.8 * (leaves - 0.8) / 0.2))

    def _baskets(
        self, file: int, users: np.ndarray, length: np.ndarray, joins: np.ndarray, leaves: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """The file's baskets: user, number, part of the log that had passed, the user's events before, its events."""
        seed, files = self.sizes.seed, self.sizes.files
        start, stop = file / files, (file + 1) / files if file + 1 < files else np.inf
        num = -(-length // _BASKET_EVENTS)
        # The basket k of a user lies in the k-th of `num` equal parts of the user's time.
        low = np.clip(np.floor((start - joins) / (leaves - joins) * num) - 1, 0, num).astype(np.int64)
        high = np.clip(np.floor((min(stop, 1.0) - joins) / (leaves - joins) * num) + 2, 0, num).astype(np.int64)
        count = np.maximum(high - low, 0)
        row = np.repeat(np.arange(len(users)), count)
        number = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + low[row]
        passed = (number + _uniform(_hash(seed, _WHEN, users[row], number))) / num[row]
        passed = joins[row] + (leaves[row] - joins[row]) * passed
        is_here = (passed >= start) & (passed < stop)
        row, number, passed = row[is_here], number[is_here], passed[is_here]
        before = self._cut(users, length, num, row, number)
        return users[row], number, passed, before, self._cut(users, length, num, row, number + 1) - before

    def _cut(
        self, users: np.ndarray, length: np.ndarray, num: np.ndarray, row: np.ndarray, number: np.ndarray
    ) -> np.ndarray:
        """How many events come before a basket: baskets hold some more or fewer than the average."""
        shift = 0.9 * _uniform(_hash(self.sizes.seed, _CUT, users[row], number))
        shift[(number == 0) | (number == num[row])] = 0
        return ((number + shift) * (length[row] / num[row]) + 1e-9).astype(np.int64)

    def _take(
        self,
        rng: np.random.Generator,
        user: np.ndarray,
        number: np.ndarray,
        passed: np.ndarray,
        before: np.ndarray,
        size: np.ndarray,
    ) -> LogRows:
        """What lies in the baskets."""
        days = self.sizes.days
        hour = np.clip(rng.normal(np.where(rng.random(len(user)) < 0.4, 12, 18), 2.2), 0, 23.99)
        day = np.minimum(np.floor(passed * days), days - 1)
        second = (END - days * DAY_S + day * DAY_S + hour * 3600).astype(np.int64)
        basket = user * (MAX_EVENTS + 1) + number
        at = np.repeat(np.arange(len(user)), size)
        event = np.arange(len(at)) - np.repeat(np.cumsum(size) - size, size) + before[at]
        item = self._choose(rng, user[at], event, passed[at])
        quantity = rng.geometric(0.75, len(at)).astype(np.float32)
        return LogRows(user[at], item, second[at], basket[at], quantity)

    def _choose(self, rng: np.random.Generator, user: np.ndarray, event: np.ndarray, passed: np.ndarray) -> np.ndarray:
        """An item for each event: first the interest, then a staple of the user's or another item of its category."""
        seed, day, n = self.sizes.seed, passed * self.sizes.days, len(user)
        # Multiples of the golden ratio come back to any interval at nearly equal distances: so do people to a staple.
        turn = _GOLDEN * event + _uniform(_hash(seed, _STAPLE, user))
        turn = np.where(rng.random(n) < _WHIM_SHARE, rng.random(n), turn % 1.0)
        place = _EVEN * (_SLOTS / _EVEN + 1) ** turn - _EVEN
        slot = place.astype(np.int64)
        drift = _hash(seed, _INTEREST, user, slot)
        # An interest turns to another category after 60 to 60 + 1,200 / (slot + 1) days: the first last longest.
        period = 60 + 1200 / (slot + 1) * _uniform(drift)
        era = (day / period + _uniform(drift << np.uint64(20))).astype(np.int64)
        category = self._category_of[_hash(seed, _INTEREST, user, slot, era) >> np.uint64(44)]
        within = place - slot
        which = (_STAPLES * (within / _STAPLE_SHARE) ** 1.5).astype(np.int64)
        staple = _hash(seed, _STAPLE, user, category, which)
        fresh = rng.integers(0, 2**64, n, np.uint64)
        bits = np.where(within < _STAPLE_SHARE, staple, fresh)
        size = np.diff(self.offset)[category]
        rank = ((size + 1.0) ** _uniform(bits)).astype(np.int64) - 1
        item = self.offset[category] + np.minimum(rank, size - 1)
        # Every other item enters the shop some time during the log; before, its neighbour is taken.
        is_late = (rank % 2 == 1) & (_uniform(_hash(seed, _LAUNCH, item)) > passed)
        return item - is_late

    def item_features(self, items: np.ndarray) -> dict[str, np.ndarray]:
        """Category, brand and price band of items, as indices from 0; -1: missing."""
        category = np.searchsorted(self.offset, items, side="right") - 1
        bits = _hash(self.sizes.seed, _FEATURE, items)
        brand = np.floor((self.sizes.num_items // 20 + 2.0) ** _uniform(bits)).astype(np.int64) - 1
        brand[_uniform(bits << np.uint64(30)) < 0.05] = -1
        return {"category": category, "brand": brand, "price_band": (bits % np.uint64(5)).astype(np.int64)}

    def user_features(self, users: np.ndarray) -> dict[str, np.ndarray]:
        """Age band and region of users, as indices from 0; -1: missing, as for two thirds of the ages."""
        bits = _hash(self.sizes.seed, _FEATURE, users, users)
        age = (bits % np.uint64(6)).astype(np.int64)
        age[_uniform(bits << np.uint64(20)) < 0.66] = -1
        return {"age": age, "region": ((bits >> np.uint64(8)) % np.uint64(40)).astype(np.int64)}
