"""The items' SVD from one day to the next: rows for new items in a fitted basis, and a later fit in the earlier basis.

What was trained reads the SVD through a fixed projection, so its basis must not turn under it. Between two fits the
rows of known items stay, and a new item gets the row that a linear map, fitted on the known items, makes of those who
took it. A later fit is rotated onto the earlier one (orthogonal Procrustes), which changes none of its inner products.
Users need no rows: a history embedding is a sum over the rows of the items that the history holds. Imports no
TensorFlow.
"""

import numpy as np

from longretriever_tf.data.recipe.item_svd import DistinctPairs, pair_matrix

_RIDGE = 1e-3
"""Weight of the ridge of the linear map, as a share of the mean squared column."""


def align_rows(rows: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Rows of a fit, rotated so that they lie as near as possible to those of another fit (orthogonal Procrustes).

    Args:
      rows: [V, D] float32.
      earlier: of the same items, 0 for those that it lacks, [V, D] float32.

    Returns:
      [V, D] float32, with the inner products of `rows`.
    """
    one, other = rows.astype(np.float64), earlier.astype(np.float64)
    left, _, right = np.linalg.svd(one.T @ other)
    return (one @ (left @ right)).astype(np.float32)


def earlier_rows(earlier: np.ndarray, earlier_row: np.ndarray) -> np.ndarray:
    """Rows of an earlier fit by the items of today, 0 for new ones: [W, D] -> [V, D] float32.

    Args:
      earlier: [W, D] float32.
      earlier_row: row of each item in `earlier`, -1 where it has none, [V].
    """
    return np.where((earlier_row >= 0)[:, None], earlier[np.maximum(earlier_row, 0)], np.float32(0.0))


def mean_cosine(rows: np.ndarray, earlier: np.ndarray) -> float:
    """How near rows of unit length lie to their earlier ones, over the items that have both; 0.0 without any."""
    is_real = (rows != 0).any(1) & (earlier != 0).any(1)
    return float(np.einsum("nd,nd->n", rows[is_real], earlier[is_real]).mean()) if is_real.any() else 0.0


def fold_in_rows(
    pairs: DistinctPairs, earlier: np.ndarray, earlier_row: np.ndarray, keep: np.ndarray | None = None
) -> np.ndarray:
    """The earlier rows of known items, and rows of new ones from those who took them.

    An item's takers are summed up by the known rows of what else they took; for an item of the fit that sum is, but for
    a linear map, its row. The map is fitted on the known items, so that no singular value is needed, nor the basis that
    they belong to.

    Args:
      pairs: what each user has taken before the cut.
      earlier: rows of the earlier fit, [W, D] float32.
      earlier_row: row of each item in `earlier`, -1 where it has none, [V].
      keep: whose histories are read, [U] bool; None: everyone's.

    Returns:
      [V, D] float32: rows of unit length; 0 for new items that nobody of these users took.
    """
    rows, is_new = earlier_rows(earlier, earlier_row), earlier_row < 0
    matrix, item = pair_matrix(pairs, len(earlier_row), keep)
    if not is_new[item].any():
        return rows
    matrix = matrix.astype(np.float32)
    own = np.bincount(matrix.indices, matrix.data.astype(np.float64) ** 2, len(earlier_row))
    taken = matrix.T @ (matrix @ rows) - own[:, None].astype(np.float32) * rows  # without the item's own row
    taken = _unit(taken)
    known = taken[~is_new].astype(np.float64)
    gram = known.T @ known
    ridge = _RIDGE * max(np.trace(gram) / max(len(gram), 1), 1e-12)
    linear = np.linalg.solve(gram + ridge * np.eye(len(gram)), known.T @ rows[~is_new].astype(np.float64))
    rows[is_new] = _unit(taken[is_new] @ linear.astype(np.float32))
    return rows


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; those of length 0 stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > 1e-6, rows / np.maximum(length, 1e-6), np.float32(0.0)).astype(np.float32)
