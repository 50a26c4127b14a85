"""The run that a warm start goes on from: opened, and held to the flags and the log of the update. Writes nothing."""

import dataclasses
import os

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError, require
from longretriever_tf.common.text import is_text
from longretriever_tf.config.check import asks_clusters
from longretriever_tf.config.config import Config, load_config
from longretriever_tf.data.batches.prepared_data import load_saved
from longretriever_tf.data.corpus import Corpus, encode_log
from longretriever_tf.data.recipe.item_stats import build_item_stats
from longretriever_tf.data.recipe.learned_context import with_trained_clusters
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.training.run_dir import is_finished

_SAME_MODEL = (
    *("model", "dim", "num_layers", "num_heads", "ff_dim", "max_length", "item_id", "svd_dim", "profile"),
    *("request_features", "timezone_offset_hours", "user_context", "repeat_term", "normalize", "temperature"),
    "action_counts",
)
"""Settings that shape the weights, or say what they mean."""

_SAME_DATA = ("action_column", "action_weights", "target_actions", "event_features")
"""Settings of the data that say what was learned to be retrieved, and from what a request says."""

_BY_THE_LOG = ("epochs", "horizon_days", "snapshot_every_days")
"""Settings that follow the log or its windows where they are 0."""

_MOST_LOST = 0.2
"""Share of the earlier run's items that the log may lack: more are a sign of another log, or of a torn one."""

_LEAST_ALIKE = 0.5
"""Share of the earlier run's items that must have been as popular and as stale at its cut as that run saw them."""

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class EarlierRun:
    """A finished run of LongRetriever.

    Attributes:
      run_dir: its directory.
      config: its config.
      corpus: as of its cut.
      arrays: from `load_saved`.
    """

    run_dir: str
    config: Config
    corpus: Corpus
    arrays: dict[str, np.ndarray]

    @property
    def generation(self) -> int:
        """1 for a training from the start, one more for each update since."""
        return int(self.arrays["generation"])

    def describe(self) -> str:
        """The run and what it has seen, in some words."""
        cut = np.datetime64(self.corpus.cut, "s")
        return f"{self.run_dir!r} (generation {self.generation}, trained on events before {cut} UTC)"


def require_other_directory(config: Config) -> None:
    """Refuses to write an update into the directory of the run that it goes on from.

    Raises:
      UserError: the two directories are one.
    """
    update, run_dir = config.update, config.train.run_dir
    require(
        not update.warm_start or os.path.realpath(update.warm_start) != os.path.realpath(run_dir),
        f"--warm_start={update.warm_start} is --run_dir too: the earlier run stays as it is; name another --run_dir",
    )


def open_earlier_run(config: Config) -> EarlierRun:
    """Opens the run that `--warm_start` names.

    Raises:
      UserError: it is no finished run, or its weights do not fit the settings.
    """
    run_dir = config.update.warm_start
    named = f"--warm_start={run_dir}"
    earlier = load_config(run_dir)
    require(
        earlier.model.model == config.model.model,
        f"{named} is a run of --model={earlier.model.model}, and only longretriever is updated; train it anew",
    )
    require(
        is_finished(run_dir),
        f"{named} has no finished training: let the `train` command that began it finish, then start from it",
    )
    _require_same_shapes(named, earlier, config)
    return EarlierRun(run_dir, earlier, *load_saved(run_dir))


def _require_same_shapes(named: str, earlier: Config, config: Config) -> None:
    """Refuses settings under which the weights would not fit, or would mean another thing."""
    differing = [
        f"--{name}: {there!r} there, {here!r} here"
        for name in _SAME_MODEL
        if (there := getattr(earlier.model, name)) != (here := getattr(config.model, name))
    ]
    differing += [
        f"--{name}: {_shown(there)} there, {_shown(here)} here"
        for name in _SAME_DATA
        if (there := getattr(earlier.data, name)) != (here := getattr(config.data, name))
    ]
    there, here = earlier.train, config.train
    if config.model.user_context and there.history_folds != here.history_folds:
        differing.append(f"--history_folds: {there.history_folds} there, {here.history_folds} here")
    if config.model.repeat_term and bool(there.vector_loss_weight) != bool(here.vector_loss_weight):
        differing.append(f"--vector_loss_weight: {there.vector_loss_weight:g} there, {here.vector_loss_weight:g} here")
    if here.interest_epochs and not there.interest_epochs:
        differing.append(f"--interest_epochs: 0 there, {here.interest_epochs} here")
    require(
        not differing,
        f"{named} has weights of other settings ({'; '.join(differing)}): leave these flags out, or train anew without "
        "--warm_start",
    )


def _shown(value: str | tuple[str, ...]) -> str:
    return (value if isinstance(value, str) else ",".join(value)) or "(none)"


def _said(name: str, value: object) -> str:
    return "by the log" if value == 0 and name in _BY_THE_LOG else repr(value)


def changed_settings(earlier: Config, config: Config) -> list[str]:
    """The settings in which an update differs from the run that it goes on from, as flags."""
    return [
        f"--{field.name}: {_said(field.name, there)} there, {_said(field.name, here)} here"
        for section in ("data", "model", "train", "retrieval")
        for field in dataclasses.fields(getattr(config, section))
        if (there := getattr(getattr(earlier, section), field.name))
        != (here := getattr(getattr(config, section), field.name))
        and field.name != "run_dir"
    ]


def require_continuation(run: EarlierRun, config: Config, log: LifelongLog | ShardedLog, cut: int) -> None:
    """Refuses a log that does not go on from the one that the earlier run was trained on.

    Args:
      run: the earlier run.
      config: of the update.
      log: of the update, the whole of it.
      cut: where its training data end, seconds UTC.

    Raises:
      UserError: names what differs.
    """
    named = f"--warm_start={run.run_dir}"
    require(
        not isinstance(log, ShardedLog),
        f"{named}: an update needs the log in memory, and --data={config.data.data} does not fit: raise "
        "--max_memory_gb where this machine has the memory, or train anew without --warm_start",
    )
    assert isinstance(log, LifelongLog)
    _require_same_columns(named, run, config, log)
    ends, starts = (np.datetime64(second, "s") for second in (cut, run.corpus.cut))
    require(
        cut > run.corpus.cut,
        f"{named} was trained on events before {starts} UTC, and this training would end at {ends} UTC: there are no "
        "new days to learn from; give the log of today, or a later --cut",
    )
    _require_same_items(named, run, log, cut)
    _require_same_past(named, run, log)


def _require_same_columns(named: str, run: EarlierRun, config: Config, log: LifelongLog) -> None:
    corpus = run.corpus
    context = config.data.context if asks_clusters(config.data.context) else log.context
    require(
        context == corpus.context,
        f"{named} has the context column {corpus.context!r}, and this training {context!r}: its weights know no other; "
        f"give --context={corpus.context}, or train anew without --warm_start",
    )
    kinds = ["text" if is_text(ids) else "whole numbers" for ids in (corpus.item_id, log.items.item_id)]
    require(
        kinds[0] == kinds[1],
        f"{named} has item ids that are {kinds[0]}, and this log's are {kinds[1]}: is it another log?",
    )
    numbers = list(corpus.feature_edges)
    _require_same_names(named, "numeric", numbers, list(log.items.numbers))
    require(
        not numbers or run.config.data.numeric_bins == config.data.numeric_bins,
        f"{named} was trained with --numeric_bins={run.config.data.numeric_bins}, and an update keeps the bins of its "
        f"numeric features: leave --numeric_bins={config.data.numeric_bins} out, or train anew without --warm_start",
    )
    there = [name for name in corpus.feature_values if name not in numbers]
    _require_same_names(named, "item", there, [name for name in log.items.features if name != context])
    there, here = list(corpus.profile_values), list(log.profile)
    _require_same_names(named, "user", there, here)
    require(  # each has its place among the tokens of a user; features of items are summed up
        there == here or not config.model.profile,
        f"{named} was trained with --user_features={','.join(there)}, and this log has them in the order "
        f"{', '.join(here)}: give them in that of the run",
    )


def _require_same_names(named: str, kind: str, there: list[str], here: list[str]) -> None:
    require(
        set(there) == set(here),
        f"{named} was trained with the {kind} columns {', '.join(there) or '(none)'}, and this log has "
        f"{', '.join(here) or '(none)'}: give the same --{kind}_features, or train anew without --warm_start",
    )


def _require_same_items(named: str, run: EarlierRun, log: LifelongLog, cut: int) -> None:
    """Refuses a log without many of the items that the run knows."""
    seen = log.items.item_id[np.unique(log.item_row[log.timestamp < cut])]
    known = run.corpus.item_id[schema.FIRST_KNOWN :]
    is_there = np.zeros(run.corpus.num_items, bool)
    is_there[run.corpus.find_items(seen)] = True
    lost = known[~is_there[schema.FIRST_KNOWN :]]
    some = ", ".join(map(repr, lost[:_SHOWN].tolist()))
    require(
        len(lost) <= _MOST_LOST * len(known),
        f"{named}: {len(lost):,} of its {len(known):,} items have no event in this log ({some}, ...), more than "
        f"{_MOST_LOST:.0%}: is it another log, or has it lost its old days? Give the log that the run was trained on "
        "with new days added, or train anew without --warm_start",
    )


def _require_same_past(named: str, run: EarlierRun, log: LifelongLog) -> None:
    """Refuses a log whose events before the run's cut are others than the run has seen; says so where a few are."""
    corpus = run.corpus
    past = encode_log(log, corpus).before(corpus.cut)
    at = np.array([corpus.cut], np.int64)
    stats = build_item_stats(past, corpus.item_category, at, corpus.num_categories).item[0]
    # Popularity and staleness; the rate of repeats counts the oldest days too, which a log may have dropped.
    is_alike = (np.abs(stats - run.arrays["item_stats"])[:, :2] < 1e-2).all(1)[schema.FIRST_KNOWN :]
    share, until = float(is_alike.mean()), np.datetime64(corpus.cut, "s")
    if share < _LEAST_ALIKE:
        raise UserError(
            f"{named}: before {until} UTC, {1 - share:.0%} of its items have other events in this log than that run "
            "has seen: it is another log. Give the log that the run was trained on with new days added, or train anew "
            "without --warm_start"
        )
    if share < 1:
        number = int((~is_alike).sum())
        print(f"{number:,} items have other events before {until} UTC than the earlier run has seen", flush=True)


def with_trained_context(log: LifelongLog, run: EarlierRun) -> LifelongLog:
    """The log with the earlier run's clusters, where its context is learned: new items go where their like are."""
    context = run.corpus.context
    if not asks_clusters(context):
        return log
    items = with_trained_clusters(log.items, log.context, run.corpus, run.config.data.text_columns)
    return dataclasses.replace(log, items=items, context=context)
