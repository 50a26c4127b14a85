"""Do the probabilities mean what they say: predicted p(item | user), and p(category | user), against what users took.

Imports no TensorFlow.
"""

import numpy as np

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.evaluation.evaluator import Scorer, TaskScorer
from longretriever_tf.evaluation.ground_truth import Truth

LOWEST = -8.0
"""log10 of the smallest probability that has a bin of its own; smaller ones share its bin."""
BINS_PER_DECADE = 4
_ROWS = 32  # users tallied at once: bounds memory, not results


class CalibrationMeter(TaskScorer):
    """A scorer that passes another's answers on, and tallies those to `score` against the truth.

    It tallies where `is_probability` of the scorer says that scores, or what `log_probability` has in their place, are
    log p(item | user) over all items. A user's truth of n items is read as n draws, so the frequency that p is held
    against is 1 / n for an item of the truth and 0 for any other.

    Args:
      scorer: what is evaluated.
      truth: of the window; users are looked up in it.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64; None: interests
        are not tallied.

    Attributes:
      tally: [bins, 3] float64: number of (user, item) pairs, their summed p, their summed frequency; bin i holds
        log10 p from `LOWEST + i / BINS_PER_DECADE` on. All 0 where scores are no probabilities.
      interest_tally: the same of (user, category) pairs: a category's p is the sum over its items, its frequency the
        share of the user's truth that lies in it. Categories that are not retrieved at all are no pairs.
    """

    def __init__(self, scorer: Scorer, truth: Truth, category_offset: np.ndarray | None = None) -> None:
        self.name, self._scorer, self._truth = scorer.name, scorer, truth
        self.is_probability = isinstance(scorer, TaskScorer) and scorer.is_probability
        self.tally = np.zeros([round(-LOWEST * BINS_PER_DECADE), 3])
        self.interest_tally = np.zeros_like(self.tally)
        starts = np.zeros(0, np.int64) if category_offset is None else category_offset[:-1]
        if category_offset is not None:
            starts = starts[(category_offset[1:] > starts) & (category_offset[1:] > FIRST_KNOWN)]
        self._starts = np.maximum(starts, FIRST_KNOWN) - FIRST_KNOWN

    def score(self, users: np.ndarray) -> np.ndarray:
        """The scorer's own scores, [B, V]; the users must be in the truth."""
        scores = self._scorer.score(users)
        if self.is_probability and isinstance(self._scorer, TaskScorer):
            log_p = self._scorer.log_probability(users)
            log_p = scores if log_p is None else log_p
            position = np.searchsorted(self._truth.users, users)
            for start in range(0, len(users), _ROWS):
                self._count(log_p[start : start + _ROWS], position[start : start + _ROWS])
        return scores

    def score_novel(self, users: np.ndarray) -> np.ndarray | None:
        """The scorer's own."""
        return self._scorer.score_novel(users) if isinstance(self._scorer, TaskScorer) else None

    def within(self, users: np.ndarray) -> np.ndarray | None:
        """The scorer's own."""
        return self._scorer.within(users) if isinstance(self._scorer, TaskScorer) else None

    def _count(self, scores: np.ndarray, position: np.ndarray) -> None:
        """Adds a few users' scores [B, V] to the tally; `position` [B] is where they stand in the truth."""
        offset = self._truth.offset
        frequency = np.zeros(scores.shape, np.float32)
        for row, at in enumerate(position):
            start, stop = offset[at : at + 2]
            frequency[row, self._truth.item[start:stop]] = 1.0 / (stop - start)
        scores, frequency = scores[:, FIRST_KNOWN:].astype(np.float64), frequency[:, FIRST_KNOWN:]
        p = np.exp(scores)
        _add(self.tally, p, frequency, scores > -np.inf)
        if len(self._starts):
            p = np.add.reduceat(p, self._starts, axis=1)
            _add(self.interest_tally, p, np.add.reduceat(frequency, self._starts, axis=1), p > 0)


def _add(tally: np.ndarray, p: np.ndarray, frequency: np.ndarray, kept: np.ndarray) -> None:
    p, frequency = p[kept], frequency[kept]
    tiny = 10.0**LOWEST  # smaller ones share the first bin
    bin_of = np.floor((np.log10(np.maximum(p, tiny)) - LOWEST) * BINS_PER_DECADE)
    bin_of = np.clip(bin_of, 0, len(tally) - 1).astype(np.int64)
    for column, weights in enumerate((None, p, frequency)):
        tally[:, column] += np.bincount(bin_of, weights, minlength=len(tally))
