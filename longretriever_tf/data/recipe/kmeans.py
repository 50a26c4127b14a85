"""k-means of rows of unit length: spherical in effect. Imports no TensorFlow."""

import warnings
from collections.abc import Callable

import numpy as np
import scipy.cluster.vq

_ROUNDS = 30
_FIT_ITEMS_PER_CLUSTER = 100
"""Centers are fitted on a sample of this many rows per cluster, which moves them little and bounds the time."""

Start = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""From rows [n, d], a number k and a generator to the first centers, [k, d]."""


def random_rows(rows: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Some of the rows, each at most once."""
    return rows[rng.choice(len(rows), wanted, replace=False)]


def plus_plus(rows: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each next center is a row drawn by its squared distance to the nearest one so far.

    Rows of texts repeat, word by word, so that random ones would often be the same center twice. scipy's own k-means++
    computes all distances anew for every center.
    """
    centers = np.empty((wanted, rows.shape[1]), rows.dtype)
    centers[0] = rows[rng.integers(len(rows))]
    distance = ((rows - centers[0]) ** 2).sum(1, dtype=np.float64)
    for number in range(1, wanted):
        reached = np.cumsum(distance)
        at = min(int(np.searchsorted(reached, rng.random() * reached[-1], side="right")), len(rows) - 1)
        centers[number] = rows[at]
        distance = np.minimum(distance, ((rows - centers[number]) ** 2).sum(1, dtype=np.float64))
    return centers


def cluster_rows(rows: np.ndarray, wanted: int, seed: int, start: Start) -> np.ndarray:
    """Cluster of each row, [n] int; fewer clusters than wanted where rows are few or alike.

    Args:
      rows: [n, d] of unit length.
      wanted: number of clusters.
      seed: of the sample and the start.
      start: makes the first centers.
    """
    rng = np.random.default_rng(seed)
    wanted = min(wanted, len(np.unique(rows, axis=0)))
    if wanted < 2:
        return np.zeros(len(rows), np.int64)
    sample = rows[rng.permutation(len(rows))[: wanted * _FIT_ITEMS_PER_CLUSTER]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # then there is one category fewer
        centers, _ = scipy.cluster.vq.kmeans2(sample, start(sample, wanted, rng), iter=_ROUNDS, minit="matrix")
    cluster, _ = scipy.cluster.vq.vq(rows, centers)
    return cluster.astype(np.int64)
