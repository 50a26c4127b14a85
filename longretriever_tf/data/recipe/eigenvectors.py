"""The leading eigenvectors of a matrix that is never formed. Imports no TensorFlow."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg

_TAKES_RNG = "rng" in inspect.signature(scipy.sparse.linalg.eigsh).parameters


def leading_eigenvectors(
    product: Callable[[np.ndarray], np.ndarray], size: int, rank: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [rank], the largest first, and their eigenvectors [size, rank], float64.

    Where the matrix has a lower rank, the last ones are rounding errors: leave them out.

    Args:
      product: of the symmetric matrix with a vector, [size] -> [size].
      size: rows of the matrix.
      rank: how many, fewer than `size`.
      seed: of the start.
    """
    rng = np.random.default_rng(seed)
    matrix = scipy.sparse.linalg.LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = rng.standard_normal(size)
    # At a matrix of lower rank ARPACK starts again from random vectors: from scipy 1.17 on unseeded ones by default.
    seeded: dict[str, Any] = {"rng": rng} if _TAKES_RNG else {}
    squares, vectors = scipy.sparse.linalg.eigsh(matrix, k=rank, v0=start, tol=1e-4, **seeded)
    return squares[::-1], vectors[:, ::-1]
