"""Views and carts that precede the purchases of a generated log."""

import numpy as np
from lifelong_world import LogRows

from longretriever_tf.common.ranges import flat_ranges

ACTIONS = ("buy", "cart", "view")
_HOUR = 3600


def with_actions(bought: LogRows, category_offset: np.ndarray, rng: np.random.Generator) -> tuple[LogRows, np.ndarray]:
    """The purchases with what people do before: look at the item, compare it with others, fill a cart.

    Each purchase is preceded by 1 to 4 views of its item (mean 1.75) and, 6 times of 10, by a cart; and by views of up
    to 4 other items of its category (mean 2), a tenth of which go into the cart and stay there. So a view of an item
    that was not bought says what the user compared, and nothing of what the user likes.

    Args:
      bought: purchases.
      category_offset: category c has the items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.
      rng: draws.

    Returns:
      All events, and the number of each one's action in `ACTIONS`; what is no purchase has no basket (-1).
    """
    size = len(bought.user)
    same, _ = flat_ranges(np.zeros(size, np.int64), 1 + rng.binomial(3, 0.25, size))
    other, _ = flat_ranges(np.zeros(size, np.int64), rng.binomial(4, 0.5, size))
    carted = np.flatnonzero(rng.random(size) < 0.6)
    category = np.searchsorted(category_offset, bought.item[other], side="right") - 1
    low, high = category_offset[category], category_offset[category + 1]
    rival = low + rng.integers(0, np.maximum(high - low, 1))
    left = np.flatnonzero(rng.random(len(other)) < 0.1)
    owner = np.concatenate([np.arange(size), same, other, carted, other[left]])
    item = np.concatenate([bought.item, bought.item[same], rival, bought.item[carted], rival[left]])
    action = np.repeat([0, 2, 2, 1, 1], [size, len(same), len(other), len(carted), len(left)])
    lag = np.where(action == 1, rng.integers(60, _HOUR, len(owner)), rng.integers(_HOUR, 48 * _HOUR, len(owner)))
    is_bought = action == 0
    events = LogRows(
        user=bought.user[owner],
        item=item,
        timestamp=bought.timestamp[owner] - np.where(is_bought, 0, lag),
        basket=np.where(is_bought, bought.basket[owner], -1),
        quantity=np.where(is_bought, bought.quantity[owner], 1).astype(np.float32),
    )
    return events, action
