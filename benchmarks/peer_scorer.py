"""A peer's vectors under this package's evaluator, as its own models are."""

import os
from typing import Any

import numpy as np
from recall import METRICS, measure_recall


class PeerScorer:
    """The `Scorer` of a peer: each item's best inner product with one of the user's interests.

    Args:
      name: what it is called.
      users: rows of the log that the interests are of, ascending, [U] int64.
      interests: [U, K, D].
      items: [V, D].
    """

    def __init__(self, name: str, users: np.ndarray, interests: np.ndarray, items: np.ndarray) -> None:
        self.name, self._users, self._interests, self._items = name, users, interests, items

    def score(self, users: np.ndarray) -> np.ndarray:
        """Scores of every item, [B, V] float32; `users` among those that the interests are of."""
        asked = self._interests[np.searchsorted(self._users, users)]  # [B, K, D]
        scores = np.full((len(users), len(self._items)), -np.inf, np.float32)
        for k in range(asked.shape[1]):
            np.maximum(scores, asked[:, k] @ self._items.T, out=scores)
        return scores


def evaluate_marks(
    name: str, marks: list[float], folder: str, truth: Any, category_offset: np.ndarray
) -> list[dict[str, float]]:
    """`seconds` and `METRICS` of every mark that `peer_marks.spend_budget` left in the folder."""
    curve = []
    for i, seconds in enumerate(marks):
        with np.load(os.path.join(folder, f"mark_{i}.npz")) as kept:
            scorer = PeerScorer(name, truth.users, kept["users"], kept["items"])
        curve.append({"seconds": seconds} | measure_recall(scorer, truth, category_offset))
    return curve


def seconds_to_the_same(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """By metric: the best `recall` that both curves reach, and the seconds of each to it, `ours_s` and `theirs_s`."""
    seconds_by_metric = {}
    for metric in METRICS:
        recall = min(max(mark[metric] for mark in curve) for curve in (ours, theirs))
        seconds = [next(mark["seconds"] for mark in curve if mark[metric] >= recall) for curve in (ours, theirs)]
        seconds_by_metric[metric] = {"recall": recall, "ours_s": seconds[0], "theirs_s": seconds[1]}
    return seconds_by_metric
