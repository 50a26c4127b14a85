"""Pass 2: users and items of all pieces become those of the whole log. Imports no TensorFlow.

vocabulary.json          what pass 3 and the manifest need of the whole log
users-00003.npz          ids and profiles of the users of shard 3
piece-*.users.npy        where a piece has the rows of which user of the log
piece-*.items.npy        the item row of each item of a piece
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import read_json_object, save_array, save_arrays, write_text_atomically
from longretriever_tf.common.text import as_text, find_rows, is_text, pack_text, unpack_text
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import accounts
from longretriever_tf.datasets.event_log.actions import action_flags
from longretriever_tf.datasets.event_log.columns import Coded, Spelling
from longretriever_tf.datasets.event_log.delimited import Unreadable
from longretriever_tf.datasets.event_log.plain import require_one_family
from longretriever_tf.datasets.event_log.source import (
    align,
    item_columns,
    item_feature_columns,
    make_item_table,
    open_table,
    plain_value,
    read_profile,
    report_unknown,
)
from longretriever_tf.datasets.log import ItemTable
from longretriever_tf.datasets.preparation.pieces import Piece, PieceInfo, load_piece, open_rows
from longretriever_tf.datasets.sharded_log import split_users

USER_ROWS = np.dtype([("user", np.int64), ("start", np.int64), ("stop", np.int64)])
"""A user's rows in a piece: the row of the user in the whole log, and where the rows start and stop."""

_FILE = "vocabulary.json"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What pass 2 found of the whole log.

    Attributes:
      num_users: with at least one event that is kept.
      user_offset: shard k has the users `user_offset[k]:user_offset[k + 1]`, K + 1 numbers.
      counts: of rows read and left out, by the names of `accounts`.
      baskets_are_text: whether any piece has baskets that are no whole numbers.
      actions: names of all pieces' actions, sorted.
    """

    num_users: int
    user_offset: list[int]
    counts: dict[str, int]
    baskets_are_text: bool
    actions: list[str] = dataclasses.field(default_factory=list)


def read_vocabulary(directory: str) -> Vocabulary | None:
    """What `make_vocabulary` has left; None where it did not end."""
    path = os.path.join(directory, _FILE)
    return Vocabulary(**read_json_object(path, "delete it")) if os.path.exists(path) else None


def write_vocabulary(directory: str, vocabulary: Vocabulary) -> None:
    """Writes what `read_vocabulary` reads: the end of pass 2."""
    write_text_atomically(os.path.join(directory, _FILE), json.dumps(dataclasses.asdict(vocabulary)) + "\n")


def make_vocabulary(
    spec: DataConfig, pieces: Sequence[PieceInfo], directory: str, num_shards: int
) -> tuple[Vocabulary, ItemTable]:
    """Joins the pieces' users and items, splits the users into shards, and writes the files of users and pieces.

    Args:
      spec: the log's flags.
      pieces: all of them.
      directory: where they lie.
      num_shards: K.

    Raises:
      UserError: the pieces do not make one column; an item with two values; no event of a known item.
    """
    _require_one_spelling(spec, pieces)
    load = functools.partial(load_piece, directory)
    actions = _join_actions(spec, (load(info.stem) for info in pieces)) if spec.action_column else []
    user_id = _join_ids(load(info.stem).users for info in pieces)
    event_items = _join_ids(load(info.stem).items for info in pieces)
    items, event_items = _read_items(spec, pieces, load, event_items)
    counts = np.zeros(len(user_id), np.int64)
    num_rows = num_known = 0
    maps = []
    for info in pieces:
        piece = load(info.stem)
        user, item = _find(user_id, piece.users), _find(items.item_id, piece.items)
        save_array(os.path.join(directory, f"{info.stem}.items.npy"), item.astype(np.int32))
        known = _known_events(directory, info.stem, piece, item)
        counts[user] += known
        maps.append((user, piece.user_offset))
        num_rows, num_known = num_rows + info.num_rows, num_known + int(known.sum())
    unlisted = event_items[find_rows(items.item_id, event_items) < 0]
    if len(unlisted):
        report_unknown(spec, num_rows - num_known, num_rows, len(unlisted), unlisted[0])
    is_present = counts > 0
    row_of = np.where(is_present, np.cumsum(is_present) - 1, -1)
    for info, (user, offset) in zip(pieces, maps, strict=True):
        _write_user_rows(os.path.join(directory, f"{info.stem}.users.npy"), row_of[user], offset)
    bounds = split_users(counts[is_present], num_shards)
    without = _write_users(spec, user_id[is_present], bounds, directory)
    found = {accounts.ROWS: num_rows, "unknown_item": num_rows - num_known}
    found |= {accounts.USERS_LEFT_OUT: int((~is_present).sum())}
    found |= {accounts.USERS_WITHOUT_EVENTS: without} if spec.users else {}
    has_text_baskets = _has_text_baskets(spec, pieces)
    return Vocabulary(int(is_present.sum()), bounds.tolist(), found, has_text_baskets, actions), items


def _join_actions(spec: DataConfig, pieces: Iterable[Piece]) -> list[str]:
    """The actions of all pieces, sorted, once they are held against the flags."""
    names: set[str] = set()
    for piece in pieces:
        assert piece.actions is not None
        names.update(piece.actions.tolist())
    return list(action_flags(spec, names).name)


def _require_one_spelling(spec: DataConfig, pieces: Sequence[PieceInfo]) -> None:
    """Refuses what a table in one piece would have read otherwise than in several.

    Raises:
      UserError: a column that is text here and numbers there, or written so that 7 and 7.0 would be two values.
    """
    source = f"--events={spec.events}"
    for name in pieces[0].spelling:
        spelled = [(info.file, info.spelling[name]) for info in pieces if not info.spelling[name].is_empty]
        try:
            require_one_family([(file, spelling.type) for file, spelling in spelled])
        except Unreadable as error:
            raise UserError(f"{source}, column {name!r}: {error}") from error
        whole = _first(spelled, lambda spelling: spelling.is_whole and not spelling.is_exact)
        other = _first(spelled, lambda spelling: not spelling.is_whole)
        if whole and other:
            raise UserError(
                f"{source}, column {name!r}: {whole} writes whole numbers with decimals (7.0), and {other} has values "
                "that are no whole numbers; write the whole numbers without decimals in all files"
            )
    numbers = next((info.file for info in pieces if info.are_numbers), None)
    dates = next((info.file for info in pieces if not info.are_numbers), None)
    if numbers and dates:
        raise UserError(
            f"{source}, column {spec.timestamp_column!r}: {numbers} holds numbers and {dates} dates; write all files "
            "in one way"
        )


def _first(spelled: Iterable[tuple[str, Spelling]], is_so: Any) -> str | None:
    return next((file for file, spelling in spelled if is_so(spelling)), None)


def _has_text_baskets(spec: DataConfig, pieces: Sequence[PieceInfo]) -> bool:
    spelled = [info.spelling[spec.basket_column] for info in pieces if spec.basket_column]
    return any(not spelling.is_whole and not spelling.is_empty for spelling in spelled)


def _join_ids(columns: Iterable[np.ndarray]) -> np.ndarray:
    """The distinct ids of all columns, sorted: int64 if all are, else text."""
    numbers, texts, has_text = np.zeros(0, np.int64), set(), False
    for column in columns:
        if is_text(column):
            has_text = True
            texts.update(column.tolist())
        else:
            numbers = np.union1d(numbers, column)
    if not has_text:
        return numbers
    return as_text(sorted(texts.union(map(str, numbers.tolist()))))


def _find(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Rows of a piece's ids among those of the log, -1 where absent, [n] int64."""
    return find_rows(known, as_text(ids) if is_text(known) else ids)


def _read_items(
    spec: DataConfig, pieces: Sequence[PieceInfo], load: Any, event_items: np.ndarray
) -> tuple[ItemTable, np.ndarray]:
    """The item table of the log, and the ids of the events' items as ids of the same kind."""
    if not spec.items:
        return _items_of_events(spec, pieces, load, event_items), event_items
    table = open_table("items", spec, item_columns(spec))
    wanted = Coded(event_items, np.arange(len(event_items)))
    listed, wanted = align(table.ids(spec.item_column), wanted)
    return make_item_table(spec, table, listed), wanted.values


def _items_of_events(spec: DataConfig, pieces: Sequence[PieceInfo], load: Any, item_id: np.ndarray) -> ItemTable:
    """The item table out of the events: each item's value of each feature, which must be one in all pieces.

    Raises:
      UserError: an item has two values of a feature.
    """
    names = as_text([schema.MISSING] * len(item_id))
    values = {name: names.copy() for name in item_feature_columns(spec)}
    first_file = {name: np.zeros(len(item_id), np.int64) for name in values}
    for number, info in enumerate(pieces):
        piece: Piece = load(info.stem)
        row = _find(item_id, piece.items)
        for name, column in values.items():
            here, before = piece.values[name], column[row]
            differs = np.flatnonzero((here != schema.MISSING) & (before != schema.MISSING) & (here != before))
            if len(differs) and spec.format:
                column[row[differs]] = np.minimum(here[differs], before[differs])  # as `one_value_each`
            elif len(differs):
                at = differs[0]
                raise UserError(
                    f"--events={spec.events}, column {name!r}: {spec.item_column} "
                    f"{plain_value(item_id[row[at]])!r} has two values, {before[at]!r} in "
                    f"{pieces[first_file[name][row[at]]].file} and {here[at]!r} in {info.file}; expected one"
                )
            is_new = (here != schema.MISSING) & (before == schema.MISSING)
            column[row[is_new]], first_file[name][row[is_new]] = here[is_new], number
        if piece.names is not None:
            before = names[row]
            is_first = (piece.names != schema.MISSING) & ((before == schema.MISSING) | (piece.names < before))
            names[row[is_first]] = piece.names[is_first]
    return ItemTable(item_id, values, np.where(names == schema.MISSING, as_text(item_id), names))


def _known_events(directory: str, stem: str, piece: Piece, item: np.ndarray) -> np.ndarray:
    """Events of each user of a piece whose item is in the item table, [U] int64."""
    if (item >= 0).all():
        return np.diff(piece.user_offset)
    is_known = (item >= 0)[open_rows(directory, stem)["item"]]
    before = np.concatenate([[0], np.cumsum(is_known)])
    return before[piece.user_offset[1:]] - before[piece.user_offset[:-1]]


def _write_user_rows(path: str, user: np.ndarray, offset: np.ndarray) -> None:
    """The users of a piece who stay, in the order of the log."""
    order = np.argsort(user, kind="stable")
    order = order[user[order] >= 0]
    rows = np.empty(len(order), USER_ROWS)
    rows["user"], rows["start"], rows["stop"] = user[order], offset[:-1][order], offset[1:][order]
    save_array(path, rows)


def _write_users(spec: DataConfig, user_id: np.ndarray, bounds: np.ndarray, directory: str) -> int:
    """Ids and profiles of each shard's users; how many users of the users table have no event."""
    profile, without = read_profile(spec, user_id)
    for k in range(len(bounds) - 1):
        users = slice(bounds[k], bounds[k + 1])
        arrays = {"user_id": user_id[users]} | {f"profile/{name}": column[users] for name, column in profile.items()}
        path = os.path.join(directory, f"users-{k:05d}.npz")
        save_arrays(path, pack_text(arrays))
    return without


def read_users(directory: str, k: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ids and profile columns of the users of shard k."""
    with np.load(os.path.join(directory, f"users-{k:05d}.npz")) as stored:
        arrays = unpack_text(stored)
    user_id = arrays.pop("user_id")
    return user_id, {name.removeprefix("profile/"): column for name, column in arrays.items()}
