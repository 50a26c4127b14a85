"""A frozen item vector from co-occurrence: truncated SVD of the training user x item matrix."""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from longretriever_tf.data.corpus import Corpus, EncodedLog

_LEAST = 1e-10
"""Squared singular values below this share of the largest count as 0."""


def fit_item_svd(log: EncodedLog, corpus: Corpus, dim: int, seed: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Right singular vectors of the binary user x item matrix, users scaled to unit length.

    Args:
      log: events before the cut.
      corpus: the corpus.
      dim: width; fewer singular vectors than that (a small log) leave the last columns 0.
      seed: of the solver's start vector.
      keep: which events to fit on, [E] bool; None: all.

    Returns:
      [V, dim] float32, columns scaled by the root of their singular value, rows of unit length (0 for unknown items).
    """
    vectors = np.zeros((corpus.num_items, dim), np.float32)
    pairs = log.event_user() * corpus.num_items + log.item
    pairs = np.unique(pairs if keep is None else pairs[keep])
    item = pairs % corpus.num_items
    # Users without a history here (they come after the cut) get no row: the solver's digits depend on the matrix's
    # shape.
    users, user = np.unique(pairs // corpus.num_items, return_inverse=True)
    rank = min(dim, len(users) - 1, len(np.unique(item)) - 1)
    if rank < 1:
        return vectors
    weight = np.bincount(user)[user] ** -0.5
    matrix = scipy.sparse.csr_matrix((weight, (user, item)), shape=(len(users), corpus.num_items))
    columns = _scaled_right_vectors(matrix, rank, seed)
    # The solver's signs are arbitrary: the largest entry of each column is made positive.
    columns *= np.sign(columns[np.abs(columns).argmax(0), np.arange(rank)])
    # Unit rows: popularity has a term of its own in the logit, and the longest rows would swamp the first steps.
    taken = np.unique(item)  # the rest of the rows hold the solver's rounding errors
    rows = columns[taken]
    vectors[taken, :rank] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return vectors


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
