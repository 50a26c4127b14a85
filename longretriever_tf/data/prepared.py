"""From a log to everything that training and evaluation read, with nothing at or after the cut in it."""

import dataclasses
import os

import numpy as np

from longretriever_tf.config import Config
from longretriever_tf.data.category_order import CategoryOrder, build_category_order
from longretriever_tf.data.clusters import cluster_context
from longretriever_tf.data.corpus import Corpus, EncodedLog, encode_log, fit_corpus, load_corpus, save_corpus
from longretriever_tf.data.examples import Examples, build_examples, stats_times
from longretriever_tf.data.item_stats import ItemStats, build_item_stats
from longretriever_tf.data.item_svd import fit_item_svd
from longretriever_tf.data.load import load_log
from longretriever_tf.data.log import LifelongLog
from longretriever_tf.data.splits import Cuts, global_time_cuts
from longretriever_tf.data.taste import build_tastes, fit_folds, item_keys
from longretriever_tf.errors import UserError
from longretriever_tf.files import explain_os_errors


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A log up to a moment, ready to read.

    Attributes:
      corpus: vocabularies.
      log: the encoded log before the moment.
      order: its category order.
      stats: item statistics; the last row is as of the moment.
      item_svd: [V, svd_dim] float32.
      taste: tastes of all users on the grid of `stats`, [S, U, svd_dim] float32; [S, U, 0] unless the model reads it.
      taste_rows: what tastes are read through, one table per fold, [K, V, svd_dim] float32; see `data.taste`.
    """

    corpus: Corpus
    log: EncodedLog
    order: CategoryOrder
    stats: ItemStats
    item_svd: np.ndarray
    taste: np.ndarray
    taste_rows: np.ndarray

    @property
    def moment(self) -> int:
        """When requests are asked: the log ends strictly before it, seconds UTC."""
        return int(self.stats.time[-1])


def training_cut(config: Config, cuts: Cuts) -> int:
    """The moment at which training data ends."""
    return cuts.test_start if config.train.cut == "test" else cuts.validation_start


def prepare(config: Config, log: LifelongLog, cut: int) -> Prepared:
    """Fits vocabularies, statistics and the SVD on events strictly before `cut`: what training reads."""
    log = cluster_context(log, config.data.context, cut, config.train.seed)
    corpus = fit_corpus(log, cut)
    encoded = encode_log(log, corpus).before(cut)
    grid = stats_times(config, int(encoded.timestamp.min()), cut)
    item_svd = fit_item_svd(encoded, corpus, config.model.svd_dim, config.train.seed)
    taste_rows = item_svd[None, :, :0]
    if config.model.reads_taste:
        taste_rows = fit_folds(encoded, corpus, item_svd, config.train.taste_folds, config.train.seed)
    return _prepare_at(config, corpus, encoded, grid, item_svd, taste_rows)


def prepare_requests(
    config: Config, log: LifelongLog, corpus: Corpus, arrays: dict[str, np.ndarray], moment: int
) -> Prepared:
    """What requests at `moment` read, under a corpus fitted earlier: lives and statistics strictly before it.

    Args:
      config: of the run.
      log: the whole log.
      corpus: of the run.
      arrays: of the run, from `load_saved`.
      moment: seconds UTC.

    Raises:
      UserError: the log holds no event of any item that the corpus knows.
    """
    encoded = encode_log(log, corpus).before(moment)
    if not len(encoded.item):
        raise UserError(
            "the log holds no event of any item that this run was trained on: is it the run of another log?"
        )
    at = np.array([moment], np.int64)
    return _prepare_at(config, corpus, encoded, at, arrays["item_svd"], arrays["taste_rows"])


def _prepare_at(
    config: Config, corpus: Corpus, encoded: EncodedLog, grid: np.ndarray, item_svd: np.ndarray, taste_rows: np.ndarray
) -> Prepared:
    stats = build_item_stats(encoded, corpus.item_category, grid, corpus.num_categories)
    tastes = build_tastes(encoded, item_keys(corpus.item_id), taste_rows, grid, config.model.history_events)
    return Prepared(corpus, encoded, build_category_order(encoded, corpus), stats, item_svd, tastes, taste_rows)


def prepare_examples(config: Config, prepared: Prepared) -> tuple[Examples, Examples]:
    """Training examples of the towers, and snapshots for the interest score (the same where those are snapshots)."""
    examples = build_examples(config, prepared.log, prepared.order, prepared.stats.time)
    if config.train.examples == "snapshot":
        return examples, examples
    snapshots = dataclasses.replace(config, train=dataclasses.replace(config.train, examples="snapshot"))
    grid = stats_times(snapshots, int(prepared.log.timestamp.min()), prepared.corpus.cut)
    return examples, build_examples(snapshots, prepared.log, prepared.order, grid)


def load_split(config: Config) -> tuple[LifelongLog, Cuts]:
    """The log that the config names, and its cuts."""
    log = load_log(config.data)
    return log, global_time_cuts(log.timestamp, config.data.window_days)


def save_prepared(run_dir: str, prepared: Prepared) -> None:
    """Keeps in the run directory what export and recommend need of the training window.

    Raises:
      UserError: the disk is full or the directory not writable.
    """
    with explain_os_errors(f"cannot write into the run directory {run_dir!r}"):
        save_corpus(prepared.corpus, os.path.join(run_dir, "corpus.npz"))
        np.savez(
            os.path.join(run_dir, "as_of_cut.npz"),
            item_stats=prepared.stats.item[-1],
            category_stats=prepared.stats.category[-1],
            item_svd=prepared.item_svd,
            taste_rows=prepared.taste_rows,
        )


def load_saved(run_dir: str) -> tuple[Corpus, dict[str, np.ndarray]]:
    """Reads what `save_prepared` wrote: the corpus, and `item_stats` [V, 3], `category_stats` [C, 3], `item_svd`,
    `taste_rows`.

    Raises:
      UserError: the run stopped before it wrote them.
    """
    paths = [os.path.join(run_dir, name) for name in ("corpus.npz", "as_of_cut.npz")]
    for path in paths:
        if not os.path.exists(path):
            raise UserError(
                f"{run_dir!r} has no finished training ({path} does not exist); finish it with the command that "
                f"started it: python -m longretriever_tf.train --run_dir={run_dir} ..."
            )
    with np.load(paths[1]) as stored:
        arrays = dict(stored)
    arrays.setdefault("taste_rows", arrays["item_svd"][None])  # a run of before there were folds to serve
    return load_corpus(paths[0]), arrays
