"""Small made-up logs: from arrays, or with a pattern that a model can learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.datasets import build_log
from longretriever_tf.datasets.log import ItemTable, LifelongLog

START = 1_600_000_000
"""First second of the made worlds."""


def make_log(
    user: Sequence[Any],
    item: Sequence[Any],
    timestamp: Sequence[int],
    item_features: Mapping[str, Sequence[str]],
    *,
    item_id: Sequence[Any] | None = None,
    basket: Sequence[int] | None = None,
    weight: Sequence[float] | None = None,
    profile: Mapping[str, Sequence[str]] | None = None,
    context: str = "category",
) -> LifelongLog:
    """A log from raw event columns [E], in any order.

    Args:
      item_features: columns [V] aligned with the sorted `item_id` (default: the items that occur).
      profile: columns [U] aligned with the sorted users.
    """
    user_id, user_row = np.unique(user, return_inverse=True)
    ids = np.unique(item if item_id is None else item_id)
    features = {name: np.array(column, dtype=np.str_) for name, column in item_features.items()}
    events = build_log.RawEvents(
        user_row,
        np.searchsorted(ids, item),
        np.array(timestamp, np.int64),
        None if basket is None else np.array(basket, np.int64),
        None if weight is None else np.array(weight, np.float32),
    )
    columns = {name: np.array(column, dtype=np.str_) for name, column in (profile or {}).items()}
    return build_log.build_log(events, user_id, columns, ItemTable(ids, features, ids.astype(np.str_)), context)


def block_world(
    seed: int = 1,
    num_users: int = 41,
    num_items: int = 97,
    num_categories: int = 7,
    events_per_user: int = 61,
    num_blocks: int = 2,
    days: int = 140,
) -> LifelongLog:
    """A world with a right answer: within every category, user u takes items of brand u % num_blocks, 9 times of 10.

    Item v (id 100 + v) has category v % num_categories and brand (v // num_categories) % num_blocks; a user's events
    lie in three categories of his own, at uniform times within `days`. User u has id 1000 + u, and `taste` in his
    profile names his brand.
    """
    rng = np.random.default_rng(seed)
    items = np.arange(num_items)
    category, brand = items % num_categories, items // num_categories % num_blocks
    user = np.repeat(np.arange(num_users), events_per_user)
    own = np.stack([rng.permutation(num_categories)[:3] for _ in range(num_users)])
    wanted = own[user, rng.integers(0, own.shape[1], len(user))]
    history_embedding = np.where(rng.random(len(user)) < 0.9, user % num_blocks, rng.integers(0, num_blocks, len(user)))
    fits = (category == wanted[:, None]) & (brand == history_embedding[:, None])  # [E, V]
    item = np.argmax(fits * rng.random(fits.shape), axis=1)
    timestamp = START + rng.integers(0, days * DAY_S, len(user))
    return make_log(
        1000 + user,
        100 + item,
        timestamp,
        item_id=100 + items,
        item_features={"category": [f"c{c}" for c in category], "brand": [f"b{b}" for b in brand]},
        profile={"taste": [f"b{u % num_blocks}" for u in range(num_users)]},
    )


def crowded_world(seed: int = 1, num_users: int = 11, num_items: int = 29, num_categories: int = 5) -> LifelongLog:
    """A world full of hard cases: ties in time, baskets over two times, weights, short, long and late histories.

    Each user has 1 to 90 draws at 17 whole hours of his own within 190 days, counted from day 0, but for the last two
    users, whose histories start from day 120 and from day 190.
    Text ids; item v has category v % num_categories, so a category's items are not neighbors in the raw table.
    """
    rng = np.random.default_rng(seed)
    sizes = np.append(rng.integers(1, 91, num_users - 3), [1, 40, 40])
    user = np.repeat(np.arange(num_users), sizes)
    as_of_times = rng.integers(0, 24 * 190, [num_users, 17])
    for late, day in ((-2, 120), (-1, 190)):
        as_of_times[late] += 24 * day - as_of_times[late].min()
    hour = as_of_times[user, rng.integers(0, 17, len(user))]
    basket = np.where(rng.random(len(user)) < 0.3, -1, user * 10_000 + hour // 48)
    return make_log(
        [f"u{u:02d}" for u in user],
        [f"i{i:02d}" for i in rng.zipf(1.3, len(user)) % num_items],
        START + 3600 * hour,
        item_id=[f"i{i:02d}" for i in range(num_items)],
        basket=basket,
        weight=rng.uniform(0.5, 3.0, len(user)),
        item_features={
            "category": [f"c{i % num_categories}" for i in range(num_items)],
            "brand": [f"b{i % 3}" for i in range(num_items)],
        },
        profile={"age": [f"a{u % 4}" for u in range(num_users)]},
    )
