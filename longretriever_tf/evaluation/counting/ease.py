"""EASE (Steck, WWW 2019), alone and with the user's own counts added. Imports no TensorFlow."""

import dataclasses
from typing import Any

import numpy as np
import scipy.linalg

from longretriever_tf.evaluation.counting.interactions import InteractionMatrix, LastCallCache

MAX_DENSE = 8_000
"""Side of the largest matrix that is inverted: 0.5 GB in float64, some 20 seconds on two cores."""

_BLOCK = 64  # users at once: bounds memory, not results


class Ease:
    """Linear item-item weights with a zero diagonal: B = I - P / diag(P), P = (X'X + regularization I)^-1.

    X is the binary user x item matrix and score = X B. The smaller side is inverted. Where users are fewer than items
    and at most `max_dense`, that is K = XX' + regularization I: since X P = K^-1 X and diag(P) = (1 - diag(X' K^-1 X))
    / regularization, it is exact over all items. Otherwise it is X'X of the `max_dense` items that most users took.
    Items without weights follow all others, by popularity.

    Args:
      past: the events before the cut.
      regularization: above 0.
      max_dense: largest side to invert.

    Attributes:
      by_user: whether the side of the users was inverted.
    """

    name = "EASE"

    def __init__(self, past: InteractionMatrix, regularization: float, max_dense: int = MAX_DENSE) -> None:
        self._past = past
        self.by_user = past.num_users <= min(max_dense, int(np.count_nonzero(past.num_takers)))
        self._item = past.most_taken(past.num_items if self.by_user else max_dense)
        self._taken = past.taken[:, self._item].tocsr()
        gram = self._taken @ self._taken.T if self.by_user else self._taken.T @ self._taken
        inverse = _inverse(gram, regularization)
        if self.by_user:
            self._inverse = inverse.astype(np.float32)
            diagonal = (1.0 - _quadratic_diagonal(inverse, self._taken)) / regularization
            self._scale = (1.0 / diagonal).astype(np.float32)  # [m]
        else:
            weights = -inverse / np.diag(inverse)
            np.fill_diagonal(weights, 0.0)
            self._weights = weights.astype(np.float32)  # [m, m]
        self._last_scores = LastCallCache(self._scores)

    def score(self, users: np.ndarray) -> np.ndarray:
        """[B, V] float32."""
        return self._last_scores(users).copy()

    def _scores(self, users: np.ndarray) -> np.ndarray:
        taken = self._taken[users]
        if self.by_user:
            known = taken.toarray() - (self._inverse[users] @ self._taken) * self._scale
        else:
            known = taken @ self._weights
        lowest = np.minimum(known.min(axis=1, initial=0.0), 0.0)
        scores = lowest[:, None] + self._past.fallback  # at most lowest - 1: behind all known
        scores[:, self._item] = known
        return scores


@dataclasses.dataclass(frozen=True)
class EaseWithOwn:
    """EASE plus `weight` times the user's own decayed counts, which EASE by itself cannot see.

    Attributes:
      past: the events before the cut.
      ease: fitted on the same past; several settings may share it.
      decay_days: decay of the counts.
      weight: of the counts.
    """

    past: InteractionMatrix
    ease: Ease
    decay_days: float
    weight: float
    name: str = "EASE + own items"

    def score(self, users: np.ndarray) -> np.ndarray:
        """[B, V] float32."""
        scores = self.ease.score(users)
        self.past.add_counts(scores, users, self.decay_days, self.weight)
        return scores


def _inverse(gram: Any, regularization: float) -> Any:
    """(gram + regularization I)^-1 by Cholesky, [n, n] float64; `gram` is sparse, symmetric, not negative."""
    dense = gram.toarray().astype(np.float64)
    dense[np.diag_indices_from(dense)] += regularization
    factor = scipy.linalg.cholesky(dense, lower=True, overwrite_a=True, check_finite=False)
    inverse, failed = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    assert failed == 0, failed
    for i in range(len(inverse)):  # dpotri leaves the upper half as it was; no copies, which would be as large again
        inverse[i, i + 1 :] = inverse[i + 1 :, i]
    return inverse


def _quadratic_diagonal(inverse: np.ndarray, taken: Any) -> np.ndarray:
    """diag(X' inverse X), [m] float64, a block of users at a time."""
    total = np.zeros(taken.shape[1])
    for start in range(0, taken.shape[0], _BLOCK):
        block = slice(start, start + _BLOCK)
        own = taken[block].tocoo()
        product = inverse[block] @ taken  # [b, m]
        total += np.bincount(own.col, product[own.row, own.col], minlength=taken.shape[1])
    return total
