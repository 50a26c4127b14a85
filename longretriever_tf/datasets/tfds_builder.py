"""What every lifelong TFDS builder shares: record features, writing records, reading them back in columns.

Two configs each: `users`, one record per user with profile and whole history, and `items`, one record per item. One
split, `log`, since the split into train, validation and test is global in time and comes later (TFDS reserves the name
`all`, which reads it too).
"""

import abc
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from longretriever_tf.common.text import as_raw_ids, as_text, code_text, is_text
from longretriever_tf.config.actions import Actions
from longretriever_tf.datasets import accounts
from longretriever_tf.datasets.log import EventColumn, ItemTable, LifelongLog

SPLIT = "log"
KINDS = ("users", "items")
_COUNTS = "counts"
_COLUMNS = "columns"
_USERS_PER_BATCH = 256
_ITEMS_PER_BATCH = 8192


class Layout(NamedTuple):
    """Types and columns of a log's records; ids are int64, or text where the flag says so."""

    is_user_text: bool
    is_item_text: bool
    profile: tuple[str, ...]
    item_features: tuple[str, ...]
    has_actions: bool = False
    event_features: tuple[str, ...] = ()


def record_features(layout: Layout, kind: str) -> tfds.features.FeaturesDict:
    """The features of a `users` or an `items` record; a missing value is the empty string."""

    def scalar(is_text: bool) -> tfds.features.FeatureConnector:
        return tfds.features.Text() if is_text else tfds.features.Scalar(np.int64)

    def sequence(dtype: Any) -> tfds.features.FeatureConnector:
        return tfds.features.Tensor(shape=(None,), dtype=dtype)

    if kind == "items":
        return tfds.features.FeaturesDict(
            {
                "item_id": scalar(layout.is_item_text),
                "name": tfds.features.Text(),
                "feature": {name: tfds.features.Text() for name in layout.item_features},
            }
        )
    others: dict[str, Any] = {"action": sequence(np.str_)} if layout.has_actions else {}
    if layout.event_features:
        others["event"] = {name: sequence(np.str_) for name in layout.event_features}
    return tfds.features.FeaturesDict(
        {
            "user_id": scalar(layout.is_user_text),
            "profile": {name: tfds.features.Text() for name in layout.profile},
            "item_id": sequence(np.str_ if layout.is_item_text else np.int64),
            "timestamp": sequence(np.int64),
            "basket_id": sequence(np.int64),
            "weight": sequence(np.float32),
            **others,
        }
    )


def user_records(log: LifelongLog) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields (key, record) for each user."""
    item_id = as_raw_ids(log.items.item_id)[log.item_row]
    action = None if log.action is None else as_text(log.actions.name)[log.action]
    features = {name: as_text(column.value)[column.row] for name, column in log.event_features.items()}
    for row, user_id in enumerate(log.user_id.tolist()):
        history = slice(log.offset[row], log.offset[row + 1])
        yield (
            _key(user_id),
            {
                "user_id": user_id,
                "profile": {name: str(column[row]) for name, column in log.profile.items()},
                "item_id": item_id[history],
                "timestamp": log.timestamp[history],
                "basket_id": log.basket_id[history],
                "weight": log.weight[history],
                **({} if action is None else {"action": action[history]}),
                **({"event": {name: column[history] for name, column in features.items()}} if features else {}),
            },
        )


def item_records(items: ItemTable) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields (key, record) for each item."""
    columns = {name: column.tolist() for name, column in items.features.items()}
    names = items.name.tolist()
    for row, item_id in enumerate(items.item_id.tolist()):
        feature = {name: column[row] for name, column in columns.items()}
        yield _key(item_id), {"item_id": item_id, "name": names[row], "feature": feature}


def _key(raw_id: int | str) -> bytes:
    """What TFDS shuffles a record by; as bytes, since in a str it takes a backslash for a slash of another file."""
    return str(raw_id).encode("utf-8")


def read_features(directory: str, kind: str) -> tfds.features.FeaturesDict:
    """The features of prepared records, their columns in the order of the source.

    features.json is read back in an order that changes with the process, and checkpoints hold a table for each column
    by position. Records of before, which do not say the order, are read by name.
    """
    features = tfds.features.FeaturesDict.from_config(directory)
    try:
        with open(os.path.join(directory, "metadata.json"), encoding="utf-8") as file:
            order = (json.load(file) or {}).get(_COLUMNS, ())
    except FileNotFoundError:  # TFDS writes none where there is nothing to say
        order = ()
    group = "profile" if kind == "users" else "feature"
    columns = features[group]
    names = list(order) if sorted(order) == sorted(columns) else sorted(columns)
    ordered = tfds.features.FeaturesDict({name: columns[name] for name in names})
    return tfds.features.FeaturesDict({**features, group: ordered})


class _DatasetInfo(tfds.core.DatasetInfo):
    """A description that is of this machine alone."""

    def initialize_from_bucket(self) -> None:
        """Asks nobody: TFDS's storage knows none of these datasets, and each question left an empty folder."""


class LifelongBuilder(tfds.core.GeneratorBasedBuilder):
    """Base of the builders; a subclass says how to read its source and what the records hold."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.1.0": "Ties of time in order of basket and item; counts of all rows."}

    @property
    def kind(self) -> str:
        """`users` or `items`."""
        return self.builder_config.name.split("-")[0]

    @abc.abstractmethod
    def layout(self) -> Layout:
        """Types and columns of the records."""

    @abc.abstractmethod
    def source_log(self) -> LifelongLog:
        """The log, read from its source."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self.make_info(record_features(self.layout(), self.kind))

    def make_info(self, features: tfds.features.FeaturesDict) -> tfds.core.DatasetInfo:
        """The description that TFDS stores with the records; the counts of the log are its `metadata.json`."""
        about = self.get_metadata()
        return _DatasetInfo(
            builder=self,
            description=about.description or None,
            citation=about.citation or None,
            features=features,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to download
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        log = self.source_log()
        self.info.metadata[_COUNTS] = log.counts
        self.info.metadata[_COLUMNS] = [*log.profile] if self.kind == "users" else [*log.items.features]
        if self.kind == "users":
            for line in (accounts.describe(log.counts), *accounts.notes(log.counts)):
                print(f"{self.name}: {line}", file=sys.stderr)
        yield from user_records(log) if self.kind == "users" else item_records(log.items)


def read_log(users: LifelongBuilder, items: LifelongBuilder, context: str) -> LifelongLog:
    """Reads prepared records back, whole batches at a time; users and items sorted by id.

    Args:
      users: a prepared builder of kind `users`.
      items: a prepared builder of kind `items` of the same log.
      context: the context column, among the features of the items; "": the log has none of its own.
    """
    table = _read_items(items)
    rows_of = _row_finder(table.item_id)
    rows, profiles, histories, actions = [], [], [], []
    features: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in _names(users, "event")}
    for batch in _read_columns(users, _USERS_PER_BATCH):
        item_id, length = batch.pop("item_id")
        rows.append((_decode(batch["user_id"]), length))
        profiles.append({name: as_text(batch[f"profile/{name}"]) for name in _names(users, "profile")})
        histories.append((rows_of(item_id), *(batch[name][0] for name in ("timestamp", "basket_id", "weight"))))
        actions.append(code_text(_decode(batch["action"][0])) if "action" in batch else None)
        for name, parts in features.items():
            parts.append(code_text(_decode(batch[f"event/{name}"][0])))
    user_id, length = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.argsort(user_id, kind="stable")
    start = np.cumsum(length) - length
    offset = np.concatenate([[0], np.cumsum(length[order])]).astype(np.int64)
    event = np.arange(offset[-1]) + np.repeat(start[order] - offset[:-1], length[order])  # new position -> old, [E]
    item_row, timestamp, basket_id, weight = (np.concatenate(parts)[event] for parts in zip(*histories, strict=True))
    profile = {name: np.concatenate([part[name] for part in profiles])[order] for name in profiles[0]}
    counts = dict((users.info.metadata or {}).get(_COUNTS, {}))
    log = LifelongLog(user_id[order], profile, offset, item_row, timestamp, basket_id, weight, table, context, counts)
    columns = {name: _join_columns(parts, event) for name, parts in features.items()}
    return _with_actions(dataclasses.replace(log, event_features=columns), actions, event)


def _with_actions(
    log: LifelongLog, parts: list[tuple[np.ndarray, np.ndarray] | None], event: np.ndarray
) -> LifelongLog:
    """The log with the actions of its records, if they have any.

    Args:
      log: without actions.
      parts: names and rows of them by batch, events in the order of the records.
      event: the position there of each event of the log, [E].
    """
    coded = [part for part in parts if part is not None]
    if not coded:
        return log
    column = _join_columns(coded, event)
    return dataclasses.replace(log, action=column.row.astype(np.int16), actions=Actions(tuple(column.value.tolist())))


def _join_columns(parts: list[tuple[np.ndarray, np.ndarray]], event: np.ndarray) -> EventColumn:
    """The column whose parts have these values and rows; `event` as of `_with_actions`."""
    names = as_text(sorted(set().union(*(part[0].tolist() for part in parts))))
    row = np.concatenate([np.searchsorted(names, name)[code] for name, code in parts if len(name)])
    return EventColumn(names, row[event].astype(np.int32))


def _read_items(builder: LifelongBuilder) -> ItemTable:
    """The item table, sorted by id."""
    batches = list(_read_columns(builder, _ITEMS_PER_BATCH))
    columns = {name: _decode(np.concatenate([batch[name] for batch in batches])) for name in batches[0]}
    order = np.argsort(columns["item_id"], kind="stable")
    features = {name: columns[f"feature/{name}"][order] for name in _names(builder, "feature")}
    return ItemTable(columns["item_id"][order], features, columns["name"][order])


def _names(builder: LifelongBuilder, group: str) -> list[str]:
    return list(builder.info.features[group]) if group in builder.info.features else []


def _decode(column: np.ndarray) -> np.ndarray:
    """Bytes as text; numbers as they are."""
    return as_text(column) if is_text(column) else column


def _row_finder(item_id: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Rows [n] int32 of ids as the records hold them, all among `item_id` (sorted): text as bytes."""
    if not is_text(item_id):
        return lambda ids: np.searchsorted(item_id, ids).astype(np.int32)
    # A dictionary, since every event of the log looks its item up.
    row_of = {raw.encode("utf-8"): row for row, raw in enumerate(item_id.tolist())}
    return lambda ids: np.fromiter(map(row_of.__getitem__, ids.tolist()), np.int32, len(ids))


def _read_columns(builder: LifelongBuilder, batch_size: int) -> Iterator[dict[str, Any]]:
    """Yields batches of columns by flat name: scalars [B], sequences as (values [sum T], lengths [B]).

    `tfds.as_dataset` decodes record by record; parsing whole batches is some ten times faster.
    """
    import tensorflow as tf  # here, so that the module's types serve without it

    specs = {}
    for name, feature in _flat_features(builder.info.features):
        dtype = tf.string if feature.np_dtype in (np.str_, object) else tf.as_dtype(feature.np_dtype)
        specs[name] = tf.io.RaggedFeature(dtype) if feature.shape else tf.io.FixedLenFeature([], dtype)
    files = [os.fspath(path) for path in builder.info.splits[SPLIT].filepaths]
    dataset = tf.data.TFRecordDataset(files).batch(batch_size)
    dataset = dataset.map(lambda records: tf.io.parse_example(records, specs), num_parallel_calls=tf.data.AUTOTUNE)
    for batch in dataset.prefetch(tf.data.AUTOTUNE):
        yield {
            name: (value.values.numpy(), value.row_lengths().numpy())
            if isinstance(value, tf.RaggedTensor)
            else value.numpy()
            for name, value in batch.items()
        }


def _flat_features(features: tfds.features.FeaturesDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from _flat_features(feature, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", feature
