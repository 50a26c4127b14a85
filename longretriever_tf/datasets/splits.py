"""Global-time split: training, then a validation window, then a test window. Imports no TensorFlow.

One cut for all users, so that nothing after it, of anyone, can reach training, vocabularies, popularity or an index.
"""

import dataclasses

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S

SPLITS = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Where time splits a log, int64 seconds UTC. Training for a split is everything with t < its start.

    Attributes:
      validation_start: first second of the validation window, which ends just before `test_start`.
      test_start: first second of the test window.
      end: the log's last timestamp; the test window includes it.

    >>> Cuts(validation_start=10, test_start=20, end=30).window_of("test")
    (20, 31)
    """

    validation_start: int
    test_start: int
    end: int

    def window_of(self, split: str) -> tuple[int, int]:
        """Half-open window [start, stop) of `split`; the start is also the cut that its training data lie before.

        Raises:
          UserError: `split` is neither validation nor test.
        """
        if split not in SPLITS:
            raise UserError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
        if split == "validation":
            return self.validation_start, self.test_start
        return self.test_start, self.end + 1  # the last event belongs to the test window


def global_time_cuts(timestamp: np.ndarray, window_days: float) -> Cuts:
    """Cuts a log into training, validation and test by the clock.

    test_start = end - window, validation_start = test_start - window, where end is the last timestamp.

    Args:
      timestamp: seconds UTC, [E] int64, in any order.
      window_days: length of each window in days, above 0.

    Raises:
      UserError: the log is empty, or has no event before the validation window.

    >>> cuts = global_time_cuts(np.array([0, 5, 10]) * DAY_S, window_days=2)
    >>> cuts.validation_start // DAY_S, cuts.test_start // DAY_S
    (6, 8)
    """
    window_s = round(window_days * DAY_S)
    if window_s <= 0:
        raise UserError(f"--window_days={window_days}: expected at least one second")
    if len(timestamp) == 0:
        raise UserError("the log holds no events; expected at least one user with events before and after the cuts")
    first, end = int(timestamp.min()), int(timestamp.max())
    cuts = Cuts(validation_start=end - 2 * window_s, test_start=end - window_s, end=end)
    if first >= cuts.validation_start:
        raise UserError(
            f"the log spans {(end - first) / DAY_S:.1f} days, but a validation and a test window of {window_days:g} "
            f"days each need more than {2 * window_days:g}, with training before them; give a smaller --window_days"
        )
    return cuts


def whole_log_cuts(timestamp: np.ndarray) -> Cuts:
    """Cuts that keep no window apart: all that the log holds is training data.

    Raises:
      UserError: the log is empty.

    >>> whole_log_cuts(np.array([0, 5, 10]))
    Cuts(validation_start=11, test_start=11, end=10)
    """
    if len(timestamp) == 0:
        raise UserError("the log holds no events; expected at least one user with events")
    end = int(timestamp.max())
    return Cuts(validation_start=end + 1, test_start=end + 1, end=end)
