"""Makes the training window of a log on disk, stage by stage; goes on where it stood. Imports no TensorFlow."""

import dataclasses
import json
import os
import shutil
import time

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import (
    explain_os_errors,
    open_aside,
    remove_leftovers,
    require_writable,
    write_text_atomically,
)
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.common.progress import Progress, stage
from longretriever_tf.common.text import as_text
from longretriever_tf.config.check import asks_clusters, asks_text_clusters
from longretriever_tf.config.config import Config, to_json
from longretriever_tf.data.batches.examples import stats_times
from longretriever_tf.data.batches.tables import training_cut, training_cuts
from longretriever_tf.data.corpus import Corpus, fit_corpus_of, load_corpus, merge_seen, save_corpus
from longretriever_tf.data.recipe.history_embedding import fit_folds
from longretriever_tf.data.recipe.item_stats import scan_cells
from longretriever_tf.data.recipe.item_svd import fit_pairs_svd, join_pairs
from longretriever_tf.data.recipe.learned_context import with_text_clusters
from longretriever_tf.data.window.layout import COUNTED, EXAMPLES, SEEN, TABLES, VOCABULARY, Layout, layout_of
from longretriever_tf.data.window.packed import allow_open_files
from longretriever_tf.data.window.pool import run_in_processes
from longretriever_tf.data.window.shard_jobs import cells_of, pairs_of, unpack_seen
from longretriever_tf.data.window.worker import Worker
from longretriever_tf.datasets.sharded_log import ShardedLog

DONE = "window.json"
_DOING = {
    SEEN: "finding what was there before the cut",
    COUNTED: "counting items and pairs",
    EXAMPLES: "finding the training examples and their histories",
}


def build_window(config: Config, log: ShardedLog, num_workers: int = 0) -> Layout:
    """Makes the training window of a config beside its log, where it is not there yet.

    Memory: the largest shard in each process; and in one of them the tables of items and the matrix of distinct pairs,
    some 24 bytes a pair.

    Args:
      config: the run's config.
      log: the log on disk.
      num_workers: processes; 0: one for each core.

    Returns:
      Where it lies.

    Raises:
      UserError: the log, the disk or the settings do not allow it. Parts that were done stay.
    """
    if asks_clusters(config.data.context) and not asks_text_clusters(config.data.context):
        raise UserError(
            f"--context={config.data.context} is made of the whole log in memory: raise --max_memory_gb where this "
            "machine holds it, or name a column of the items"
        )
    layout = layout_of(config, log)
    if os.path.exists(layout.path(DONE)):
        return layout
    require_writable(layout.directory)
    with hold_lock(layout.directory, f"{layout.directory!r} is being made by another process ({{}})", wait=True):
        if not os.path.exists(layout.path(DONE)):
            _Build(config, log, layout, num_workers or os.cpu_count() or 1).run()
    return layout


class _Build:
    """The stages in order."""

    def __init__(self, config: Config, log: ShardedLog, layout: Layout, num_workers: int) -> None:
        self._config, self._log, self._layout, self._num_workers = config, log, layout, num_workers
        self._cut = training_cut(config, training_cuts(config, np.array([log.first, log.last])))
        self._worker = Worker(config, log, layout, self._cut)

    def run(self) -> None:
        """Makes what is missing."""
        layout = self._layout
        write_text_atomically(layout.path("config.json"), to_json(self._config))
        if not layout.has(VOCABULARY):
            self._make(SEEN)
            with stage("making the vocabularies"):
                self._make_vocabulary()
        if not layout.has(TABLES):
            self._make(COUNTED)
            self._make_tables()
        self._make(EXAMPLES)
        write_text_atomically(layout.path(DONE), json.dumps({"cut": self._cut}) + "\n")
        for part in (SEEN, COUNTED):
            shutil.rmtree(layout.path(part), ignore_errors=True)

    def _make(self, part: str) -> None:
        """Makes a stage of all shards that lack it."""
        layout, log = self._layout, self._log
        if os.path.isdir(layout.path(part)):
            remove_leftovers(layout.path(part))
        missing = [k for k in range(layout.num_shards) if not layout.has(part, k)]
        if not missing:
            return
        order = {
            "config": dataclasses.asdict(self._config),
            "log": log.directory,
            "context": log.context,
            "layout": dataclasses.asdict(layout),
            "cut": self._cut,
        }
        num_workers, start, num_events = min(self._num_workers, len(missing)), time.monotonic(), 0
        progress = Progress(_DOING[part], layout.num_shards, "shards", layout.num_shards - len(missing))
        done = (
            run_in_processes(order, part, missing, num_workers)
            if num_workers > 1
            else (self._worker.make(part, k) for k in missing)
        )
        for count in done:
            num_events += count
            progress.update(1, f"{num_events / max(time.monotonic() - start, 1e-9):,.0f} events/s")
        progress.close()

    def _make_vocabulary(self) -> None:
        layout, log = self._layout, self._log
        seen = merge_seen([unpack_seen(layout.open(SEEN, k).arrays) for k in range(layout.num_shards)])
        items, context, data = log.items, log.context, self._config.data
        if asks_text_clusters(data.context):
            args = data.context, self._config.train.seed, data.text_columns
            items, context = with_text_clusters(items, context, seen.item_row, *args), data.context
        corpus = fit_corpus_of(items, context, seen, self._cut, data.numeric_bins)
        corpus = dataclasses.replace(corpus, action_name=as_text(log.actions.name))
        path = layout.path("corpus.npz")
        with explain_os_errors(f"cannot write {path!r}"), open_aside(path) as aside, open(aside, "wb") as file:
            save_corpus(corpus, file)
        grid = stats_times(self._config, seen.first, self._cut)
        index = corpus.find_items(log.items.item_id)
        layout.write({"grid": grid, "first": np.array([seen.first]), "item_index": index}, VOCABULARY)

    def _make_tables(self) -> None:
        """What is of all users: item statistics, the SVD, and the rows that history embeddings are read through."""
        layout, config, corpus = self._layout, self._config, self._corpus()
        allow_open_files(layout.num_shards)
        counted = [layout.open(COUNTED, k) for k in range(layout.num_shards)]
        grid, seed = np.array(layout.open(VOCABULARY)["grid"]), config.train.seed
        with stage("item statistics"):
            cells = [cells_of(part.arrays) for part in counted]
            stats = scan_cells(cells, corpus.item_category, grid, corpus.num_categories)
            item_count = np.zeros(corpus.num_items, np.int64)
            for own in cells:
                item_count += np.bincount(own.cells["item"], own.cells["count"], corpus.num_items).astype(np.int64)
        with stage("the items' SVD, and those of the folds"):
            pairs = join_pairs([pairs_of(part.arrays) for part in counted])
            fold = np.concatenate([part["user_fold"] for part in counted])
            for part in counted:
                part.release()
            item_svd = fit_pairs_svd(pairs, corpus.num_items, config.model.svd_dim, seed)
            rows = item_svd[None, :, :0]
            if config.model.reads_history_embedding:
                rows = fit_folds(pairs, item_svd, fold, config.train.history_folds, seed)
        layout.write(
            {
                "grid": grid,
                "item_stats": stats.item,
                "category_stats": stats.category,
                "first_time": stats.first_time,
                "takers": stats.takers,
                "item_count": item_count,
                "item_svd": item_svd,
                "history_embedding_rows": rows,
            },
            TABLES,
        )

    def _corpus(self) -> Corpus:
        return load_corpus(self._layout.path("corpus.npz"))
