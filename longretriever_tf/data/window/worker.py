"""One process that makes parts of a window: `python -m longretriever_tf.data.window.worker ORDER`.

ORDER is JSON: config, log, context, layout, cut. Reads a job a line, "stage shard"; answers each by a line of JSON:
{"events": 123}, or {"error": "..."} for a user's mistake. Ends with its input, so that it does not outlive the process
that asks. Imports no TensorFlow.
"""

import functools
import json
import sys

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, from_dict
from longretriever_tf.data.corpus import Corpus, EncodedLog, encode_log, find_seen, load_corpus
from longretriever_tf.data.recipe.history_embedding import fold_of_users, item_keys
from longretriever_tf.data.window import shard_jobs
from longretriever_tf.data.window.layout import COUNTED, EXAMPLES, SEEN, TABLES, VOCABULARY, Layout
from longretriever_tf.data.window.packed import PackedFile
from longretriever_tf.datasets.sharded_log import ShardedLog


class Worker:
    """Makes parts of a window, one after the other; what all shards read is opened once.

    Args:
      config: the run's config.
      log: the log on disk.
      layout: of the window.
      cut: before which events count, seconds UTC.
    """

    def __init__(self, config: Config, log: ShardedLog, layout: Layout, cut: int) -> None:
        self._config, self._log, self._layout, self._cut = config, log, layout, cut

    def make(self, stage: str, k: int) -> int:
        """Makes a stage of shard k, and returns how many events the shard has.

        Raises:
          UserError: the shard is missing or torn, or the part cannot be written.
        """
        self._layout.write({SEEN: self._seen, COUNTED: self._counted, EXAMPLES: self._examples}[stage](k), stage, k)
        return self._log.manifest.shards[k].num_events

    def _seen(self, k: int) -> shard_jobs.Arrays:
        return shard_jobs.pack_seen(find_seen(self._log.read_shard(k), self._cut))

    def _counted(self, k: int) -> shard_jobs.Arrays:
        grid = np.array(self._vocabulary["grid"])
        return shard_jobs.count_shard(self._encoded(k), grid, self._item_keys, self._config.train.history_folds)

    def _examples(self, k: int) -> shard_jobs.Arrays:
        grid, first = np.array(self._vocabulary["grid"]), int(self._vocabulary["first"][0])
        log, rows = self._encoded(k), self._tables["history_embedding_rows"]
        fold = fold_of_users(log, self._item_keys, self._config.train.history_folds)
        return shard_jobs.shard_examples(self._config, self._corpus, log, fold, rows, grid, first)

    def _encoded(self, k: int) -> EncodedLog:
        index = self._vocabulary["item_index"]
        return encode_log(self._log.read_shard(k), self._corpus, index).before(self._cut)

    @functools.cached_property
    def _vocabulary(self) -> PackedFile:
        return self._layout.open(VOCABULARY)

    @functools.cached_property
    def _tables(self) -> PackedFile:
        return self._layout.open(TABLES)

    @functools.cached_property
    def _corpus(self) -> Corpus:
        return load_corpus(self._layout.path("corpus.npz"))

    @functools.cached_property
    def _item_keys(self) -> np.ndarray:
        return item_keys(self._corpus.item_id)


def main() -> None:
    """Runs the process."""
    order = json.loads(sys.argv[1])
    config = from_dict(Config, order["config"])
    log = ShardedLog(order["log"], order["context"], actions=config.data)
    worker = Worker(config, log, Layout(**order["layout"]), order["cut"])
    for line in sys.stdin:
        stage, k = line.split()
        try:
            answer: dict[str, int | str] = {"events": worker.make(stage, int(k))}
        except UserError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
