"""What an update learns from: the examples of the new days, and a share of the earlier ones. Imports no TensorFlow."""

import numpy as np

from longretriever_tf.common.errors import require
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config
from longretriever_tf.config.snapshots import horizon_days, snapshot_every_days
from longretriever_tf.data.batches.examples import Candidates, held_out_users
from longretriever_tf.data.batches.order import combine, sort_keys, user_keys

_DRAW = 23
"""Names the draw of replayed examples among the draws of a run's seed."""


class UpdateChoice:
    """Takes all examples with a target in the new days, and so many of the others that they make up --replay_share.

    A snapshot belongs to the new days where its horizon reaches into them. Those of a few new days tell of little that
    is new, so they are thinned to what a training from the start would hold of that span: its snapshots lie
    --snapshot_every_days apart. What is drawn follows from the example, the seed and the shares alone.

    Args:
      config: the run's config.
      user_id: raw ids, [U].
      since: the earlier run's cut, seconds UTC; the new days begin there.
      cut: the training cut.

    Attributes:
      num_new: examples of the new days that the first call has taken: those of the towers.
    """

    def __init__(self, config: Config, user_id: np.ndarray, since: int, cut: int) -> None:
        self._config, self._since, self._cut = config, since, cut
        self._user_key, self._is_held_out = user_keys(user_id), held_out_users(config, user_id)
        self.num_new = 0

    def __call__(self, candidates: Candidates) -> np.ndarray:
        """Which of the candidates to take, [X] bool.

        Raises:
          UserError: the new days hold no example.
        """
        user, time, is_snapshot, ids = candidates
        train, share = self._config.train, self._config.update.replay_share
        reaches = time + int(horizon_days(self._config) * DAY_S) > self._since
        is_new, is_shown = np.where(is_snapshot, reaches, time >= self._since), ~self._is_held_out[user]
        # Snapshots of a user and a time are drawn together: the interest score learns from all that is taken next.
        draw = sort_keys(np.where(is_snapshot, combine(self._user_key[user], time), ids), train.seed, _DRAW)
        span, num_times = self._cut - self._since, len(np.unique(time[is_new & is_snapshot]))
        thinned = min(1.0, span / (snapshot_every_days(self._config) * DAY_S * max(num_times, 1)))
        is_taken = is_new & is_shown & (~is_snapshot | _is_drawn(draw, thinned))
        num_new, num_old = int(is_taken.sum()), int((~is_new & is_shown).sum())
        require(
            num_new > 0,
            f"--warm_start={self._config.update.warm_start}: the {span / DAY_S:.1f} days since that run's training "
            "hold no example to learn from; wait for more days",
        )
        self.num_new = self.num_new or num_new
        wanted = num_new * share / (1 - share)
        return is_taken | (~is_new & is_shown & _is_drawn(draw, min(1.0, wanted / max(num_old, 1))))


def _is_drawn(draw: np.ndarray, share: float) -> np.ndarray:
    """Which of the keys fall into a share of all keys."""
    return np.ones(len(draw), bool) if share >= 1 else draw < np.uint64(share * 2.0**64)
