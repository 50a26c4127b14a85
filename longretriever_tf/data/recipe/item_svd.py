"""A frozen item vector from co-occurrence: truncated SVD of the training user x item matrix."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse

from longretriever_tf.common.ranges import offset_of
from longretriever_tf.data.corpus import Corpus, EncodedLog
from longretriever_tf.data.recipe.eigenvectors import leading_eigenvectors

_LEAST = 1e-10
"""Squared singular values below this share of the largest count as 0."""

_MORE_COLUMNS, _REFIT_STEPS = 32, 3
"""Of `refit_pairs_svd`: columns beyond those wanted, and passes over the matrix."""

_USERS_PER_COLUMN, _LEAST_COLUMNS = 16, 16
"""Beyond a column for so many users, columns hold noise, which rows of unit length make as loud as the rest: of 600
users' tastes, 128 columns say less than 32. 128 columns need 2,048 users."""

MOST_PAIRS = 20_000_000
"""Pairs that the solver reads at most: it passes over them some thousand times."""

_USERS_AT_ONCE = 65_536


class DistinctPairs(NamedTuple):
    """The distinct items of each user, before the cut: user u has `item[offset[u]:offset[u + 1]]`.

    Attributes:
      offset: [U + 1] int64.
      item: item index, ascending within a user, [n] int32.
    """

    offset: np.ndarray
    item: np.ndarray


def distinct_pairs(log: EncodedLog, num_items: int) -> DistinctPairs:
    """The pairs of a log."""
    pairs = np.unique(log.event_user() * num_items + log.item)
    counts = np.bincount(pairs // num_items, minlength=log.num_users)
    return DistinctPairs(offset_of(counts), (pairs % num_items).astype(np.int32))


def join_pairs(parts: Sequence[DistinctPairs]) -> DistinctPairs:
    """The pairs of several groups of users, one group after the other."""
    counts = np.concatenate([np.diff(part.offset) for part in parts])
    return DistinctPairs(offset_of(counts), np.concatenate([part.item for part in parts]))


def fit_item_svd(log: EncodedLog, corpus: Corpus, dim: int, seed: int) -> np.ndarray:
    """`fit_pairs_svd` of a log that ends before the cut."""
    return fit_pairs_svd(distinct_pairs(log, corpus.num_items), corpus.num_items, dim, seed)


def fit_pairs_svd(
    pairs: DistinctPairs,
    num_items: int,
    dim: int,
    seed: int,
    keep: np.ndarray | None = None,
    most_pairs: int = MOST_PAIRS,
) -> np.ndarray:
    """Right singular vectors of the binary user x item matrix, users scaled to unit length.

    Of a log with more than `most_pairs` the solver reads users drawn until they fill so many; one step of the power
    method over all users then gives every item its row.

    Args:
      pairs: what each user has taken before the cut.
      num_items: V.
      dim: width; a small log gives fewer singular vectors, one for 16 users, and leaves the last columns 0.
      seed: of the solver's start vector.
      keep: which users to fit on, [U] bool; None: all.
      most_pairs: that the solver reads.

    Returns:
      [V, dim] float32, columns scaled by the root of their singular value, rows of unit length (0 for unknown items).
    """
    vectors = np.zeros((num_items, dim), np.float32)
    matrix, taken = pair_matrix(pairs, num_items, keep)
    drawn = _draw_users(np.diff(matrix.indptr), most_pairs, seed)
    rank = min(dim, max(_LEAST_COLUMNS, len(drawn) // _USERS_PER_COLUMN), len(drawn) - 1, len(taken) - 1)
    if rank < 1:
        return vectors
    is_sample = len(drawn) < matrix.shape[0]
    columns = _scaled_right_vectors(matrix[drawn] if is_sample else matrix, rank, seed)
    if is_sample:
        columns = _spread_to_all(matrix, columns)
    # The solver's signs are arbitrary: the largest entry of each column is made positive.
    columns *= np.sign(columns[np.abs(columns).argmax(0), np.arange(rank)])
    vectors[taken, :rank] = _unit_rows(columns[taken])  # the rest of the rows hold the solver's rounding errors
    return vectors


def refit_pairs_svd(pairs: DistinctPairs, start: np.ndarray, seed: int, keep: np.ndarray | None = None) -> np.ndarray:
    """`fit_pairs_svd` from the rows of an earlier fit, by a few steps of subspace iteration (Halko et al. 2011).

    Between two fits the space of the vectors turns little, so some passes over the matrix find it again: a fifth of the
    time of a fit from the start. A small matrix is fitted from the start.

    Args:
      pairs: what each user has taken before the cut.
      start: rows of the earlier fit, 0 for new items, [V, dim] float32.
      seed: of the further columns that the iteration starts from.
      keep: which users to fit on, [U] bool; None: all.

    Returns:
      [V, dim] float32 as of `fit_pairs_svd`, in a basis of its own.
    """
    num_items, dim = start.shape
    matrix, taken = pair_matrix(pairs, num_items, keep)
    is_narrow = not start.any(axis=0).all()  # the earlier log had too few users for all columns
    if is_narrow or min(matrix.shape[0], len(taken)) < 4 * (dim + _MORE_COLUMNS):
        return fit_pairs_svd(pairs, num_items, dim, seed, keep)
    matrix, further = matrix.astype(np.float32), np.random.default_rng(seed).standard_normal((num_items, _MORE_COLUMNS))
    transposed = matrix.T.tocsr()
    users = matrix @ np.concatenate([start, further.astype(np.float32)], 1)
    for _ in range(_REFIT_STEPS):
        users = matrix @ (transposed @ scipy.linalg.qr(users, mode="economic", check_finite=False)[0])
    right = transposed @ scipy.linalg.qr(users, mode="economic", check_finite=False)[0]
    squares, turn = np.linalg.eigh((right.T @ right).astype(np.float64))
    squares, turn = squares[::-1][:dim], turn[:, ::-1][:, :dim]
    # Singular vectors times the root of their singular values, as `_scaled_right_vectors` returns them.
    scale = np.where(squares > _LEAST * squares[0], np.maximum(squares, 1e-30) ** -0.25, 0.0)
    vectors = np.zeros((num_items, dim), np.float32)
    vectors[taken] = _unit_rows((right @ (turn * scale).astype(np.float32))[taken])
    return vectors


def pair_matrix(
    pairs: DistinctPairs, num_items: int, keep: np.ndarray | None
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """The binary user x item matrix, users scaled to unit length.

    Args:
      pairs: what each user has taken before the cut.
      num_items: V.
      keep: which users, [U] bool; None: all.

    Returns:
      [n, V] float64, a row for each of the users who took anything; and the items that anyone of them took.
    """
    counts, item = np.diff(pairs.offset), pairs.item
    if keep is not None:
        item, counts = item[np.repeat(keep, counts)], counts[keep]
    # Users without a history here (they come after the cut) get no row: the solver's digits depend on the matrix's
    # shape.
    counts = counts[counts > 0]
    weight = np.repeat(counts**-0.5, counts)
    matrix = scipy.sparse.csr_matrix((weight, item, offset_of(counts)), shape=(len(counts), num_items))
    return matrix, np.flatnonzero(np.bincount(item, minlength=num_items))


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1: popularity has a term of its own in the logit, and long rows would swamp the first steps."""
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit


def _draw_users(counts: np.ndarray, most_pairs: int, seed: int) -> np.ndarray:
    """Rows of users, ascending, whose pairs are at most `most_pairs`; all of them where those are fewer."""
    if counts.sum() <= most_pairs:
        return np.arange(len(counts))
    order = np.random.default_rng(seed).permutation(len(counts))
    return np.sort(order[: max(1, int(np.searchsorted(np.cumsum(counts[order]), most_pairs, side="right")))])


def _spread_to_all(matrix: scipy.sparse.csr_matrix, columns: np.ndarray) -> np.ndarray:
    """A step of the power method from right singular vectors of some users, over all users: [n, rank] float64.

    The columns keep their lengths.
    """
    spread = np.zeros_like(columns)
    for low in range(0, matrix.shape[0], _USERS_AT_ONCE):
        part = matrix[low : low + _USERS_AT_ONCE]
        spread += part.T @ (part @ columns)
    norms = np.linalg.norm(columns, axis=0), np.linalg.norm(spread, axis=0)
    return spread * (norms[0] / np.maximum(norms[1], np.finfo(np.float64).tiny))


def _scaled_right_vectors(matrix: scipy.sparse.csr_matrix, rank: int, seed: int) -> np.ndarray:
    """The first right singular vectors, largest first, times the root of their singular values: [n, rank] float64.

    Eigenvectors of the smaller Gram matrix, never formed: `svds` would make both sides orthogonal once more, which
    takes longer than all the rest.
    """
    is_wide = matrix.shape[0] <= matrix.shape[1]
    small = matrix if is_wide else matrix.T.tocsr()
    large = small.T.tocsr()
    side = small.shape[0]
    squares, vectors = leading_eigenvectors(lambda x: small @ (large @ x), side, rank, seed)
    is_real = squares > _LEAST * squares[0]  # the rest of a matrix of lower rank is rounding errors
    root = np.where(is_real, squares, 1.0) ** 0.25  # of the singular values
    right = large @ vectors / root if is_wide else vectors * root
    return right * is_real
