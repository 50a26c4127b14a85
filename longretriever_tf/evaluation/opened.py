"""A finished run, opened as of a window's start: what notebooks and scripts need to ask it questions of their own.

run = open_run("runs/demo", "validation")
lists = top_k(run.scorer.score(run.truth.users[:10]), 20)            # item indices
print(run.corpus.item_name[lists[0]])
"""

from typing import NamedTuple

from longretriever_tf.config import Config, load_config
from longretriever_tf.data.corpus import Corpus, encode_log
from longretriever_tf.data.log import LifelongLog
from longretriever_tf.data.prepared import Prepared, load_saved, load_split, prepare_requests
from longretriever_tf.errors import UserError
from longretriever_tf.evaluation.truth import Truth, build_truth
from longretriever_tf.models.build import Models
from longretriever_tf.models.finished import load_models
from longretriever_tf.retrieval.scorer import LongRetrieverScorer


class OpenRun(NamedTuple):
    """A run and the window that it may be judged on.

    Attributes:
      config: of the run.
      log: the whole log.
      corpus: vocabularies as of the run's training cut.
      prepared: the log strictly before the window.
      truth: what users took in the window.
      models: the trained towers and the interest score.
      scorer: the run at its best, every category searched; `scorer.ask_otherwise` asks in other ways.
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
    log, cuts = load_split(config)
    window = cuts.window_of(split)
    corpus, arrays = load_saved(run_dir)
    if corpus.cut > window[0]:
        raise UserError(
            f"split={split!r}: {run_dir!r} was trained on events up to the test window (--cut=test), so it has seen "
            "the validation window; open it with 'test', or train with --cut=validation"
        )
    prepared = prepare_requests(config, log, corpus, arrays, window[0])
    truth = build_truth(encode_log(log, corpus), corpus.num_items, window[0], window)
    models = load_models(config, corpus, arrays["item_svd"])
    scorer = LongRetrieverScorer(config, prepared, models.retriever, models.interest, config.retrieval)
    return OpenRun(config, log, corpus, prepared, truth, models, scorer)
