"""A frozen item vector from co-occurrence: truncated SVD of the training user x item matrix."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from longretriever_tf.common.ranges import offset_of
from longretriever_tf.data.corpus import Corpus, EncodedLog

_LEAST = 1e-10
"""Squared singular values below this share of the largest count as 0."""

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
      dim: width; fewer singular vectors than that (a small log) leave the last columns 0.
      seed: of the solver's start vector.
      keep: which users to fit on, [U] bool; None: all.
      most_pairs: that the solver reads.

    Returns:
      [V, dim] float32, columns scaled by the root of their singular value, rows of unit length (0 for unknown items).
    """
    vectors = np.zeros((num_items, dim), np.float32)
    counts, item = np.diff(pairs.offset), pairs.item
    if keep is not None:
        item, counts = item[np.repeat(keep, counts)], counts[keep]
    # Users without a history here (they come after the cut) get no row: the solver's digits depend on the matrix's
    # shape.
    counts = counts[counts > 0]
    taken = np.flatnonzero(np.bincount(item, minlength=num_items))
    drawn = _draw_users(counts, most_pairs, seed)
    rank = min(dim, len(drawn) - 1, len(taken) - 1)
    if rank < 1:
        return vectors
    weight = np.repeat(counts**-0.5, counts)
    matrix = scipy.sparse.csr_matrix((weight, item, offset_of(counts)), shape=(len(counts), num_items))
    columns = _scaled_right_vectors(matrix[drawn] if len(drawn) < len(counts) else matrix, rank, seed)
    if len(drawn) < len(counts):
        columns = _spread_to_all(matrix, columns)
    # The solver's signs are arbitrary: the largest entry of each column is made positive.
    columns *= np.sign(columns[np.abs(columns).argmax(0), np.arange(rank)])
    # Unit rows: popularity has a term of its own in the logit, and the longest rows would swamp the first steps.
    rows = columns[taken]  # the rest of the rows hold the solver's rounding errors
    vectors[taken, :rank] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return vectors


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
    gram = scipy.sparse.linalg.LinearOperator((side, side), matvec=lambda x: small @ (large @ x), dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(side)
    squares, vectors = scipy.sparse.linalg.eigsh(gram, k=rank, v0=start, tol=1e-4)
    squares, vectors = squares[::-1], vectors[:, ::-1]
    is_real = squares > _LEAST * squares[0]  # the rest of a matrix of lower rank is rounding errors
    root = np.where(is_real, squares, 1.0) ** 0.25  # of the singular values
    right = large @ vectors / root if is_wide else vectors * root
    return right * is_real
