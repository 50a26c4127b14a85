"""A log that is given as DataFrames: checked at once, and written as the tables that every command reads.

Imports no TensorFlow.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import require_writable, write_bytes_atomically
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.event_log.actions import read_actions
from longretriever_tf.datasets.event_log.columns import LogTable
from longretriever_tf.datasets.event_log.delimited import Unreadable
from longretriever_tf.datasets.event_log.plain import plain_column
from longretriever_tf.datasets.event_log.source import event_columns, item_columns
from longretriever_tf.datasets.event_log.tables import Parts

FOLDER = "tables"
"""Of a run directory: where its DataFrames lie."""


def frame_path(run_dir: str, table: str) -> str:
    """Where the DataFrame of a run's table `events`, `items` or `users` is kept."""
    return os.path.join(run_dir, FOLDER, f"{table}.parquet")


def table_columns(spec: DataConfig, table: str) -> dict[str, str]:
    """Column -> setting that names it, of the table `events`, `items` or `users`."""
    if table == "users":
        columns = {**dict.fromkeys(spec.user_features, "user_features"), spec.user_column: "user_column"}
    else:
        columns = event_columns(spec) if table == "events" else item_columns(spec)
    return {name: setting.removeprefix("--") for name, setting in columns.items()}


def select_columns(table: str, frame: pd.DataFrame, columns: Mapping[str, str]) -> pa.Table:
    """The named columns of a DataFrame, as Arrow holds them.

    Args:
      table: what to call the DataFrame in an error.
      frame: with these columns and any others.
      columns: column -> setting that names it.

    Raises:
      UserError: a column is missing or there twice, holds values of several types or of one that tables do not hold, or
        there is no row.
    """
    names = list(map(str, frame.columns))
    for column, setting in columns.items():
        if names.count(column) == 1:
            continue
        if column in names:
            raise UserError(f"{table}: the DataFrame has {names.count(column)} columns named {column!r}; keep one")
        hint = f"; {column!r} is its index: give {table}.reset_index()" if column in frame.index.names else ""
        if setting == "context" and not hint:
            hint = "; name the column of the category by context=, or learn one: context='clusters:auto'"
        raise UserError(
            f"{table}: the DataFrame has no column {column!r}, which {setting} names; its columns are "
            f"{', '.join(names) or 'none'}{hint}"
        )
    if not len(frame):
        raise UserError(f"{table}: the DataFrame has no rows")
    arrays = {}
    for column in columns:
        values = frame.iloc[:, names.index(column)]
        if isinstance(values.dtype, pd.PeriodDtype | pd.IntervalDtype):  # Parquet would keep their numbers alone
            raise UserError(
                f"{table}, column {column!r}: its values are of type {values.dtype}, which tables do not hold; make "
                f"times of periods by {table}[{column!r}].dt.to_timestamp(), and text of others by .astype(str)"
            )
        try:
            arrays[column] = pa.Array.from_pandas(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            kinds = sorted({type(value).__name__ for value in values.tolist()})
            raise UserError(
                f"{table}, column {column!r}: its values cannot be written as one type (they are {', '.join(kinds)}); "
                f"make it one, as by {table}[{column!r}].astype(str)"
            ) from error
    return pa.table(arrays)


def write_frames(run_dir: str, tables: Mapping[str, pa.Table]) -> None:
    """Writes each table where `frame_path` says, unless it lies there already; nothing changes where one is refused.

    Args:
      run_dir: of the run.
      tables: by name.

    Raises:
      UserError: the directory cannot be written, is in use, or holds a run of other tables.
    """
    contents = {frame_path(run_dir, name): _to_parquet(table) for name, table in tables.items()}
    changed = {path: content for path, content in contents.items() if not _holds(path, content)}
    if not changed:
        return
    require_writable(os.path.join(run_dir, FOLDER))
    busy = f"{run_dir!r} is in use by another training ({{}}): wait for it, stop it, or train in another run_dir"
    with hold_lock(run_dir, busy):  # a training that has just begun reads its tables
        if os.path.exists(os.path.join(run_dir, "config.json")):
            name = os.path.basename(next(iter(changed))).removesuffix(".parquet")
            raise UserError(
                f"run_dir={run_dir!r} holds a run whose {name} are others than this DataFrame of "
                f"{tables[name].num_rows:,} rows: train in another run_dir, or open that run by load({run_dir!r})"
            )
        for path, content in changed.items():  # one that stays as it is keeps its time: its log need not be read again
            write_bytes_atomically(path, content)


def _to_parquet(table: pa.Table) -> bytes:
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream)
    return stream.getvalue().to_pybytes()


def _holds(path: str, content: bytes) -> bool:
    """Whether the file has this table; another version of pyarrow may have written it in other bytes."""
    if not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        if file.read() == content:
            return True
    try:
        return bool(pq.read_table(path).equals(pq.read_table(pa.BufferReader(content))))
    except (OSError, pa.ArrowException):  # torn
        return False


def read_history(frame: pd.DataFrame, spec: DataConfig, now: float) -> dict[str, Any]:
    """One user's history, oldest first, as the fields of a request.

    Args:
      frame: the history, with the columns of the log's events (its user's id is not needed).
      spec: of the model's log: names the columns.
      now: seconds UTC that no event may lie a day beyond.

    Returns:
      history_item_id, [T] of int or str as they are; history_timestamp, [T] of int seconds UTC; history_weight and
      history_action where the log has weights or actions.

    Raises:
      UserError: names the column and the value at fault.
    """
    if list(frame.columns).count(spec.user_column) == 1 and (users := frame[spec.user_column].nunique()) > 1:
        raise UserError(f"history: the DataFrame holds {users:,} users in {spec.user_column!r}; give the rows of one")
    columns = {spec.item_column: "item_column", spec.timestamp_column: "timestamp_column"}
    if spec.weight_column:
        columns[spec.weight_column] = "weight_column"
    if spec.action_column:
        columns[spec.action_column] = "action_column"
    if not len(frame):
        return {"history_item_id": [], "history_timestamp": []}
    table = _log_table("history", select_columns("history", frame, columns))
    times = table.times(spec.timestamp_column, now).second
    items = table.ids(spec.item_column)
    order = times.argsort(kind="stable")
    history = {
        "history_item_id": items.values[items.row][order].tolist(),
        "history_timestamp": times[order].tolist(),
    }
    if spec.weight_column:
        history["history_weight"] = table.weights(spec.weight_column)[order].tolist()
    if actions := read_actions(spec, table):
        history["history_action"] = [actions.names[row] for row in actions.row[order].tolist()]
    return history


def _log_table(name: str, table: pa.Table) -> LogTable:
    """The columns as if they had been read from a file."""
    plain = {}
    for column in table.column_names:
        try:
            plain[column] = plain_column(table.column(column))
        except Unreadable as error:
            raise UserError(f"{name}, column {column!r}: {error}") from error
    num_rows = np.array([table.num_rows], np.int64)
    return LogTable(name, Parts(pa.table(plain), (name,), num_rows, first_row=0, is_one=True))
