"""From a log to everything that training and evaluation read, with nothing at or after the cut in it."""

import dataclasses
import os
import shutil
from typing import NamedTuple

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import aside_path, explain_damage, explain_os_errors, read_arrays, require_npz
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import Examples, build_examples, held_out_users, stats_times
from longretriever_tf.data.corpus import Corpus, EncodedLog, encode_log, fit_corpus, load_corpus, save_corpus
from longretriever_tf.data.recipe.history_embedding import build_history_embeddings, fit_folds, fold_of_users, item_keys
from longretriever_tf.data.recipe.item_stats import ItemStats, build_item_stats
from longretriever_tf.data.recipe.item_svd import fit_item_svd
from longretriever_tf.data.recipe.learned_context import cluster_context
from longretriever_tf.data.search.behavior_index import CategoryOrder, build_category_order
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.splits import Cuts, global_time_cuts, whole_log_cuts

_CORPUS, _ARRAYS = "corpus.npz", "as_of_cut.npz"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A log up to a time, ready to read.

    Attributes:
      corpus: vocabularies.
      log: the encoded log before the time.
      order: its category order.
      stats: item statistics; the last row is as of the time.
      item_svd: [V, svd_dim] float32.
      history_embedding_rows: what history embeddings are read through, one table per fold, [K, V, svd_dim] float32; see
        `data.recipe.history_embedding`.
      user_fold: which of them each user is read through, [U] int64.
    """

    corpus: Corpus
    log: EncodedLog
    order: CategoryOrder
    stats: ItemStats
    item_svd: np.ndarray
    history_embedding_rows: np.ndarray
    user_fold: np.ndarray

    @property
    def as_of(self) -> int:
        """When requests are asked: the log ends strictly before it, seconds UTC."""
        return int(self.stats.time[-1])


def training_cut(config: Config, cuts: Cuts) -> int:
    """The time at which training data ends."""
    return {"validation": cuts.validation_start, "test": cuts.test_start, "none": cuts.end + 1}[config.train.cut]


def prepare(config: Config, log: LifelongLog, cut: int) -> Prepared:
    """Fits vocabularies, statistics and the SVD on events strictly before `cut`: what training reads."""
    log = cluster_context(log, config.data.context, cut, config.train.seed)
    corpus = fit_corpus(log, cut)
    encoded = encode_log(log, corpus).before(cut)
    grid = stats_times(config, int(encoded.timestamp.min()), cut)
    item_svd = fit_item_svd(encoded, corpus, config.model.svd_dim, config.train.seed)
    user_fold = fold_of_users(encoded, item_keys(corpus.item_id), config.train.history_folds)
    history_embedding_rows = item_svd[None, :, :0]
    if config.model.reads_history_embedding:
        history_embedding_rows = fit_folds(
            encoded, corpus, item_svd, user_fold, config.train.history_folds, config.train.seed
        )
    return _prepare_at(corpus, encoded, grid, {"item_svd": item_svd, "taste_rows": history_embedding_rows}, user_fold)


def prepare_requests(log: LifelongLog, corpus: Corpus, arrays: dict[str, np.ndarray], as_of: int) -> Prepared:
    """What requests at `as_of` read, under a corpus fitted earlier: histories and statistics strictly before it.

    Args:
      log: the whole log.
      corpus: of the run.
      arrays: of the run, from `load_saved`.
      as_of: seconds UTC.

    Raises:
      UserError: the log holds no event of any item that the corpus knows.
    """
    encoded = encode_log(log, corpus).before(as_of)
    if not len(encoded.item):
        raise UserError(
            "the log holds no event of any item that this run was trained on: is it the run of another log?"
        )
    at = np.array([as_of], np.int64)
    user_fold = fold_of_users(encoded, item_keys(corpus.item_id), len(arrays["taste_rows"]))
    return _prepare_at(corpus, encoded, at, arrays, user_fold)


def _prepare_at(
    corpus: Corpus, encoded: EncodedLog, grid: np.ndarray, arrays: dict[str, np.ndarray], user_fold: np.ndarray
) -> Prepared:
    stats = build_item_stats(encoded, corpus.item_category, grid, corpus.num_categories)
    order = build_category_order(encoded, corpus)
    return Prepared(corpus, encoded, order, stats, arrays["item_svd"], arrays["taste_rows"], user_fold)


class ExampleHistoryEmbeddings(NamedTuple):
    """History embeddings that training reads: those of the (user, time) pairs that have examples.

    Attributes:
      row: of each example in `vector`, [X] int64.
      vector: [n, svd_dim] float32; [n, 0] unless the model reads it.
    """

    row: np.ndarray
    vector: np.ndarray


def example_history_embeddings(config: Config, prepared: Prepared, examples: Examples) -> ExampleHistoryEmbeddings:
    """History embeddings of the examples' users at the examples' times, on the grid of the item statistics.

    Raises:
      UserError: they do not fit into memory.
    """
    num_users = prepared.log.num_users
    pair, row = np.unique(examples.stats_row.astype(np.int64) * num_users + examples.user, return_inverse=True)
    user, time = pair % num_users, prepared.stats.time[pair // num_users]
    shown = config.model.history_events
    vector = build_history_embeddings(
        prepared.log, prepared.user_fold, prepared.history_embedding_rows, user, time, shown
    )
    return ExampleHistoryEmbeddings(row, vector)


def prepare_examples(config: Config, prepared: Prepared) -> tuple[Examples, Examples]:
    """Training examples of the towers, and snapshots for the interest score (the same where those are snapshots).

    Users whom --validation_users holds out have none.

    Raises:
      UserError: there are no training examples.
    """
    examples = _without_held_out(config, prepared, config)
    if config.train.examples == "snapshot":
        return examples, examples
    snapshots = dataclasses.replace(config, train=dataclasses.replace(config.train, examples="snapshot"))
    return examples, _without_held_out(config, prepared, snapshots)


def _without_held_out(config: Config, prepared: Prepared, wanted: Config) -> Examples:
    examples = build_examples(wanted, prepared.log, prepared.order, prepared.stats.time)
    is_held_out = held_out_users(config, prepared.log.user_id)
    if not is_held_out.any():
        return examples
    keep = ~is_held_out[examples.user]
    if not keep.any():
        raise UserError(
            f"--validation_users={config.train.validation_users:g} leaves no example to learn from; lower it"
        )
    columns = {field.name: getattr(examples, field.name)[keep] for field in dataclasses.fields(examples)}
    return dataclasses.replace(examples, **columns)


def load_split(config: Config) -> tuple[LifelongLog, Cuts]:
    """The log that the config names, and its cuts."""
    log = load_log(config.data)
    return log, global_time_cuts(log.timestamp, config.data.window_days)


def training_cuts(config: Config, log: LifelongLog) -> Cuts:
    """The cuts of a training. With --cut=none no window is kept apart, so the log may be shorter than two windows.

    Raises:
      UserError: the log is too short for the windows that the cut keeps apart.
    """
    if config.train.cut != "none":
        return global_time_cuts(log.timestamp, config.data.window_days)
    return whole_log_cuts(log.timestamp)


def save_prepared(run_dir: str, prepared: Prepared, log_fingerprint: str = "") -> None:
    """Keeps in the run directory what export and recommend need of the training window: both files, or none.

    Files of the same log that a stopped run wrote already are left alone.

    Args:
      run_dir: where.
      prepared: the training window.
      log_fingerprint: of the log (`datasets.log_identity`), kept with the arrays; "" for none.

    Raises:
      UserError: the disk is full or the directory not writable; then nothing there has changed.
    """
    if log_fingerprint and _holds(run_dir, log_fingerprint):
        return
    aside = aside_path(os.path.join(run_dir, "prepared"))
    with explain_os_errors(f"cannot write into the run directory {run_dir!r}"):
        try:
            os.makedirs(aside)
            save_corpus(prepared.corpus, os.path.join(aside, _CORPUS))
            np.savez(
                os.path.join(aside, _ARRAYS),
                item_stats=prepared.stats.item[-1],
                category_stats=prepared.stats.category[-1],
                item_svd=prepared.item_svd,
                taste_rows=prepared.history_embedding_rows,
                log_fingerprint=np.array(log_fingerprint),
            )
            for name in (_CORPUS, _ARRAYS):
                with open(os.path.join(aside, name), "rb+") as file:
                    os.fsync(file.fileno())
            for name in (_CORPUS, _ARRAYS):  # a kill between the two: `_holds` finds no pair, and both come again
                os.replace(os.path.join(aside, name), os.path.join(run_dir, name))
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _holds(run_dir: str, log_fingerprint: str) -> bool:
    """Whether the run directory holds a whole pair of files of this log."""
    try:
        arrays = read_arrays(os.path.join(run_dir, _ARRAYS), "")
        load_saved(run_dir)
    except UserError:
        return False
    return str(arrays.get("log_fingerprint", "")) == log_fingerprint


def load_saved(run_dir: str) -> tuple[Corpus, dict[str, np.ndarray]]:
    """Reads what `save_prepared` wrote: the corpus, and `item_stats` [V, 3], `category_stats` [C, 3], `item_svd`,
    `taste_rows`.

    Raises:
      UserError: the run stopped before it wrote them, or they are torn, or of two runs.
    """
    paths = [os.path.join(run_dir, name) for name in (_CORPUS, _ARRAYS)]
    for path in paths:
        if not os.path.exists(path):
            raise UserError(
                f"{run_dir!r} has no finished training ({path} does not exist); finish it with the command that "
                f"started it: python -m longretriever_tf.train --run_dir={run_dir} ..."
            )
    cure = f"delete {paths[0]}, {paths[1]} and {os.path.join(run_dir, 'training.png')}, and run the training's own "
    cure += "command again, which writes them anew"
    arrays = read_arrays(paths[1], cure)
    require_npz(paths[0], cure)
    with explain_damage(paths[0], cure):
        corpus = load_corpus(paths[0])
    with explain_damage(paths[1], cure):
        sizes = {name: len(arrays[name]) for name in ("item_stats", "item_svd")}
        if set(sizes.values()) != {corpus.num_items} or len(arrays["category_stats"]) != corpus.num_categories:
            raise ValueError(f"it holds {sizes['item_stats']} items, and {paths[0]} of {corpus.num_items}")
    arrays.pop("log_fingerprint", None)
    arrays.setdefault("taste_rows", arrays["item_svd"][None])  # a run of before there were folds to serve
    return corpus, arrays
