"""Ranks and sums over dense rows of logits."""

import numpy as np


def ranks_of_best(logits: np.ndarray, k: int) -> np.ndarray:
    """0 for the best item of each row, -1 for the next, ...; -inf beyond the k best and where the logit is, [B, V]."""
    rank = ranks(logits)
    return np.where((rank < k) & (logits > -np.inf), -rank, -np.inf).astype(np.float32)


def ranks(block: np.ndarray) -> np.ndarray:
    """Rank of each column within its row, 0 the best, equal ones by column, [n, m] int64."""
    rank = np.empty(block.shape, np.int64)
    ascending = np.broadcast_to(np.arange(block.shape[1]), block.shape)
    np.put_along_axis(rank, np.argsort(-block, axis=1, kind="stable"), ascending, axis=1)
    return rank


def logsumexp(block: np.ndarray) -> np.ndarray:
    """Row-wise log sum exp, 0 where a row has nothing left, [n, 1]."""
    top = block.max(1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(block - top).sum(1, keepdims=True)) + top
    return np.where(np.isfinite(total), total, 0.0)
