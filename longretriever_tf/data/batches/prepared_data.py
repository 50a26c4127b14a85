"""From a log to everything that training and evaluation read, with nothing at or after the cut in it."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from longretriever_tf.common.errors import UserError, require
from longretriever_tf.common.files import aside_path, explain_damage, explain_os_errors, read_arrays, require_npz
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.example_embeddings import ExampleHistoryEmbeddings, embed_examples
from longretriever_tf.data.batches.examples import NO_EXAMPLES, Choose, Examples, stats_times, training_examples
from longretriever_tf.data.batches.tables import Tables
from longretriever_tf.data.corpus import Corpus, EncodedLog, encode_log, fit_corpus, load_corpus, save_corpus
from longretriever_tf.data.recipe.history_embedding import fit_folds, fold_of_users, item_keys
from longretriever_tf.data.recipe.item_stats import ItemStats, build_item_stats
from longretriever_tf.data.recipe.item_svd import DistinctPairs, distinct_pairs, fit_pairs_svd
from longretriever_tf.data.recipe.learned_context import cluster_context
from longretriever_tf.data.recipe.own_correction import OwnCorrection, correction_of, read_own_correction
from longretriever_tf.data.recipe.score_weights import PLAIN, ScoreWeights, read_score_weights, weights_of
from longretriever_tf.data.search.behavior_index import CategoryOrder, build_category_order
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.splits import Cuts, global_time_cuts

_CORPUS, _ARRAYS = "corpus.npz", "as_of_cut.npz"


@dataclasses.dataclass(frozen=True)
class Prepared(Tables):
    """A log up to a time, ready to read.

    Attributes:
      log: the encoded log before the time.
      order: its category order.
      user_fold: which of `history_embedding_rows` each user is read through, [U] int64.
      score_weights: of the parts of a score in requests; training reads none.
      own_correction: of the merged scores of a user's own items in requests; training reads none.
    """

    log: EncodedLog
    order: CategoryOrder
    user_fold: np.ndarray
    score_weights: ScoreWeights = PLAIN
    own_correction: OwnCorrection | None = None


class SvdTables(NamedTuple):
    """The items' SVD [V, D], and the tables of history embeddings [K, V, D]; float32, see `Tables`."""

    item_svd: np.ndarray
    history_embedding_rows: np.ndarray


FitSvd: TypeAlias = Callable[[Config, DistinctPairs, Corpus, np.ndarray], SvdTables]
"""Makes the tables from the pairs of a training window, its corpus and the fold of each user, [U]."""


def fit_svd(config: Config, pairs: DistinctPairs, corpus: Corpus, user_fold: np.ndarray) -> SvdTables:
    """The tables of a training from the start."""
    item_svd = fit_pairs_svd(pairs, corpus.num_items, config.model.svd_dim, config.train.seed)
    history_embedding_rows = item_svd[None, :, :0]
    if config.model.reads_history_embedding:
        history_embedding_rows = fit_folds(pairs, item_svd, user_fold, config.train.history_folds, config.train.seed)
    return SvdTables(item_svd, history_embedding_rows)


def prepare(
    config: Config,
    log: LifelongLog,
    cut: int,
    fit: FitSvd = fit_svd,
    edges: Mapping[str, np.ndarray] | None = None,
) -> Prepared:
    """Fits vocabularies, statistics and the SVD on events strictly before `cut`: what training reads.

    Args:
      config: the run's config.
      log: the whole log; one whose context is learned already keeps it.
      cut: seconds UTC.
      fit: makes the SVD.
      edges: of the bins of numeric features, where an earlier training has learned them.
    """
    log = cluster_context(log, config.data.context, cut, config.train.seed, config.data.text_columns)
    corpus = fit_corpus(log, cut, config.data.numeric_bins, edges)
    encoded = encode_log(log, corpus).before(cut)
    grid = stats_times(config, int(encoded.timestamp.min()), cut)
    pairs = distinct_pairs(encoded, corpus.num_items)
    user_fold = fold_of_users(encoded, item_keys(corpus.item_id), config.train.history_folds)
    tables = fit(config, pairs, corpus, user_fold)
    stats = build_item_stats(encoded, corpus.item_category, grid, corpus.num_categories)
    arrays = {"item_svd": tables.item_svd, "taste_rows": tables.history_embedding_rows}
    return _prepare_at(corpus, encoded, stats, arrays, user_fold)


def prepare_requests(
    log: LifelongLog, corpus: Corpus, arrays: dict[str, np.ndarray], as_of: int, stats: ItemStats | None = None
) -> Prepared:
    """What requests at `as_of` read, under a corpus fitted earlier: histories and statistics strictly before it.

    Args:
      log: the whole log.
      corpus: of the run.
      arrays: of the run, from `load_saved`.
      as_of: seconds UTC.
      stats: of the items then, where the log holds some of the users alone; None: the log says them.

    Raises:
      UserError: the log holds no event of any item that the corpus knows.
    """
    encoded = encode_log(log, corpus).before(as_of)
    if not len(encoded.item):
        raise UserError(
            "the log holds no event of any item that this run was trained on: is it the run of another log?"
        )
    if stats is None:
        at = np.array([as_of], np.int64)
        stats = build_item_stats(encoded, corpus.item_category, at, corpus.num_categories)
    user_fold = fold_of_users(encoded, item_keys(corpus.item_id), len(arrays["taste_rows"]))
    return _prepare_at(corpus, encoded, stats, arrays, user_fold)


def _prepare_at(
    corpus: Corpus, encoded: EncodedLog, stats: ItemStats, arrays: dict[str, np.ndarray], user_fold: np.ndarray
) -> Prepared:
    order = build_category_order(encoded, corpus)
    tables = arrays["item_svd"], arrays["taste_rows"]
    weights = weights_of(arrays.get("score_weights"))
    own = correction_of(arrays.get("own_correction"))
    return Prepared(corpus, stats, *tables, encoded, order, user_fold, weights, own)


def example_history_embeddings(config: Config, prepared: Prepared, examples: Examples) -> ExampleHistoryEmbeddings:
    """History embeddings of the examples' users at the examples' times, on the grid of the item statistics.

    Raises:
      UserError: they do not fit into memory.
    """
    tables = prepared.user_fold, prepared.history_embedding_rows
    return embed_examples(config, prepared.log, *tables, prepared.stats.time, examples)


def prepare_examples(config: Config, prepared: Prepared, choose: Choose | None = None) -> tuple[Examples, Examples]:
    """`training_examples` of the training window, or those that `choose` takes.

    Raises:
      UserError: there are no training examples.
    """
    first = int(prepared.log.timestamp.min())
    both = training_examples(config, prepared.log, prepared.order, prepared.stats.time, first, choose)
    require_examples(config, min(map(len, both)))
    return both


def require_examples(config: Config, num_examples: int) -> None:
    """Refuses a window that gives nothing to learn from.

    Raises:
      UserError: there are no examples.
    """
    share = config.train.validation_users
    require(num_examples > 0 or not share, f"--validation_users={share:g} leaves no example to learn from; lower it")
    require(num_examples > 0, NO_EXAMPLES)


def load_split(config: Config) -> tuple[LifelongLog, Cuts]:
    """The log that the config names, and its cuts."""
    log = load_log(config.data)
    return log, global_time_cuts(log.timestamp, config.data.window_days)


def save_prepared(
    run_dir: str, prepared: Tables, log_fingerprint: str = "", generation: int = 1, svd_cut: int | None = None
) -> None:
    """Keeps in the run directory what export and recommend need of the training window: both files, or none.

    Files of the same log that a stopped run wrote already are left alone.

    Args:
      run_dir: where.
      prepared: the training window.
      log_fingerprint: of the log (`datasets.log_identity`), kept with the arrays; "" for none.
      generation: 1 for a training from the start, one more for each update.
      svd_cut: the events before it are those that the SVD was fitted on, seconds UTC; None: those before the cut.

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
                item_takers=prepared.stats.takers,
                category_stats=prepared.stats.category[-1],
                item_svd=prepared.item_svd,
                taste_rows=prepared.history_embedding_rows,
                log_fingerprint=np.array(log_fingerprint),
                generation=np.array(generation),
                svd_cut=np.array(prepared.corpus.cut if svd_cut is None else svd_cut),
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
    """Reads what `save_prepared` wrote: the corpus, and `item_stats` [V, 3], `item_takers` [V], `category_stats`
    [C, 3], `item_svd`, `taste_rows`; with them what the run has fitted, `score_weights` [9]
    (`data.recipe.score_weights`) and `own_correction` [F + 2], or [0] for none (`data.recipe.own_correction`); and the
    numbers `generation` and `svd_cut`.

    Raises:
      UserError: the run stopped before it wrote them, or they are torn, or of two runs.
    """
    paths = [os.path.join(run_dir, name) for name in (_CORPUS, _ARRAYS)]
    for path in paths:
        if not os.path.exists(path):
            raise UserError(
                f"{run_dir!r} has no finished training ({path} does not exist); finish it with the command that "
                f"started it: longretriever train --run_dir={run_dir} ..."
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
    arrays.setdefault("item_takers", np.zeros(corpus.num_items, np.float32))  # or before takers were weighed
    arrays = {"generation": np.array(1), "svd_cut": np.array(corpus.cut)} | arrays  # or before there were updates
    arrays["score_weights"] = np.array(read_score_weights(run_dir))
    own = read_own_correction(run_dir)
    arrays["own_correction"] = np.zeros(0) if own is None else own.to_array()
    return corpus, arrays
