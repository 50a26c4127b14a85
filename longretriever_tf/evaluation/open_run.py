"""A finished run, opened as of a window's start: what notebooks and scripts need to ask it questions of their own.

run = open_run("runs/demo", "validation")
lists = top_k(run.scorer.score(run.truth.users[:10]), 20)            # item indices
print(run.corpus.item_name[lists[0]])
"""

from typing import NamedTuple

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, load_config
from longretriever_tf.data.batches.prepared_data import Prepared, load_saved, load_split, prepare_requests
from longretriever_tf.data.corpus import Corpus, EncodedLog, encode_log
from longretriever_tf.data.recipe.item_stats import ItemStats
from longretriever_tf.data.window.sample import events_that_fit, read_sample, stats_on_disk
from longretriever_tf.datasets.load import open_sharded_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.log_identity import LogIdentity, identify_log, identify_shards, require_log_of_run
from longretriever_tf.datasets.splits import Cuts, global_time_cuts
from longretriever_tf.evaluation.ground_truth import Truth, build_truth
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.models.build import Models, load_models

_CURE = (
    "Evaluate it on its own log, or use --other_log: the last windows of this one must begin after the training's cut"
)


class OpenWindow(NamedTuple):
    """What a finished run is asked with and evaluated by on a window.

    Attributes:
      log: the whole log.
      cuts: its cuts.
      corpus: vocabularies as of the run's training cut.
      arrays: of the run, from `load_saved`.
      encoded: the whole log under that corpus.
      as_of: the window's start, seconds UTC.
      truth: what users took in the window.
      stats: of the items at the window's start, where `log` is a sample of the users; None: `log` says them.
    """

    log: LifelongLog
    cuts: Cuts
    corpus: Corpus
    arrays: dict[str, np.ndarray]
    encoded: EncodedLog
    as_of: int
    truth: Truth
    stats: ItemStats | None = None

    def prepare(self) -> Prepared:
        """The log strictly before the window."""
        return prepare_requests(self.log, self.corpus, self.arrays, self.as_of, self.stats)


def open_window(config: Config, split: str, spelled: str, other_log: bool = False) -> OpenWindow:
    """Opens a window for a finished run.

    Args:
      config: of the run.
      split: "validation" or "test".
      spelled: how the user names a window, `{}` for its name: what the refusal shows.
      other_log: take any log, say the run's own with newer events; the windows are counted from its end.

    Raises:
      UserError: the run has not finished, is of another log, or has seen the window.
    """
    run_dir = config.train.run_dir
    corpus, arrays = load_saved(run_dir)
    if config.train.cut == "none" and not other_log:
        raise UserError(
            f"{run_dir!r} was trained on all events of its log (--cut=none), so no window is left to evaluate it by: "
            "evaluate a run of the same flags with --cut=test or --cut=validation, or this one later, on newer events, "
            "with --other_log"
        )
    log, cuts, identity = _load(config)
    window = cuts.window_of(split)
    if not other_log:
        require_log_of_run(run_dir, identity, _CURE)
    if corpus.cut > window[0]:
        raise UserError(_seen(config, split, spelled, corpus.cut, window[0]))
    stats = None
    if log.num_events < identity.num_events:  # a sample of the users: everyone's events say what is sold
        stats = stats_on_disk(open_sharded_log(config.data), corpus, window[0])
    encoded = encode_log(log, corpus)
    is_sold = None if stats is None else stats.first_time < window[0]
    truth = build_truth(encoded, corpus.num_items, window[0], window, is_sold)
    return OpenWindow(log, cuts, corpus, arrays, encoded, window[0], truth, stats)


def _load(config: Config) -> tuple[LifelongLog, Cuts, LogIdentity]:
    """The log, its cuts and its identity; a sample of its users where it lies on disk and does not fit into memory."""
    if not config.data.data:
        log, cuts = load_split(config)
        return log, cuts, identify_log(log, config.data)
    disk = open_sharded_log(config.data)
    cuts = global_time_cuts(np.array([disk.first, disk.last]), config.data.window_days)
    log = read_sample(disk, events_that_fit(config.train.max_memory_gb), "evaluated on")
    return log, cuts, identify_shards(disk)


def _seen(config: Config, split: str, spelled: str, cut: int, start: int) -> str:
    """Why a run may not be evaluated on a window that begins before its training data end."""
    run_dir = config.train.run_dir
    if config.train.cut == "test" and split == "validation":
        return (
            f"{spelled.format(split)}: {run_dir!r} was trained on events up to the test window "
            f"(--cut=test), so it has seen the validation window; ask for {spelled.format('test')}, or train with "
            "--cut=validation"
        )
    ends, starts = (np.datetime64(second, "s") for second in (cut, start))
    return (
        f"{spelled.format(split)}: {run_dir!r} was trained on events up to {ends} UTC, and the {split} window of this "
        f"log starts at {starts} UTC: the run has seen it. Ask for {spelled.format('test')}, use the --window_days of "
        "the training, or wait for newer events"
    )


class OpenRun(NamedTuple):
    """A run and the window that it may be evaluated on.

    Attributes:
      config: of the run.
      log: the whole log.
      corpus: vocabularies as of the run's training cut.
      prepared: the log strictly before the window.
      truth: what users took in the window.
      models: the trained towers and the interest score.
      scorer: the run at its best, every category searched; `scorer.with_retrieval` asks in other ways.
    """

    config: Config
    log: LifelongLog
    corpus: Corpus
    prepared: Prepared
    truth: Truth
    models: Models
    scorer: LongRetrieverScorer


def open_run(run_dir: str, split: str) -> OpenRun:
    """Opens a finished run of LongRetriever.

    Args:
      run_dir: of the run.
      split: "validation" or "test".

    Raises:
      UserError: the run has not finished, is of another log or of a baseline, or has seen the window.
    """
    config = load_config(run_dir)
    window = open_window(config, split, "split='{}'")
    prepared = window.prepare()
    models = load_models(config, window.corpus, window.arrays["item_svd"])
    scorer = LongRetrieverScorer(config, prepared, models.retriever, models.interest, config.retrieval)
    return OpenRun(config, window.log, window.corpus, prepared, window.truth, models, scorer)
