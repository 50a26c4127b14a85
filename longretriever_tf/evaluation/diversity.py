"""What lists show beside hits: how many categories, how alike the items, how rare, how evenly spread over all items.

None of these has a better end: they say what a recall is paid with. Imports no TensorFlow.
"""

import numpy as np

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.evaluation.ground_truth import Truth


def self_information(truth: Truth) -> np.ndarray:
    """Bits that it takes to say that a user has taken an item, [V] float64: many for a rare one.

    -log2 of the share of the truth's users who took it before the cut, one more counted on both sides so that an item
    that none of them took has a number (Zhou et al., PNAS 2010, "mean self-information").
    """
    taken = np.bincount(truth.interacted_item, minlength=truth.num_items)
    return np.log2((truth.num_users + 1) / (taken + 1))


def diversity_of_lists(
    lists: np.ndarray, ks: tuple[int, ...], category_offset: np.ndarray, information: np.ndarray
) -> dict[str, np.ndarray]:
    """Diversity of each list's first k; NaN for an empty list.

    categories@k: distinct categories. category_distance@k: share of the pairs of its items that lie in two categories,
    the intra-list distance where a category is all that is known of an item (NaN for a single item). novelty@k: mean
    `self_information`.

    Args:
      lists: item indices, best first, [U, K] int; -1 pads.
      ks: list lengths, each at most K.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.
      information: of each item, [V] float64.

    Returns:
      `{"categories@100": [U] float64, ...}`.

    >>> shown = diversity_of_lists(np.array([[0, 1, 2, -1]]), (4,), np.array([0, 2, 4]), np.array([1.0, 2.0, 6.0, 9.0]))
    >>> {name: float(value[0].round(3)) for name, value in shown.items()}
    {'categories@4': 2.0, 'category_distance@4': 0.667, 'novelty@4': 3.0}
    """
    shown = {}
    num_categories = len(category_offset) - 1
    category = np.searchsorted(category_offset, lists, side="right") - 1
    bits = np.where(lists >= 0, information[lists], 0.0)
    for k in ks:
        is_item = lists[:, :k] >= 0
        size = is_item.sum(1).astype(np.float64)
        row, _ = np.nonzero(is_item)
        key, count = np.unique(row * num_categories + category[:, :k][is_item], return_counts=True)
        alike = np.bincount(key // num_categories, count * (count - 1.0), len(lists))
        with np.errstate(invalid="ignore"):  # 0 / 0 of an empty list is the NaN that it should be
            shown[f"categories@{k}"] = np.where(
                size > 0, np.bincount(key // num_categories, minlength=len(lists)), np.nan
            )
            shown[f"category_distance@{k}"] = 1.0 - alike / np.where(size > 1, size * (size - 1), np.nan)
            shown[f"novelty@{k}"] = bits[:, :k].sum(1) / size
    return shown


def gini(exposures: np.ndarray) -> float:
    """How unevenly lists show the known items: 0 where each is shown as often, near 1 where one takes all.

    Args:
      exposures: how many lists show each item, [V] int; reserved rows do not count, items never shown do.

    >>> round(gini(np.array([0, 0, 3, 3, 3])), 3), round(gini(np.array([0, 0, 0, 0, 9])), 3)
    (0.0, 0.667)
    """
    known = np.sort(exposures[FIRST_KNOWN:]).astype(np.float64)
    total, count = known.sum(), len(known)
    if total == 0:
        return 0.0
    return float(2.0 * (np.arange(1, count + 1) * known).sum() / (count * total) - (count + 1) / count)
