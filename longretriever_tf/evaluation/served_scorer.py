"""An exported version as a `Scorer`: evaluation asks the signature that requests ask, and ranks by its lists."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_raw_ids
from longretriever_tf.config.config import load_config
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.evaluation.evaluator import KS, TaskScorer
from longretriever_tf.retrieval.export.explanation import request_columns
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, latest_version, load_extra, load_version
from longretriever_tf.retrieval.fingerprint import read_fingerprint
from longretriever_tf.retrieval.request_options import default_columns

_MAX_VALUES = 200_000
"""Events of the histories of one call, padding included."""

_MAX_ROWS = 64


class ServedScorer(TaskScorer):
    """The `Scorer` of an export, by its own defaults: lists of 500, nothing beyond them.

    Attributes:
      statistics_as_of: until when the version's statistics of items count, seconds UTC.

    A list says nothing of items that it leaves out, so ranks within a category are known to some depth alone, and
    metrics beyond it are absent: the row of the run itself has them.

    Args:
      export_dir: its latest version is asked; or the directory of one version.
      towers: the fingerprint of the run that is evaluated alongside.
      corpus: of that run: what scores are rows of.
      log: the whole log.
      as_of: time of the requests, seconds UTC.

    Raises:
      UserError: there is no version, it cannot be loaded, or it was exported from other towers.
    """

    lists_only = True

    def __init__(self, export_dir: str, towers: str, corpus: Corpus, log: LifelongLog, as_of: int) -> None:
        is_version = os.path.exists(os.path.join(export_dir, "saved_model.pb"))
        directory = export_dir if is_version else latest_version(export_dir)
        stamped = read_fingerprint(extra_config_dir(directory))
        theirs, self.statistics_as_of = stamped.towers, stamped.statistics_as_of
        if theirs != towers:
            raise UserError(
                f"--export_dir={export_dir}: {directory} was exported from towers with the fingerprint "
                f"{theirs or '(none)'}, and those of this run have {towers}: name an export of this run"
            )
        retrieval = load_config(extra_config_dir(directory)).retrieval
        drawn = f"{retrieval.num_interests} of top {retrieval.top_interests}"
        self.name = f"as served, {drawn if retrieval.num_interests else f'log p >= {retrieval.interest_threshold:g}'}"
        self._corpus, self._log, self._as_of = corpus, log, as_of
        known = load_extra(directory)
        self._profile = list(known.profile_values)
        # Held: the signatures of a version that is let go lose its variables.
        self._version = load_version(directory)
        self._ask = self._version.signatures["serving_default"]
        self._wanted = self._ask.structured_input_signature[1]
        dtype, has_actions = self._wanted["history_item_id"].dtype, "history_action" in self._wanted
        options = default_columns(retrieval, dtype, has_actions, known.event_values)
        self._options = {name: value for name, value in options.items() if name in self._wanted}  # of former exports
        self._options |= {"k": tf.constant([min(max(KS), retrieval.max_k)])}

    def score(self, users: np.ndarray) -> np.ndarray:
        """Minus the rank in the list, [B, V] float32; -inf for what is not in it."""
        return self._lists(users, "all")

    def score_novel(self, users: np.ndarray) -> np.ndarray:
        """The same for the task "novel"."""
        return self._lists(users, "novel")

    def _lists(self, users: np.ndarray, goal: str) -> np.ndarray:
        out = np.full((len(users), self._corpus.num_items), -np.inf, np.float32)
        for rows, columns in self._calls(users):
            seeds = tf.constant(users[rows], tf.int64)  # as `LongRetrieverScorer` draws
            answer = self._ask(**self._options | columns | {"goal": tf.constant([goal]), "seed": seeds})
            item, num = answer["item_id"].numpy(), answer["num_valid"].numpy()
            for row, listed, size in zip(rows, item, num, strict=True):
                out[row, self._find(listed[:size])] = -np.arange(size, dtype=np.float32)
        return out

    def _find(self, item_id: np.ndarray) -> np.ndarray:
        """Rows of the run's corpus; items that a refresh brought count as unknown, which no truth holds."""
        return self._corpus.find_items(as_raw_ids(item_id))

    def _calls(self, users: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, tf.Tensor]]]:
        """Users of like histories together: their rows in `users`, and the columns of one call."""
        length = np.diff(self._log.offset)[users]
        order, start = np.argsort(length, kind="stable"), 0
        while start < len(order):
            fits = length[order[start : start + _MAX_ROWS]] * np.arange(1, len(order[start:][:_MAX_ROWS]) + 1)
            stop = start + max(1, int((fits <= _MAX_VALUES).sum()))
            rows = order[start:stop]
            histories = [request_columns(self._log, int(user), self._as_of, self._profile) for user in users[rows]]
            yield (
                rows,
                {
                    name: _stack([history[name] for history in histories])
                    for name in histories[0]
                    if name in self._wanted
                },
            )
            start = stop


def _stack(rows: Sequence[tf.Tensor]) -> tf.Tensor:
    """[1] or [1, T] each -> [B] or [B, T], padded by 0 or "" to the longest."""
    if rows[0].shape.rank == 1:
        return tf.concat(rows, 0)
    width = max(row.shape[1] for row in rows)
    fill = "" if rows[0].dtype == tf.string else tf.cast(0, rows[0].dtype)
    return tf.concat([tf.pad(row, [[0, 0], [0, width - row.shape[1]]], constant_values=fill) for row in rows], 0)
