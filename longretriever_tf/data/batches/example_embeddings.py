"""History embeddings of the (user, time) pairs that have training examples. Imports no TensorFlow."""

from typing import NamedTuple

import numpy as np

from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.data.recipe.history_embedding import build_history_embeddings


class ExampleHistoryEmbeddings(NamedTuple):
    """History embeddings that training reads: those of the (user, time) pairs that have examples.

    Attributes:
      row: of each example in `vector`, [X] int64.
      vector: [n, svd_dim] float32; [n, 0] unless the model reads it.
    """

    row: np.ndarray
    vector: np.ndarray


def embed_examples(
    config: Config,
    log: EncodedLog,
    user_fold: np.ndarray,
    history_embedding_rows: np.ndarray,
    grid: np.ndarray,
    examples: Examples,
) -> ExampleHistoryEmbeddings:
    """History embeddings of the examples' users at the examples' times on a grid.

    Args:
      config: the run's config.
      log: the encoded log before the cut.
      user_fold: of the log's users, [U] int64.
      history_embedding_rows: of each fold, [K, V, D] float32.
      grid: times of the item statistics, [S] int64.
      examples: of the log.

    Raises:
      UserError: they do not fit into memory.
    """
    pair, row = np.unique(examples.stats_row.astype(np.int64) * log.num_users + examples.user, return_inverse=True)
    user, time = pair % max(log.num_users, 1), grid[pair // max(log.num_users, 1)]
    shown = config.model.history_events
    return ExampleHistoryEmbeddings(
        row, build_history_embeddings(log, user_fold, history_embedding_rows, user, time, shown)
    )
