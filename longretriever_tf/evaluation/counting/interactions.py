"""The events before a cut as sparse user x item matrices, the input of counting baselines. Imports no TensorFlow."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import scipy.sparse

from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.evaluation.counting.popularity import below_zero, decay, fit_popularity
from longretriever_tf.evaluation.ground_truth import is_known_before


class InteractionMatrix:
    """The events before `cut`; nothing at or after it is kept.

    Args:
      log: the encoded log; events of items outside the vocabulary are ignored.
      num_items: V, the length of the item vocabulary with its reserved rows.
      cut: seconds UTC; the past is t < cut.

    Attributes:
      taken: 1 where the user took the item, [U, V] float32 CSR.
      num_takers: users who took each item, [V] int64.
      popularity: `fit_popularity` as of the cut, [V] float64.
      fallback: negative scores in the order of popularity, [V] float32.
    """

    def __init__(self, log: EncodedLog, num_items: int, cut: int) -> None:
        past = is_known_before(log, cut)
        self.num_users, self.num_items, self.cut = log.num_users, num_items, cut
        self._user, self._item, self._timestamp = log.event_user()[past], log.item[past], log.timestamp[past]
        self._kept: dict[Hashable, Any] = {}
        self.taken = self._matrix(np.ones(len(self._item)))
        self.taken.data[:] = 1.0
        self.num_takers = np.bincount(self.taken.indices, minlength=num_items)
        self.popularity = fit_popularity(log, num_items, cut)
        self.fallback = below_zero(self.popularity)

    def counts(self, decay_days: float) -> Any:
        """Decayed count of each user's events of each item, [U, V] float32 CSR; kept, since settings share it."""
        return self.keep(decay_days, lambda: self._matrix(decay(self._timestamp, self.cut, decay_days)))

    def add_counts(self, scores: np.ndarray, users: np.ndarray, decay_days: float, weight: float) -> None:
        """Adds `weight` times the users' own decayed counts to `scores`, [B, V] float32, in place."""
        own = self.counts(decay_days)[users].tocoo()
        scores[own.row, own.col] += np.float32(weight) * own.data

    def keep(self, key: Hashable, fit: Callable[[], Any]) -> Any:
        """The result of `fit`, computed once per key: several baselines or settings share a fit on one past."""
        if key not in self._kept:
            self._kept[key] = fit()
        return self._kept[key]

    def most_taken(self, max_items: int) -> np.ndarray:
        """The `max_items` items that most users took (ties: the lower index), [m] int64 ascending; none untaken."""
        order = np.argsort(-self.num_takers, kind="stable")[:max_items]
        return np.sort(order[self.num_takers[order] > 0])

    def _matrix(self, value: np.ndarray) -> Any:
        """The events' values, summed per (user, item) in float64: a sum in float32 would follow the order of events."""
        shape = (self.num_users, self.num_items)
        matrix = scipy.sparse.csr_array((value, (self._user, self._item)), shape=shape)
        matrix.sum_duplicates()
        return matrix.astype(np.float32)


class LastCallCache:
    """Keeps the result for the last users: settings that differ in one weight share the work of a chunk.

    Args:
      function: from users [B] int64 to an array that callers do not write to.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._function = function
        self._users: np.ndarray | None = None
        self._answer = np.zeros(0)

    def __call__(self, users: np.ndarray) -> np.ndarray:
        """The function's result for `users`."""
        if self._users is None or not np.array_equal(users, self._users):
            self._users, self._answer = users.copy(), self._function(users)
        return self._answer
