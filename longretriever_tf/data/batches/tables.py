"""What training and requests read of everyone's events, and the cut that these lie before. Imports no TensorFlow."""

import dataclasses

import numpy as np

from longretriever_tf.config.config import Config
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.item_stats import ItemStats
from longretriever_tf.datasets.splits import Cuts, global_time_cuts, whole_log_cuts


@dataclasses.dataclass(frozen=True)
class Tables:
    """What training and requests read of everyone's events up to a time: of items, not of users.

    Attributes:
      corpus: vocabularies.
      stats: item statistics; the last row is as of the time.
      item_svd: [V, svd_dim] float32.
      history_embedding_rows: what history embeddings are read through, one table per fold, [K, V, svd_dim] float32; see
        `data.recipe.history_embedding`.
    """

    corpus: Corpus
    stats: ItemStats
    item_svd: np.ndarray
    history_embedding_rows: np.ndarray

    @property
    def as_of(self) -> int:
        """When requests are asked: the log ends strictly before it, seconds UTC."""
        return int(self.stats.time[-1])


def training_cut(config: Config, cuts: Cuts) -> int:
    """The time at which training data ends."""
    return {"validation": cuts.validation_start, "test": cuts.test_start, "none": cuts.end + 1}[config.train.cut]


def training_cuts(config: Config, timestamp: np.ndarray) -> Cuts:
    """The cuts of a training. With --cut=none no window is kept apart, so the log may be shorter than two windows.

    Args:
      config: the run's config.
      timestamp: of the log's events, seconds UTC; the first and the last suffice.

    Raises:
      UserError: the log is too short for the windows that the cut keeps apart.
    """
    if config.train.cut != "none":
        return global_time_cuts(timestamp, config.data.window_days)
    return whole_log_cuts(timestamp)
