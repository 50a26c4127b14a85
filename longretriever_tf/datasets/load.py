"""From a `DataConfig` to the whole log in memory: prepares what TFDS has not yet prepared, then reads it back."""

import dataclasses

import numpy as np
from absl import logging

from longretriever_tf.common.errors import UserError, require
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.actions import action_weights
from longretriever_tf.config.check import CLUSTERS, asks_clusters
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import build_log, complete_journey, event_log, movielens, tfds_builder
from longretriever_tf.datasets.accounts import KEPT
from longretriever_tf.datasets.event_log.actions import action_flags
from longretriever_tf.datasets.item_texts import split_columns
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog, read_action_flags, read_column_flags, read_manifest
from longretriever_tf.datasets.tfds_prepare import explain_damaged_records, prepare


def load_log(config: DataConfig) -> LifelongLog:
    """The log that the config names, users and items sorted by id, items without events included.

    With --context=clusters:N or text_clusters:N its context is still the log's own, "" if it has none;
    `data.recipe.learned_context` makes the clusters.

    Prepared once under `config.data_dir` (seconds to minutes, with a progress bar), read back in seconds afterwards:
    a builder's `source_log` reads the source (`event_log.source.read_event_log` for a user's own tables), and
    `tfds_builder` writes and reads the records.

    Raises:
      UserError: a mistake in the config or the files, or a data_dir that cannot be written.
    """
    if config.data:
        log = open_sharded_log(config).read_whole()
    else:
        log = _skip_last_days(_load_tables(config), config.skip_last_days)
    _note_plain_actions(config, log)
    return log


def _note_plain_actions(config: DataConfig, log: LifelongLog) -> None:
    """Says which actions --action_weights does not name."""
    names = action_weights(config.action_weights)
    plain = [name for name in log.actions.name if name not in names]
    if log.action is not None and names and plain:
        num_events = int(np.isin(log.actions.name, plain)[log.action].sum())
        logging.warning(
            "--action_weights has no weight of %s: %d of %d events weigh 1",
            *(", ".join(plain), num_events, log.num_events),
        )


def _load_tables(config: DataConfig) -> LifelongLog:
    """The whole log of tables or of a data set by name."""
    is_learned = asks_clusters(config.context)  # `data.recipe.learned_context` makes them, once the cut is known
    if is_learned:
        config = dataclasses.replace(config, context=CLUSTERS)  # their number is not of the log
    with explain_damaged_records(config.data_dir, config.dataset, reads_records=False):
        log = _LOADERS[config.dataset](config)
    if is_learned:
        return _fill(log)
    context = config.context or log.context
    if context not in log.items.features:
        raise UserError(
            f"--context={context!r} is not a column of the items; columns: {', '.join(sorted(log.items.features))}"
        )
    return _fill(dataclasses.replace(log, context=context))


def open_sharded_log(config: DataConfig) -> ShardedLog:
    """The log on disk that `config.data` names.

    Raises:
      UserError: it is no prepared log, or lacks the context column or that of the vectors.
    """
    require(
        not config.skip_last_days,
        f"--skip_last_days={config.skip_last_days:g} is of a log that is read from its tables, not of one that "
        f"`prepare` has written: --data={config.data} holds whole histories; drop one of the two flags",
    )
    _require_same_actions(config)
    log = ShardedLog(config.data, "" if asks_clusters(config.context) else config.context, actions=config)
    kept = read_column_flags(log.manifest)
    for name in ("embedding_column", "numeric_features"):
        there, here = getattr(kept, name), getattr(config, name)
        require(
            here in (type(there)(), there),
            f"{_flag(name, here)}: --data={config.data} was prepared "
            f"{f'with {_flag(name, there)}' if there else 'without it'}; prepare the log again with this column",
        )
    return log


def _flag(name: str, value: str | tuple[str, ...]) -> str:
    return f"--{name}={value if isinstance(value, str) else ','.join(value)}"


def _require_same_actions(config: DataConfig) -> None:
    """Refuses another column of actions than that of the prepared log; weights and targets may be chosen later."""
    kept, asked = read_action_flags(read_manifest(config.data)).action_column, config.action_column
    require(
        asked in ("", kept),
        f"--action_column={asked}: --data={config.data} was prepared "
        f"{f'with --action_column={kept}' if kept else 'without it'}; leave the flag out, or prepare the log again "
        "with this column",
    )


def _skip_last_days(log: LifelongLog, days: float) -> LifelongLog:
    """The log as if it had ended so many days earlier; all users and items stay.

    Raises:
      UserError: nothing is left.
    """
    if not days or not log.num_events:
        return log
    first, last = int(log.timestamp.min()), int(log.timestamp.max())
    keep = log.timestamp < last - round(days * DAY_S)
    require(
        bool(keep.any()),
        f"--skip_last_days={days:g} leaves no event: the log spans {(last - first) / DAY_S:.1f} days",
    )
    counts = dict(log.counts)
    if KEPT in counts:
        num_left = int(keep.sum())
        counts |= {"last_days": log.num_events - num_left, KEPT: num_left}
    return dataclasses.replace(log.of_events(keep), counts=counts)


def _fill(log: LifelongLog) -> LifelongLog:
    return dataclasses.replace(log, items=build_log.fill_missing_context(log.items, log.context))


def own_context(config: DataConfig) -> str:
    """The column that is the category if --context names none, or names clusters and the log has such a column."""
    if config.data:
        return read_manifest(config.data).context
    return _OWN_CONTEXT[config.dataset]


def with_text_flags(config: DataConfig) -> DataConfig:
    """The config with the columns of text clusters that its log was prepared with, unless it names columns itself."""
    if not config.data or config.text_columns or config.embedding_column:
        return config
    flags = read_column_flags(read_manifest(config.data))
    return dataclasses.replace(config, text_columns=flags.text_columns, embedding_column=flags.embedding_column)


def with_action_flags(config: DataConfig) -> DataConfig:
    """The config with the actions that its log was prepared with; weights and targets may be chosen later.

    Raises:
      UserError: the config names another column.
    """
    if not config.data:
        return config
    _require_same_actions(config)
    kept = read_action_flags(read_manifest(config.data))
    return dataclasses.replace(
        config,
        action_column=kept.action_column,
        action_weights=config.action_weights or kept.action_weights,
        target_actions=config.target_actions or kept.target_actions,
    )


def _load_complete_journey(config: DataConfig) -> LifelongLog:
    users, items = (
        complete_journey.Builder(config=kind, data_dir=config.data_dir or None) for kind in tfds_builder.KINDS
    )
    prepare(users)
    prepare(items)
    with explain_damaged_records(config.data_dir, config.dataset):
        return tfds_builder.read_log(users, items, complete_journey.CONTEXT)


def _load_event_log(config: DataConfig) -> LifelongLog:
    users, items = (
        event_log.Builder(spec=config, config=kind, data_dir=config.data_dir or None) for kind in tfds_builder.KINDS
    )
    prepare(users)
    prepare(items)
    event_log.forget()
    context = config.context or event_log.CONTEXT
    with explain_damaged_records(config.data_dir, config.dataset):
        if asks_clusters(context):
            context = event_log.CONTEXT if event_log.CONTEXT in items.info.features["feature"] else ""
        log = tfds_builder.read_log(users, items, context)
    features = {name: log.event_features[name] for name in config.event_features}  # records know no order of columns
    log = dataclasses.replace(log, actions=action_flags(config, log.actions.name), event_features=features)
    return dataclasses.replace(log, items=split_columns(log.items, config, log.context))


def _load_movielens(config: DataConfig) -> LifelongLog:
    return movielens.load_movielens(config.movielens, config.data_dir)


_LOADERS = {
    "complete_journey": _load_complete_journey,
    "event_log": _load_event_log,
    "movielens": _load_movielens,
}

_OWN_CONTEXT = {
    "complete_journey": complete_journey.CONTEXT,
    "event_log": event_log.CONTEXT,
    "movielens": movielens.CONTEXT,
}
