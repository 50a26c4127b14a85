"""Pass 1: the events table, a piece at a time, each written sorted by user. Imports no TensorFlow.

piece-00003-00000.npz           ids, values and spellings of the piece
piece-00003-00000.rows.npy      its events, user by user
piece-00003-00000.baskets.*     its baskets, where the table has any
"""

import dataclasses
import json
import os
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from longretriever_tf.common.files import read_json_object, save_array, save_arrays, write_text_atomically
from longretriever_tf.common.text import as_text, pack_text, unpack_text
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.event_log.actions import read_actions
from longretriever_tf.datasets.event_log.columns import Coded, LogTable, Spelling
from longretriever_tf.datasets.event_log.locate import Located
from longretriever_tf.datasets.event_log.source import (
    event_columns,
    feature_values,
    item_feature_columns,
    one_value_each,
    text_format,
)
from longretriever_tf.datasets.event_log.tables import Parts, Portion, read_portion

PIECE_ROWS = 2_000_000
"""Events that a process holds at once, about: 200 bytes each at the peak."""

_CURE = "delete it and run `prepare` once more with its own flags"


class PieceInfo(NamedTuple):
    """What is known of a piece without its rows.

    Attributes:
      stem: of its files' names.
      file: the source file, for errors.
      first_row: rows of the file before it.
      num_rows: its events.
      are_numbers: whether its times are numbers.
      spelling: how it writes the columns of ids and values, by column.
    """

    stem: str
    file: str
    first_row: int
    num_rows: int
    are_numbers: bool
    spelling: dict[str, Spelling]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece without its rows.

    Attributes:
      users: ids, sorted, [U], int64 or text.
      user_offset: user u has the rows `user_offset[u]:user_offset[u + 1]`, [U + 1] int64.
      items: ids, sorted, [V], int64 or text.
      values: of each item by column, [V] of str; empty where an items table has them.
      names: of the items, [V] of str; None where the events name none.
      actions: of the events, by their numbers in the rows, [A] of str; None where they have none.
    """

    users: np.ndarray
    user_offset: np.ndarray
    items: np.ndarray
    values: dict[str, np.ndarray]
    names: np.ndarray | None
    actions: np.ndarray | None = None


def task_path(directory: str, number: int) -> str:
    """The file that says that a portion of the table is read, and what pieces it made."""
    return os.path.join(directory, f"portion-{number:05d}.json")


def read_task(directory: str, number: int) -> list[PieceInfo]:
    """The pieces of a portion that `write_pieces` has read.

    Raises:
      UserError: the file is torn.
    """
    stored = read_json_object(task_path(directory, number), _CURE)
    return [
        PieceInfo(
            **{
                **info,
                "spelling": {
                    name: Spelling(_type_of(spelling[0]), *spelling[1:]) for name, spelling in info["spelling"].items()
                },
            }
        )
        for info in stored["pieces"]
    ]


def read_num_left_out(directory: str, number: int) -> int:
    """Rows of a portion that its published format does not count."""
    return int(read_json_object(task_path(directory, number), _CURE).get("num_left_out", 0))


def write_pieces(spec: DataConfig, located: Located, portion: Portion, number: int, directory: str, now: float) -> int:
    """Reads a portion of the events table and writes it as pieces.

    Args:
      spec: the log's flags.
      located: the table's files.
      portion: which of them, or part of one.
      number: of the portion.
      directory: where the pieces go.
      now: seconds UTC that no event may lie a day beyond.

    Returns:
      How many events were read.

    Raises:
      UserError: a value that cannot be read, or a disk that is full; nothing then says that the portion is read.
    """
    source = f"--events={spec.events}"
    infos: list[PieceInfo] = []
    num_left_out = 0
    pieces = read_portion(source, located, portion, event_columns(spec), text_format("events", spec), PIECE_ROWS)
    for parts in pieces:
        num_left_out += parts.num_left_out
        if parts.data.num_rows:
            stem = f"piece-{number:05d}-{len(infos):05d}"
            infos.append(_write_piece(spec, LogTable(source, parts), parts, os.path.join(directory, stem), now))
    stored = [
        {
            **info._asdict(),
            "spelling": {name: [_name_of(kind.type), *kind[1:]] for name, kind in info.spelling.items()},
        }
        for info in infos
    ]
    write_text_atomically(
        task_path(directory, number), json.dumps({"pieces": stored, "num_left_out": num_left_out}) + "\n"
    )
    return sum(info.num_rows for info in infos)


def _name_of(kind: pa.DataType) -> str:
    return pa.schema([pa.field("", kind)]).serialize().to_pybytes().hex()


def _type_of(name: str) -> pa.DataType:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(name))).field(0).type


def _write_piece(spec: DataConfig, table: LogTable, parts: Parts, path: str, now: float) -> PieceInfo:
    users, items = table.ids(spec.user_column), table.ids(spec.item_column)
    times = table.times(spec.timestamp_column, now)
    spelling = {
        name: table.spelling(name, coded) for name, coded in ((spec.user_column, users), (spec.item_column, items))
    }
    columns: dict[str, np.ndarray] = {"item": items.row.astype(np.int32), "time": times.second}
    if times.nanosecond.any():
        columns["nanosecond"] = times.nanosecond.astype(np.int32)
    if spec.weight_column:
        columns["weight"] = table.weights(spec.weight_column)
    if spec.basket_column:
        baskets = table.coded(spec.basket_column)
        spelling[spec.basket_column] = table.spelling(spec.basket_column, baskets)
        columns["basket"] = baskets.row.astype(np.int32)
        _write_baskets(path, baskets)
        if spec.long_baskets == "refuse":
            columns["row"] = parts.first_row + np.arange(len(table))
    arrays: dict[str, np.ndarray] = {"users": users.values, "items": items.values}
    if actions := read_actions(spec, table):
        spelling[spec.action_column] = table.spelling(spec.action_column, table.coded(spec.action_column))
        columns["action"] = actions.row.astype(np.int16)
        arrays["actions"] = as_text(actions.names)
    if not spec.items:
        arrays |= _item_values(spec, table, items, spelling)
    order = np.argsort(users.row, kind="stable")
    count = np.bincount(users.row, minlength=len(users.values))
    arrays["user_offset"] = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    rows = np.empty(len(table), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column[order]
    save_array(f"{path}.rows.npy", rows)
    save_arrays(f"{path}.npz", pack_text(arrays))
    stem = os.path.basename(path)
    return PieceInfo(stem, parts.files[0], parts.first_row, len(table), times.are_numbers, spelling)


def _item_values(
    spec: DataConfig, table: LogTable, items: Coded, spelling: dict[str, Spelling]
) -> dict[str, np.ndarray]:
    """The items' features and names that the events hold."""
    arrays = {}
    for name in item_feature_columns(spec):
        arrays[f"value/{name}"] = feature_values(spec, table, name, items)
        if name not in spec.numeric_features:  # a number is one however it is written
            spelling[name] = table.spelling(name, table.coded(name))
    if spec.item_name_column:
        arrays["names"] = one_value_each(table, spec.item_name_column, spec.item_column, items, must_agree=False)
        spelling[spec.item_name_column] = table.spelling(spec.item_name_column, table.coded(spec.item_name_column))
    return arrays


def load_piece(directory: str, stem: str) -> Piece:
    """Reads a piece without its rows."""
    with np.load(os.path.join(directory, f"{stem}.npz")) as stored:
        arrays = unpack_text(stored)
    values = {name.removeprefix("value/"): array for name, array in arrays.items() if name.startswith("value/")}
    optional = arrays.get("names"), arrays.get("actions")
    return Piece(arrays["users"], arrays["user_offset"], arrays["items"], values, *optional)


def open_rows(directory: str, stem: str) -> np.ndarray:
    """The events of a piece, [n] records, mapped into memory: only what is read is there."""
    return _open(directory, f"{stem}.rows.npy")


def _write_baskets(path: str, baskets: Coded) -> None:
    for name, array in pack_text({"baskets": baskets.values}).items():
        save_array(f"{path}.{name}.npy", array)


def read_baskets(directory: str, stem: str, rows: np.ndarray) -> list[Any]:
    """The ids of some baskets of a piece, by their numbers in it, [n] of int or str."""
    if os.path.exists(os.path.join(directory, f"{stem}.baskets.npy")):
        return _open(directory, f"{stem}.baskets.npy")[rows].tolist()
    text, end = _open(directory, f"{stem}.baskets.utf8.npy"), _open(directory, f"{stem}.baskets.end.npy")
    start = np.where(rows > 0, end[rows - 1], 0).tolist()
    bounds = zip(start, end[rows].tolist(), strict=True)
    return [text[low:high].tobytes().decode("utf-8") for low, high in bounds]


def _open(directory: str, name: str) -> np.ndarray:
    path = os.path.join(directory, name)
    with open(path, "rb") as file:  # numpy cannot map an array without elements
        is_empty = np.lib.format.read_magic(file) and 0 in np.lib.format.read_array_header_1_0(file)[0]
    return np.load(path, mmap_mode=None if is_empty else "r")
