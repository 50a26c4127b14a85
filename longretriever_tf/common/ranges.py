"""Consecutive ranges of rows. Imports no TensorFlow."""

import numpy as np


def offset_of(counts: np.ndarray) -> np.ndarray:
    """Bounds of consecutive groups of these sizes, [n + 1] int64.

    >>> offset_of(np.array([2, 0, 3]))
    array([0, 2, 2, 5])
    """
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def flat_ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions `start[i]:stop[i]` of every i, one range after the other, without a loop.

    Args:
      start: [n] int64.
      stop: at least `start`, [n] int64.

    Returns:
      i of each position, and the position, [m] int64 each.
    """
    size = stop - start
    owner = np.repeat(np.arange(len(size)), size)
    return owner, np.arange(len(owner)) + np.repeat(start - (np.cumsum(size) - size), size)
