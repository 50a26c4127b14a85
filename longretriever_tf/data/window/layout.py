"""Where the parts of a window lie, and what they must agree in. Imports no TensorFlow.

    DATA/windows/KEY/
      config.json                           of the run that made it
      seen/shard-00000-of-00016             items, profile values and first event before the cut
      vocabulary, corpus.npz                of all shards
      counted/shard-00000-of-00016          cells of the item statistics, distinct pairs, folds
      tables                                of all shards: item statistics, SVD, rows of history embeddings
      examples/shard-00000-of-00016         what batches are made of
      window.json                           written last

Stages follow each other, shards of a stage do not: any process may make any of them. A part is written aside and
renamed; a part that is whole is not made again.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from longretriever_tf.config.check import asks_text_clusters
from longretriever_tf.config.config import Config
from longretriever_tf.config.snapshots import horizon_days, snapshot_every_days
from longretriever_tf.data.window.packed import PackedFile, is_whole, write_packed
from longretriever_tf.datasets.sharded_log import ShardedLog

FORMAT = 2
SEEN, COUNTED, EXAMPLES = STAGES = ("seen", "counted", "examples")
VOCABULARY, TABLES = "vocabulary", "tables"
_FOLDER = "windows"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of one window.

    Attributes:
      directory: of the window.
      key: of the log's contents and of the settings that matter.
      num_shards: K.
    """

    directory: str
    key: str
    num_shards: int

    def path(self, *names: str) -> str:
        """A file of the window."""
        return os.path.join(self.directory, *names)

    def write(self, arrays: Mapping[str, np.ndarray], part: str, k: int | None = None) -> None:
        """Writes a part: of shard k, or of all.

        Raises:
          UserError: the disk is full or the place not writable.
        """
        write_packed(self._file(part, k), arrays, self._labels(part, k))

    def open(self, part: str, k: int | None = None) -> PackedFile:
        """Maps a part.

        Raises:
          UserError: it is missing or torn.
        """
        cure = f"delete {self.directory} and run the same command again, which makes the window anew"
        return PackedFile(self._file(part, k), self._labels(part, k), cure)

    def has(self, part: str, k: int | None = None) -> bool:
        """Whether a part is whole."""
        return is_whole(self._file(part, k), self._labels(part, k))

    def _file(self, part: str, k: int | None) -> str:
        return self.path(part) if k is None else self.path(part, f"shard-{k:05d}-of-{self.num_shards:05d}")

    def _labels(self, part: str, k: int | None) -> dict[str, Any]:
        return {"window": self.key, "part": part, "shard": k}


def layout_of(config: Config, log: ShardedLog) -> Layout:
    """Where the window of a config lies beside its log: windows of other settings lie beside it."""
    data, model, train = config.data, config.model, config.train
    settings = {
        "format": FORMAT,
        "log": [log.manifest.build, log.manifest.fingerprint, log.context],
        "data": [data.window_days],
        "model": [
            *(model.model, model.svd_dim, model.reads_history_embedding, model.history_events),
            *(model.subsequence, model.max_events, model.max_length),
        ],
        "train": [
            *(train.cut, train.validation_users, train.seed, train.history_folds, train.examples),
            *(snapshot_every_days(config), train.num_snapshots, horizon_days(config)),
        ],
    }
    if asks_text_clusters(data.context):
        settings["context"] = [data.context, *data.text_columns]
    if config.train.cross_fit_items:
        settings["cross_fit_items"] = True
    if log.actions.weight or log.actions.target:
        settings["actions"] = [log.actions.weight, log.actions.target]
    if log.items.numbers:
        settings["numeric_bins"] = data.numeric_bins
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    return Layout(os.path.join(log.directory, _FOLDER, key), key, log.num_shards)
