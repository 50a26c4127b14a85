"""The baselines of a table, tuned or not, and a table of baselines alone: no trained run is needed."""

import dataclasses
import os
from typing import Any, NamedTuple

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.progress import Progress
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import load_split
from longretriever_tf.data.corpus import Corpus, EncodedLog, encode_log, fit_corpus
from longretriever_tf.data.recipe.learned_context import cluster_context
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.evaluation.counting.popularity import fit_baselines
from longretriever_tf.evaluation.counting.settings import COMMAND, read_settings, tune_settings, write_settings
from longretriever_tf.evaluation.counting.tuning import Setting, fit_chosen
from longretriever_tf.evaluation.evaluator import Scorer, evaluate_many
from longretriever_tf.evaluation.ground_truth import Truth, build_truth
from longretriever_tf.evaluation.lists import ListFiles, read_list_scorers, report_lists, require_names

SETTINGS_FILE = "baseline_settings.json"
_CHUNK = 64  # as in tuning


class BaselineChoice(NamedTuple):
    """Which baselines stand in the table.

    Attributes:
      kind: none; simple: popularity, category popularity and own items, which have nothing to tune;
        all: those, and TIFU-kNN, ItemKNN, EASE and EASE with own items, tuned on the validation window.
      settings: kind=all: a JSON file of chosen settings; "": tune now, and write them to `output`.
      output: where chosen settings are written.
      lists: of other systems, which stand in the table too.
    """

    kind: str = "simple"
    settings: str = ""
    output: str = SETTINGS_FILE
    lists: ListFiles = ListFiles()


def find_settings(
    choice: BaselineChoice, config: Config, log: LifelongLog, cuts: Cuts, program: str
) -> dict[str, Setting]:
    """The chosen setting of each tuned baseline by name: read, or tuned now and written; none unless kind=all.

    Raises:
      UserError: settings are given where nothing is tuned, or cannot be read, are another log's, or cannot be written.
    """
    if choice.kind != "all":
        if choice.settings:
            raise UserError(
                f"--baseline_settings={choice.settings!r} with --baselines={choice.kind}, which has nothing to tune: "
                "add --baselines=all, or leave the file out"
            )
        return {}
    if choice.settings:
        return read_settings(choice.settings, log, cuts)
    tuned = tune_settings(config.data, log, cuts, config.train.seed, program)
    write_settings(choice.output, tuned)
    print(f"settings chosen: {choice.output} (give it as --baseline_settings next time)", flush=True)
    return {name: row["chosen"] for name, row in tuned["baselines"].items()}


def fit_all(
    choice: BaselineChoice, chosen: dict[str, Setting], log: EncodedLog, category_offset: Any, cut: int
) -> tuple[Scorer, ...]:
    """The baselines of `choice`, fitted on the events before `cut`; the vocabulary is what `category_offset` bounds."""
    if choice.kind == "none":
        return ()
    num_items = int(category_offset[-1])
    return fit_baselines(log, num_items, category_offset, cut) + fit_chosen(log, num_items, cut, chosen)


class LogWindow(NamedTuple):
    """A window of a log, without a trained run.

    Attributes:
      corpus: vocabularies, fitted on the events before the window.
      log: the whole log, encoded.
      truth: what users took in the window.
      as_of: seconds UTC, the start of the window.
    """

    corpus: Corpus
    log: EncodedLog
    truth: Truth
    as_of: int


def open_log(config: Config, log: LifelongLog, cuts: Cuts, split: str) -> LogWindow:
    """Opens the window `split` of a log.

    Raises:
      UserError: no user is left to evaluate.
    """
    window = cuts.window_of(split)
    data, seed = config.data, config.train.seed
    corpus = fit_corpus(cluster_context(log, data.context, window[0], seed, data.text_columns), window[0])
    encoded = encode_log(log, corpus)
    return LogWindow(corpus, encoded, build_truth(encoded, corpus.num_items, window[0], window), window[0])


def evaluate_baselines(config: Config, split: str, choice: BaselineChoice, max_users: int = 0) -> dict[str, Any]:
    """Metrics of the baselines alone on the window `split`, as `metrics.json` holds them.

    The vocabulary is fitted on the events before the window.

    Args:
      config: names the log.
      split: "validation" or "test".
      choice: which baselines.
      max_users: evaluate only the first so many users; 0: all.

    Raises:
      UserError: a mistake in the log or the settings, or no user to evaluate.
    """
    log, cuts = load_split(config)
    chosen = find_settings(choice, config, log, cuts, COMMAND)
    corpus, encoded, truth, as_of = open_log(config, log, cuts, split)
    if max_users:
        truth = truth.rows(0, min(max_users, truth.num_users))
    lists = read_list_scorers(choice.lists, corpus, encoded.user_id, truth)
    scorers = fit_all(choice, chosen, encoded, corpus.category_offset, as_of) + lists
    require_names(scorers)
    progress = Progress(f"evaluating {len(scorers)} baselines", len(scorers) * truth.num_users, "users")
    evaluations = evaluate_many(scorers, truth, corpus.category_offset, chunk=_CHUNK, on_progress=progress.update)
    progress.close()
    return {
        **describe_origin(COMMAND, config.train.seed),
        "split": split,
        "data": config.data.dataset,
        "num_users": truth.num_users,
        "num_pairs": truth.num_pairs,
        "config": {"data": dataclasses.asdict(config.data)},
        "baseline_settings": chosen,
        **report_lists(lists, evaluations),
        "models": {name: evaluation.summary() for name, evaluation in evaluations.items()},
    }


def settings_path(output: str) -> str:
    """Where settings are written that were chosen for the metrics in `output`: in the same directory."""
    return os.path.join(os.path.dirname(os.path.abspath(output)), SETTINGS_FILE)
