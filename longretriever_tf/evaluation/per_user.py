"""Metrics of every user and every truth pair, as `evaluate` leaves them next to metrics.json: for intervals and plots.

Means hide whom a method serves. These arrays let any two models be compared user by user (`ranking.paired_bootstrap`),
and any metric be drawn against the length of the history, the size of the category or the share of repeats. Imports no
TensorFlow.
"""

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from longretriever_tf.common.files import write_bytes_atomically
from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.evaluation.evaluator import Evaluation
from longretriever_tf.evaluation.ground_truth import Truth

METRICS = ("recall@50", "recall@100", "ndcg@100")
"""What is kept of every user, for each task."""

RANK_CAP = np.iinfo(np.int32).max
"""Rank of a pair that was not retrieved."""


def per_user_path(metrics_path: str) -> str:
    """Where the metrics of the users lie, next to their means: metrics.json -> metrics.per_user.npz."""
    return os.path.splitext(metrics_path)[0] + ".per_user.npz"


def tabulate_users(
    evaluations: Mapping[str, Evaluation], truth: Truth, log: EncodedLog, category_offset: np.ndarray, cut: int
) -> dict[str, np.ndarray]:
    """Every model's metrics by user and by truth pair, as arrays by name.

    Args:
      evaluations: metrics of the same truth, by model.
      truth: of the window; U' users, P pairs, Q of them novel.
      log: the encoded log; events before `cut` are a user's history.
      category_offset: category c owns items `category_offset[c]:category_offset[c + 1]`, [C + 1] int64.
      cut: seconds UTC, the start of the window.

    Returns:
      model [M] str; user [U'] int64, rows of the log; history_length [U'] int64; repeat_share [U'] float64, the share
      of the user's pairs taken before; "all/recall@100" and its like [M, U'] float64, NaN without truth;
      pair_user [P] int32, positions in `user`; pair_is_novel [P] bool; category_size [P] int64; "all/rank" [M, P] and
      "novel/rank" [M, Q] int32, ranks within the category, `RANK_CAP` where not retrieved; "all/rank_depth" and
      "novel/rank_depth" [M] int32, the depth that ranks are known to, `RANK_CAP` where all are.
    """
    past = np.bincount(log.event_user()[log.timestamp < cut], minlength=log.num_users)
    category = np.searchsorted(category_offset, truth.item, side="right") - 1
    size = np.diff(truth.offset)
    table = {
        "model": np.array(list(evaluations), np.str_),
        "user": truth.users,
        "history_length": past[truth.users],
        "repeat_share": np.bincount(truth.pair_row(), ~truth.is_novel, minlength=len(size)) / size,
        "pair_user": truth.pair_row().astype(np.int32),
        "pair_is_novel": truth.is_novel,
        "category_size": np.diff(category_offset)[category],
    }
    for task in ("all", "novel"):
        sections = [getattr(evaluation, task) for evaluation in evaluations.values()]
        table[f"{task}/rank"] = np.stack([np.minimum(section.rank, RANK_CAP) for section in sections]).astype(np.int32)
        table[f"{task}/rank_depth"] = np.array([min(section.rank_depth, RANK_CAP) for section in sections], np.int32)
        for metric in METRICS:
            table[f"{task}/{metric}"] = np.stack([section.per_user[metric] for section in sections])
    return table


def write_users(path: str, table: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays as a compressed .npz, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(table)
    np.savez_compressed(buffer, **arrays)
    write_bytes_atomically(path, buffer.getvalue())
