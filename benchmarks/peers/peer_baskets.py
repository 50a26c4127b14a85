"""UP-CF@r and GP-TopFreq, baselines of next-basket recommendation, written from the papers; no library.

UP-CF@r: Faggioli, Polato, Aiolli, Recency Aware Collaborative Filtering for Next Basket Recommendation, UMAP 2020.
GP-TopFreq: Li, Jullien, Ariannezhad, de Rijke, A Next Basket Recommendation Reality Check, TOIS 2023.
"""

import itertools
from typing import Any

import numpy as np
import scipy.sparse
from peer_split import Score, Split

PACKAGES = ("numpy", "scipy")


def settings(name: str) -> list[dict[str, Any]]:
    """The grid of UP-CF@r, in an order drawn once; GP-TopFreq has nothing to tune."""
    if name == "gp_topfreq":
        return [{}]
    grid = itertools.product((10, 50, 100, 0), (0.0, 0.25, 0.5, 0.75, 1.0), (1, 5, 10, 50))
    made = [{"recent_baskets": r, "asymmetry": alpha, "locality": q} for r, alpha, q in grid]
    return [made[i] for i in np.random.default_rng(1).permutation(len(made))]


def fit(name: str, split: Split, setting: dict[str, Any], seed: int) -> tuple[Score, int]:
    """Scores, and the number of events: each is counted once. Nothing is drawn."""
    del seed
    if name == "gp_topfreq":
        own, popularity = split.matrix(), np.bincount(split.item, minlength=split.shape[1])
        share = (popularity / (1.0 + popularity.max())).astype(np.float32)  # below one event of the user's own
        return lambda rows: own[rows].toarray() + share, len(split.user)
    recent = _recent_popularity(split, setting["recent_baskets"])
    taken = split.matrix()
    taken.data[:] = 1.0
    size = np.maximum(np.asarray(taken.sum(axis=1)).ravel(), 1.0)
    alpha, locality = setting["asymmetry"], setting["locality"]

    def score(rows: np.ndarray) -> np.ndarray:
        common = (taken[rows] @ taken.T).toarray()  # [B, U]
        similarity = common / (size[rows, None] ** alpha * size[None] ** (1.0 - alpha))
        return np.asarray((similarity**locality).astype(np.float32) @ recent)

    return score, len(split.user)


def _recent_popularity(split: Split, recent: int) -> Any:
    """UWPop@r: the share of each user's latest r baskets (0: of all) that hold the item, [U, V] CSR.

    A basket is what a user took at one time.
    """
    order = np.lexsort((split.timestamp, split.user))
    user, time = split.user[order], split.timestamp[order]
    is_new = np.append(True, (np.diff(user) != 0) | (np.diff(time) != 0))
    basket = np.cumsum(is_new) - 1
    of_user = np.bincount(user[is_new], minlength=split.shape[0])
    last = np.cumsum(of_user)[user]  # number of the first basket after the user's own
    kept = (last - basket <= recent) if recent else np.ones(len(user), bool)
    shape = split.shape
    pair = np.unique(np.stack([basket[kept], split.item[order][kept]]), axis=1)  # an item counts once in a basket
    owner = user[is_new][pair[0]]
    held = scipy.sparse.csr_matrix((np.ones(pair.shape[1]), (owner, pair[1])), shape=shape)
    held.sum_duplicates()
    number = np.maximum(np.minimum(of_user, recent) if recent else of_user, 1)
    return scipy.sparse.diags(1.0 / number).dot(held).astype(np.float32).tocsr()
