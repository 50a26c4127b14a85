"""A user's own tables to a `LifelongLog`. Imports no TensorFlow."""

import contextlib
import dataclasses
import time
from typing import Any

import numpy as np
from absl import logging

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text, find_rows, is_text
from longretriever_tf.config import formats
from longretriever_tf.config.check import asks_clusters
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import accounts, baskets, build_log
from longretriever_tf.datasets.event_log.actions import action_flags, read_actions
from longretriever_tf.datasets.event_log.columns import Coded, LogTable
from longretriever_tf.datasets.event_log.delimited import TextFormat
from longretriever_tf.datasets.event_log.tables import list_portions, read_portion
from longretriever_tf.datasets.item_texts import split_columns
from longretriever_tf.datasets.log import EventColumn, ItemTable, LifelongLog

WITHOUT_WEIGHTS: dict[str, Any] = {
    "weight_column": "",
    "action_weights": (),
    "target_actions": (),
    "event_features": (),
}
"""Settings of a table whose events only count: of any action, whatever they weigh, wherever they happened."""

CONTEXT = "category"
"""The context column, unless --context names another, or names clusters and the table has no such column."""


def own_context(spec: DataConfig) -> str:
    """The column that is the log's own category; "" for none, where the context is to be learned without one."""
    return "" if asks_clusters(spec.context) else spec.context or CONTEXT


def item_feature_columns(spec: DataConfig) -> tuple[str, ...]:
    """The context column first, then the further features and numbers, then what is only text, each once."""
    others = (*spec.item_features, *spec.numeric_features, *spec.text_columns, spec.embedding_column)
    return tuple(name for name in dict.fromkeys((own_context(spec), *others)) if name)


def read_event_log(spec: DataConfig, now: float | None = None) -> LifelongLog:
    """Reads the tables that the spec names; columns of text and of numbers are among the features (`item_texts`
    parts them).

    Without an items table, items and their features come from the events. Events of items that an items table
    lacks are left out with a warning; users of the users table without events are left out.

    Args:
      spec: paths and columns.
      now: seconds UTC that no event may lie a day beyond; the clock's by default.

    Raises:
      UserError: names the file, the column and the value at fault.
    """
    check_spec(spec)
    spec = settle_context(spec)
    events = open_table("events", spec, event_columns(spec))
    items_from = open_table("items", spec, item_columns(spec)) if spec.items else events
    event_items = events.ids(spec.item_column)
    listed, wanted = align(items_from.ids(spec.item_column) if spec.items else event_items, event_items)
    items = make_item_table(spec, items_from, listed)
    is_known = (find_rows(listed.values, wanted.values) >= 0)[wanted.row]  # [E]
    if len(unknown := np.flatnonzero(~is_known)):
        example = wanted.values[wanted.row[unknown[0]]]
        report_unknown(spec, len(unknown), len(is_known), len(np.unique(wanted.row[unknown])), example)
    at = np.searchsorted(listed.values, wanted.values)[wanted.row[is_known]]
    return _join(spec, events, items, is_known, at, time.time() if now is None else now)


def read_events_alone(spec: DataConfig, now: float | None = None) -> LifelongLog:
    """Reads the events table alone: its items are those that it names, and have neither category nor features.

    Args:
      spec: paths and columns; its tables of items and users, and its weights, are not read.
      now: as of `read_event_log`.

    Raises:
      UserError: names the file, the column and the value at fault.
    """
    spec = dataclasses.replace(spec, items="-", users="", user_features=(), **WITHOUT_WEIGHTS)
    events = open_table("events", spec, event_columns(spec))
    items = events.ids(spec.item_column)
    nothing = np.full(len(items.values), schema.MISSING, object)
    table = ItemTable(items.values, {CONTEXT: nothing}, as_text(items.values))
    every = np.ones(len(events), bool)
    spec = dataclasses.replace(spec, context=CONTEXT)
    return _join(spec, events, table, every, items.row, time.time() if now is None else now)


def _join(
    spec: DataConfig, events: LogTable, items: ItemTable, is_known: np.ndarray, item_row: np.ndarray, now: float
) -> LifelongLog:
    """The log of the events whose items are known.

    Args:
      spec: names the columns and the users table.
      events: the events table.
      items: the items.
      is_known: which events they are, [E] bool.
      item_row: row of `items` of each of them.
      now: as of `read_event_log`.
    """
    users = events.ids(spec.user_column)
    user_row = users.row[is_known]
    is_present = np.bincount(user_row, minlength=len(users.values)) > 0
    user_id = users.values[is_present]
    times = events.times(spec.timestamp_column, now)
    actions = read_actions(spec, events)
    columns = build_log.RawEvents(
        user_row=(np.cumsum(is_present) - 1)[user_row],
        item_row=item_row,
        timestamp=times.second[is_known],
        weight=events.weights(spec.weight_column)[is_known] if spec.weight_column else None,
        nanosecond=times.nanosecond[is_known] if times.nanosecond.any() else None,
        action=actions.row[is_known] if actions else None,
        features={name: _event_column(events, name).of(is_known) for name in spec.event_features},
    )
    counts = {
        accounts.ROWS: len(events) + events.num_left_out,
        **({"other_action": events.num_left_out} if spec.format else {}),
        "unknown_item": int((~is_known).sum()),
        accounts.USERS_LEFT_OUT: int((~is_present).sum()),
    }
    if spec.basket_column:
        cut = _baskets(spec, events, users, is_known, columns.timestamp)
        columns, counts = columns._replace(basket_id=cut.basket_id), counts | cut.counts
    profile, without = read_profile(spec, user_id)
    counts |= {accounts.USERS_WITHOUT_EVENTS: without} if spec.users else {}
    log = build_log.build_log(columns, user_id, profile, items, own_context(spec), counts)
    return dataclasses.replace(log, actions=action_flags(spec, actions.names)) if actions else log


def _event_column(events: LogTable, name: str) -> EventColumn:
    """A column of --event_features, as text."""
    column = events.text(name)
    return EventColumn(as_text(column.values), column.row.astype(np.int32))


def read_item_table(spec: DataConfig) -> ItemTable:
    """The items table alone: ids sorted, the context column (missing values filled), further features, texts.

    If the spec's context is clusters, the table needs no context column.

    Raises:
      UserError: names the file, the column and the value at fault.
    """
    spec = settle_context(spec)
    table = open_table("items", spec, item_columns(spec))
    items = split_columns(make_item_table(spec, table, table.ids(spec.item_column)), spec, own_context(spec))
    return build_log.fill_missing_context(items, own_context(spec))


def settle_context(spec: DataConfig) -> DataConfig:
    """The spec without its clusters, if the table of the items has a column `CONTEXT`: its first rows say so."""
    if not asks_clusters(spec.context):
        return spec
    name = "items" if spec.items else "events"
    path, text = getattr(spec, name), text_format(name, spec)
    with contextlib.suppress(UserError):  # what else may be wrong with the table, reading it in earnest will say
        located, portions = list_portions(f"--{name}={path}", path, text, 1)
        next(read_portion(f"--{name}={path}", located, portions[0], {CONTEXT: "--context"}, text, 1), None)
        return dataclasses.replace(spec, context="")
    return spec


def open_table(name: str, spec: DataConfig, columns: dict[str, str]) -> LogTable:
    """The table `events`, `items` or `users` that the spec names."""
    return LogTable.read(f"--{name}", getattr(spec, name), columns, text_format(name, spec))


def text_format(name: str, spec: DataConfig) -> TextFormat:
    """How the table `events`, `items` or `users` is written, if it is text."""
    named = {"events": spec.column_names, "items": spec.items_column_names, "users": spec.users_column_names}
    table = formats.table_format(spec.format, name, spec.action_column)
    expects = f" (--format={spec.format} expects {table.file})" if table else ""
    separator = spec.delimiter.replace("\\t", "\t")
    return TextFormat(separator, spec.quotes, spec.encoding, named[name], table, expects, spec.embedding_column)


def check_spec(spec: DataConfig) -> None:
    """Refuses a spec that names no events, or a users table without its columns.

    Raises:
      UserError: names the flags.
    """
    if not spec.events:
        raise UserError("--dataset=event_log needs --events=FILE (.parquet, .csv, a directory or a glob of them)")
    if bool(spec.users) != bool(spec.user_features):
        raise UserError(
            f"--users={spec.users} and --user_features={','.join(spec.user_features)}: give both (the "
            "users table and its profile columns) or neither"
        )


def event_columns(spec: DataConfig) -> dict[str, str]:
    """Column -> flag of the events table."""
    columns = {
        spec.user_column: "--user_column",
        spec.item_column: "--item_column",
        spec.timestamp_column: "--timestamp_column",
    }
    optional = {
        spec.basket_column: "--basket_column",
        spec.weight_column: "--weight_column",
        spec.action_column: "--action_column",
    }
    for name, flag in optional.items():
        if name:
            columns[name] = flag
    columns |= dict.fromkeys(spec.event_features, "--event_features")
    return columns if spec.items else {**item_columns(spec), **columns}


def item_columns(spec: DataConfig) -> dict[str, str]:
    """Column -> flag of the items table."""
    columns = dict.fromkeys(spec.text_columns, "--text_columns") | dict.fromkeys(spec.item_features, "--item_features")
    columns |= dict.fromkeys(spec.numeric_features, "--numeric_features")
    if spec.embedding_column:
        columns[spec.embedding_column] = "--embedding_column"
    if own_context(spec):
        columns[own_context(spec)] = "--context"
    if spec.item_name_column:
        columns[spec.item_name_column] = "--item_name_column"
    return {**columns, spec.item_column: "--item_column"}


def align(left: Coded, right: Coded) -> tuple[Coded, Coded]:
    """Both columns of ids as text if either is: 7 in one table is "7" in the other."""
    if is_text(left.values) == is_text(right.values):
        return left, right
    return _as_text(left), _as_text(right)


def _as_text(column: Coded) -> Coded:
    values, inverse = np.unique(as_text(column.values), return_inverse=True)
    return Coded(values, inverse[column.row])


def make_item_table(spec: DataConfig, table: LogTable, items: Coded) -> ItemTable:
    """The items with their features and names, as `table` gives them.

    Args:
      spec: names the columns.
      table: the items table, or the events where there is none.
      items: its ids.

    Raises:
      UserError: an item has two values of a feature.
    """
    features = {name: feature_values(spec, table, name, items) for name in item_feature_columns(spec)}
    names = as_text(items.values)
    if spec.item_name_column:
        given = one_value_each(table, spec.item_name_column, spec.item_column, items, must_agree=False)
        names = np.where(given == schema.MISSING, names, given)
    return ItemTable(items.values, features, names)


def feature_values(spec: DataConfig, table: LogTable, name: str, items: Coded) -> np.ndarray:
    """The value of a feature for each item, [V] of str.

    Raises:
      UserError: an item has two, and the table is of no published format, whose files cannot be mended.
    """
    is_number = name in spec.numeric_features
    return one_value_each(table, name, spec.item_column, items, must_agree=not spec.format, is_number=is_number)


def one_value_each(
    table: LogTable, name: str, key: str, owners: Coded, must_agree: bool, is_number: bool = False
) -> np.ndarray:
    """The value of each owner (item or user), [V] of str; of several the first in the alphabet, in any order of rows.

    Raises:
      UserError: `must_agree`, and an owner has two different values; `is_number`, and a value is none.
    """
    column = table.number_text(name) if is_number else table.text(name)
    given = np.flatnonzero(column.values[column.row] != schema.MISSING)
    owner, value = owners.row[given], column.row[given]
    first = np.full(len(owners.values), -1)
    first[owner[::-1]] = value[::-1]  # the last to be written is the first of the file: what an error speaks of
    differs = np.flatnonzero(first[owner] != value)
    if must_agree and len(differs):
        row = differs[0]
        raise table.fail(
            name,
            f"{key} {plain_value(owners.values[owner[row]])!r} has two values, "
            f"{column.values[first[owner[row]]]!r} and {column.values[value[row]]!r} "
            f"({table.row_words(given[row])}); expected one",
        )
    if len(differs):
        first = np.full(len(owners.values), len(column.values))
        np.minimum.at(first, owner, value)
        first[first == len(column.values)] = -1
    return np.where(first >= 0, column.values[np.maximum(first, 0)], schema.MISSING)


def report_unknown(spec: DataConfig, num_unknown: int, num_events: int, num_items: int, example: Any) -> None:
    """Warns of events whose item the items table lacks.

    Args:
      spec: names the tables.
      num_unknown: events of such items, of `num_events`.
      num_events: all events.
      num_items: such items.
      example: the id of one.

    Raises:
      UserError: no event is left.
    """
    if num_unknown == num_events:
        raise UserError(
            f"--items={spec.items} names none of the items of --events={spec.events} (item "
            f"{plain_value(example)!r}, for one): do both tables hold the same ids in {spec.item_column!r}?"
        )
    logging.warning(
        "%d of %d events are left out: their %d items are not in --items=%s (item %r, for one)",
        *(num_unknown, num_events, num_items, spec.items, plain_value(example)),
    )


def plain_value(value: Any) -> Any:
    """A numpy number as Python's, so that it prints as itself."""
    return value.item() if isinstance(value, np.generic) else value


def _baskets(
    spec: DataConfig, events: LogTable, users: Coded, is_known: np.ndarray, timestamp: np.ndarray
) -> baskets.CutBaskets:
    """Baskets of the known events, unique across users, none longer than allowed unless the spec keeps them.

    Raises:
      UserError: one is longer, and the spec refuses such.
    """
    given = events.coded(spec.basket_column)
    pair = users.row * len(given.values) + given.row  # shops restart their counters: a basket has one user
    _, basket_id = np.unique(pair, return_inverse=True)
    basket_id = np.where(given.row < 0, -1, basket_id).astype(np.int64)[is_known]
    cut = baskets.cut_long_baskets(basket_id, timestamp, spec.max_basket_hours)
    if cut.first_long < 0 or spec.long_baskets == "cut":
        return cut
    row = np.flatnonzero(is_known)[cut.first_long]
    del cut.counts[accounts.CUT_BASKETS]
    if spec.long_baskets == "refuse":
        raise events.fail(
            spec.basket_column,
            f"{accounts.describe_baskets(cut.counts, 'refused')}; the longest begins in "
            f"{events.row_words(row)}: basket {plain_value(given.values[given.row[row]])!r} of "
            f"{spec.user_column} {plain_value(users.values[users.row[row]])!r}; let --long_baskets=cut part them, or "
            "give baskets ids of their own",
        )
    return cut._replace(basket_id=basket_id)


def read_profile(spec: DataConfig, user_id: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Profile columns [U] of str, and how many users of the users table have no event.

    Users whom the users table lacks have missing values.
    """
    if not spec.users:
        return {}, 0
    flags = dict.fromkeys(spec.user_features, "--user_features")
    table = open_table("users", spec, {**flags, spec.user_column: "--user_column"})
    known, wanted = align(table.ids(spec.user_column), Coded(user_id, np.arange(len(user_id))))
    row = find_rows(known.values, wanted.values)[wanted.row]  # [U]
    is_known = row >= 0
    columns = {
        name: one_value_each(table, name, spec.user_column, known, must_agree=True) for name in spec.user_features
    }
    profile = {name: np.where(is_known, column[row], schema.MISSING) for name, column in columns.items()}
    return profile, len(known.values) - int(is_known.sum())
