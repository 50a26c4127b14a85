"""Which batches a step takes: G of them, one for each group. Imports no TensorFlow.

A batch is never split. Group g of step s takes batch `table[s, g]` of the epoch, or none (-1); the groups go to the
replicas in order, G / N to each, so that a step is the same for every number of replicas N that divides G.
"""

import numpy as np

from longretriever_tf.common.errors import UserError


def in_turn(num_batches: int, groups: int) -> np.ndarray:
    """Batches in the epoch's order, the last step filled up with -1: [S, G] int64.

    >>> in_turn(5, 2).tolist()
    [[0, 1], [2, 3], [4, -1]]
    """
    table = np.full(-(-num_batches // groups) * groups, -1, np.int64)
    table[:num_batches] = np.arange(num_batches)
    return table.reshape(-1, groups)


def category_ranges(num_batches: np.ndarray, groups: int) -> np.ndarray:
    """Cuts the categories into G ranges of about as many batches each, with at least one batch in every range.

    >>> category_ranges(np.array([0, 0, 3, 1, 4, 2]), 2).tolist()
    [0, 4, 6]

    Args:
      num_batches: of each category in an epoch, [C] int64.
      groups: G.

    Returns:
      Group g has categories `[g]` up to `[g + 1]`, [G + 1] int64.

    Raises:
      UserError: fewer categories have batches than there are groups.
    """
    filled = np.flatnonzero(num_batches)
    if len(filled) < groups:
        raise UserError(
            f"--item_tables=by_category: {len(filled)} categories have training examples, and {groups} groups of them "
            f"are asked for; use at most {len(filled)} workers (--batches_per_step), or --item_tables=replicated"
        )
    before = np.concatenate([[0], np.cumsum(num_batches[filled])])
    cuts = [0]
    for group in range(1, groups):
        nearest = int(np.argmin(np.abs(before - before[-1] * group / groups)))
        cuts.append(min(max(nearest, cuts[-1] + 1), len(filled) - (groups - group)))
    return np.append(0, np.append(filled[cuts[1:]], len(num_batches))).astype(np.int64)


def by_range(category: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Each group takes the batches of its categories, in the epoch's order: [S, G] int64.

    A group that has fewer of them than another takes part in steps at even distances.

    >>> by_range(np.array([5, 2, 2, 5, 2, 2]), np.array([0, 4, 6])).tolist()
    [[1, 0], [2, -1], [4, 3], [5, -1]]

    Args:
      category: of each batch, [n] int64.
      ranges: of `category_ranges`, [G + 1].
    """
    group = np.searchsorted(ranges, category, side="right") - 1
    size = np.bincount(group, minlength=len(ranges) - 1)
    table = np.full([size.max(), len(size)], -1, np.int64)
    for g, n in enumerate(size.tolist()):
        table[np.arange(n) * len(table) // n, g] = np.flatnonzero(group == g)
    return table


def heaviest_share(num_batches: np.ndarray, ranges: np.ndarray) -> float:
    """The share of all batches that the fullest range has: 1 / G where the ranges are level."""
    sizes = np.add.reduceat(num_batches, ranges[:-1])
    return float(sizes.max() / num_batches.sum())
