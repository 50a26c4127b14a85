"""The lists of channels as of a time: those of trained runs, and those of counting baselines."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, load_config
from longretriever_tf.data.batches.prepared_data import load_saved, prepare_requests
from longretriever_tf.data.corpus import Corpus, encode_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.log_identity import LogIdentity, require_log_of_run
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.evaluation.counting import popularity
from longretriever_tf.evaluation.evaluate_run import make_scorers
from longretriever_tf.evaluation.evaluator import Scorer
from longretriever_tf.evaluation.funnel.channel_spec import ChannelSpec
from longretriever_tf.evaluation.funnel.channels import cut_lists, translate_lists
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer

COUNTING = ("popularity", "category_popularity", "own_items")
"""Channels that need no run, by the name that --channels takes."""


@dataclasses.dataclass(frozen=True)
class ChannelRun:
    """A finished run behind one or more channels.

    Attributes:
      config: of the run.
      corpus: its own item indices.
      arrays: from `load_saved`, with the corpus.
    """

    config: Config
    corpus: Corpus
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ChannelRequest:
    """One window's request to every channel.

    Attributes:
      log: of all time; channels read what lies strictly before `as_of`.
      corpus: whose item indices the lists are in.
      as_of: the window's start, seconds UTC.
      users: rows of the log, [U] int64.
      k: list length.
    """

    log: LifelongLog
    corpus: Corpus
    as_of: int
    users: np.ndarray
    k: int


def load_channel_run(run_dir: str, config: Config, cuts: Cuts, log: LogIdentity | None = None) -> ChannelRun:
    """Reads a run that never saw the validation window, where the ranker learns.

    Args:
      run_dir: of the run.
      config: of the run that leads the funnel: `run_dir` must be of the same log.
      cuts: of that log.
      log: what the run must have been trained on; None: not checked.

    Raises:
      UserError: no finished run; of another log; or trained on events of the validation window.
    """
    own = load_config(run_dir)
    for field in dataclasses.fields(config.data):
        ours, theirs = getattr(config.data, field.name), getattr(own.data, field.name)
        if field.name not in ("data_dir", "context") and ours != theirs:
            raise UserError(
                f"{run_dir!r} is the run of another log: --{field.name}={theirs!r} there, {ours!r} in "
                f"{config.train.run_dir!r}; channels that are compared must be trained on one log"
            )
    corpus, arrays = load_saved(run_dir)
    if log is not None:
        require_log_of_run(run_dir, log, "Channels that are compared must be trained on one log and evaluated on it")
    if corpus.cut > cuts.validation_start:
        seen = "on all events" if own.train.cut == "none" else "up to the test window"
        raise UserError(
            f"{run_dir!r} was trained {seen} (--cut={own.train.cut}): its lists of the validation window, "
            "which the ranker learns from, would be lists of the training data; train with --cut=validation"
        )
    return ChannelRun(own, corpus, arrays)


def run_scorers(run: ChannelRun, log: LifelongLog, as_of: int, specs: Sequence[ChannelSpec]) -> list[Scorer]:
    """One scorer per spec, all over one loaded model, named by the spec.

    Raises:
      UserError: the run has not finished, or the spec has settings that its kind of model does not have.
    """
    scorer = make_scorers(run.config, prepare_requests(log, run.corpus, run.arrays, as_of))[0]
    scorers: list[Scorer] = []
    for spec in specs:
        if isinstance(scorer, LongRetrieverScorer):
            retrieval, every_category = spec.settings(run.config)
            scorers.append(scorer.with_retrieval(spec.name, retrieval, every_category))  # the copies share their logits
        elif spec.overrides:
            raise UserError(
                f"channel {spec.name!r}: {run.config.train.run_dir!r} is no LongRetriever and has no interests to "
                f"choose or merge; leave out {', '.join(spec.overrides)}"
            )
        else:
            scorers.append(_Named(spec.name, scorer))
    return scorers


def run_lists(
    run: ChannelRun, request: ChannelRequest, specs: Sequence[ChannelSpec], on_progress: Callable[[int], Any]
) -> dict[str, np.ndarray]:
    """Lists of a run's channels in the request's items, by name, [U, k] int64 each."""
    scorers = run_scorers(run, request.log, request.as_of, specs)
    lists = cut_lists(scorers, request.users, request.k, on_progress=on_progress)
    new_item = request.corpus.find_items(run.corpus.item_id)
    return {name: translate_lists(items, new_item) for name, items in lists.items()}


def counting_lists(
    request: ChannelRequest, names: Sequence[str], on_progress: Callable[[int], Any]
) -> dict[str, np.ndarray]:
    """Lists of channels of `COUNTING`, which count the events before the window, by name, [U, k] int64 each."""
    corpus = request.corpus
    log = encode_log(request.log, corpus)
    fitted = popularity.fit_baselines(log, corpus.num_items, corpus.category_offset, request.as_of)
    by_name = {scorer.name.replace(" ", "_"): scorer for scorer in fitted}
    scorers = [_Named(name, by_name[name]) for name in names]
    return cut_lists(scorers, request.users, request.k, on_progress=on_progress)


@dataclasses.dataclass(frozen=True)
class _Named:
    """A scorer under the name that its channel goes by."""

    name: str
    scorer: Scorer

    def score(self, users: np.ndarray) -> np.ndarray:
        return self.scorer.score(users)
